//! `rscni status`.

use serde_json::json;

use crate::world::World;

/// Three networks: `mynet`, whose version has no STATUS, `new`, which has, and `away`, of which a plugin is missing.
fn networks() -> World {
    let world = World::new();
    let list = |name: &str, plugin: &str| json!({ "cniVersion": "1.1.0", "name": name, "plugins": [{ "type": "first" }, { "type": plugin }] });
    world.network("20-new.conflist", &list("new", "second"));
    world.network("30-away.conflist", &list("away", "nothing"));
    world
}

#[test]
fn each_network_has_a_line_that_says_what_is_wrong() {
    let world = networks();
    let ran = world.status(&[]);
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!((ran.status, lines.len()), (1, 3), "{ran:?}");
    assert!(
        lines[0].starts_with("mynet  ready, ") && lines[0].ends_with("version 1.0.0 has no STATUS"),
        "{ran:?}"
    );
    assert_eq!(lines[1], "new    ready");
    assert!(
        lines[2].starts_with("away   not ready: ") && lines[2].contains("nothing is not installed"),
        "{ran:?}"
    );
    assert!(ran.stderr.contains("not ready: 1 of 3"), "{ran:?}");
    let status: Vec<_> =
        world.order().into_iter().filter(|call| !call.starts_with("VERSION ")).collect();
    assert_eq!(status, ["STATUS first", "STATUS second"]);
}

#[test]
fn one_network_can_be_asked_for() {
    let world = networks();
    let ran = world.status(&["new"]).succeeded();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("new  ready\n", ""));
    world.plugin("second", r#"echo '{ "code": 51, "msg": "no route out" }'; exit 1"#);
    let ran = world.status(&["new"]);
    assert!(
        ran.status == 1 && ran.stdout.contains("no route out") && ran.stdout.contains("(code 51)"),
        "{ran:?}"
    );
    let ran = world.status(&["none"]);
    assert!(ran.status == 1 && ran.stderr.contains("no network named"), "{ran:?}");
}

#[test]
fn a_plugin_that_is_too_old_for_its_network_is_named() {
    let world = networks();
    world.plugin(
        "second",
        r#"echo '{ "cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0"] }'"#,
    );
    let ran = world.status(&["new"]);
    let said = "second does not support cniVersion 1.1.0, but 0.3.1, 0.4.0 (code 1)\n";
    assert!(ran.status == 1 && ran.stdout.ends_with(said), "{ran:?}");
}

#[test]
fn files_that_are_no_networks_are_named() {
    let world = World::new();
    std::fs::write(world.path("net.d/30-bad.conf"), "{ oops").unwrap();
    let ran = world.status(&[]);
    assert!(ran.status == 1 && ran.stdout.contains("mynet  ready"), "{ran:?}");
    assert!(
        ran.stdout.lines().nth(1).unwrap().contains("30-bad.conf: key must be a string at line 1"),
        "{ran:?}"
    );
    world.status(&["mynet"]).succeeded();
}

#[test]
fn no_network_at_all_is_not_ready() {
    let world = World::new();
    std::fs::remove_file(world.path("net.d/10-mynet.conflist")).unwrap();
    let ran = world.status(&[]);
    assert!(ran.status == 1 && ran.stderr.contains("no network configuration"), "{ran:?}");
}

#[test]
fn a_plugin_that_another_one_calls_must_be_there() {
    let world = World::new();
    let list = |version: &str, plugin: serde_json::Value| {
        let list = json!({ "cniVersion": version, "name": "mynet", "plugins": [plugin] });
        world.network("10-mynet.conflist", &list);
    };
    let is_missing = |plugin: &str| {
        let ran = world.status(&["mynet"]);
        let said = format!("plugin {plugin} is not installed");
        assert!(ran.status == 1 && ran.stdout.contains(&said), "{plugin}: {ran:?}");
    };
    let flannel = |delegate: &str| json!({ "type": "flannel", "delegate": { "type": delegate } });
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        list(version, json!({ "type": "first", "ipam": { "type": "whereabouts" } }));
        is_missing("whereabouts");
        // Another project's plugin cannot call what is inside this program.
        list(version, json!({ "type": "first", "ipam": { "type": "host-local" } }));
        is_missing("host-local");
        list(version, json!({ "type": "bridge", "ipam": { "type": "whereabouts" } }));
        is_missing("whereabouts");
        list(version, flannel("first"));
        is_missing("host-local");
        list(version, flannel("elsewhere"));
        is_missing("elsewhere");
        let delegates = |plugin| json!({ "type": "first", "delegates": [{ "name": "a" }, plugin] });
        list(version, delegates(json!({ "type": "elsewhere" })));
        is_missing("elsewhere");
        let plugins = json!([{ "type": "second", "ipam": { "type": "elsewhere" } }]);
        list(version, delegates(json!({ "name": "b", "plugins": plugins })));
        is_missing("elsewhere");
        let mut apart = delegates(json!({ "type": "elsewhere" }));
        apart["binDir"] = "/opt/apart/bin".into();
        for plugin in [
            json!({ "type": "bridge", "ipam": { "type": "host-local" } }),
            json!({ "type": "first", "ipam": { "type": "second" } }),
            json!({ "type": "first", "ipam": {} }),
            json!({ "type": "first", "ipam": { "type": "" } }),
            flannel("bridge"),
            delegates(json!({ "type": "second", "ipam": {} })),
            apart,
        ] {
            list(version, plugin);
            world.status(&["mynet"]).succeeded();
        }
    }
    // It is called with the same version.
    list("1.0.0", json!({ "type": "first", "ipam": { "type": "second" } }));
    world.plugin("second", r#"echo '{ "cniVersion": "1.0.0", "supportedVersions": ["0.4.0"] }'"#);
    let ran = world.status(&["mynet"]);
    assert!(ran.stdout.contains("plugin second does not support cniVersion 1.0.0"), "{ran:?}");
    std::fs::remove_file(world.path("bin/second")).unwrap();
    is_missing("second");
}
