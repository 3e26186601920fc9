//! Delegation to shell scripts with various replies, and without any.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

#[cfg(feature = "async")]
use rscni::invoke::AnyExec;
use rscni::{
    Args, CNIResult, Command, Error, IpConfig, NetConf, Plugin, PluginInfo, Request, SpecVersion,
    TraceContext,
    invoke::{Delegate, Exec, Invocation, Outcome, Process},
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
    /// Installs a plugin that records command and environment of each call and then runs `script`.
    ///
    /// `$DIR` is the plugin's directory.
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
        let config = r#"{ "cniVersion": "1.1.0", "name": "net", "type": "main",
            "ipam": { "type": "ipam" }, "z": 1, "a": 2 }"#;
        let mut args = Args::new(Command::Add)
            .with_attachment("c1", "/nowhere/netns", "eth0")
            .with_config(NetConf::from_json(config.as_bytes()).unwrap());
        args.args = Some("IgnoreUnknown=1".into());
        args.path = vec!["/nowhere/first".into(), directory.path().into()];
        args.stdin = config.into();
        Self { directory, args }
    }

    /// Installs a plugin that prints `text` for ADD and succeeds.
    fn printing(text: &str) -> Self {
        Self::new(&format!("[ $CNI_COMMAND = ADD ] && cat <<'EOF'\n{text}\nEOF\nexit 0"))
    }

    /// Installs a plugin that prints `text` and fails.
    fn failing(text: &str) -> Self {
        Self::new(&format!("cat <<'EOF'\n{text}\nEOF\nexit 1"))
    }

    fn ipam(&self) -> Delegate<'_> {
        self.args.delegate("ipam")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    fn commands(&self) -> Vec<String> {
        self.read("commands").lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_plugin_gets_the_variables_and_configuration_of_the_call() {
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
                "CNI_ARGS=IgnoreUnknown=1\nCNI_COMMAND={command}\nCNI_CONTAINERID=c1\n\
                 CNI_IFNAME=eth0\nCNI_NETNS=/nowhere/netns\nCNI_PATH=/nowhere/first:{}\n",
                installed.directory.path().display()
            )
        );
        assert_eq!(installed.read(&format!("stdin.{command}")).as_bytes(), installed.args.stdin);
    }
}

#[test]
fn the_plugin_inherits_only_path_and_the_trace() {
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
fn the_trace_of_the_call_is_passed_on() {
    let mut installed = Installed::new("echo $TRACEPARENT $TRACESTATE $BAGGAGE >$DIR/trace");
    let mut trace = TraceContext::new("00-a-b-01");
    trace.baggage = Some("k=v".into());
    installed.args.trace = Some(trace);
    installed.ipam().del().unwrap();
    assert_eq!(installed.read("trace"), "00-a-b-01 k=v\n");
}

#[test]
fn absent_variables_are_not_set() {
    let mut installed = Installed::new("exit 0");
    let path = std::mem::take(&mut installed.args.path);
    installed.args = Args::default();
    installed.args.path = path;
    installed.args.netns_override = true;
    installed.ipam().gc().unwrap();
    let env = installed.read("env.GC");
    let names: Vec<_> = env.lines().filter_map(|line| line.split('=').next()).collect();
    assert_eq!(names, ["CNI_COMMAND", "CNI_NETNS_OVERRIDE", "CNI_PATH"]);
}

#[test]
fn the_configuration_can_be_replaced() {
    let installed = Installed::new("cat >$DIR/stdin");
    installed.ipam().with_config(b"{\"other\":1}".to_vec()).del().unwrap();
    assert_eq!(installed.read("stdin"), "{\"other\":1}");
    // Without stdin, as in arguments of a test, the parsed configuration is passed on.
    let mut without_stdin = Installed::new("cat >$DIR/stdin");
    without_stdin.args.stdin.clear();
    without_stdin.ipam().del().unwrap();
    let sent: Value = serde_json::from_str(&without_stdin.read("stdin")).unwrap();
    assert_eq!(sent, serde_json::from_slice::<Value>(&installed.args.stdin).unwrap());
}

#[test]
fn a_result_is_read_in_all_versions() {
    let result: CNIResult = serde_json::from_value(json!({
        "ips": [{ "address": "10.1.0.5/16", "gateway": "10.1.0.1" }, { "address": "fd00::5/64" }],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }],
        "dns": { "nameservers": ["10.1.0.1"] },
    }))
    .unwrap();
    for version in SpecVersion::ALL {
        let installed = Installed::printing(&result.to_json(version).to_string());
        assert_eq!(installed.ipam().add().unwrap(), result, "{version}");
        assert_eq!(installed.commands(), ["ADD"]);
    }
}

#[test]
fn an_error_is_passed_on_unchanged() {
    let full = r#"{ "cniVersion": "1.0.0", "code": 11, "msg": "empty", "details": "10.1.0.0/30" }"#;
    let of_go_plugin = r#"{ "code": 999, "msg": "no space" }"#;
    for (reply, kind, text) in [
        (full, Error::TryAgainLater("10.1.0.0/30".into()), "empty: 10.1.0.0/30"),
        (of_go_plugin, Error::Internal(String::new()), "no space"),
    ] {
        let installed = Installed::failing(reply);
        let ipam = installed.ipam();
        let added = ipam.add().map(drop);
        for (command, outcome) in [
            (Command::Add, added),
            (Command::Del, ipam.del()),
            (Command::Check, ipam.check()),
            (Command::Gc, ipam.gc()),
            (Command::Status, ipam.status()),
        ] {
            let error = outcome.unwrap_err();
            assert_eq!(
                (error.kind().code(), error.kind().details()),
                (kind.code(), kind.details())
            );
            assert_eq!(error.to_string(), text);
            assert_eq!((error.plugin(), error.command()), (Some("ipam"), Some(command)));
            assert_eq!(error.chain_index(), None);
        }
    }
}

#[test]
fn a_failed_add_is_rolled_back() {
    let installed = Installed::failing(r#"{ "code": 100, "msg": "half way" }"#);
    assert_eq!(installed.ipam().add().unwrap_err().msg(), "half way");
    assert_eq!(installed.commands(), ["ADD", "DEL"]);
    // If DEL fails too, the error of ADD is returned.
    let installed =
        Installed::new(r#"echo "{ \"code\": 100, \"msg\": \"$CNI_COMMAND failed\" }"; exit 1"#);
    assert_eq!(installed.ipam().add().unwrap_err().msg(), "ADD failed");
    // A result that cannot be read may contain a reserved address.
    let installed = Installed::printing("garbage");
    installed.ipam().add().unwrap_err();
    assert_eq!(installed.commands(), ["ADD", "DEL"]);
    // Only ADD is rolled back.
    let installed = Installed::failing("{}");
    installed.ipam().check().unwrap_err();
    assert_eq!(installed.commands(), ["CHECK"]);
}

#[rstest]
#[case::no_output("exit 1", "status 1")]
#[case::garbage("echo garbage; exit 3", "status 3 without an error reply; stdout: garbage")]
#[case::another_document("echo '{ \"ips\": [] }'; exit 1", "error reply; stdout: { \"ips\": [] }")]
#[case::only_stderr(
    "echo 'panic: oh' >&2; exit 2",
    "status 2 without an error reply; stderr: panic: oh"
)]
#[case::killed("kill -9 $$", "signal 9")]
#[case::not_utf8("printf '\\377\\376'; exit 1", "stdout: \u{fffd}\u{fffd}")]
fn a_failure_without_an_error_reply_is_code_999(#[case] script: &str, #[case] text: &str) {
    let installed = Installed::new(script);
    for error in [installed.ipam().add().unwrap_err(), installed.ipam().del().unwrap_err()] {
        assert_eq!(error.code(), 999);
        assert!(error.details().contains("ipam") && error.details().contains(text), "{error}");
    }
}

#[rstest]
#[case::no_output("true")]
#[case::white_space("echo; echo")]
#[case::garbage("echo garbage")]
#[case::a_list("echo '[]'")]
#[case::two_documents("echo '{} {}'")]
#[case::noise_before("echo 'starting...'; echo '{}'")]
#[case::a_bad_address("echo '{ \"ips\": [{ \"address\": \"10.0.0.300/24\" }] }'")]
#[case::not_utf8("printf '{\\377}'")]
fn add_without_a_valid_result_is_code_6(#[case] script: &str) {
    let error = Installed::new(script).ipam().add().unwrap_err();
    assert_eq!(error.code(), 6);
    assert!(error.details().contains("ipam"), "{error}");
}

#[test]
fn long_output_is_read_and_an_excerpt_is_reported() {
    // More than a pipe buffer, in both streams.
    let print =
        "head -c 4000000 /dev/zero | tr '\\0' x; head -c 4000000 /dev/zero | tr '\\0' y >&2;";
    let printing = Installed::new(&format!("{print} exit 1"));
    // `del` would copy it to the stderr of the tests.
    let outcome = Process.exec(&printing.ipam().invocation(Command::Del).unwrap()).unwrap();
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
fn a_plugin_may_ignore_its_configuration() {
    let installed = Installed::new("exec <&-; echo '{}'");
    let megabytes = json!({ "blob": "x".repeat(4 << 20) }).to_string().into_bytes();
    installed.ipam().with_config(megabytes.clone()).add().unwrap();
    // It may also print a lot before it reads.
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
fn an_invalid_or_missing_plugin_is_code_7(#[case] plugin: &str, #[case] text: &str) {
    let installed = Installed::printing("{}");
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
        assert!(error.details().contains(text), "{error}");
    }
    assert!(installed.commands().is_empty());
}

#[test]
fn the_first_executable_in_the_path_is_called() {
    let installed = Installed::printing("{}");
    let [not_executable, directory, second] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    fs::write(not_executable.path().join("ipam"), "").unwrap();
    fs::create_dir(directory.path().join("ipam")).unwrap();
    fs::copy("/bin/false", second.path().join("ipam")).unwrap();
    let own = installed.directory.path();
    let path: Vec<PathBuf> =
        [not_executable.path(), directory.path(), own, second.path()].map(Into::into).into();
    let mut args = installed.args.clone();
    args.path = path;
    Delegate::new(&Process, &args, "ipam").add().unwrap();
    args.path.clear();
    let error = Delegate::new(&Process, &args, "ipam").add().unwrap_err();
    assert!(error.details().contains("CNI_PATH"), "{error}");
}

#[test]
fn a_program_that_cannot_be_started_is_code_5() {
    let installed = Installed::printing("{}");
    fs::write(installed.directory.path().join("ipam"), "#!/nowhere/interpreter\n").unwrap();
    let error = installed.ipam().add().unwrap_err();
    assert_eq!(error.code(), 5);
    assert!(error.details().contains("ipam"), "{error}");
}

#[test]
fn the_call_of_a_plugin_that_is_being_installed_is_retried() {
    let installed = Installed::printing("{}");
    let file =
        fs::File::options().append(true).open(installed.directory.path().join("ipam")).unwrap();
    std::thread::scope(|scope| {
        let add = scope.spawn(|| installed.ipam().add());
        std::thread::sleep(std::time::Duration::from_millis(150));
        drop(file);
        add.join().unwrap().unwrap();
    });
}

#[test]
fn add_then_releases_the_addresses_if_the_closure_fails() {
    let installed = Installed::printing("{}");
    let result = installed.ipam().add_then(|addresses| Ok(addresses.ips.len()));
    assert_eq!((result, installed.commands()), (Ok(0), vec!["ADD".to_owned()]));

    let failed = Error::Internal("no interface".into());
    let result = installed.ipam().add_then(|_| Err::<(), _>(failed.clone()));
    assert_eq!(result, Err(failed));
    assert_eq!(installed.commands(), ["ADD", "ADD", "DEL"]);
}

#[test]
fn add_then_does_not_run_the_closure_if_add_fails() {
    let installed = Installed::failing(r#"{ "code": 11, "msg": "full" }"#);
    let result = installed.ipam().add_then(|_| -> Result<(), Error> { panic!("it ran") });
    assert_eq!(result.unwrap_err().code(), 11);
    assert_eq!(installed.commands(), ["ADD", "DEL"]);
}

#[test]
fn a_plugin_that_is_not_installed_is_an_error_of_its_own() {
    let args = Args::default();
    let error = args.delegate("missing").add().unwrap_err();
    assert!(matches!(error.kind(), Error::NotInstalled(_)), "{error:?}");
    assert_eq!((error.code(), error.plugin()), (7, Some("missing")));
}

/// Calls every plugin in this process.
struct InProcess;

impl Exec for InProcess {
    fn find(&self, plugin: &str, _: &[PathBuf]) -> Result<PathBuf, Error> {
        Ok(plugin.into())
    }

    fn exec(&self, invocation: &Invocation) -> std::io::Result<Outcome> {
        let main = |args: Args| args.delegate("ipam").add();
        let ipam = |args: Args| {
            let address = IpConfig::new("10.1.0.5/16".parse()?);
            Ok(CNIResult {
                ips: vec![address],
                ..args.conf()?.prev_result.clone().unwrap_or_default()
            })
        };
        let nothing = |_| Ok(CNIResult::default());
        let request = Request::from(invocation).with_exec(Self);
        Ok(match invocation.plugin.as_str() {
            "main" => {
                Plugin::new(main, nothing, nothing, PluginInfo::default(), "").reply(&request)
            }
            _ => Plugin::new(ipam, nothing, nothing, PluginInfo::default(), "").reply(&request),
        }
        .into())
    }
}

#[test]
fn a_delegated_plugin_is_called_as_the_plugin_itself_was() {
    let args = Installed::printing("").args;
    let result = Delegate::new(&InProcess, &args, "main").add().unwrap();
    assert_eq!(result.ips[0].address.to_string(), "10.1.0.5/16");
}

#[cfg(feature = "async")]
mod asynchronous {
    use super::*;

    #[tokio::test]
    async fn add_then_releases_the_addresses_if_the_future_fails() {
        let installed = Installed::printing("{}");
        let ipam = installed.args.delegate_async("ipam");
        let result = ipam.add_then(async |addresses| Ok(addresses.ips.len())).await;
        assert_eq!(result, Ok(0));
        let failed = Error::Internal("no interface".into());
        let result = ipam.add_then(async |_| Err::<(), _>(failed.clone())).await;
        assert_eq!(result, Err(failed));
        assert_eq!(installed.commands(), ["ADD", "ADD", "DEL"]);
    }

    #[tokio::test]
    async fn plugins_of_this_process_are_called_on_a_thread() {
        let mut args = Installed::printing("").args;
        args.exec = AnyExec::new(InProcess);
        let result = args.delegate_async("main").add().await.unwrap();
        assert_eq!(result.ips[0].address.to_string(), "10.1.0.5/16");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_can_be_spawned_on_the_threads_of_tokio() {
        let installed = Installed::printing("{}");
        let args = installed.args.clone();
        let add = async |args: Args| args.delegate_async("ipam").add().await;
        let call = tokio::spawn(async move { add(args).await });
        assert_eq!(call.await.unwrap(), Ok(CNIResult::default()));
    }
}
