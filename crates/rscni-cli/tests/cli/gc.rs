//! `rscni gc`.

use serde_json::{Value, json};

use crate::world::World;

/// `mynet` at a version with GC, and two containers in it, of which `gone` has no namespace any more.
fn attached() -> World {
    let world = World::new();
    let plugins = json!([{ "type": "first" }, { "type": "second" }]);
    world.network(
        "10-mynet.conflist",
        &json!({ "cniVersion": "1.1.0", "name": "mynet", "plugins": plugins }),
    );
    world.rscni("add", "mynet", &["--container-id", "gone"]).succeeded();
    world.call(&["add", "mynet", "/proc/self/ns/net", "--container-id", "there"]).succeeded();
    world
}

fn left(world: &World) -> Vec<String> {
    let listed = world.call(&["ls", "-o", "json"]).succeeded().json();
    let entries = listed["attachments"].as_array().unwrap();
    entries.iter().map(|entry| entry["containerID"].as_str().unwrap().to_owned()).collect()
}

fn told(world: &World) -> Value {
    world.config("GC-first")["cni.dev/valid-attachments"].clone()
}

#[test]
fn what_has_no_namespace_any_more_is_removed() {
    let world = attached();
    let ran = world.call(&["gc", "mynet", "--auto"]).succeeded();
    let netns = world.path("netns");
    assert_eq!(
        ran.stdout,
        format!("removed gone/eth0 10.0.0.3/24: its namespace {} is gone\n", netns.display())
    );
    assert_eq!(world.order()[4..], ["DEL second", "DEL first", "GC first", "GC second"]);
    assert_eq!(told(&world), json!([{ "containerID": "there", "ifname": "eth0" }]));
    assert_eq!(left(&world), ["there"]);
    assert_eq!(world.call(&["gc", "mynet", "--auto"]).succeeded().stdout, "");
}

#[test]
fn what_is_said_to_be_valid_is_kept() {
    let world = attached();
    let ran = world.call(&["gc", "mynet", "--valid", "gone/eth0", "new/net1"]).succeeded();
    assert_eq!(ran.stdout, "removed there/eth0 10.0.0.3/24: it is not named by --valid\n");
    let valid = json!([{ "containerID": "gone", "ifname": "eth0" }, { "containerID": "new", "ifname": "net1" }]);
    assert_eq!((told(&world), left(&world)), (valid, vec!["gone".to_owned()]));
}

#[test]
fn a_network_whose_file_is_gone_is_known_from_what_was_attached() {
    let world = attached();
    std::fs::remove_file(world.path("net.d/10-mynet.conflist")).unwrap();
    let ran = world.call(&["gc", "mynet", "--auto"]).succeeded();
    let netns = world.path("netns");
    assert_eq!(
        ran.stdout,
        format!("removed gone/eth0 10.0.0.3/24: its namespace {} is gone\n", netns.display())
    );
    assert_eq!(world.order()[4..], ["DEL second", "DEL first", "GC first", "GC second"]);
}

#[test]
fn nothing_is_done_unless_it_is_said_what_is_valid() {
    let world = attached();
    for words in
        [&["gc", "mynet"][..], &["gc", "mynet", "--valid"], &["gc", "mynet", "--valid", "gone"]]
    {
        assert_eq!(world.call(words).status, 2, "{words:?}");
    }
    assert_eq!(world.call(&["gc", "mynet", "--auto", "--valid", "gone/eth0"]).status, 2);
    assert_eq!(world.call(&["gc", "none", "--auto"]).status, 1);
    assert_eq!((world.order().len(), left(&world).len()), (4, 2));
}

#[test]
fn an_entry_that_cannot_be_read_may_be_in_use() {
    let world = attached();
    std::fs::write(world.path("cache/results/mynet-half-eth0"), "{").unwrap();
    let ran = world.call(&["gc", "mynet", "--auto"]);
    assert!(ran.status == 1 && ran.stderr.contains("mynet-half-eth0"), "{}", ran.stderr);
    assert_eq!((world.order().len(), left(&world).len()), (4, 2));
    // Who says what is valid knows.
    world.call(&["gc", "mynet", "--valid", "there/eth0"]).succeeded();
    assert_eq!(left(&world), ["there"]);
}

#[test]
fn what_could_not_be_removed_is_an_error_and_stays() {
    let world = attached();
    world.plugin(
        "second",
        r#"[ "$CNI_COMMAND" != DEL ] || { echo '{ "code": 117, "msg": "stuck" }'; exit 1; }"#,
    );
    let ran = world.call(&["gc", "mynet", "--auto"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, ""));
    assert!(ran.stderr.contains("gone: network mynet: DEL of second"), "{}", ran.stderr);
    assert_eq!(left(&world), ["gone", "there"]);
}

#[test]
fn a_network_that_disables_it_is_left_alone() {
    let world = attached();
    let plugins = json!([{ "type": "first" }]);
    let list =
        json!({ "cniVersion": "1.1.0", "name": "mynet", "disableGC": true, "plugins": plugins });
    world.network("10-mynet.conflist", &list);
    let ran = world.call(&["gc", "mynet", "--auto"]).succeeded();
    assert_eq!(
        (ran.stdout.as_str(), world.order().len()),
        ("nothing is removed: network mynet has disableGC\n", 4)
    );
}

#[test]
fn a_dry_run_says_what_would_be_removed_and_changes_nothing() {
    let world = attached();
    let ran = world.call(&["gc", "mynet", "--auto", "--dry-run"]).succeeded();
    let said = format!(
        "would remove gone/eth0 10.0.0.3/24: its namespace {} is gone\n",
        world.path("netns").display()
    );
    assert_eq!(ran.stdout, said);
    assert_eq!((world.order().len(), left(&world).len()), (4, 2));
    let removed = world.call(&["gc", "mynet", "--auto"]).succeeded().stdout;
    assert_eq!(removed, said.replace("would remove", "removed"));
    assert_eq!(left(&world), ["there"]);
    let ran = world.call(&["gc", "mynet", "--valid", "a/eth0", "--dry-run"]).succeeded();
    assert_eq!(ran.stdout, "would remove there/eth0 10.0.0.3/24: it is not named by --valid\n");
    assert_eq!(world.call(&["gc", "--valid", "a/eth0"]).status, 2);
}
