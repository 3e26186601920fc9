//! How a plugin made with the library behaves as a real process: what it reads, what stands on which stream, and how
//! it ends. With panics that unwind, and, as in a release build, with panics that abort.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rscni::SpecVersion;
use rscni::invoke::Exit;
use rscni_conformance::{Candidate, assert_error, result_in};
use rstest::rstest;
use serde_json::{Value, json};

/// How the plugin was built.
#[derive(Clone, Copy)]
enum Panics {
    Unwind,
    Abort,
}

impl Panics {
    fn program(self) -> &'static Path {
        match self {
            Self::Unwind => Path::new(env!("CARGO_BIN_EXE_faulty")),
            Self::Abort => aborting(),
        }
    }
}

/// The same plugin as the release profile builds it, but without its optimisations, which take long.
fn aborting() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("aborting");
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--release", "--bin", "faulty", "--target-dir"])
            .arg(&target)
            .envs([("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")])
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("start cargo");
        assert!(status.success(), "build the plugin with panic=abort: {status}");
        target.join("release/faulty")
    })
}

fn call(program: &Path, vars: &[(&str, &OsStr)], stdin: &Value) -> Output {
    let mut child = command(program, vars).stdin(Stdio::piped()).spawn().expect("start the plugin");
    child.stdin.take().unwrap().write_all(stdin.to_string().as_bytes()).expect("send the configuration");
    child.wait_with_output().expect("wait for the plugin")
}

fn command(program: &Path, vars: &[(&str, &OsStr)]) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(vars.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn add<'a>(netns: &'a str, more: &[(&'a str, &'a OsStr)]) -> Vec<(&'a str, &'a OsStr)> {
    let vars = [("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_NETNS", netns), ("CNI_IFNAME", "eth0")];
    vars.map(|(name, value)| (name, OsStr::new(value))).into_iter().chain(more.iter().copied()).collect()
}

fn config(fault: &str) -> Value {
    json!({ "cniVersion": "0.4.0", "name": "net", "type": "faulty", "fault": fault })
}

/// The one JSON document on stdout.
fn only_document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

#[rstest]
fn version_and_about_do_not_wait_for_stdin(
    #[values(Panics::Unwind, Panics::Abort)] panics: Panics,
    #[values(Some("VERSION"), Some(""), None)] cni_command: Option<&str>,
) {
    let vars: Vec<_> = cni_command.map(|command| ("CNI_COMMAND", OsStr::new(command))).into_iter().collect();
    let mut child = command(panics.program(), &vars).stdin(Stdio::piped()).spawn().unwrap();
    // Held open and silent until the plugin has ended.
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert!(output.status.success(), "{output:?}");
    if cni_command == Some("VERSION") {
        assert_eq!(only_document(&output)["supportedVersions"], json!(SpecVersion::ALL));
        assert!(output.stderr.is_empty(), "{output:?}");
    } else {
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "faulty: misbehaves as it is told\n\
             CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
        );
    }
}

#[rstest]
fn success_is_status_0_and_the_result(#[values(Panics::Unwind, Panics::Abort)] panics: Panics) {
    Candidate::new(panics.program()).speaks_every_version();
    let output = call(panics.program(), &add("/nowhere", &[]), &config(""));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"faulty was called\n");
}

#[rstest]
fn a_failure_is_one_reply_though_main_panics_over_it(
    #[values(Panics::Unwind, Panics::Abort)] panics: Panics,
    #[values("ADD", "DEL", "CHECK")] cni_command: &str,
) {
    let output = call(panics.program(), &add("/nowhere", &[("CNI_COMMAND", cni_command.as_ref())]), &config("error"));
    assert!(!output.status.success());
    assert_eq!(
        only_document(&output),
        json!({ "cniVersion": "0.4.0", "code": 123, "msg": "told to fail", "details": "the disk is on fire" })
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("the CNI call failed"), "{output:?}");
}

#[rstest]
fn a_panic_is_one_reply_with_code_999(
    #[values(Panics::Unwind, Panics::Abort)] panics: Panics,
    #[values("ADD", "DEL", "CHECK")] cni_command: &str,
) {
    let output = call(panics.program(), &add("/nowhere", &[("CNI_COMMAND", cni_command.as_ref())]), &config("panic"));
    assert!(!output.status.success());
    assert_eq!(
        only_document(&output),
        json!({ "cniVersion": "0.4.0", "code": 999, "msg": "internal error", "details": "the plugin panicked: told to" })
    );
}

#[test]
fn a_caller_reads_the_reply_of_a_plugin_that_aborted() {
    let candidate = Candidate::new(Panics::Abort.program()).key("fault", "panic");
    let outcome = candidate.call("ADD", &candidate.config(SpecVersion::LATEST, None));
    assert!(matches!(outcome.exit, Exit::Signal(_)), "{outcome:?}");
    assert_eq!(outcome.into_result("faulty").unwrap_err().code(), 999);
}

#[test]
fn the_own_network_namespace_needs_an_override() {
    let program = Panics::Unwind.program();
    for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        let output = call(program, &add(path, &[]), &config("panic"));
        // Code 8, not 999: the plugin was not run.
        assert_eq!(only_document(&output)["code"], 8, "{path}");
        for (value, code) in [("1", 0), ("true", 0), ("True", 0), ("0", 1), ("", 1), ("yes", 1)] {
            let output = call(program, &add(path, &[("CNI_NETNS_OVERRIDE", value.as_ref())]), &config(""));
            assert_eq!(output.status.success(), code == 0, "{path}, override {value:?}");
        }
        for (command, allowed) in [("DEL", false), ("CHECK", true)] {
            let output = call(program, &add(path, &[("CNI_COMMAND", command.as_ref())]), &config(""));
            assert_eq!(output.status.success(), allowed, "{command}");
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error_not_a_panic() {
    let bytes = OsStr::from_bytes(b"a\xff");
    for name in ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"] {
        let output = call(Panics::Unwind.program(), &add("/nowhere", &[(name, bytes)]), &config(""));
        let reply = only_document(&output);
        assert_eq!(reply["code"], 4, "{name}");
        assert!(reply["details"].as_str().unwrap().contains(name), "{reply}");
    }
    // Variables that are not CNI's may hold anything, in their names too.
    let mut strange = command(Panics::Unwind.program(), &[("CNI_COMMAND", "VERSION".as_ref())]);
    assert!(strange.env("X", bytes).env(bytes, "x").output().unwrap().status.success());
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let mut child = command(Panics::Unwind.program(), &add("/nowhere", &[]))
        .stdin(Stdio::piped())
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config("").to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("write the reply to stdout"), "{output:?}");
}

#[test]
fn a_megabyte_goes_in_and_out() {
    let mut config = config("");
    let routes: Vec<_> =
        (0..60_000).map(|n: u32| json!({ "dst": format!("10.{}.{}.0/24", n >> 8, n & 255) })).collect();
    config["prevResult"] = json!({ "cniVersion": "0.4.0", "routes": routes });
    assert!(config.to_string().len() > 1 << 20);
    let output = call(Panics::Unwind.program(), &add("/nowhere", &[]), &config);
    assert_eq!(only_document(&output), config["prevResult"]);
}

#[test]
fn an_error_is_told_in_the_version_of_the_call() {
    for version in SpecVersion::ALL {
        let candidate = Candidate::new(Panics::Unwind.program()).key("ipMasq", "a string where a boolean belongs");
        let config = candidate.config(version, Some(&result_in(version)));
        let outcome = candidate.call("ADD", &config);
        assert!(assert_error("ADD", &outcome, 6, version).contains("ipMasq"));
    }
}
