//! `cargo xtask uml -- COMMAND ARGS`: runs a program inside User-Mode Linux, a Linux kernel that is an ordinary
//! program, and gives back its exit code.
//!
//! For link kinds and options that the running kernel may lack: dummy, 802.1Q, ipvlan, macvlan, vrf, bridge VLAN
//! filtering. It needs no root and no network. This module is the outside: it boots the kernel, shows what comes
//! out and enforces the time limit. [`mod@init`] is the inside, [`tests`] finds the test programs that belong here.
//!
//! # What it is like in there
//!
//! - Debian's kernel 6.1 on one CPU; a boot and shutdown takes about three seconds. Time passes as outside.
//! - The host's files are all there at the same paths, and what the program writes goes to memory and is gone at
//!   the end: the host's files are mounted read-only (hostfs) beneath an overlay.
//! - The program runs as root with every capability, in the directory and with the environment of the caller.
//!   For the host it remains the caller: what the caller may not read is unreadable in there too.
//! - A link kind's module is loaded when it is first asked for, as on any distribution; user namespaces and veth
//!   work. nftables and iptables do not: the kernel has no NAT. Those are for the running kernel.
//! - For test programs it is a machine that runs containers: forwarding is on, and there is a named network namespace.
//! - The only device is `lo`, and it is up. The console is the program's output; there is no input.
//!
//! # What was learnt the hard way
//!
//! - Ended with SIGKILL, User-Mode Linux leaves helper processes behind; SIGTERM takes them along.
//! - Started in a user namespace that maps only the caller, it shows the host's set-user-id programs as owned by
//!   `nobody`, and `mount`, `su` and the like then lose their root inside. So it is started without one.
//! - It makes `~/.uml` unless told of another place by `uml_dir=`.
//! - On a processor with AMX it ends at once, unless it is kept from asking for all registers: see [`mod@start`].

mod init;
mod start;
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::IsTerminal,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use xtask::{packages, program};

pub(crate) use init::{INIT, InitOptions, run as init};
pub(crate) use start::{START, StartOptions, run as start};
pub(crate) use tests::run as run_tests;

/// A hang must become a failure; no test comes near this.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// What to run inside.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// End the run as failed after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = TIME_LIMIT.as_secs())]
    limit: u64,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What the outside asks of the inside, as a file in the directory that both see.
#[derive(Serialize, Deserialize)]
struct Job {
    command: Vec<String>,
    directory: PathBuf,
    environment: BTreeMap<String, String>,
    /// A directory in which what the command writes is to stay.
    kept: Option<PathBuf>,
    /// Whether it is a machine that runs containers: forwarding is on, and there is a named network namespace.
    in_use: bool,
}

/// The names of the files in the directory that both sides see.
const JOB: &str = "job.json";
const EXIT_CODE: &str = "exit-code";

/// The task: runs the command and ends with its exit code.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    packages::ensure("User-Mode Linux", packages::FOR_UML)?;
    let directory = std::env::current_dir().context("find the current directory")?;
    let limit = Duration::from_secs(options.limit);
    let code = run_in(&options.command, &directory, None, limit, &mut |line| println!("{line}"))?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Runs a test program inside User-Mode Linux, as on a machine that runs containers, and gives its exit code.
///
/// Each line of the command's output (stdout and stderr are one there) is handed to `on_line`.
/// A kernel that ends without a result, or is not done within a quarter of an hour, is an error.
pub(crate) fn run_in_uml(
    command: &[String],
    directory: &Path,
    on_line: &mut dyn FnMut(&str),
) -> Result<i32> {
    start_in(command, directory, None, true, TIME_LIMIT, on_line)
}

/// Runs a command inside User-Mode Linux with a time limit; what it writes into the directory `kept` stays.
pub(crate) fn run_in(
    command: &[String],
    directory: &Path,
    kept: Option<&Path>,
    limit: Duration,
    on_line: &mut dyn FnMut(&str),
) -> Result<i32> {
    start_in(command, directory, kept, false, limit, on_line)
}

fn start_in(
    command: &[String],
    directory: &Path,
    kept: Option<&Path>,
    in_use: bool,
    limit: Duration,
    on_line: &mut dyn FnMut(&str),
) -> Result<i32> {
    let shared = tempfile::Builder::new()
        .prefix("rscni-uml-")
        // The kernel's command line splits at spaces, so a TMPDIR with one would not do.
        .tempdir_in("/tmp")
        .context("make a directory for User-Mode Linux in /tmp")?;
    let mut environment = environment(std::env::vars_os());
    if !std::io::stdout().is_terminal() {
        // The console inside is a terminal, but the end of the line is not.
        environment.insert("TERM".to_owned(), "dumb".to_owned());
    }
    environment.extend(
        start::tunables().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    let job = Job {
        command: command.to_vec(),
        directory: directory.to_path_buf(),
        environment,
        kept: kept.map(Path::to_path_buf),
        in_use,
    };
    prepare(shared.path(), &job)?;
    boot(shared.path(), limit, on_line)?;
    let code = std::fs::read_to_string(shared.path().join(EXIT_CODE));
    let Ok(code) = code else {
        bail!("User-Mode Linux ended before the command `{}` did", command.join(" "));
    };
    code.trim()
        .parse()
        .with_context(|| format!("read the exit code {code:?} of `{}`", command.join(" ")))
}

/// Variables that are not UTF-8 are of no use to a test and would not survive JSON.
fn environment(all: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    all.filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn prepare(shared: &Path, job: &Job) -> Result<()> {
    program::copy_self(&shared.join("init"))?;
    std::fs::create_dir(shared.join(init::SCRATCH))
        .and_then(|()| std::fs::create_dir(shared.join("uml")))
        .and_then(|()| std::fs::write(shared.join(JOB), serde_json::to_vec(job)?))
        .with_context(|| format!("write the job for User-Mode Linux into {}", shared.display()))
}

fn boot(shared: &Path, limit: Duration, on_line: &mut dyn FnMut(&str)) -> Result<()> {
    let mut command = Command::new(shared.join("init"));
    let shared = shared.display();
    command
        .args([start::START, "setpriv"])
        // Should this task itself be killed, the kernel goes too.
        .args(["--pdeathsig", "TERM", "linux.uml"])
        .args(["mem=1G", "rootfstype=hostfs", "rootflags=/", "ro"])
        // Only the program's own output on the console: no boot messages, no input.
        .args(["con=null", "con0=null,fd:1", "ssl=null", "quiet", "loglevel=1"])
        .arg(format!("uml_dir={shared}/uml"))
        .arg(format!("init={shared}/init"))
        // What the kernel does not know are variables of init, with a `=`, and arguments. Not behind `--`: User-Mode Linux appends a
        // `root=` of its own, which would be one of them then.
        .args(start::tunables().iter().take(1).map(|(name, value)| format!("{name}={value}")))
        .arg(init::INIT)
        .arg(shared.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // The kernel's own notes about the host go to stderr, and to a person they look like errors.
        .stderr(Stdio::null());
    let mut child =
        command.spawn().with_context(|| format!("start `{}`", program::shown(&command)))?;
    let stdout = child.stdout.take().expect("stdout was piped just above");
    let watchdog = Watchdog::over(&child, limit);
    let read = program::each_line(stdout, on_line);
    let status = child.wait().context("wait for User-Mode Linux")?;
    if watchdog.struck() {
        bail!("User-Mode Linux was not done after {} seconds and was ended", limit.as_secs());
    }
    read.context("read the console of User-Mode Linux")?;
    if !status.success() {
        bail!("User-Mode Linux ended with {status}");
    }
    Ok(())
}

/// Ends a process that takes too long.
struct Watchdog {
    done: mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn over(child: &std::process::Child, limit: Duration) -> Self {
        let pid = Pid::from_child(child);
        let (done, is_done) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            if is_done.recv_timeout(limit).is_ok() {
                return false;
            }
            // Not SIGKILL at once: see the module's notes. It is a process not yet waited for, so a kill that
            // fails is one that came after its end.
            let _ = kill_process(pid, Signal::TERM);
            if is_done.recv_timeout(Duration::from_secs(10)).is_err() {
                let _ = kill_process(pid, Signal::KILL);
            }
            true
        });
        Self { done, thread }
    }

    fn struck(self) -> bool {
        // The other end is gone only when the watchdog has already struck.
        let _ = self.done.send(());
        self.thread.join().expect("the watchdog does not panic")
    }
}
