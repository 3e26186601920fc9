//! host-local after crashes, power losses and reboots.

mod host_local_network;
mod ipam;

use std::{fs, os::unix::fs::symlink, process::Command};

use host_local_network::Network;
use rstest::rstest;
use serde_json::{Value, json};

/// Returns the list of valid attachments for these containers.
fn valid(containers: &[&str]) -> Value {
    containers.iter().map(|id| json!({ "containerID": id, "ifname": "eth0" })).collect()
}

/// Creates an incomplete reservation.
fn make(network: &Network, kind: &str, name: &str) {
    network.write(name, kind.as_bytes());
    let path = network.file(name);
    match kind {
        "directory" => fs::remove_file(&path).and_then(|()| fs::create_dir(&path)).unwrap(),
        "dangling" => fs::remove_file(&path).and_then(|()| symlink("nowhere", &path)).unwrap(),
        "empty" => fs::write(&path, "").unwrap(),
        "not text" => fs::write(&path, b"\xff\xfe\x80\r\neth0").unwrap(),
        "zeros" => fs::write(&path, [0; 70]).unwrap(),
        _ => {}
    }
}

const INCOMPLETE: [&str; 8] =
    ["empty", "\n", "id\r", "id\r\n", "zeros", "not text", "directory", "dangling"];

#[test]
fn addresses_of_incomplete_reservations_are_allocated() {
    for kind in INCOMPLETE {
        let network = Network::of(&["10.0.0.0/29"]);
        assert_eq!(network.add("a"), ["10.0.0.2/29"]);
        make(&network, kind, "10.0.0.3");
        assert_eq!(network.add("b"), ["10.0.0.3/29"], "{kind:?}");
        assert_eq!(fs::read_to_string(network.file("10.0.0.3")).unwrap(), "b\r\neth0");
        assert_eq!(network.add("c"), ["10.0.0.4/29"]);
        network.call("CHECK", "b").key("prevResult", json!({})).ok();
        network.call("DEL", "b").ok();
        assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.4"]);
    }
}

#[test]
fn an_incomplete_reservation_is_free_on_request_and_for_status() {
    for kind in INCOMPLETE {
        let network = Network::of(&["10.0.0.0/30"]);
        make(&network, kind, "10.0.0.2");
        network.call("STATUS", "").ok();
        network.call("ADD", "a").var("CNI_ARGS", "IP=10.0.0.2").ok();
        assert_eq!(network.call("STATUS", "").error().0, 50, "{kind:?}");
        assert_eq!(network.call("ADD", "b").error().0, 11, "{kind:?}");
    }
}

#[test]
fn gc_removes_incomplete_reservations_but_no_valid_ones() {
    let network = Network::of(&["10.0.0.0/24"]);
    network.add("a");
    network.write("10.0.0.10", b"old");
    for (kind, n) in INCOMPLETE.iter().zip(100..) {
        make(&network, kind, &format!("10.0.0.{n}"));
    }
    for _ in 0..2 {
        network.gc(&valid(&["a", "old"])).ok();
        assert_eq!(network.reserved(), ["10.0.0.10", "10.0.0.2"]);
    }
}

#[test]
fn incomplete_reservations_are_free_without_an_index_too() {
    let network = Network::of(&["10.0.0.0/30"]);
    fs::write(network.dir.path().join(".index"), "").unwrap();
    network.write("10.0.0.2", b"");
    assert_eq!(network.add("a"), ["10.0.0.2/30"]);
    network.call("ADD", "b").fails(11, "no IP addresses available in range set 0");
}

#[rstest]
#[case::of_an_old_release(b"abc")]
#[case::of_an_old_release_with_a_line_end(b"abc\n")]
#[case::with_an_interface_that_is_not_text(b"abc\r\n\xff\xfe")]
fn a_file_that_may_be_a_reservation_stays(#[case] content: &[u8]) {
    let network = Network::of(&["10.0.0.0/30"]);
    network.write("10.0.0.2", content);
    assert_eq!(network.call("ADD", "b").error().0, 11);
    assert_eq!(network.call("STATUS", "").error().0, 50);
    assert_eq!(network.call("ADD", "b").var("CNI_ARGS", "IP=10.0.0.2").error().0, 11);
    assert_eq!(fs::read(network.file("10.0.0.2")).unwrap(), content);
    network.gc(&valid(&["b"])).ok();
    assert_eq!(network.add("b"), ["10.0.0.2/30"]);
}

#[test]
fn links_to_files_and_directories_with_content_stay() {
    let network = Network::of(&["10.0.0.0/29"]);
    network.write("note", b"");
    symlink("note", network.file("10.0.0.2")).unwrap();
    fs::create_dir_all(network.file("10.0.0.3/kept")).unwrap();
    assert_eq!(network.add("a"), ["10.0.0.4/29"]);
    for file in ["10.0.0.2", "10.0.0.3"] {
        network.call("ADD", "b").var("CNI_ARGS", &format!("IP={file}")).error();
        assert!(network.file(file).symlink_metadata().is_ok());
    }
    assert_eq!(network.gc(&valid(&["a"])).error().0, 5);
    assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "note"]);
}

#[rstest]
fn the_next_call_removes_the_draft_of_a_killed_add(#[values("DEL", "GC", "ADD")] next: &str) {
    let network = Network::of(&["10.0.0.0/29"]);
    network.add("a");
    network.write(".reservation", b"b\r\neth0");
    match next {
        "GC" => drop(network.gc(&valid(&["a"])).ok()),
        command => drop(network.call(command, "b").ok()),
    }
    assert!(!network.file(".reservation").exists());
}

#[test]
fn del_fails_if_a_reservation_is_unreadable() {
    let network = Network::of(&["10.0.0.0/29"]);
    network.add("a");
    // The index knows its holder, but a link to itself is unreadable.
    let file = network.file("10.0.0.2");
    let sealed = fs::metadata(network.file("")).unwrap().modified().unwrap();
    let content = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    symlink("10.0.0.2", &file).unwrap();
    fs::File::open(network.file("")).unwrap().set_modified(sealed).unwrap();
    assert_eq!(network.call("DEL", "a").error().0, 5);
    fs::remove_file(&file).unwrap();
    fs::write(&file, content).unwrap();
    network.call("DEL", "a").ok();
    assert!(network.reserved().is_empty());
}

/// Simulates another boot.
fn reboot(lab: &rscni_test::Lab, name: &str) {
    let file = lab.dir().join(format!("boot-{name}"));
    fs::write(&file, format!("00000000-0000-0000-0000-{name:0>12}\n")).unwrap();
    let mount = Command::new("mount")
        .arg("--bind")
        .arg(&file)
        .arg("/proc/sys/kernel/random/boot_id")
        .status();
    assert!(mount.unwrap().success());
}

/// A network with `reclaimAfterReboot`.
fn reclaiming() -> Network {
    let mut network = Network::of(&["10.0.0.0/24"]);
    network.conf["ipam"]["reclaimAfterReboot"] = true.into();
    network
}

#[rstest]
fn the_first_call_releases_reservations_of_an_earlier_boot(
    #[values("ADD", "CHECK", "DEL", "GC")] first: &str,
) {
    rscni_test::run(|lab| {
        let network = reclaiming();
        assert_eq!([network.add("a"), network.add("b")].concat(), ["10.0.0.2/24", "10.0.0.3/24"]);
        make(&network, "empty", "10.0.0.50");
        network.call("CHECK", "a").key("prevResult", json!({})).ok();
        reboot(lab, "2");
        match first {
            "ADD" => assert_eq!(network.add("a"), ["10.0.0.4/24"]),
            "CHECK" => {
                assert_eq!(network.call("CHECK", "a").key("prevResult", json!({})).error().0, 100);
            }
            "DEL" => drop(network.call("DEL", "c").ok()),
            // The cache of the runtime survives a reboot.
            _ => drop(network.gc(&valid(&["a", "b"])).ok()),
        }
        let left = if first == "ADD" { vec!["10.0.0.4"] } else { vec![] };
        assert_eq!(network.reserved(), left);
        // Later calls release nothing of this boot.
        let given = network.add("d").concat();
        network.call("CHECK", "d").key("prevResult", json!({})).ok();
        network.gc(&valid(&["a", "d"])).ok();
        assert!(network.file(given.split('/').next().unwrap()).exists());
    });
}

#[test]
fn without_the_key_or_an_index_reservations_survive_a_reboot() {
    rscni_test::run(|lab| {
        let mut network = reclaiming();
        network.add("a");
        network.conf["ipam"]["reclaimAfterReboot"] = Value::Null;
        reboot(lab, "2");
        network.add("b");
        assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.3"]);
        // The first call after an upgrade has no index.
        network.conf["ipam"]["reclaimAfterReboot"] = true.into();
        fs::remove_file(network.dir.path().join(".index/net")).unwrap();
        reboot(lab, "3");
        network.add("c");
        assert_eq!(network.reserved(), ["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        reboot(lab, "4");
        network.add("d");
        assert_eq!(network.reserved(), ["10.0.0.5"]);
        network.conf["ipam"]["reclaimAfterReboot"] = "yes".into();
        assert_eq!(network.call("ADD", "e").error().0, 7);
        network.call("DEL", "d").ok();
    });
}

#[test]
fn reservations_that_the_go_plugin_made_in_this_boot_stay() {
    rscni_test::run(|lab| {
        let network = reclaiming();
        network.add("a");
        network.add("b");
        reboot(lab, "2");
        // A new container, and one with its old name and address.
        network.write("10.0.0.9", b"new\r\neth0");
        std::thread::sleep(std::time::Duration::from_millis(1100));
        fs::remove_file(network.file("10.0.0.3")).unwrap();
        network.write("10.0.0.3", b"b\r\neth0");
        assert_eq!(network.add("c"), ["10.0.0.4/24"]);
        assert_eq!(network.reserved(), ["10.0.0.3", "10.0.0.4", "10.0.0.9"]);
        // Now they are in the index, and the next boot releases them.
        reboot(lab, "3");
        network.call("DEL", "none").ok();
        assert!(network.reserved().is_empty());
    });
}

#[test]
fn after_a_power_loss_an_outdated_index_releases_what_it_has() {
    rscni_test::run(|lab| {
        let network = reclaiming();
        network.add("a");
        let index = network.dir.path().join(".index/net");
        let written = fs::read(&index).unwrap();
        network.add("b");
        fs::write(&index, written).unwrap();
        reboot(lab, "2");
        network.add("c");
        assert_eq!(network.reserved(), ["10.0.0.3", "10.0.0.4"]);
        // An empty index is like none.
        fs::write(&index, "").unwrap();
        reboot(lab, "3");
        network.add("d");
        assert_eq!(network.reserved(), ["10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    });
}

#[test]
fn status_predicts_add_after_a_reboot_without_changes() {
    rscni_test::run(|lab| {
        let mut network = reclaiming();
        network.conf["ipam"]["ranges"] = json!([[{ "subnet": "10.0.0.0/30" }]]);
        network.add("a");
        assert_eq!(network.call("STATUS", "").error().0, 50);
        reboot(lab, "2");
        network.call("STATUS", "").ok();
        assert_eq!(network.reserved(), ["10.0.0.2"]);
        assert_eq!(network.add("b"), ["10.0.0.2/30"]);
        assert_eq!(network.call("STATUS", "").error().0, 50);
        // A missing directory has no reservations.
        reboot(lab, "3");
        fs::remove_dir_all(network.dir.path().join("net")).unwrap();
        assert_eq!(network.add("c"), ["10.0.0.2/30"]);
    });
}
