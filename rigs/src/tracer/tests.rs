use super::*;

/// Records calls and results; a closure decides.
struct Recorder<F> {
    calls: Vec<(Call, i64)>,
    decide: F,
}

impl<F: FnMut(&Call) -> Verdict> Watch for Recorder<F> {
    fn entry(&mut self, call: &Call) -> Verdict {
        (self.decide)(call)
    }

    fn exit(&mut self, call: &Call, result: i64) {
        self.calls.push((*call, result));
    }
}

fn watch<F: FnMut(&Call) -> Verdict>(decide: F) -> Recorder<F> {
    Recorder { calls: Vec::new(), decide }
}

fn shell(script: &str) -> Command {
    let mut command = command("/bin/sh");
    command.args(["-c", script]);
    command
}

#[test]
fn calls_are_seen_with_arguments_and_results() {
    let mut seen = watch(|_| Verdict::Pass);
    let traced = run(&mut shell("read word; printf %s $word"), b"hello\n", &mut seen).unwrap();
    assert_eq!((traced.code, traced.stdout.as_slice()), (Some(0), b"hello".as_slice()));
    assert_eq!((traced.usage.processes, traced.usage.threads), (1, 0));
    assert!(traced.usage.peak_memory > 100 && traced.usage.page_faults > 10, "{traced:?}");
    let written: Vec<_> = seen
        .calls
        .iter()
        .filter(|(call, _)| call.number == libc::SYS_write && call.arguments[0] == 1)
        .collect();
    assert!(matches!(written.as_slice(), [(call, 5)] if call.arguments[2] == 5), "{written:?}");
    // All calls but `exit_group` have an exit.
    assert_eq!(traced.usage.system_calls, seen.calls.len() as u64 + 1);
    assert!(seen.calls.iter().map(|(call, _)| call.index).eq(0..traced.usage.system_calls - 1));
}

#[test]
fn the_same_program_makes_the_same_number_of_calls_each_time() {
    let count = || {
        run(&mut shell("echo hello"), b"", &mut watch(|_| Verdict::Pass))
            .unwrap()
            .usage
            .system_calls
    };
    let first = count();
    assert!(first > 5);
    assert!((0..5).all(|_| count() == first));
}

#[test]
fn processes_are_followed_and_counted_with_their_calls() {
    let mut seen = watch(|_| Verdict::Pass);
    // The shell forks for each command, since it has more to do afterwards.
    let traced =
        run(&mut shell("/bin/true; /bin/true; (/bin/true; exit 3); exit $?"), b"", &mut seen)
            .unwrap();
    assert_eq!((traced.code, traced.usage.processes), (Some(3), 5));
    let threads: std::collections::BTreeSet<_> =
        seen.calls.iter().map(|(call, _)| call.thread).collect();
    assert_eq!(threads.len(), 5);
}

#[test]
fn threads_are_counted_beside_processes() {
    // This test binary with one test, which the test runner runs in a thread.
    let mut command = command(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "tracer::process::tests::this_process_has_memory_and_page_faults_and_is_its_own_process",
    ]);
    command.arg("--test-threads=2");
    let traced = run(&mut command, b"", &mut watch(|_| Verdict::Pass)).unwrap();
    assert_eq!(traced.code, Some(0), "{}", String::from_utf8_lossy(&traced.stdout));
    assert_eq!((traced.usage.processes, traced.usage.threads), (1, 1));
}

#[test]
fn a_failed_call_is_not_executed_and_the_program_gets_the_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let fail = |call: &Call| match call.number {
        libc::SYS_mkdir | libc::SYS_mkdirat => Verdict::Fail(Errno::ENOSPC),
        _ => Verdict::Pass,
    };
    let mut seen = watch(fail);
    let traced = run(command("/bin/mkdir").arg(&file), b"", &mut seen).unwrap();
    assert_eq!(traced.code, Some(1));
    let said = String::from_utf8(traced.stderr).unwrap();
    assert!(said.contains("No space left on device"), "{said}");
    assert!(!file.exists());
    assert!(seen.calls.iter().any(|(_, result)| *result == -i64::from(libc::ENOSPC)));
}

#[test]
fn a_kill_ends_all_processes_before_the_call_is_executed() {
    let directory = tempfile::tempdir().unwrap();
    let script = format!("sleep 60 & cd {}; mkdir a; mkdir b; mkdir c", directory.path().display());
    let mut made = 0;
    let kill = |call: &Call| {
        made += u64::from(matches!(call.number, libc::SYS_mkdir | libc::SYS_mkdirat));
        if made == 2 { Verdict::Kill } else { Verdict::Pass }
    };
    let started = std::time::Instant::now();
    let traced = run(&mut shell(&script), b"", &mut watch(kill)).unwrap();
    assert_eq!(traced.code, None);
    assert!(directory.path().join("a").exists() && !directory.path().join("b").exists());
    // `run` returns after all processes have ended, so `sleep` was killed too.
    assert!(started.elapsed() < Duration::from_secs(50));
}

#[test]
fn the_kth_call_is_the_same_in_each_run() {
    let at = |k: u64| {
        let mut seen =
            watch(move |call: &Call| if call.index == k { Verdict::Kill } else { Verdict::Pass });
        run(&mut command("/bin/cat"), b"hello", &mut seen).unwrap();
        seen.calls.iter().map(|(call, _)| call.number).collect::<Vec<_>>()
    };
    let (ten, eleven) = (at(10), at(11));
    assert_eq!((ten.len(), eleven.len()), (10, 11));
    assert_eq!(ten, eleven[..10]);
}

#[test]
fn signals_reach_the_program() {
    let traced = run(
        &mut shell("trap 'exit 7' USR1; kill -USR1 $$; exit 1"),
        b"",
        &mut watch(|_| Verdict::Pass),
    );
    assert_eq!(traced.unwrap().code, Some(7));
}

#[test]
fn a_missing_program_is_an_error_and_one_that_hangs_is_killed_with_its_children() {
    let error =
        run(&mut command("/nowhere/program"), b"", &mut watch(|_| Verdict::Pass)).unwrap_err();
    assert!(format!("{error:#}").contains("could not be executed"), "{error:#}");

    let timeout = Duration::from_millis(300);
    let error =
        run_within(timeout, &mut shell("sleep 60; true"), b"", &mut watch(|_| Verdict::Pass))
            .unwrap_err();
    assert!(format!("{error:#}").contains("was killed"), "{error:#}");
}

#[test]
fn calls_have_names_and_unknown_ones_their_number() {
    assert_eq!(name_of(libc::SYS_openat), "openat");
    assert_eq!(name_of(-7), "call -7");
}
