//! Delegation to real programs: shell scripts that answer as the test says, or do not answer at all.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use rscni::{
    Args, CNIResult, Command, Error, NetConf, SpecVersion,
    invoke::{Delegate, Exec, Process},
};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A directory with one plugin, `ipam`.
struct Installed {
    directory: TempDir,
    args: Args,
}

impl Installed {
    /// Installs a plugin that notes command, environment and configuration of each call, and then runs `script`.
    ///
    /// The script has `$CNI_COMMAND`, and `$DIR` for the plugin's directory.
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().display();
        let file = directory.path().join("ipam");
        let text = format!(
            "#!/bin/sh\n\
             DIR={dir}\n\
             echo $CNI_COMMAND >>$DIR/commands\n\
             env | grep ^CNI_ | sort >$DIR/env.$CNI_COMMAND\n\
             {script}\n"
        );
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let config = r#"{ "cniVersion": "1.1.0", "name": "net", "type": "main", "ipam": { "type": "ipam" }, "z": 1, "a": 2 }"#;
        let args = Args {
            container_id: "c1".into(),
            netns: Some("/nowhere/netns".into()),
            ifname: "eth0".into(),
            args: Some("IgnoreUnknown=1".into()),
            path: vec!["/nowhere/first".into(), directory.path().into()],
            config: Some(NetConf::from_json(config.as_bytes()).unwrap()),
            stdin: config.into(),
            netns_override: false,
        };
        Self { directory, args }
    }

    /// One that answers ADD with this text.
    fn answering(text: &str) -> Self {
        Self::new(&format!("[ $CNI_COMMAND = ADD ] && cat <<'EOF'\n{text}\nEOF\nexit 0"))
    }

    /// One that fails every command with this text on stdout.
    fn failing(text: &str) -> Self {
        Self::new(&format!("cat <<'EOF'\n{text}\nEOF\nexit 1"))
    }

    fn ipam(&self) -> Delegate<'_> {
        Delegate::new(&Process, &self.args, "ipam")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn commands(&self) -> Vec<String> {
        self.read("commands").lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_plugin_gets_this_calls_environment_and_configuration() {
    let installed =
        Installed::new("cat >$DIR/stdin.$CNI_COMMAND; [ $CNI_COMMAND = ADD ] && echo '{}' || true");
    let ipam = installed.ipam();
    ipam.add().unwrap();
    ipam.check().unwrap();
    ipam.del().unwrap();
    ipam.gc().unwrap();
    ipam.status().unwrap();
    assert_eq!(installed.commands(), ["ADD", "CHECK", "DEL", "GC", "STATUS"]);
    for command in installed.commands() {
        assert_eq!(
            installed.read(&format!("env.{command}")),
            format!(
                "CNI_ARGS=IgnoreUnknown=1\nCNI_COMMAND={command}\nCNI_CONTAINERID=c1\nCNI_IFNAME=eth0\n\
                 CNI_NETNS=/nowhere/netns\nCNI_PATH=/nowhere/first:{}\n",
                installed.directory.path().display()
            )
        );
        // Byte for byte: keys that this plugin does not know are the other one's.
        assert_eq!(installed.read(&format!("stdin.{command}")).as_bytes(), installed.args.stdin);
    }
}

/// What this process has of its own, such as cargo's variables, is no business of the other plugin.
#[test]
fn of_all_other_variables_the_plugin_gets_path_and_the_trace_alone() {
    let installed =
        Installed::new("tr '\\0' '\\n' </proc/$$/environ | cut -d= -f1 | sort >$DIR/names");
    installed.ipam().del().unwrap();
    let names = installed.read("names");
    let others: Vec<_> = names.lines().filter(|name| !name.starts_with("CNI_")).collect();
    let trace = ["BAGGAGE", "PATH", "TRACEPARENT", "TRACESTATE"];
    let expected: Vec<_> =
        trace.into_iter().filter(|name| std::env::var_os(name).is_some()).collect();
    assert!(std::env::vars_os().count() > expected.len() + 1 && expected.contains(&"PATH"));
    assert_eq!(others, expected);
}

#[test]
fn what_this_call_does_not_have_is_not_set() {
    let mut installed = Installed::new("exit 0");
    let path = std::mem::take(&mut installed.args.path);
    installed.args = Args { path, netns_override: true, ..Args::default() };
    installed.ipam().gc().unwrap();
    let env = installed.read("env.GC");
    let names: Vec<_> = env.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(names, ["CNI_COMMAND", "CNI_NETNS_OVERRIDE", "CNI_PATH"]);
}

#[test]
fn another_configuration_can_be_given() {
    let installed = Installed::new("cat >$DIR/stdin");
    installed.ipam().with_config(b"{\"other\":1}".to_vec()).del().unwrap();
    assert_eq!(installed.read("stdin"), "{\"other\":1}");
    // Arguments that were made by hand have no stdin; then it is what the configuration says.
    let mut by_hand = Installed::new("cat >$DIR/stdin");
    by_hand.args.stdin.clear();
    by_hand.ipam().del().unwrap();
    let sent: Value = serde_json::from_str(&by_hand.read("stdin")).unwrap();
    assert_eq!(sent, serde_json::from_slice::<Value>(&installed.args.stdin).unwrap());
}

#[test]
fn a_result_is_read_in_whatever_version_it_comes() {
    let result: CNIResult = serde_json::from_value(json!({
        "ips": [{ "address": "10.1.0.5/16", "gateway": "10.1.0.1" }, { "address": "fd00::5/64" }],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }],
        "dns": { "nameservers": ["10.1.0.1"] },
    }))
    .unwrap();
    for version in SpecVersion::ALL {
        let installed = Installed::answering(&result.to_json(version).to_string());
        assert_eq!(installed.ipam().add().unwrap(), result, "{version}");
        assert_eq!(installed.commands(), ["ADD"]);
    }
}

#[test]
fn an_error_is_passed_on_as_it_came() {
    for (reply, error) in [
        (
            r#"{ "cniVersion": "1.0.0", "code": 11, "msg": "pool is empty", "details": "10.1.0.0/30" }"#,
            Error::Custom(11, "pool is empty".into(), "10.1.0.0/30".into()),
        ),
        // As Go's plugins write it.
        (
            r#"{ "code": 999, "msg": "no space" }"#,
            Error::Custom(999, "no space".into(), String::new()),
        ),
    ] {
        let installed = Installed::failing(reply);
        let ipam = installed.ipam();
        assert_eq!(ipam.add().unwrap_err(), error);
        for outcome in [ipam.del(), ipam.check(), ipam.gc(), ipam.status()] {
            assert_eq!(outcome.unwrap_err(), error);
        }
    }
}

#[test]
fn an_add_that_fails_is_undone() {
    let installed = Installed::failing(r#"{ "code": 100, "msg": "half way" }"#);
    assert_eq!(installed.ipam().add().unwrap_err().msg(), "half way");
    assert_eq!(installed.commands(), ["ADD", "DEL"]);
    // The undoing may fail as well; the first error is told.
    let installed =
        Installed::new(r#"echo "{ \"code\": 100, \"msg\": \"$CNI_COMMAND failed\" }"; exit 1"#);
    assert_eq!(installed.ipam().add().unwrap_err().msg(), "ADD failed");
    // An answer that cannot be read may stand for an address that is taken.
    let installed = Installed::answering("garbage");
    installed.ipam().add().unwrap_err();
    assert_eq!(installed.commands(), ["ADD", "DEL"]);
    // Nothing but ADD is undone.
    let installed = Installed::failing("{}");
    installed.ipam().check().unwrap_err();
    assert_eq!(installed.commands(), ["CHECK"]);
}

#[rstest]
#[case::nothing("exit 1", "status 1")]
#[case::garbage("echo garbage; exit 3", "status 3 and gave no error reply; stdout: garbage")]
#[case::another_document(
    "echo '{ \"ips\": [] }'; exit 1",
    "no error reply; stdout: { \"ips\": [] }"
)]
#[case::only_stderr(
    "echo 'panic: oh' >&2; exit 2",
    "status 2 and gave no error reply; stderr: panic: oh"
)]
#[case::killed("kill -9 $$", "signal 9")]
#[case::bytes("printf '\\377\\376'; exit 1", "stdout: \u{fffd}\u{fffd}")]
fn a_plugin_that_ends_without_an_error_reply_is_an_internal_error(
    #[case] script: &str,
    #[case] told: &str,
) {
    let installed = Installed::new(script);
    for error in [installed.ipam().add().unwrap_err(), installed.ipam().del().unwrap_err()] {
        assert_eq!(error.code(), 999);
        assert!(error.details().contains("ipam") && error.details().contains(told), "{error}");
    }
}

#[rstest]
#[case::nothing("true")]
#[case::white_space("echo; echo")]
#[case::garbage("echo garbage")]
#[case::a_list("echo '[]'")]
#[case::two_documents("echo '{} {}'")]
#[case::noise_before("echo 'starting...'; echo '{}'")]
#[case::a_bad_address("echo '{ \"ips\": [{ \"address\": \"10.0.0.300/24\" }] }'")]
#[case::bytes("printf '{\\377}'")]
fn a_success_without_a_result_is_a_failed_add(#[case] script: &str) {
    let error = Installed::new(script).ipam().add().unwrap_err();
    assert_eq!(error.code(), 6);
    assert!(error.details().contains("ipam"), "{error}");
}

#[test]
fn output_without_measure_is_read_and_an_excerpt_told() {
    // More than any pipe holds, in both streams at once.
    let flood =
        "head -c 4000000 /dev/zero | tr '\\0' x; head -c 4000000 /dev/zero | tr '\\0' y >&2;";
    let flooding = Installed::new(&format!("{flood} exit 1"));
    // Not through `del`, which would pass all that on to the stderr of the tests.
    let outcome = Process.exec(&flooding.ipam().invocation(Command::Del).unwrap()).unwrap();
    assert_eq!((outcome.stdout.len(), outcome.stderr.len()), (4_000_000, 4_000_000));
    let error = outcome.into_success("ipam").unwrap_err();
    assert_eq!(error.code(), 999);
    assert!(error.details().len() < 4096, "{}", error.details().len());
    let routes: Vec<_> = (0..60_000)
        .map(|n: u32| json!({ "dst": format!("10.{}.{}.0/24", n >> 8, n & 255) }))
        .collect();
    let installed = Installed::new("cat $DIR/result");
    fs::write(installed.directory.path().join("result"), json!({ "routes": routes }).to_string())
        .unwrap();
    assert_eq!(installed.ipam().add().unwrap().routes.len(), 60_000);
}

#[test]
fn a_plugin_need_not_read_its_configuration() {
    let installed = Installed::new("exec <&-; echo '{}'");
    let megabytes = json!({ "blob": "x".repeat(4 << 20) }).to_string().into_bytes();
    installed.ipam().with_config(megabytes.clone()).add().unwrap();
    // Nor read it before it answers.
    let installed =
        Installed::new("head -c 4000000 /dev/zero | tr '\\0' ' '; cat >/dev/null; echo '{}'");
    installed.ipam().with_config(megabytes).add().unwrap();
}

#[rstest]
#[case("", "no type")]
#[case("/bin/sh", "path")]
#[case("../ipam", "path")]
#[case("a/b", "path")]
#[case("..", "path")]
#[case("missing", "not installed")]
fn what_is_no_installed_plugin_is_refused(#[case] plugin: &str, #[case] told: &str) {
    let installed = Installed::answering("{}");
    let delegate = Delegate::new(&Process, &installed.args, plugin);
    let outcomes = [
        delegate.add().map(drop),
        delegate.del(),
        delegate.check(),
        delegate.gc(),
        delegate.status(),
    ];
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert_eq!(error.code(), 7);
        assert!(error.details().contains(told), "{error}");
    }
    assert!(installed.commands().is_empty());
}

#[test]
fn the_first_executable_in_the_path_is_called() {
    let installed = Installed::answering("{}");
    let [not_executable, directory, second] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    fs::write(not_executable.path().join("ipam"), "").unwrap();
    fs::create_dir(directory.path().join("ipam")).unwrap();
    fs::copy("/bin/false", second.path().join("ipam")).unwrap();
    let own = installed.directory.path();
    let path: Vec<PathBuf> =
        [not_executable.path(), directory.path(), own, second.path()].map(Into::into).into();
    let args = Args { path, ..installed.args.clone() };
    Delegate::new(&Process, &args, "ipam").add().unwrap();
    let args = Args { path: Vec::new(), ..args };
    assert!(
        Delegate::new(&Process, &args, "ipam").add().unwrap_err().details().contains("CNI_PATH")
    );
}

#[test]
fn a_program_that_cannot_be_started_is_an_io_failure() {
    let installed = Installed::answering("{}");
    fs::write(installed.directory.path().join("ipam"), "#!/nowhere/interpreter\n").unwrap();
    let error = installed.ipam().add().unwrap_err();
    assert_eq!(error.code(), 5);
    assert!(error.details().contains("ipam"), "{error}");
}

#[test]
fn a_plugin_that_is_being_written_is_waited_for() {
    let installed = Installed::answering("{}");
    let file =
        fs::File::options().append(true).open(installed.directory.path().join("ipam")).unwrap();
    std::thread::scope(|scope| {
        let add = scope.spawn(|| installed.ipam().add());
        std::thread::sleep(std::time::Duration::from_millis(150));
        drop(file);
        add.join().unwrap().unwrap();
    });
}
