//! Calls of plugins and assertions about their answers. The plugins are shell scripts.

use std::{
    ffi::OsStr,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{Command, ExitStatus, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use rscni_test::{Lab, Plugin};
use serde_json::{Value, json};

/// Time limit for plugins that reach it. A busy machine must get to the end of the script.
const LIMIT: Duration = Duration::from_secs(5);

fn script(lab: &Lab, name: &str, text: &str) -> Plugin {
    let path = lab.dir().join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    lab.plugin(path)
}

/// Returns a plugin with this output and exit code.
fn says(lab: &Lab, stdout: &Value, code: i32) -> Plugin {
    script(lab, "says", &format!("cat > /dev/null\necho '{stdout}'\nexit {code}"))
}

fn config() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "says" })
}

fn message<T>(panics: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(panics)).err().expect("no assertion failed");
    panic.downcast_ref::<String>().expect("a message").clone()
}

#[test]
fn a_plugin_gets_the_variables_of_its_call_and_no_others() {
    rscni_test::run(|lab| {
        let plugin = script(
            lab,
            "env",
            "cat > ${0%/*}/stdin; env | grep ^CNI_ | sort > ${0%/*}/env; env >&2",
        );
        let a = lab.container("a");
        let outcome = plugin.env("CNI_ARGS", "K=V").del(&a, "eth0", &config());
        outcome.success();
        let env = std::fs::read_to_string(lab.dir().join("env")).unwrap();
        let path = format!("CNI_PATH={}:/run/rscni-test/bin", lab.dir().display());
        let expected = [
            "CNI_ARGS=K=V",
            "CNI_COMMAND=DEL",
            "CNI_CONTAINERID=ctr-a",
            "CNI_IFNAME=eth0",
            "CNI_NETNS=/run/netns/a",
            &path,
        ];
        assert_eq!(env.lines().collect::<Vec<_>>(), expected);
        let stdin = std::fs::read(lab.dir().join("stdin")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&stdin).unwrap(), config());
        assert!(!outcome.stderr().contains("RSCNI_TEST_"), "{outcome}");
    });
}

#[test]
fn cni_variables_of_the_test_are_not_passed_on() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_plugin_gets_the_variables_of_its_call_and_no_others"])
        .env("CNI_NETNS_OVERRIDE", "1")
        .env("CNI_IFNAME", "other")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_call_can_leave_out_what_it_should_have() {
    rscni_test::run(|lab| {
        let plugin = script(lab, "env", "cat; env | grep ^CNI_NETNS && exit 1; exit 0");
        let a = lab.container("a");
        plugin.call("DEL").attachment(&a, "eth0").without("CNI_NETNS").run().success();
        let outcome = plugin.call("ADD").stdin("{broken").without("CNI_NETNS").run();
        assert_eq!((outcome.stdout().as_str(), outcome.exit_code()), ("{broken", Some(0)));
    });
}

#[test]
fn a_result_can_be_read_in_every_version() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let now = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/run/netns/a" }],
            "ips": [{ "address": "10.1.0.2/24", "gateway": "10.1.0.1" }, { "address": "fd00::2/64" }],
            "routes": [{ "dst": "0.0.0.0/0" }],
        });
        let reply = says(lab, &now, 0).add(&a, "eth0", &config()).success();
        assert_eq!(reply.ips(), ["10.1.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()]);
        assert_eq!(reply.gateways(), ["10.1.0.1".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(reply.routes(), ["0.0.0.0/0".parse().unwrap()]);
        assert_eq!(reply.interfaces(), ["cni0", "eth0"]);
        assert_eq!(reply["interfaces"][1]["sandbox"], "/run/netns/a");
        assert_eq!(reply.follow(&config())["prevResult"], now);

        let before = json!({
            "ip4": { "ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{ "dst": "0.0.0.0/0" }] },
            "ip6": { "ip": "fd00::2/64" },
        });
        let reply = says(lab, &before, 0)
            .add(&a, "eth0", &json!({ "name": "net", "type": "says" }))
            .success();
        assert_eq!((reply.ips().len(), reply.gateways().len(), reply.routes().len()), (2, 1, 1));
    });
}

#[test]
fn success_asserts_the_format_of_the_specification() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let good = json!({ "cniVersion": "1.1.0" });
        let wrong = says(lab, &json!({ "cniVersion": "0.4.0" }), 0);
        let text = message(|| wrong.add(&a, "eth0", &config()).success());
        assert!(text.contains("its result has cniVersion Some(\"0.4.0\")"), "{text}");
        let plugin = says(lab, &good, 0);
        let text = message(|| plugin.del(&a, "eth0", &config()).success());
        assert!(text.contains("DEL must print nothing"), "{text}");
        let text = message(|| plugin.status(&config()).success());
        assert!(text.contains("STATUS must print nothing"), "{text}");
        let text = message(|| says(lab, &good, 3).add(&a, "eth0", &config()).success());
        assert!(text.contains("it ended with exit status: 3"), "{text}");
        let chatty = script(lab, "chatty", "cat > /dev/null; echo hello; echo '{}'");
        let text = message(|| chatty.add(&a, "eth0", &config()).success());
        assert!(text.contains("its stdout is not JSON"), "{text}");
        let twice = script(lab, "twice", "cat; cat /dev/null; echo '{}'");
        let text = message(|| twice.add(&a, "eth0", &config()).success());
        assert!(text.contains("more on its stdout than one JSON object"), "{text}");
        let silent = script(lab, "silent", "cat > /dev/null");
        let text = message(|| silent.add(&a, "eth0", &config()).success());
        assert!(text.contains("there is nothing on its stdout"), "{text}");
    });
}

#[test]
fn a_failed_assertion_shows_the_whole_call() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let plugin =
            script(lab, "loud", "cat > /dev/null; echo the log >&2; echo the output; exit 3");
        let text = message(|| plugin.add(&a, "eth0", &config()).success());
        for part in [
            "plugin   /run/rscni-test/dir/loud",
            "env      CNI_CONTAINERID=ctr-a",
            "stdin    {\"cniVersion\":\"1.1.0\"",
            "stdout   the output",
            "stderr   the log",
            "ended    exit status: 3",
        ] {
            assert!(text.contains(part), "`{part}` is missing:\n{text}");
        }
    });
}

#[test]
fn an_error_has_its_code_and_says_what_it_is_about() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let reply = json!({ "cniVersion": "1.1.0", "code": 7, "msg": "bad config", "details": "no cniOutput" });
        let outcome = says(lab, &reply, 1).add(&a, "eth0", &config());
        let error = outcome.error(7);
        error.mentions("cniOutput").mentions("bad");
        assert_eq!((error.code(), error.msg(), error.details()), (7, "bad config", "no cniOutput"));
        let text = message(|| error.mentions("elephant").code());
        assert!(text.contains("does not mention `elephant`"), "{text}");
        let text = message(|| outcome.error(4));
        assert!(text.contains("expected error 4, but it was 7: bad config"), "{text}");
    });
}

#[test]
fn error_asserts_the_format_of_the_specification() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let wrong = |reply: Value, code, expected: &str| {
            let outcome = says(lab, &reply, code).add(&a, "eth0", &config());
            let text = message(|| outcome.error(7));
            assert!(text.contains(expected), "{text}");
        };
        wrong(json!({ "cniVersion": "1.1.0", "code": 7, "msg": "m" }), 0, "it succeeded");
        wrong(json!({ "cniVersion": "1.1.0", "msg": "m" }), 1, "no `code`");
        wrong(json!({ "cniVersion": "1.1.0", "code": 7 }), 1, "no `msg`");
        wrong(
            json!({ "cniVersion": "1.1.0", "code": 7, "msg": "m", "details": 1 }),
            1,
            "are no text",
        );
        let unversioned = json!({ "code": 7, "msg": "m" });
        wrong(unversioned.clone(), 1, "no `cniVersion`");
        assert_eq!(says(lab, &unversioned, 1).add(&a, "eth0", &config()).failure().code(), 7);
    });
}

#[test]
fn version_needs_its_list() {
    rscni_test::run(|lab| {
        let reply = json!({ "cniVersion": "1.1.0", "supportedVersions": ["1.0.0", "1.1.0"] });
        assert_eq!(says(lab, &reply, 0).version().success()["supportedVersions"][1], "1.1.0");
        let text = message(|| says(lab, &config(), 0).version().success());
        assert!(text.contains("no `supportedVersions`"), "{text}");
    });
}

#[test]
fn a_plugin_that_does_not_end_is_killed_with_what_it_started() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let before = lab.snapshot().ignoring("/dir/");
        let plugin = script(lab, "slow", "echo before >&2; sleep 60 & sleep 61");
        let plugin = plugin.time_limit(LIMIT);
        let text = message(|| plugin.clone().env("A", "1").del(&a, "eth0", &config()).success());
        assert_eq!(plugin.overdue_calls(), 1);
        assert!(text.contains("still running after 5s; killed"), "{text}");
        assert!(text.contains("stderr   before"), "{text}");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_plugin_that_leaves_its_output_open_fails() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let plugin = script(lab, "daemon", "sleep 60 &").time_limit(LIMIT);
        let text = message(|| plugin.del(&a, "eth0", &config()).success());
        assert!(text.contains("something it started still held its stdout"), "{text}");
        let plugin = script(lab, "tidy", "sleep 5 > /dev/null 2>&1 &");
        plugin.del(&a, "eth0", &config()).success();
    });
}

#[test]
fn a_plugin_need_not_read_its_configuration() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let mut big = config();
        big["padding"] = "x".repeat(1 << 20).into();
        script(lab, "deaf", "exit 0").del(&a, "eth0", &big).success();
        let all = script(lab, "count", "wc -c >&2").del(&a, "eth0", &big);
        assert_eq!(all.stderr().trim(), big.to_string().len().to_string());
    });
}

#[test]
fn installed_plugins_find_each_other_by_name() {
    rscni_test::run(|lab| {
        let program =
            script(lab, "multi", "cat > /dev/null; echo \"${0##*/}\" >&2; ls \"$CNI_PATH\" >&2");
        lab.install("ipam", program.program());
        let main = lab.install("main", program.program()).cni_path(["/run/rscni-test/bin"]);
        let outcome = main.call("STATUS").config(&config()).run();
        outcome.success();
        assert_eq!(outcome.stderr(), "main\nipam\nmain\n");
    });
}

#[test]
fn many_threads_may_call_plugins_at_once() {
    rscni_test::run(|lab| {
        let plugin = says(lab, &json!({ "cniVersion": "1.1.0" }), 0);
        std::thread::scope(|scope| {
            for number in 0..16 {
                let plugin = &plugin;
                scope.spawn(move || {
                    let container = lab.container(&format!("c{number}"));
                    plugin.add(&container, "eth0", &config()).success();
                });
            }
        });
        assert_eq!(std::fs::read_dir("/run/netns").unwrap().count(), 16);
    });
}

#[test]
fn a_plugin_that_is_not_there_is_named() {
    rscni_test::run(|lab| {
        let text = message(|| lab.plugin("/nowhere/bridge"));
        assert_eq!(text, "plugin /nowhere/bridge: there is no such file");
    });
}

#[test]
fn a_linked_plugin_answers_in_the_process_of_the_test() {
    rscni_test::run(|lab| {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&calls);
        let plugin = Plugin::linked("mine", move |call| {
            let variable = |name: &str| call.environment[OsStr::new(name)].clone();
            seen.lock().unwrap().push((variable("CNI_COMMAND"), variable("CNI_NETNS")));
            let config: Value = serde_json::from_slice(call.stdin).unwrap();
            let reply = json!({ "cniVersion": config["cniVersion"], "code": 11, "msg": "later" });
            let status = ExitStatus::from_raw(1 << 8);
            Output { status, stdout: reply.to_string().into_bytes(), stderr: b"a note".to_vec() }
        });
        let a = lab.container("a");
        let outcome = plugin.add(&a, "eth0", &config());
        outcome.error(11).mentions("later");
        assert_eq!(outcome.stderr(), "a note");
        plugin.clone().del(&a, "eth0", &config()).error(11);
        let calls = calls.lock().unwrap();
        assert_eq!(
            *calls,
            [("ADD", "/run/netns/a"), ("DEL", "/run/netns/a")].map(|(c, n)| (c.into(), n.into()))
        );
    });
}
