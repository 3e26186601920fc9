//! `rscni ls`.

use serde_json::json;

use crate::world::{World, on_terminal};

/// An attachment whose namespace is there, one whose is gone, and one to another network.
fn attached() -> World {
    let world = World::new();
    world.network("20-b.conf", &json!({ "cniVersion": "1.0.0", "name": "b", "type": "first" }));
    world.rscni("add", "mynet", &["--container-id", "gone"]).succeeded();
    world.call(&["add", "mynet", "/proc/self/ns/net", "--container-id", "there"]).succeeded();
    world
        .call(&["add", "b", "/proc/self/ns/net", "--container-id", "there", "--ifname", "net1"])
        .succeeded();
    world
}

/// The rows of a table, without the column of ages.
fn rows(text: &str) -> Vec<String> {
    let begin = text.lines().next().unwrap().find("AGE").unwrap();
    let end = text.lines().next().unwrap().find("NAMESPACE").unwrap();
    text.lines().map(|line| format!("{}{}", &line[..begin], &line[end..])).collect()
}

#[test]
fn there_is_a_row_for_each_attachment() {
    let world = attached();
    let gone = world.path("netns");
    let text = world.call(&["ls"]).succeeded().stdout;
    assert_eq!(
        rows(&text),
        [
            "NETWORK  CONTAINER  INTERFACE  ADDRESSES    NAMESPACE".to_owned(),
            "b        there      net1       10.0.0.2/24  /proc/self/ns/net".to_owned(),
            format!("mynet    gone       eth0       10.0.0.3/24  {} (gone)", gone.display()),
            "mynet    there      eth0       10.0.0.3/24  /proc/self/ns/net".to_owned(),
        ]
    );
    let column = text.find("AGE").unwrap();
    for line in text.lines().skip(1) {
        let age = line[column..].split(' ').next().unwrap();
        assert!(age[..age.len() - 1].parse::<u32>().is_ok() && age.ends_with(['s', 'm']), "{line}");
    }
    let shown = on_terminal(&mut world.calling(&["ls"])).succeeded().stdout;
    assert!(
        shown.starts_with("\x1b[1mNETWORK  CONTAINER ") && shown.lines().count() == 4,
        "{shown}"
    );
}

#[test]
fn options_leave_rows_out() {
    let world = attached();
    let count = |options: &[&str]| {
        world.call(&[&["ls"], options].concat()).succeeded().stdout.lines().count() - 1
    };
    assert_eq!(count(&["--network", "mynet"]), 2);
    assert_eq!(count(&["--container", "there"]), 2);
    assert_eq!(count(&["--container", "there", "--network", "b"]), 1);
    assert_eq!(count(&["--network", "my"]), 0);
    assert_eq!(world.call(&["ls", "--container", "../there"]).status, 1);
}

#[test]
fn json_has_all_of_it() {
    let world = attached();
    let listed = world.call(&["ls", "-o", "json", "--network", "mynet"]).succeeded().json();
    let mut first = listed["attachments"][0].clone();
    assert!(first["modified"].take().is_u64());
    assert_eq!(
        first,
        json!({
            "network": "mynet", "containerID": "gone", "ifname": "eth0", "addresses": ["10.0.0.3/24"],
            "modified": null, "netns": world.path("netns"), "netnsExists": false,
        })
    );
    assert_eq!(
        (&listed["attachments"][1]["netnsExists"], &listed["broken"]),
        (&json!(true), &json!([]))
    );
}

#[test]
fn a_damaged_entry_is_named_below_the_others() {
    let world = attached();
    let results = world.path("cache/results");
    let whole = std::fs::read(results.join("mynet-gone-eth0")).unwrap();
    std::fs::write(results.join("mynet-half-eth0"), &whole[..whole.len() / 2]).unwrap();
    let text = world.call(&["ls"]).succeeded().stdout;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[4]), (6, ""), "{text}");
    assert!(
        lines[5].starts_with("cannot be read: ") && lines[5].contains("mynet-half-eth0: EOF while"),
        "{text}"
    );
    assert!(!world.call(&["ls", "--network", "b"]).succeeded().stdout.contains("cannot be read"));
    let listed = world.call(&["ls", "-o", "json"]).succeeded().json();
    assert_eq!(listed["broken"][0]["file"], json!(results.join("mynet-half-eth0")));
}

#[test]
fn where_nothing_was_ever_attached_there_is_a_header() {
    let ran = World::new().call(&["ls"]).succeeded();
    assert_eq!((ran.stdout.lines().count(), ran.stderr.as_str()), (1, ""), "{}", ran.stdout);
}
