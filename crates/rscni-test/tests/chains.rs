//! Lists of plugins. The plugins are shell scripts that note their calls.

use std::{fs, os::unix::fs::PermissionsExt};

use rscni_test::{Chain, Lab};
use serde_json::{Value, json};

/// Notes its call in the file `log`, fails with error 7 if the configuration says so, and adds an
/// interface with its type to the result.
const SCRIPT: &str = r#"#!/bin/sh
input=$(cat)
name=${0##*/}
echo "$CNI_COMMAND $name $CNI_IFNAME $input" >> /run/rscni-test/dir/log
case $input in *'"fail":"'$CNI_COMMAND'"'*)
    echo '{"cniVersion":"1.1.0","code":7,"msg":"told to fail"}'
    exit 1 ;;
esac
version=$(echo "$input" | sed 's/.*"cniVersion":"\([^"]*\)".*/\1/')
[ $CNI_COMMAND != ADD ] || echo '{"cniVersion":"'$version'","interfaces":[{"name":"'$name'"}]}'
"#;

fn install(lab: &Lab, name: &str) {
    let program = lab.dir().join(name);
    fs::write(&program, SCRIPT).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    lab.install(name, program);
}

/// The calls since the last look: command, plugin, interface and configuration.
fn calls(lab: &Lab) -> Vec<(String, Value)> {
    let log = lab.dir().join("log");
    let text = fs::read_to_string(&log).unwrap_or_default();
    let _ = fs::remove_file(log);
    let call = |line: &str| {
        let (call, config) = line.split_at(line.find('{').unwrap());
        (call.trim_end().to_owned(), serde_json::from_str(config).unwrap())
    };
    text.lines().map(call).collect()
}

fn chain(lab: &Lab) -> Chain {
    install(lab, "one");
    install(lab, "two");
    Chain::new("net")
        .plugin(json!({ "type": "one", "key": 1 }))
        .plugin(json!({ "type": "two", "capabilities": { "mac": true, "ips": false } }))
        .capability("mac", "02:00:00:00:00:01")
        .capability("ips", json!(["10.1.0.9/24"]))
}

/// The result of the script, in version 1.1.0.
fn result(name: &str) -> Value {
    json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": name }] })
}

#[test]
fn each_plugin_gets_the_result_before_it_and_its_capabilities() {
    rscni_test::run(|lab| {
        let a = chain(lab).attach(lab, "a");
        let one = json!({ "cniVersion": "1.1.0", "name": "net", "type": "one", "key": 1 });
        let mut two = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "two",
            "capabilities": { "mac": true, "ips": false },
            "runtimeConfig": { "mac": "02:00:00:00:00:01" }
        });
        two["prevResult"] = result("one");
        assert_eq!(calls(lab), [("ADD one eth0".into(), one), ("ADD two eth0".into(), two)]);
        assert_eq!(a.result().json(), &result("two"));
        assert_eq!(a.results()[0].json(), &result("one"));
        assert_eq!((a.id(), a.ifname()), ("ctr-a", "eth0"));
    });
}

#[test]
fn check_and_del_get_the_last_result_and_del_is_in_reverse_order() {
    rscni_test::run(|lab| {
        let chain = chain(lab);
        let a = chain.attach_as(&lab.container("a"), "net1");
        calls(lab);
        a.check().success();
        a.del().success();
        let made = calls(lab);
        let names: Vec<_> = made.iter().map(|(call, _)| call.as_str()).collect();
        assert_eq!(names, ["CHECK one net1", "CHECK two net1", "DEL two net1", "DEL one net1"]);
        assert!(made.iter().all(|(_, config)| config["prevResult"] == result("two")), "{made:?}");
        a.del_without_result().success();
        a.handed_over_to(&chain.version("0.3.1")).del().success();
        let made = calls(lab);
        assert!(made.iter().all(|(_, config)| config["prevResult"].is_null()), "{made:?}");
        assert_eq!(made[2].1["cniVersion"], "0.3.1");
    });
}

#[test]
fn gc_and_status_reach_each_plugin() {
    rscni_test::run(|lab| {
        let chain = chain(lab);
        let a = chain.attach(lab, "a");
        calls(lab);
        chain.status().success();
        chain.gc(&[&a]).success();
        let made = calls(lab);
        let names: Vec<_> = made.iter().map(|(call, _)| call.as_str()).collect();
        assert_eq!(names, ["STATUS one", "STATUS two", "GC one", "GC two"]);
        let valid = json!([{ "containerID": "ctr-a", "ifname": "eth0" }]);
        assert_eq!(made[3].1["cni.dev/valid-attachments"], valid);
    });
}

#[test]
fn a_failed_plugin_ends_the_call() {
    rscni_test::run(|lab| {
        let a = chain(lab).attach(lab, "a");
        for (command, expected) in [
            ("ADD", &["ADD one eth0", "ADD two eth0"][..]),
            ("CHECK", &["CHECK one eth0", "CHECK two eth0"]),
            ("DEL", &["DEL one eth0", "DEL two eth0"]),
        ] {
            let failing = Chain::new("net")
                .plugin(json!({ "type": "one" }))
                .plugin(json!({ "type": "two", "fail": command }))
                .plugin(json!({ "type": "one" }));
            calls(lab);
            let outcome = match command {
                "ADD" => *failing.try_attach(&a, "eth0").unwrap_err(),
                "CHECK" => a.handed_over_to(&failing).check(),
                _ => a.handed_over_to(&failing).del(),
            };
            outcome.error(7).mentions("told to fail");
            let made = calls(lab);
            assert_eq!(made.iter().map(|(call, _)| call.as_str()).collect::<Vec<_>>(), expected);
        }
    });
}

#[test]
#[should_panic(expected = "plugin /run/rscni-test/bin/three: there is no such file")]
fn a_missing_plugin_is_named() {
    rscni_test::run(|lab| {
        Chain::new("net").plugin(json!({ "type": "three" })).attach(lab, "a");
    });
}
