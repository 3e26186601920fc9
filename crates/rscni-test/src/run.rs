//! Running tests in private networks.
//!
//! Only a process with one thread can enter a user namespace, and Rust's test runner has several.
//! [`run`] therefore starts the same executable again behind util-linux's `unshare`, for exactly
//! this test. There the closure is called. The second process writes the result of the closure to a
//! file. A test passes only by that file, since a test runner that finds no test exits with 0.
//! [`crate::enter`] sets up the namespaces.

use std::{
    cell::Cell,
    fmt::{Debug, Display},
    io::{BufRead, BufReader, Write},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{
    Lab,
    enter::{enter_private_network, what_to_enable},
    settings,
};

/// Variable with the file for the result of the closure. Set only in the second process.
const VERDICT_FILE: &str = "RSCNI_TEST_VERDICT_FILE";
/// Variable with the number of the call of [`run`] that the second process executes.
const CALL: &str = "RSCNI_TEST_CALL";
/// Prefix of the variables between the two processes, which plugins do not get.
pub(crate) const PRIVATE_VARIABLES: &str = "RSCNI_TEST_";

const PASSED: &str = "passed";
const FAILED: &str = "failed\n";

thread_local! {
    /// Number of calls of [`run`] in this test so far.
    static CALLS: Cell<usize> = const { Cell::new(0) };
}
static INSIDE: AtomicBool = AtomicBool::new(false);

/// Return value of a test's closure: nothing, or a `Result` whose error fails the test.
pub trait Verdict {
    /// `Err` with the reason if the test failed.
    fn verdict(self) -> Result<(), String>;
}

impl Verdict for () {
    fn verdict(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Debug> Verdict for Result<(), E> {
    fn verdict(self) -> Result<(), String> {
        self.map_err(|error| format!("the test returned an error: {error:?}"))
    }
}

/// Calls `test` in a private network: new user, network and mount namespaces, which end when it
/// returns. The caller is root in there.
///
/// In a test (`#[test]`, also an rstest case, under `cargo test` or nextest) the closure runs in a
/// second process, which runs the test from its start: code before the call runs in both. Output of
/// the closure appears where the test's output does, and its panic or error fails the test. In a
/// process with a single thread (a doctest, a `main`) the process itself moves and stays there.
///
/// # Panics
///
/// If the closure panics or returns an error, if its process ends in any other way before the
/// closure did, and if this system does not allow user namespaces: then the message says what to
/// enable.
#[track_caller]
pub fn run<R: Verdict>(test: impl FnOnce(&Lab) -> R) {
    let call = CALLS.replace(CALLS.get() + 1);
    if let Some(file) = std::env::var_os(VERDICT_FILE) {
        let wanted = std::env::var(CALL).ok().and_then(|n| n.parse().ok());
        if wanted == Some(call) {
            call_inside(&PathBuf::from(file), test);
        }
        assert!(
            !INSIDE.load(Ordering::SeqCst),
            "rscni_test::run was called inside rscni_test::run; use the lab that is there already"
        );
        // An earlier call of the same test has its own process.
        return;
    }
    if crate::enter::threads() == 1 {
        let lab = enter_private_network().unwrap_or_else(|error| panic!("{error}"));
        if let Err(reason) = test(&lab).verdict() {
            panic!("{reason}");
        }
        return;
    }
    let current = std::thread::current();
    match current.name() {
        Some(name) if name != "main" => run_again(name, call),
        _ => panic!(
            "rscni_test::run must be called on the test's own thread, which bears the test's name, \
             or in a process with a single thread"
        ),
    }
}

/// Prepares the network in the second process, calls the closure, writes the verdict and exits.
fn call_inside<R: Verdict>(verdict_file: &Path, test: impl FnOnce(&Lab) -> R) -> ! {
    INSIDE.store(true, Ordering::SeqCst);
    // This process must end with the test's process, which may be killed by a time limit.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let result = crate::enter::prepare().map_err(|error| error.to_string()).and_then(|lab| {
        mark("begin", verdict_file);
        match catch_unwind(AssertUnwindSafe(|| test(&lab).verdict())) {
            Ok(verdict) => verdict.inspect_err(|reason| eprintln!("{reason}")),
            Err(panic) => Err(panic_message(&*panic)),
        }
    });
    let said = match &result {
        Ok(()) => PASSED.to_owned(),
        Err(reason) => format!("{FAILED}{reason}"),
    };
    std::fs::write(verdict_file, said).expect("write the test's verdict");
    mark("end", verdict_file);
    std::process::exit(i32::from(result.is_err()));
}

/// Marks the begin or the end of the closure's output on stdout. Output of the test runner around
/// it is dropped, and a daemon that keeps stdout open does not block.
fn mark(what: &str, verdict_file: &Path) {
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(marker(what, verdict_file).as_bytes());
    let _ = stdout.flush();
}

fn marker(what: &str, verdict_file: &Path) -> String {
    format!("\u{1}rscni-test {what} {}\n", verdict_file.display())
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "the test panicked".to_owned())
}

/// Starts the second process and reports its result to the test runner.
#[track_caller]
fn run_again(name: &str, call: usize) {
    let home =
        tempfile::tempdir().unwrap_or_else(|error| panic!("make a temporary directory: {error}"));
    let verdict_file = home.path().join("verdict");
    let (status, output) = match second_process(name, call, &verdict_file) {
        Ok(ended) => ended,
        Err(reason) => panic!("{reason}"),
    };
    let said = std::fs::read_to_string(&verdict_file).unwrap_or_default();
    drop(home);
    if said == PASSED && status.success() {
        return;
    }
    if let Some(reason) = said.strip_prefix(FAILED) {
        if let Output::Unshown(_) = output {
            panic!("{name}: {reason}");
        }
        // The second process has printed the panic already. `resume_unwind` runs no hook, so it is
        // not printed twice, and `should_panic(expected = ..)` works.
        resume_unwind(Box::new(reason.to_owned()));
    }
    match output {
        Output::Shown => {
            panic!("{name}: its process ended ({status}) before the test did; its output is above")
        }
        Output::Unshown(text) => {
            panic!(
                "{name}: could not start in a private network ({status})\n{}{}",
                indent(&text),
                what_to_enable()
            )
        }
    }
}

enum Output {
    /// The closure was reached, and its output has been printed.
    Shown,
    /// The closure was not reached. This is all output.
    Unshown(String),
}

fn second_process(
    name: &str,
    call: usize,
    verdict_file: &Path,
) -> Result<(ExitStatus, Output), String> {
    let program = std::env::current_exe().map_err(while_("find the test's executable"))?;
    let (reader, writer) = std::io::pipe().map_err(while_("make a pipe"))?;
    let mut command = Command::new("unshare");
    for variable in settings::REMOVED_VARIABLES {
        command.env_remove(variable);
    }
    let (locale, value) = settings::LOCALE;
    let child = command
        .args(["-U", "-r", "-n", "-m"])
        .arg(program)
        .args([name, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"])
        .env(VERDICT_FILE, verdict_file)
        .env(CALL, call.to_string())
        .env(locale, value)
        .stdin(Stdio::null())
        .stderr(writer.try_clone().map_err(while_("make a pipe"))?)
        .stdout(writer)
        .spawn();
    // Closes the writing end of the pipe, so that the reading end sees the end.
    drop(command);
    let mut child = child.map_err(while_("start `unshare`, which is part of util-linux"))?;
    let output =
        pass_on(BufReader::new(reader), verdict_file).map_err(while_("read the test's output"));
    if output.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(while_("wait for the test's process"))?;
    Ok((status, output?))
}

/// Prints the closure's output through the capturing of the test runner.
fn pass_on(mut from: impl BufRead, verdict_file: &Path) -> std::io::Result<Output> {
    let begin = marker("begin", verdict_file);
    let end = marker("end", verdict_file);
    let mut unshown = Some(String::new());
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(before) = text.strip_suffix(&end) {
            match &mut unshown {
                Some(kept) => kept.push_str(before),
                None => print!("{before}"),
            }
            break;
        }
        match &mut unshown {
            Some(_) if text.ends_with(&begin) => unshown = None,
            Some(kept) => kept.push_str(&text),
            None => print!("{text}"),
        }
    }
    Ok(unshown.map_or(Output::Shown, Output::Unshown))
}

fn while_<E: Display>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + "  " + line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_output_between_the_marks_is_passed_on() {
        let file = Path::new("/nowhere");
        let text = format!(
            "running 1 test\ntest x ... {}mine\n{}ok\n",
            marker("begin", file),
            marker("end", file)
        );
        assert!(matches!(pass_on(text.as_bytes(), file).unwrap(), Output::Shown));
    }

    #[test]
    fn output_before_the_closure_is_kept_for_the_message() {
        let file = Path::new("/nowhere");
        let Output::Unshown(text) = pass_on(&b"unshare: not permitted\n"[..], file).unwrap() else {
            panic!("taken for the closure's output");
        };
        assert_eq!(text, "unshare: not permitted\n");
    }
}
