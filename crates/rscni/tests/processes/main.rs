//! A plugin made with the library as a real process: stdin, stdout, stderr and exit status. With
//! panics that unwind, and with panics that abort, as in a release build.

use std::{
    ffi::OsStr,
    io::Write,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use rscni::{
    SpecVersion,
    invoke::{Exec, Exit, Invocation, Process},
};
use rscni_test::{Call, Container, Outcome, Plugin, Versions, result_in};
use rstest::rstest;
use serde_json::{Value, json};

/// The build of the plugin.
#[derive(Clone, Copy)]
enum Build {
    /// With panics that unwind.
    Unwind,
    /// With panics that abort.
    Abort,
    /// With panics that unwind and async functions.
    Async,
}

impl Build {
    fn program(self) -> &'static Path {
        static UNWINDING: OnceLock<PathBuf> = OnceLock::new();
        static ABORTING: OnceLock<PathBuf> = OnceLock::new();
        static ASYNCHRONOUS: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Self::Unwind => UNWINDING.get_or_init(|| build("unwind", "unwind", &[])),
            Self::Abort => ABORTING.get_or_init(|| build("abort", "abort", &[])),
            Self::Async => ASYNCHRONOUS
                .get_or_init(|| build("asynchronous", "unwind", &["--features", "async"])),
        }
    }

    fn plugin(self) -> Plugin {
        Plugin::at(self.program())
    }
}

/// Builds the plugin `faulty` as a package of its own, as the author of a plugin does.
///
/// A target of this package cannot have its own panic strategy. The package only needs the library
/// and its dependencies, which are already downloaded.
fn build(bin: &str, panics: &str, features: &[&str]) -> PathBuf {
    let library = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = Path::new(env!("CARGO_TARGET_TMPDIR")).join("faulty");
    let manifest = format!(
        r#"
        package = {{ name = "faulty", edition = "2024" }}
        bin = [
            {{ name = "unwind", path = '{source}' }},
            {{ name = "abort", path = '{source}' }},
            {{ name = "asynchronous", path = '{source}', required-features = ["async"] }},
        ]
        features = {{ async = ["rscni/async"] }}
        dependencies = {{ rscni = {{ path = '{library}' }} }}
        profile.dev.debug = false
        workspace = {{}}
        "#,
        source = library.join("tests/processes/faulty.rs").display(),
        library = library.display(),
    );
    std::fs::create_dir_all(&package).expect("create the package");
    let lock = std::fs::read_to_string(library.join("../../Cargo.lock")).expect("read Cargo.lock");
    for (name, text) in [("Cargo.toml", manifest), ("Cargo.lock", lock)] {
        // Renamed into place, since other processes may be building the package too.
        let mut file = tempfile::NamedTempFile::new_in(&package).expect("create a file");
        file.write_all(text.as_bytes()).expect("write a file");
        file.persist(package.join(name)).expect("rename a file");
    }
    // One target directory for all builds, so that shared dependencies are built once.
    let target = package.join("target");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--offline", "--bin", bin, "--target-dir"])
        .arg(&target)
        .args(features)
        .env("CARGO_PROFILE_DEV_PANIC", panics)
        .current_dir(&package)
        .status()
        .expect("start cargo");
    assert!(status.success(), "build the plugin, panic = {panics}: {status}");
    target.join("debug").join(bin)
}

/// An ADD.
fn call<'a>(plugin: &'a Plugin, netns: &str, fault: &str) -> Call<'a> {
    plugin.call("ADD").attachment(&Container::at("c1", netns), "eth0").config(&config(fault))
}

/// The variables of an ADD.
const VARIABLES: [(&str, &str); 4] = [
    ("CNI_COMMAND", "ADD"),
    ("CNI_CONTAINERID", "c1"),
    ("CNI_NETNS", "/nowhere"),
    ("CNI_IFNAME", "eth0"),
];

fn config(fault: &str) -> Value {
    json!({ "cniVersion": "0.4.0", "name": "net", "type": "faulty", "fault": fault })
}

/// Parses stdout, which must be a single JSON document.
fn only_document(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout()).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

#[rstest]
fn version_and_about_do_not_wait_for_stdin(
    #[values(Build::Unwind, Build::Abort)] build: Build,
    #[values(Some("VERSION"), Some(""), None)] cni_command: Option<&str>,
) {
    let mut command = Command::new(build.program());
    command.env_clear().envs(cni_command.map(|name| ("CNI_COMMAND", name)));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the plugin");
    // Kept open without input until the plugin has exited.
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert!(output.status.success(), "{output:?}");
    if cni_command == Some("VERSION") {
        let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(reply["supportedVersions"], json!(SpecVersion::ALL));
        assert!(output.stderr.is_empty(), "{output:?}");
    } else {
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "faulty: a plugin with faults\n\
             CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
        );
    }
}

#[rstest]
fn success_is_status_0_and_the_result(#[values(Build::Unwind, Build::Abort)] build: Build) {
    Versions::of(build.program()).speak();
    let outcome = call(&build.plugin(), "/nowhere", "").run();
    outcome.success();
    assert_eq!(outcome.stderr(), "faulty was called\n");
}

/// `main` panics after an error.
#[rstest]
fn an_error_and_a_panic_are_one_reply(
    #[values(Build::Unwind, Build::Abort)] build: Build,
    #[values("ADD", "DEL", "CHECK")] cni_command: &str,
) {
    let error = json!({
        "cniVersion": "0.4.0", "code": 123, "msg": "told to fail", "details": "the disk is on fire"
    });
    let panic = json!({
        "cniVersion": "0.4.0", "code": 999, "msg": "internal error",
        "details": "the plugin panicked: told to"
    });
    for (fault, reply, stderr) in
        [("error", error, "the CNI call failed"), ("panic", panic, "told to")]
    {
        let plugin = build.plugin();
        let outcome = call(&plugin, "/nowhere", fault).env("CNI_COMMAND", cni_command).run();
        assert_ne!(outcome.exit_code(), Some(0));
        assert_eq!(only_document(&outcome), reply);
        assert!(outcome.stderr().contains(stderr), "{outcome}");
    }
}

#[rstest]
fn output_of_a_plugin_and_its_children_goes_to_stderr(
    #[values(Build::Unwind, Build::Abort, Build::Async)] build: Build,
    #[values("ADD", "DEL", "CHECK")] cni_command: &str,
) {
    let outcome = call(&build.plugin(), "/nowhere", "print").env("CNI_COMMAND", cni_command).run();
    outcome.success();
    if cni_command == "ADD" {
        assert_eq!(only_document(&outcome), json!({ "cniVersion": "0.4.0" }));
    } else {
        assert_eq!(outcome.stdout(), "");
    }
    for line in ["printed", "from a child", "without an end of line"] {
        assert!(outcome.stderr().contains(line), "{outcome}");
    }
}

#[rstest]
fn output_before_a_panic_does_not_damage_the_reply(
    #[values(Build::Unwind, Build::Abort, Build::Async)] build: Build,
) {
    let outcome = call(&build.plugin(), "/nowhere", "print and panic").run();
    assert_ne!(outcome.exit_code(), Some(0));
    assert_eq!(only_document(&outcome)["code"], 999);
    assert!(outcome.stderr().contains("from a child"), "{outcome}");
}

#[rstest]
fn a_child_that_outlives_the_plugin_does_not_keep_stdout_open(
    #[values(Build::Unwind, Build::Async)] build: Build,
) {
    let mut child = Command::new(build.program())
        .env_clear()
        .envs(VARIABLES)
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config("leave a child").to_string().as_bytes()).unwrap();
    // Reads to the end of stdout. The plugin's child sleeps and outlives it.
    let output = child.wait_with_output().unwrap();
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left: i32 = reply["child"].as_i64().unwrap().try_into().unwrap();
    let left = rustix::process::Pid::from_raw(left).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn the_trace_comes_from_the_environment() {
    let plugin = Build::Unwind.plugin();
    for (variable, trace) in [("TRACEPARENT", r#"Some("00-a-b-01")"#), ("TRACESTATE", "None")] {
        let call = call(&plugin, "/nowhere", "return the trace").env(variable, "00-a-b-01");
        assert_eq!(only_document(&call.run())["trace"], trace);
    }
}

#[test]
fn a_caller_reads_the_reply_of_a_plugin_that_aborted() {
    let mut invocation = Invocation::new("faulty", Build::Abort.program());
    invocation.vars = VARIABLES.map(|(name, value)| (name.to_owned(), value.into())).into();
    invocation.stdin = config("panic").to_string().into();
    let outcome = Process.exec(&invocation).unwrap();
    assert!(matches!(outcome.exit, Exit::Signal(_)), "{outcome:?}");
    assert_eq!(outcome.into_result("faulty").unwrap_err().code(), 999);
}

#[test]
fn the_own_network_namespace_requires_an_override() {
    let plugin = Build::Unwind.plugin();
    for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        // Code 8, not 999: the plugin was not called.
        call(&plugin, path, "panic").run().error(8);
        for value in ["1", "true", "True"] {
            call(&plugin, path, "").env("CNI_NETNS_OVERRIDE", value).run().success();
        }
        for value in ["0", "", "yes"] {
            let outcome = call(&plugin, path, "").env("CNI_NETNS_OVERRIDE", value).run();
            assert_ne!(outcome.failure().code(), 999, "{outcome}");
        }
        // DEL accepts it, since the path of a container that is gone may lead here.
        call(&plugin, path, "").env("CNI_COMMAND", "DEL").run().success();
        call(&plugin, path, "").env("CNI_COMMAND", "CHECK").run().success();
    }
}

#[test]
fn variables_that_are_not_utf8_are_an_error() {
    let bytes = OsStr::from_bytes(b"a\xff");
    let plugin = Build::Unwind.plugin();
    for name in
        ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"]
    {
        let outcome = call(&plugin, "/nowhere", "").env(name, bytes).run();
        let error = outcome.error(4);
        assert!(error.details().contains(name), "{outcome}");
    }
    // Other variables may contain any bytes, also in their names.
    let mut strange = Command::new(plugin.program());
    strange.env("CNI_COMMAND", "VERSION").env("X", bytes).env(bytes, "x");
    assert!(strange.output().unwrap().status.success());
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let mut child = Command::new(Build::Unwind.program())
        .env_clear()
        .envs(VARIABLES)
        .stdin(Stdio::piped())
        .stdout(std::fs::File::options().write(true).open("/dev/full").unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config("").to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("write the reply to stdout"),
        "{output:?}"
    );
}

#[test]
fn a_configuration_and_a_result_of_a_megabyte_are_passed() {
    let mut config = config("");
    let routes: Vec<_> = (0..60_000)
        .map(|n: u32| json!({ "dst": format!("10.{}.{}.0/24", n >> 8, n & 255) }))
        .collect();
    config["prevResult"] = json!({ "cniVersion": "0.4.0", "routes": routes });
    assert!(config.to_string().len() > 1 << 20);
    let reply = call(&Build::Unwind.plugin(), "/nowhere", "").config(&config).run().success();
    assert_eq!(*reply, config["prevResult"]);
}

#[test]
fn an_error_reply_has_the_version_of_the_call() {
    let plugin = Versions::of(Build::Unwind.program()).key("ipMasq", "not a boolean");
    for version in rscni_test::VERSIONS {
        let outcome = plugin.call("ADD", &plugin.config(version, Some(&result_in(version)))).run();
        let error = outcome.error(6);
        error.mentions("ipMasq");
        assert_eq!(error["cniVersion"], version, "{outcome}");
    }
}
