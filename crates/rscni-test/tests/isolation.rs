//! Tests run in their private network, and their results come back.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const RENDEZVOUS: &str = "LAB_RENDEZVOUS";

/// Runs one of the tests of this file, as `cargo test` would.
fn run_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("RSCNI_TEST_")) {
        command.env_remove(name);
    }
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Code before a call of `run` runs in both processes.
fn is_second_process() -> bool {
    std::env::vars().any(|(name, _)| name.starts_with("RSCNI_TEST_"))
}

/// A file that both processes of the test use.
fn shared_file(name: &str) -> PathBuf {
    let id =
        if is_second_process() { std::os::unix::process::parent_id() } else { std::process::id() };
    std::env::temp_dir().join(format!("rscni-test-{id}-{name}"))
}

#[test]
fn a_lab_starts_empty() {
    rscni_test::run(|lab| {
        println!("a lab for {}", std::process::id());
        let start = lab.snapshot().to_string();
        // Some kernels add tunnels to every network, which are down.
        let tunnel = |line: &str| line.starts_with("host: link ") && !line.contains(" up ");
        let given =
            |line: &str| line.contains("policy rule") || line.contains("(link to ") || tunnel(line);
        let things: Vec<_> = start.lines().filter(|line| !given(line)).collect();
        assert_eq!(things.len(), 3, "{start}");
        assert!(things[0].starts_with("host: address 127.0.0.1/8 on lo"), "{start}");
        assert!(things[1].starts_with("host: address ::1/128 on lo"), "{start}");
        assert!(things[2].starts_with("host: link lo (device up mtu 65536"), "{start}");

        lab.container("same");
        for file in ["/run/state", "/var/run/other-state", "/var/lib/cni/state"] {
            std::fs::write(file, "ours").unwrap();
        }
        if let Some(place) = std::env::var_os(RENDEZVOUS) {
            meet(Path::new(&place));
        }
        let end = lab.snapshot().to_string();
        let files: Vec<_> =
            end.lines().filter(|line| line.starts_with("file") && line.contains("state")).collect();
        assert_eq!(files.len(), 3, "{end}");
        assert_eq!(end.lines().filter(|line| line.starts_with("namespace")).count(), 1, "{end}");
    });
}

/// Waits until two tests have reached this place.
fn meet(place: &Path) {
    std::fs::write(place.join(std::process::id().to_string()), "").unwrap();
    rscni_test::eventually("the other comes", || {
        (std::fs::read_dir(place).unwrap().count() >= 2).then_some(())
    });
}

#[test]
fn two_labs_at_once_do_not_see_each_other() {
    let place = tempfile::tempdir().unwrap();
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = run_test("a_lab_starts_empty");
            command.env(RENDEZVOUS, place.path());
            std::thread::spawn(move || command.output().unwrap())
        })
        .collect();
    for child in children {
        let output = child.join().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);
}

#[test]
fn the_caller_is_root_inside_and_stays_what_it_was_outside() {
    rscni_test::run(|_| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        let map: Vec<_> = map.split_whitespace().collect();
        assert_eq!((map[0], map[2]), ("0", "1"));
    });
    assert!(!Path::new("/run/rscni-test").exists(), "the test's own process has moved");
}

#[test]
fn the_file_system_stays_where_plugins_and_tests_are() {
    let has_state = Path::new("/var/lib/cni").exists();
    rscni_test::run(|lab| {
        assert!(std::env::current_exe().unwrap().is_file());
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml").is_file());
        assert!(names("/var/lib").contains(&"cni".to_owned()));
        std::fs::write(lab.dir().join("mine"), "").unwrap();
        std::fs::write("/var/lib/cni/rscni-test-mine", "").unwrap();
    });
    // The rest belongs to the machine and may change.
    assert_eq!(Path::new("/var/lib/cni").exists(), has_state, "the host's files changed");
    assert!(!Path::new("/var/lib/cni/rscni-test-mine").exists(), "the host's files changed");
    assert!(!Path::new("/run/rscni-test").exists(), "the host's files changed");
}

fn names(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn files_in_var_lib_are_visible_inside() {
    let before = names("/var/lib");
    let list = shared_file("names");
    rscni_test::run(|_| {
        std::fs::write(&list, names("/var/lib").join("\n")).unwrap();
        let full = |directory: &Path| {
            std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
        };
        let system = ["dpkg", "apk", "rpm", "pacman"].map(|name| Path::new("/var/lib").join(name));
        assert!(system.iter().all(|directory| !directory.is_dir() || full(directory)));
    });
    let after = names("/var/lib");
    let inside = std::fs::read_to_string(&list).unwrap();
    std::fs::remove_file(list).unwrap();
    // The machine may change files there, so only those that were there all the time count.
    let inside: Vec<_> = inside.lines().collect();
    assert!(inside.contains(&"cni"));
    for name in before.iter().filter(|name| after.contains(name)) {
        assert!(inside.contains(&name.as_str()), "{name} is missing in {inside:?}");
    }
    for name in inside.iter().filter(|name| **name != "cni") {
        assert!(
            before.iter().chain(&after).any(|known| known == name),
            "{name} is in none of {before:?}, {after:?}"
        );
    }
}

#[test]
#[should_panic(expected = "boom 42")]
fn a_panic_in_the_closure_fails_the_test() {
    rscni_test::run(|lab| assert!(lab.dir().is_file(), "boom {}", 42));
}

#[test]
#[should_panic(expected = "no such thing")]
fn an_error_from_the_closure_fails_the_test() {
    rscni_test::run(|_| Err::<(), _>("no such thing"));
}

#[test]
fn a_closure_may_return_ok() {
    rscni_test::run(|lab| -> Result<(), std::io::Error> {
        std::fs::write(lab.dir().join("file"), "")?;
        Ok(())
    });
}

#[test]
#[should_panic(expected = "exit status: 0")]
fn a_process_that_ends_before_the_closure_does_fails_the_test() {
    rscni_test::run(|lab| {
        if lab.dir().is_dir() {
            std::process::exit(0);
        }
    });
}

#[test]
fn every_call_in_a_test_is_run_once() {
    let mark = |number: u32| shared_file(&format!("mark-{number}"));
    if !is_second_process() {
        // An earlier process of this number may have left these files.
        for number in [1, 2] {
            let _ = std::fs::remove_file(mark(number));
        }
    }
    rscni_test::run(|_| std::fs::File::create_new(mark(1)).map(drop));
    rscni_test::run(|_| std::fs::File::create_new(mark(2)).map(drop));
    std::fs::remove_file(mark(1)).unwrap();
    std::fs::remove_file(mark(2)).unwrap();
}

#[test]
fn run_fails_on_a_thread_without_the_name_of_a_test() {
    let panic = std::thread::spawn(|| rscni_test::run(|_| ())).join().unwrap_err();
    let message = panic.downcast_ref::<&str>().unwrap();
    assert!(message.contains("on the test's own thread"), "{message}");
}

#[test]
fn the_closure_s_output_is_the_test_s_output() {
    let output = run_test("a_lab_starts_empty").output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("a lab for ").count(), 1, "{text}");
    assert_eq!(
        text.matches("running 1 test").count(),
        1,
        "the second test runner is not to be seen: {text}"
    );
}

#[test]
fn a_failing_test_shows_where_and_why() {
    let output = run_test("a_panic_in_the_closure_fails_the_test").output().unwrap();
    let text = text(&output);
    assert!(text.contains("isolation.rs:") && text.contains("boom 42"), "{text}");
}

#[test]
fn a_system_without_user_namespaces_fails_the_test_and_says_what_to_enable() {
    rscni_test::run(|_| {
        std::fs::write("/proc/sys/user/max_user_namespaces", "0").unwrap();
        let output = run_test("a_lab_starts_empty").output().unwrap();
        let text = text(&output);
        assert!(!output.status.success(), "{text}");
        assert!(text.contains("could not start in a private network"), "{text}");
        assert!(text.contains("sysctl -w user.max_user_namespaces=15000"), "{text}");
    });
}

#[test]
fn a_test_runs_under_any_number_of_test_threads() {
    let output = run_test("a_lab_starts_empty").arg("--test-threads=1").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_process_with_threads_cannot_move() {
    let error = rscni_test::enter_private_network().unwrap_err();
    assert!(matches!(error, rscni_test::EnterError::Threads(2..)), "{error}");
}

#[test]
fn a_lab_has_umask_locale_and_variables_of_its_own() {
    rscni_test::run(|lab| {
        let file = lab.dir().join("file");
        std::fs::write(&file, "").unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644);
        let plugins = lab.container("a").run(|| std::env::var_os("CNI_PATH"));
        assert_eq!(plugins, None);
        assert_eq!(std::env::var("LC_ALL").as_deref(), Ok("C"));
    });
}

#[test]
fn a_lab_does_not_inherit_umask_locale_and_variables() {
    let test = run_test("a_lab_has_umask_locale_and_variables_of_its_own");
    let output = Command::new("sh")
        .args(["-c", "umask 077; exec \"$@\"", "sh"])
        .arg(test.get_program())
        .args(test.get_args())
        .envs([("LC_ALL", "de_DE.UTF-8"), ("CNI_PATH", "/nowhere"), ("NETCONFPATH", "/nowhere")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
