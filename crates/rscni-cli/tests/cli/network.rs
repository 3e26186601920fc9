//! `rscni add`, `del` and `check`.

use std::process::Command;

use serde_json::json;

use crate::fixture::{Fixture, RSCNI, run};

#[test]
fn add_prints_the_result_and_check_and_del_print_nothing() {
    let fixture = Fixture::new();
    let added = fixture.rscni("add", "mynet", &[]).succeeded();
    assert_eq!(
        added.json(),
        json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.3/24" }] })
    );
    assert!(added.stdout.starts_with("{\n    \"cniVersion\""), "{}", added.stdout);
    for action in ["check", "del"] {
        let out = fixture.rscni(action, "mynet", &[]).succeeded();
        assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", ""), "{action}");
    }
    assert_eq!(
        fixture.order(),
        ["ADD first", "ADD second", "CHECK first", "CHECK second", "DEL second", "DEL first"]
    );
    let own = json!({ "z": 1, "a": 2 });
    assert_eq!(
        fixture.config("ADD-first"),
        json!({ "cniVersion": "1.0.0", "name": "mynet", "type": "first", "own": own })
    );
    assert_eq!(fixture.config("DEL-first")["prevResult"]["ips"][0]["address"], "10.0.0.3/24");
    assert_eq!(std::fs::read_dir(fixture.path("cache/results")).unwrap().count(), 0);
}

#[test]
fn plugins_receive_the_options() {
    let fixture = Fixture::new();
    let options = [
        "--ifname",
        "net1",
        "--container-id",
        "box",
        "--args",
        "K=v;L=w",
        "--cap",
        "mac=\"00:11\"",
    ];
    fixture.rscni("add", "mynet", &options).succeeded();
    let (netns, bin) = (fixture.path("netns"), fixture.path("bin"));
    assert_eq!(
        fixture.vars("ADD-second"),
        format!("box {} net1 {} K=v;L=w", netns.display(), bin.display())
    );
    assert_eq!(fixture.config("ADD-second")["runtimeConfig"], json!({ "mac": "00:11" }));
    assert!(fixture.config("ADD-first").get("runtimeConfig").is_none());
    assert!(fixture.path("cache/results/mynet-box-net1").is_file());
}

#[test]
fn del_works_without_namespace_and_network_file() {
    let fixture = Fixture::new();
    fixture.rscni("add", "mynet", &[]).succeeded();
    std::fs::remove_file(fixture.path("netns")).unwrap();
    std::fs::remove_file(fixture.path("net.d/10-mynet.conflist")).unwrap();
    fixture.rscni("del", "mynet", &[]).succeeded();
    assert_eq!(fixture.order()[2..], ["DEL second", "DEL first"]);
    let again = fixture.rscni("del", "mynet", &[]);
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("no network named \"mynet\""), "{}", again.stderr);
}

#[test]
fn plugin_error_is_one_message_with_its_code() {
    let fixture = Fixture::new();
    fixture.plugin(
        "second",
        r#"[ "$CNI_COMMAND" = ADD ] || exit 0
        echo 'a message' >&2
        echo '{ "code": 117, "msg": "no room", "details": "in the pool" }'
        exit 1"#,
    );
    let out = fixture.rscni("add", "mynet", &[]);
    assert_eq!((out.status, out.stdout.as_str()), (1, ""));
    assert_eq!(
        out.stderr,
        "a message\nrscni: no room: network mynet: ADD of second (plugin 2 of 2): in the pool \
         (code 117)\n"
    );
    assert_eq!(fixture.order(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
}

#[test]
fn errors_name_what_is_missing_or_invalid() {
    let fixture = Fixture::new();
    fixture.network(
        "20-other.conflist",
        &json!({ "name": "other", "plugins": [{ "type": "nothing" }] }),
    );
    std::fs::write(fixture.path("net.d/30-bad.conf"), "{ oops").unwrap();
    let cases = [
        (
            fixture.rscni("add", "none", &[]),
            "no network named \"none\"",
            "30-bad.conf: key must be a string at line 1",
        ),
        (fixture.rscni("add", "other", &[]), "plugin nothing is not installed", "(code 7)"),
        (fixture.rscni("check", "mynet", &[]), "not attached to network mynet", "(code 3)"),
        (fixture.rscni("add", "mynet", &["--cap", "mac=00:11"]), "--cap mac=00:11", "(code 4)"),
        (fixture.rscni("add", "mynet", &["--ifname", "a/b"]), "CNI_IFNAME=\"a/b\"", "(code 4)"),
    ];
    for (out, what, more) in cases {
        assert_eq!(out.status, 1, "{out:?}");
        assert!(out.stderr.contains(what) && out.stderr.contains(more), "{}", out.stderr);
    }
    std::fs::remove_file(fixture.path("netns")).unwrap();
    let out = fixture.rscni("add", "mynet", &[]);
    assert!(
        out.stderr.contains("does not exist") && out.stderr.contains("(code 8)"),
        "{}",
        out.stderr
    );
    assert!(fixture.order().is_empty());
}

#[test]
fn variables_replace_options_and_empty_ones_count_as_unset() {
    let fixture = Fixture::new();
    let mut command = Command::new(RSCNI);
    command
        .args(["add", "mynet"])
        .arg(fixture.path("netns"))
        .arg("--cache-dir")
        .arg(fixture.path("cache"));
    command.env("NETCONFPATH", fixture.path("net.d")).env("CNI_PATH", fixture.path("bin"));
    command.env("CNI_IFNAME", "").env("CNI_ARGS", "").env("CAP_ARGS", r#"{ "mac": "00:22" }"#);
    // CNI_COMMAND is ignored if there are arguments.
    run(command.env("CNI_COMMAND", "ADD")).succeeded();
    assert!(fixture.vars("ADD-first").contains(" eth0 "));
    assert_eq!(fixture.config("ADD-second")["runtimeConfig"], json!({ "mac": "00:22" }));
}

#[test]
fn rscni_called_as_a_plugin_fails_with_advice() {
    let out = run(Command::new(RSCNI).env("CNI_COMMAND", "ADD"));
    assert_eq!(out.status, 1);
    assert_eq!((&out.json()["code"], &out.json()["cniVersion"]), (&json!(4), &json!("1.1.0")));
    assert!(out.json()["details"].as_str().unwrap().contains("rscni install"), "{}", out.stdout);
}

#[test]
fn help_has_examples_and_plugins_lists_every_plugin() {
    let help = run(Command::new(RSCNI).arg("--help")).succeeded();
    assert!(
        help.stdout.contains("Examples:") && help.stdout.contains("rscni add mynet testing"),
        "{}",
        help.stdout
    );
    let version = run(Command::new(RSCNI).arg("--version")).succeeded();
    assert_eq!(version.stdout, format!("rscni {}\n", env!("CARGO_PKG_VERSION")));
    let plugins = run(Command::new(RSCNI).arg("plugins")).succeeded();
    let listed: Vec<_> =
        plugins.stdout.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(listed, rscni_plugins::ALL.iter().map(|plugin| plugin.name).collect::<Vec<_>>());
}
