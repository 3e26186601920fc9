//! How a plugin made with the library behaves as a real process: what it reads, what stands on which stream, and how
//! it ends. With panics that unwind, and, as in a release build, with panics that abort.

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
    invoke::{Exec, Exit, Inherits, Invocation, Process},
};
use rscni_test::{Call, Container, Outcome, Plugin, Versions, result_in};
use rstest::rstest;
use serde_json::{Value, json};

/// How the plugin is built.
#[derive(Clone, Copy)]
enum Panics {
    Unwind,
    Abort,
    /// Unwinding, and with asynchronous functions.
    Asynchronous,
}

impl Panics {
    fn program(self) -> &'static Path {
        static UNWINDING: OnceLock<PathBuf> = OnceLock::new();
        static ABORTING: OnceLock<PathBuf> = OnceLock::new();
        static ASYNCHRONOUS: OnceLock<PathBuf> = OnceLock::new();
        match self {
            Self::Unwind => UNWINDING.get_or_init(|| build("unwind", "unwind", &[])),
            Self::Abort => ABORTING.get_or_init(|| build("abort", "abort", &[])),
            Self::Asynchronous => ASYNCHRONOUS
                .get_or_init(|| build("asynchronous", "unwind", &["--features", "async"])),
        }
    }

    fn plugin(self) -> Plugin {
        Plugin::at(self.program())
    }
}

/// Builds the plugin `faulty` with this way to panic, as a package of its own, which is what a plugin's author has.
///
/// A target of this package would not do: how panics end is decided for the library too, and it would have all that
/// the tests depend on built once more. As it is, there are the library and its few dependencies, which this
/// package's own build has downloaded.
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
    std::fs::create_dir_all(&package).expect("make the package");
    let lock = std::fs::read_to_string(library.join("../../Cargo.lock"))
        .expect("read the versions of dependencies");
    for (name, text) in [("Cargo.toml", manifest), ("Cargo.lock", lock)] {
        // In one step: other processes may be building it too.
        let mut file =
            tempfile::NamedTempFile::new_in(&package).expect("make a file of the package");
        file.write_all(text.as_bytes()).expect("write a file of the package");
        file.persist(package.join(name)).expect("put a file of the package in place");
    }
    // One target directory for both, so that the macros that they are compiled with are built once.
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

/// An ADD, unless another command is set.
fn call<'a>(plugin: &'a Plugin, netns: &str, fault: &str) -> Call<'a> {
    plugin.call("ADD").attachment(&Container::at("c1", netns), "eth0").config(&config(fault))
}

fn config(fault: &str) -> Value {
    json!({ "cniVersion": "0.4.0", "name": "net", "type": "faulty", "fault": fault })
}

/// The one JSON document on stdout.
fn only_document(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout()).unwrap_or_else(|error| panic!("{error}\n{outcome}"))
}

#[rstest]
fn version_and_about_do_not_wait_for_stdin(
    #[values(Panics::Unwind, Panics::Abort)] panics: Panics,
    #[values(Some("VERSION"), Some(""), None)] cni_command: Option<&str>,
) {
    let mut command = Command::new(panics.program());
    command.env_clear().envs(cni_command.map(|name| ("CNI_COMMAND", name)));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the plugin");
    // Held open and silent until the plugin has ended.
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
            "faulty: misbehaves as it is told\n\
             CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n"
        );
    }
}

#[rstest]
fn success_is_status_0_and_the_result(#[values(Panics::Unwind, Panics::Abort)] panics: Panics) {
    Versions::of(panics.program()).speak();
    let outcome = call(&panics.plugin(), "/nowhere", "").run();
    outcome.success();
    assert_eq!(outcome.stderr(), "faulty was called\n");
}

#[rstest]
fn a_failure_is_one_reply_though_main_panics_over_it(
    #[values(Panics::Unwind, Panics::Abort)] panics: Panics,
    #[values("ADD", "DEL", "CHECK")] cni_command: &str,
) {
    let outcome = call(&panics.plugin(), "/nowhere", "error").env("CNI_COMMAND", cni_command).run();
    assert_ne!(outcome.exit_code(), Some(0));
    assert_eq!(
        only_document(&outcome),
        json!({ "cniVersion": "0.4.0", "code": 123, "msg": "told to fail", "details": "the disk is on fire" })
    );
    assert!(outcome.stderr().contains("the CNI call failed"), "{outcome}");
}

#[rstest]
fn a_panic_is_one_reply_with_code_999(
    #[values(Panics::Unwind, Panics::Abort)] panics: Panics,
    #[values("ADD", "DEL", "CHECK")] cni_command: &str,
) {
    let outcome = call(&panics.plugin(), "/nowhere", "panic").env("CNI_COMMAND", cni_command).run();
    assert_ne!(outcome.exit_code(), Some(0));
    assert_eq!(
        only_document(&outcome),
        json!({ "cniVersion": "0.4.0", "code": 999, "msg": "internal error", "details": "the plugin panicked: told to" })
    );
}

#[rstest]
fn what_a_plugin_and_its_children_print_goes_to_stderr(
    #[values(Panics::Unwind, Panics::Abort, Panics::Asynchronous)] panics: Panics,
    #[values("ADD", "DEL", "CHECK")] cni_command: &str,
) {
    let outcome = call(&panics.plugin(), "/nowhere", "print").env("CNI_COMMAND", cni_command).run();
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
fn the_reply_to_a_panic_is_complete_though_the_plugin_printed(
    #[values(Panics::Unwind, Panics::Abort, Panics::Asynchronous)] panics: Panics,
) {
    let outcome = call(&panics.plugin(), "/nowhere", "print and panic").run();
    assert_ne!(outcome.exit_code(), Some(0));
    assert_eq!(only_document(&outcome)["code"], 999);
    assert!(outcome.stderr().contains("from a child"), "{outcome}");
}

#[rstest]
fn a_child_that_lives_on_does_not_hold_the_reply_open(
    #[values(Panics::Unwind, Panics::Asynchronous)] panics: Panics,
) {
    let mut child = Command::new(panics.program())
        .env_clear()
        .envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")])
        .envs([("CNI_NETNS", "/nowhere"), ("PATH", "/usr/bin:/bin")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(config("leave a child").to_string().as_bytes()).unwrap();
    // Reads to the end of stdout. The child waits for a signal, and so outlives the plugin.
    let output = child.wait_with_output().unwrap();
    let reply: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left: i32 = reply["child"].as_i64().unwrap().try_into().unwrap();
    let left = rustix::process::Pid::from_raw(left).unwrap();
    rustix::process::kill_process(left, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_caller_reads_the_reply_of_a_plugin_that_aborted() {
    let vars = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nowhere"),
        ("CNI_IFNAME", "eth0"),
    ];
    let invocation = Invocation {
        plugin: "faulty".into(),
        program: Panics::Abort.program().into(),
        vars: vars.map(|(name, value)| (name.to_owned(), value.into())).into(),
        inherits: Inherits::Everything,
        stdin: config("panic").to_string().into(),
        time_limit: None,
    };
    let outcome = Process.exec(&invocation).unwrap();
    assert!(matches!(outcome.exit, Exit::Signal(_)), "{outcome:?}");
    assert_eq!(outcome.into_result("faulty").unwrap_err().code(), 999);
}

#[test]
fn the_own_network_namespace_needs_an_override() {
    let plugin = Panics::Unwind.plugin();
    for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net"] {
        // Code 8, not 999: the plugin was not run.
        call(&plugin, path, "panic").run().error(8);
        for value in ["1", "true", "True"] {
            call(&plugin, path, "").env("CNI_NETNS_OVERRIDE", value).run().success();
        }
        for value in ["0", "", "yes"] {
            let outcome = call(&plugin, path, "").env("CNI_NETNS_OVERRIDE", value).run();
            assert_ne!(outcome.failure().code(), 999, "{outcome}");
        }
        // Which may be what has become of the path of a container that is gone.
        call(&plugin, path, "").env("CNI_COMMAND", "DEL").run().success();
        call(&plugin, path, "").env("CNI_COMMAND", "CHECK").run().success();
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error_not_a_panic() {
    let bytes = OsStr::from_bytes(b"a\xff");
    let plugin = Panics::Unwind.plugin();
    for name in
        ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS", "CNI_PATH"]
    {
        let outcome = call(&plugin, "/nowhere", "").env(name, bytes).run();
        let error = outcome.error(4);
        assert!(error.details().contains(name), "{outcome}");
    }
    // Variables that are not CNI's may hold anything, in their names too.
    let mut strange = Command::new(plugin.program());
    strange.env("CNI_COMMAND", "VERSION").env("X", bytes).env(bytes, "x");
    assert!(strange.output().unwrap().status.success());
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let vars = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/nowhere"),
        ("CNI_IFNAME", "eth0"),
    ];
    let mut child = Command::new(Panics::Unwind.program())
        .env_clear()
        .envs(vars)
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
fn a_megabyte_goes_in_and_out() {
    let mut config = config("");
    let routes: Vec<_> = (0..60_000)
        .map(|n: u32| json!({ "dst": format!("10.{}.{}.0/24", n >> 8, n & 255) }))
        .collect();
    config["prevResult"] = json!({ "cniVersion": "0.4.0", "routes": routes });
    assert!(config.to_string().len() > 1 << 20);
    let reply = call(&Panics::Unwind.plugin(), "/nowhere", "").config(&config).run().success();
    assert_eq!(*reply, config["prevResult"]);
}

#[test]
fn an_error_is_told_in_the_version_of_the_call() {
    let plugin =
        Versions::of(Panics::Unwind.program()).key("ipMasq", "a string where a boolean belongs");
    for version in rscni_test::VERSIONS {
        let outcome = plugin.call("ADD", &plugin.config(version, Some(&result_in(version)))).run();
        let error = outcome.error(6);
        error.mentions("ipMasq");
        assert_eq!(error["cniVersion"], version, "{outcome}");
    }
}
