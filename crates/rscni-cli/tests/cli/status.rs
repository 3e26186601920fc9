//! `rscni status`.

use serde_json::json;

use crate::fixture::Fixture;

/// Creates `mynet`, whose version has no STATUS, `new`, which has it, and `away`, which lacks a
/// plugin.
fn networks() -> Fixture {
    let fixture = Fixture::new();
    let list = |name: &str, plugin: &str| {
        let plugins = json!([{ "type": "first" }, { "type": plugin }]);
        json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins })
    };
    fixture.network("20-new.conflist", &list("new", "second"));
    fixture.network("30-away.conflist", &list("away", "nothing"));
    fixture
}

#[test]
fn every_network_has_a_line() {
    let fixture = networks();
    let out = fixture.status(&[]);
    let lines: Vec<_> = out.stdout.lines().collect();
    assert_eq!((out.status, lines.len()), (1, 3), "{out:?}");
    assert!(
        lines[0].starts_with("mynet  ready, ") && lines[0].ends_with("version 1.0.0 has no STATUS"),
        "{out:?}"
    );
    assert_eq!(lines[1], "new    ready");
    assert!(
        lines[2].starts_with("away   not ready: ") && lines[2].contains("nothing is not installed"),
        "{out:?}"
    );
    assert!(out.stderr.contains("not ready: 1 of 3"), "{out:?}");
    let status: Vec<_> =
        fixture.order().into_iter().filter(|call| !call.starts_with("VERSION ")).collect();
    assert_eq!(status, ["STATUS first", "STATUS second"]);
}

#[test]
fn status_can_be_limited_to_one_network() {
    let fixture = networks();
    let out = fixture.status(&["new"]).succeeded();
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("new  ready\n", ""));
    fixture.plugin("second", r#"echo '{ "code": 51, "msg": "no route out" }'; exit 1"#);
    let out = fixture.status(&["new"]);
    assert!(
        out.status == 1 && out.stdout.contains("no route out") && out.stdout.contains("(code 51)"),
        "{out:?}"
    );
    let out = fixture.status(&["none"]);
    assert!(out.status == 1 && out.stderr.contains("no network named"), "{out:?}");
}

#[test]
fn plugin_without_support_for_the_version_is_not_ready() {
    let fixture = networks();
    fixture.plugin(
        "second",
        r#"echo '{ "cniVersion": "1.1.0", "supportedVersions": ["0.3.1", "0.4.0"] }'"#,
    );
    let out = fixture.status(&["new"]);
    let said = "second does not support cniVersion 1.1.0, but 0.3.1, 0.4.0 (code 1)\n";
    assert!(out.status == 1 && out.stdout.ends_with(said), "{out:?}");
}

#[test]
fn invalid_files_are_listed() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("net.d/30-bad.conf"), "{ oops").unwrap();
    let out = fixture.status(&[]);
    assert!(out.status == 1 && out.stdout.contains("mynet  ready"), "{out:?}");
    assert!(
        out.stdout.lines().nth(1).unwrap().contains("30-bad.conf: key must be a string at line 1"),
        "{out:?}"
    );
    fixture.status(&["mynet"]).succeeded();
}

#[test]
fn directory_without_networks_is_not_ready() {
    let fixture = Fixture::new();
    std::fs::remove_file(fixture.path("net.d/10-mynet.conflist")).unwrap();
    let out = fixture.status(&[]);
    assert!(out.status == 1 && out.stderr.contains("no network configuration"), "{out:?}");
}

#[test]
fn plugins_called_by_plugins_must_be_installed() {
    let fixture = Fixture::new();
    let list = |version: &str, plugin: serde_json::Value| fixture.mynet(version, &json!([plugin]));
    let is_missing = |plugin: &str| {
        let out = fixture.status(&["mynet"]);
        let said = format!("plugin {plugin} is not installed");
        assert!(out.status == 1 && out.stdout.contains(&said), "{plugin}: {out:?}");
    };
    let flannel = |delegate: &str| json!({ "type": "flannel", "delegate": { "type": delegate } });
    for version in ["0.3.1", "0.4.0", "1.0.0"] {
        list(version, json!({ "type": "first", "ipam": { "type": "whereabouts" } }));
        is_missing("whereabouts");
        // Plugins of other projects cannot call the plugins inside this program.
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
            fixture.status(&["mynet"]).succeeded();
        }
    }
    // The caller passes its version on.
    list("1.0.0", json!({ "type": "first", "ipam": { "type": "second" } }));
    fixture.plugin("second", r#"echo '{ "cniVersion": "1.0.0", "supportedVersions": ["0.4.0"] }'"#);
    let out = fixture.status(&["mynet"]);
    assert!(out.stdout.contains("plugin second does not support cniVersion 1.0.0"), "{out:?}");
    std::fs::remove_file(fixture.path("bin/second")).unwrap();
    is_missing("second");
}
