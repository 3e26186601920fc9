//! `rscni add`, `del`, `check`.

use std::process::Command;

use serde_json::json;

use crate::world::{RSCNI, World, run};

#[test]
fn add_prints_the_result_check_and_del_print_nothing() {
    let world = World::new();
    let added = world.rscni("add", "mynet", &[]).succeeded();
    assert_eq!(
        added.json(),
        json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.0.0.3/24" }] })
    );
    assert!(added.stdout.starts_with("{\n    \"cniVersion\""), "{}", added.stdout);
    for action in ["check", "del"] {
        let ran = world.rscni(action, "mynet", &[]).succeeded();
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{action}");
    }
    assert_eq!(
        world.order(),
        ["ADD first", "ADD second", "CHECK first", "CHECK second", "DEL second", "DEL first"]
    );
    assert_eq!(
        world.config("ADD-first"),
        json!({ "cniVersion": "1.0.0", "name": "mynet", "type": "first", "own": { "z": 1, "a": 2 } })
    );
    assert_eq!(world.config("DEL-first")["prevResult"]["ips"][0]["address"], "10.0.0.3/24");
    assert_eq!(std::fs::read_dir(world.path("cache/results")).unwrap().count(), 0);
}

#[test]
fn plugins_get_what_the_options_say() {
    let world = World::new();
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
    world.rscni("add", "mynet", &options).succeeded();
    let (netns, bin) = (world.path("netns"), world.path("bin"));
    assert_eq!(
        world.vars("ADD-second"),
        format!("box {} net1 {} K=v;L=w", netns.display(), bin.display())
    );
    assert_eq!(world.config("ADD-second")["runtimeConfig"], json!({ "mac": "00:11" }));
    assert!(world.config("ADD-first").get("runtimeConfig").is_none());
    assert!(world.path("cache/results/mynet-box-net1").is_file());
}

#[test]
fn a_del_needs_neither_the_namespace_nor_the_networks_file() {
    let world = World::new();
    world.rscni("add", "mynet", &[]).succeeded();
    std::fs::remove_file(world.path("netns")).unwrap();
    std::fs::remove_file(world.path("net.d/10-mynet.conflist")).unwrap();
    world.rscni("del", "mynet", &[]).succeeded();
    assert_eq!(world.order()[2..], ["DEL second", "DEL first"]);
    let again = world.rscni("del", "mynet", &[]);
    assert_eq!(again.status, 1);
    assert!(again.stderr.contains("no network named \"mynet\""), "{}", again.stderr);
}

#[test]
fn a_plugins_error_is_one_message_with_its_code() {
    let world = World::new();
    world.plugin(
        "second",
        r#"[ "$CNI_COMMAND" = ADD ] || exit 0
        echo 'a word to people' >&2; echo '{ "code": 117, "msg": "no room", "details": "in the pool" }'; exit 1"#,
    );
    let ran = world.rscni("add", "mynet", &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert_eq!(
        ran.stderr,
        "a word to people\nrscni: no room: network mynet: ADD of second (plugin 2 of 2): in the pool (code 117)\n"
    );
    assert_eq!(world.order(), ["ADD first", "ADD second", "DEL second", "DEL first"]);
}

#[test]
fn what_is_missing_is_named() {
    let world = World::new();
    world.network(
        "20-other.conflist",
        &json!({ "name": "other", "plugins": [{ "type": "nothing" }] }),
    );
    std::fs::write(world.path("net.d/30-bad.conf"), "{ oops").unwrap();
    let cases = [
        (
            world.rscni("add", "none", &[]),
            "no network named \"none\"",
            "30-bad.conf: key must be a string at line 1",
        ),
        (world.rscni("add", "other", &[]), "plugin nothing is not installed", "(code 7)"),
        (world.rscni("check", "mynet", &[]), "not attached to network mynet", "(code 3)"),
        (world.rscni("add", "mynet", &["--cap", "mac=00:11"]), "--cap mac=00:11", "(code 4)"),
        (world.rscni("add", "mynet", &["--ifname", "a/b"]), "CNI_IFNAME=\"a/b\"", "(code 4)"),
    ];
    for (ran, what, more) in cases {
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stderr.contains(what) && ran.stderr.contains(more), "{}", ran.stderr);
    }
    std::fs::remove_file(world.path("netns")).unwrap();
    let ran = world.rscni("add", "mynet", &[]);
    assert!(
        ran.stderr.contains("does not exist") && ran.stderr.contains("(code 8)"),
        "{}",
        ran.stderr
    );
    assert!(world.order().is_empty());
}

#[test]
fn variables_stand_in_for_options_and_empty_ones_for_nothing() {
    let world = World::new();
    let mut command = Command::new(RSCNI);
    command
        .args(["add", "mynet"])
        .arg(world.path("netns"))
        .arg("--cache-dir")
        .arg(world.path("cache"));
    command.env("NETCONFPATH", world.path("net.d")).env("CNI_PATH", world.path("bin"));
    command.env("CNI_IFNAME", "").env("CNI_ARGS", "").env("CAP_ARGS", r#"{ "mac": "00:22" }"#);
    // Left by a plugin's debugging session; with a subcommand it means nothing.
    run(command.env("CNI_COMMAND", "ADD")).succeeded();
    assert!(world.vars("ADD-first").contains(" eth0 "));
    assert_eq!(world.config("ADD-second")["runtimeConfig"], json!({ "mac": "00:22" }));
}

#[test]
fn started_as_a_plugin_under_its_own_name_it_says_what_to_do() {
    let ran = run(Command::new(RSCNI).env("CNI_COMMAND", "ADD"));
    assert_eq!(ran.status, 1);
    assert_eq!((&ran.json()["code"], &ran.json()["cniVersion"]), (&json!(4), &json!("1.1.0")));
    assert!(ran.json()["details"].as_str().unwrap().contains("rscni install"), "{}", ran.stdout);
}

#[test]
fn help_has_examples_and_plugins_has_a_line_for_each() {
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
