//! The networks of a directory: which are used, and when they are read.

use std::{fs, path::Path};

use super::*;

const LIST: &str = r#"{ "cniVersion": "1.0.0", "name": "NAME", "plugins": [{ "type": "x" }] }"#;

/// Creates an invalid file.
type Break = fn(&Path);

fn write(dir: &Path, file: &str, text: &str) {
    // The time of a change has the resolution of the kernel's clock.
    std::thread::sleep(Duration::from_millis(20));
    fs::write(dir.join(file), text).unwrap();
}

fn list(name: &str) -> String {
    LIST.replace("NAME", name)
}

/// A directory with the networks a and b.
fn dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "10-a.conflist", &list("a"));
    write(dir.path(), "20-b.conf", r#"{ "cniVersion": "1.0.0", "name": "b", "type": "x" }"#);
    dir
}

/// Returns the interface and the name of each network.
fn of(networks: &Networks) -> Vec<String> {
    let networks = networks.ready().unwrap();
    networks.iter().map(|it| format!("{} {}", it.ifname, it.list.name)).collect()
}

#[test]
fn the_first_file_is_the_default_network() {
    let dir = dir();
    assert_eq!(of(&Networks::first_in(dir.path())), ["eth0 a"]);
    assert_eq!(of(&Networks::first_in(dir.path()).with_loopback()), ["lo cni-loopback", "eth0 a"]);
    write(dir.path(), "05-c.conflist", &list("c"));
    assert_eq!(of(&Networks::first_in(dir.path())), ["eth0 c"]);
}

#[test]
fn interfaces_are_numbered_in_the_order_of_the_networks() {
    let dir = dir();
    let all = Networks::all_in(dir.path()).with_interface_prefix("net").with_loopback();
    assert_eq!(of(&all), ["lo cni-loopback", "net0 a", "net1 b"]);
    assert_eq!(of(&Networks::named_in(dir.path(), ["b", "a"])), ["eth0 b", "eth1 a"]);
    let lists = ["y", "x"].map(|name| NetConfList::from_json(list(name).as_bytes()).unwrap());
    assert_eq!(of(&Networks::of(lists)), ["eth0 y", "eth1 x"]);
}

#[test]
fn a_broken_first_file_is_an_error_that_names_it() {
    let break_file: [(&str, Break); 6] = [
        ("syntax", |file| fs::write(file, "{ oops").unwrap()),
        ("empty", |file| fs::write(file, "").unwrap()),
        ("no plugins", |file| fs::write(file, r#"{ "name": "a", "plugins": [] }"#).unwrap()),
        ("no name", |file| fs::write(file, r#"{ "plugins": [{ "type": "x" }] }"#).unwrap()),
        ("dangling link", |file| std::os::unix::fs::symlink("/nonexistent", file).unwrap()),
        ("loop of links", |file| std::os::unix::fs::symlink(file, file).unwrap()),
    ];
    for (problem, break_file) in break_file {
        let dir = dir();
        let file = dir.path().join("00-bad.conflist");
        break_file(&file);
        for networks in [Networks::first_in(dir.path()), Networks::all_in(dir.path())] {
            let error = networks.ready().unwrap_err();
            assert!(error.details().contains(file.to_str().unwrap()), "{problem}: {error}");
            let script = Script::default();
            let runtime = Runtime::new(&script, ["/x"]).with_cache(Cache::new(dir.path()));
            let sandbox = Sandbox::new("box", "/box");
            assert_eq!(runtime.attach(&networks, &sandbox), Err(error.clone().into()), "{problem}");
            assert_eq!(runtime.status_all(&networks), Err(error.into()), "{problem}");
            assert!(script.calls().is_empty(), "{problem}");
        }
        assert_eq!(of(&Networks::named_in(dir.path(), ["a"])), ["eth0 a"], "{problem}");
    }
}

#[test]
fn a_broken_later_file_does_not_matter_to_the_default_network() {
    let dir = dir();
    write(dir.path(), "15-bad.conflist", "{");
    assert_eq!(of(&Networks::first_in(dir.path())), ["eth0 a"]);
    let error = Networks::all_in(dir.path()).ready().unwrap_err();
    assert!(error.details().contains("15-bad.conflist"), "{error}");
}

#[test]
fn too_few_networks_are_an_error() {
    let temp = dir();
    let error = Networks::all_in(temp.path()).with_minimum(3).with_loopback().ready().unwrap_err();
    assert_eq!(error.code(), 50);
    let text = format!("networks: 2, required: 3 in {}", temp.path().display());
    assert!(error.details().starts_with(&text), "{error}");
    for missing in ["none", "empty"] {
        let dir = temp.path().join(missing);
        fs::create_dir_all(temp.path().join("empty")).unwrap();
        assert_eq!(Networks::first_in(&dir).ready().unwrap_err().code(), 50);
        assert!(Networks::all_in(&dir).with_minimum(0).ready().unwrap().is_empty());
    }
    let error = Networks::named_in(temp.path(), ["a", "c"]).ready().unwrap_err();
    assert!(error.code() == 7 && error.details().contains("\"c\""), "{error}");
}

#[test]
fn networks_are_read_again_if_a_file_has_changed() {
    let dir = dir();
    let mut networks = Networks::all_in(dir.path()).with_loopback();
    let mut expect = |changed: bool, expected: &[&str]| {
        // As if the last change were older than the resolution of the file system's times.
        networks.settle();
        assert_eq!(networks.reload_if_changed(), changed);
        assert_eq!(of(&networks)[1..], *expected);
    };
    expect(false, &["eth0 a", "eth1 b"]);
    write(dir.path(), "10-a.conflist", &list("c"));
    expect(true, &["eth0 c", "eth1 b"]);
    write(dir.path(), "new", &list("d"));
    expect(false, &["eth0 c", "eth1 b"]);
    fs::rename(dir.path().join("new"), dir.path().join("10-a.conflist")).unwrap();
    expect(true, &["eth0 d", "eth1 b"]);
    write(dir.path(), "30.conflist", &list("e"));
    expect(true, &["eth0 d", "eth1 b", "eth2 e"]);
    fs::remove_file(dir.path().join("20-b.conf")).unwrap();
    expect(true, &["eth0 d", "eth1 e"]);
    fs::create_dir(dir.path().join("e")).unwrap();
    write(&dir.path().join("e"), "10.conf", r#"{ "type": "y" }"#);
    expect(true, &["eth0 d", "eth1 e"]);
    // A change that makes no difference.
    write(dir.path(), "30.conflist", &list("e"));
    expect(false, &["eth0 d", "eth1 e"]);
}

#[test]
fn a_recent_change_is_noticed_even_if_no_time_differs() {
    let dir = dir();
    let mut networks = Networks::first_in(dir.path());
    // Pretends that the file had the same times before the change.
    write(dir.path(), "10-a.conflist", &list("c"));
    networks.stamp_again();
    assert!(networks.reload_if_changed());
    assert_eq!(of(&networks), ["eth0 c"]);
}

#[test]
fn a_file_that_breaks_makes_the_networks_unready_until_it_is_repaired() {
    let dir = dir();
    let mut networks = Networks::first_in(dir.path());
    write(dir.path(), "10-a.conflist", "{");
    assert!(networks.reload_if_changed());
    assert!(networks.ready().unwrap_err().details().contains("10-a.conflist"));
    assert!(!networks.reload_if_changed());
    write(dir.path(), "10-a.conflist", &list("c"));
    assert!(networks.reload_if_changed());
    assert_eq!(of(&networks), ["eth0 c"]);
    fs::remove_dir_all(dir.path()).unwrap();
    assert!(networks.reload_if_changed());
    assert_eq!(networks.ready().unwrap_err().code(), 50);
}
