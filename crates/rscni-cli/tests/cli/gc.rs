//! `rscni gc`.

use serde_json::{Value, json};

use crate::fixture::Fixture;

/// Attaches `gone`, without a namespace, and `there` to `mynet` in a version with GC.
fn attached() -> Fixture {
    let fixture = Fixture::new();
    fixture.mynet("1.1.0", &json!([{ "type": "first" }, { "type": "second" }]));
    fixture.rscni("add", "mynet", &["--container-id", "gone"]).succeeded();
    fixture.call(&["add", "mynet", "/proc/self/ns/net", "--container-id", "there"]).succeeded();
    fixture
}

fn left(fixture: &Fixture) -> Vec<String> {
    let listed = fixture.call(&["ls", "-o", "json"]).succeeded().json();
    let entries = listed["attachments"].as_array().unwrap();
    entries.iter().map(|entry| entry["containerID"].as_str().unwrap().to_owned()).collect()
}

fn valid(fixture: &Fixture) -> Value {
    fixture.config("GC-first")["cni.dev/valid-attachments"].clone()
}

/// Asserts that `gc --auto` removes the attachment of `gone`.
#[track_caller]
fn assert_collects_gone(fixture: &Fixture) {
    let out = fixture.call(&["gc", "mynet", "--auto"]).succeeded();
    let netns = fixture.path("netns");
    assert_eq!(
        out.stdout,
        format!("removed gone/eth0 10.0.0.3/24: its namespace {} is gone\n", netns.display())
    );
    assert_eq!(fixture.order()[4..], ["DEL second", "DEL first", "GC first", "GC second"]);
}

#[test]
fn auto_removes_attachments_without_namespace() {
    let fixture = attached();
    assert_collects_gone(&fixture);
    assert_eq!(valid(&fixture), json!([{ "containerID": "there", "ifname": "eth0" }]));
    assert_eq!(left(&fixture), ["there"]);
    assert_eq!(fixture.call(&["gc", "mynet", "--auto"]).succeeded().stdout, "");
}

#[test]
fn valid_attachments_are_kept() {
    let fixture = attached();
    let out = fixture.call(&["gc", "mynet", "--valid", "gone/eth0", "new/net1"]).succeeded();
    assert_eq!(out.stdout, "removed there/eth0 10.0.0.3/24: not listed in --valid\n");
    let attachment = |id: &str, ifname: &str| json!({ "containerID": id, "ifname": ifname });
    let expected = json!([attachment("gone", "eth0"), attachment("new", "net1")]);
    assert_eq!((valid(&fixture), left(&fixture)), (expected, vec!["gone".to_owned()]));
}

#[test]
fn network_without_file_is_collected_from_the_cache() {
    let fixture = attached();
    std::fs::remove_file(fixture.path("net.d/10-mynet.conflist")).unwrap();
    assert_collects_gone(&fixture);
}

#[test]
fn valid_or_auto_is_required() {
    let fixture = attached();
    for words in
        [&["gc", "mynet"][..], &["gc", "mynet", "--valid"], &["gc", "mynet", "--valid", "gone"]]
    {
        assert_eq!(fixture.call(words).status, 2, "{words:?}");
    }
    assert_eq!(fixture.call(&["gc", "mynet", "--auto", "--valid", "gone/eth0"]).status, 2);
    assert_eq!(fixture.call(&["gc", "none", "--auto"]).status, 1);
    assert_eq!((fixture.order().len(), left(&fixture).len()), (4, 2));
}

#[test]
fn auto_keeps_networks_with_unreadable_cache_files() {
    let fixture = attached();
    std::fs::write(fixture.path("cache/results/mynet-half-eth0"), "{").unwrap();
    let out = fixture.call(&["gc", "mynet", "--auto"]);
    assert!(out.status == 1 && out.stderr.contains("mynet-half-eth0"), "{}", out.stderr);
    assert_eq!((fixture.order().len(), left(&fixture).len()), (4, 2));
    fixture.call(&["gc", "mynet", "--valid", "there/eth0"]).succeeded();
    assert_eq!(left(&fixture), ["there"]);
}

#[test]
fn failed_del_is_an_error_and_stays_cached() {
    let fixture = attached();
    fixture.plugin(
        "second",
        r#"[ "$CNI_COMMAND" != DEL ] || { echo '{ "code": 117, "msg": "stuck" }'; exit 1; }"#,
    );
    let out = fixture.call(&["gc", "mynet", "--auto"]);
    assert_eq!((out.status, out.stdout.as_str()), (1, ""));
    assert!(out.stderr.contains("gone: network mynet: DEL of second"), "{}", out.stderr);
    assert_eq!(left(&fixture), ["gone", "there"]);
}

#[test]
fn networks_with_disable_gc_are_skipped() {
    let fixture = attached();
    let plugins = json!([{ "type": "first" }]);
    let list =
        json!({ "cniVersion": "1.1.0", "name": "mynet", "disableGC": true, "plugins": plugins });
    fixture.network("10-mynet.conflist", &list);
    let out = fixture.call(&["gc", "mynet", "--auto"]).succeeded();
    assert_eq!(
        (out.stdout.as_str(), fixture.order().len()),
        ("network mynet has disableGC: nothing is removed\n", 4)
    );
}

#[test]
fn dry_run_changes_nothing() {
    let fixture = attached();
    let out = fixture.call(&["gc", "mynet", "--auto", "--dry-run"]).succeeded();
    let said = format!(
        "would remove gone/eth0 10.0.0.3/24: its namespace {} is gone\n",
        fixture.path("netns").display()
    );
    assert_eq!(out.stdout, said);
    assert_eq!((fixture.order().len(), left(&fixture).len()), (4, 2));
    let removed = fixture.call(&["gc", "mynet", "--auto"]).succeeded().stdout;
    assert_eq!(removed, said.replace("would remove", "removed"));
    assert_eq!(left(&fixture), ["there"]);
    let out = fixture.call(&["gc", "mynet", "--valid", "a/eth0", "--dry-run"]).succeeded();
    assert_eq!(out.stdout, "would remove there/eth0 10.0.0.3/24: not listed in --valid\n");
    assert_eq!(fixture.call(&["gc", "--valid", "a/eth0"]).status, 2);
}
