//! A device is recognized although the container changed everything that it can change.

use std::path::Path;

use rscni_linux::{LinkChange, Netlink, Veth};
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    bare, device, host_link, network, snapshot,
    support::{Attached, change, fixed, move_link, up},
};

const RECORD: &str = "/run/cni/host-device/dev0";

fn named(name: &str) -> LinkChange<'static> {
    LinkChange { name: Some(name.into()), ..LinkChange::default() }
}

fn aliased(alias: &str) -> LinkChange<'static> {
    LinkChange { alias: Some(alias.into()), ..LinkChange::default() }
}

fn remac(mac: &str) -> LinkChange<'static> {
    LinkChange { mac: mac.parse().ok(), ..LinkChange::default() }
}

/// Renames an interface, which must be down on older kernels.
fn rename(netlink: &mut Netlink, from: &str, to: &str) {
    change(netlink, from, &up(false));
    change(netlink, from, &named(to));
}

fn disguise(a: &Attached) {
    let mut netlink = a.netlink();
    change(&mut netlink, "net1", &aliased("eth7"));
    change(&mut netlink, "net1", &remac("02:00:00:00:00:77"));
    rename(&mut netlink, "net1", "mine");
}

/// Adds an interface that pretends to be the device.
fn decoy(a: &Attached) {
    disguise(a);
    let mut netlink = a.netlink();
    netlink.add_veth(&Veth::new("net1", "decoy")).unwrap();
    change(&mut netlink, "net1", &aliased("dev0"));
    change(&mut netlink, "net1", &remac(super::MAC));
}

#[rstest]
#[case::alias_and_address(|a: &Attached| {
    change(&mut a.netlink(), "net1", &aliased("eth7"));
    change(&mut a.netlink(), "net1", &remac("02:00:00:00:00:77"));
})]
#[case::alias_and_name(|a: &Attached| {
    change(&mut a.netlink(), "net1", &aliased("eth7"));
    rename(&mut a.netlink(), "net1", "mine");
})]
#[case::everything(disguise)]
#[case::everything_with_a_decoy(decoy)]
fn a_disguised_device_comes_back(
    #[case] disguise: fn(&Attached),
    #[values("with_result", "without_result", "without_netns", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = bare(lab).attach_as(&a, "net1");
        disguise(&a);
        a.end(lab, how).success();
        if let Some(decoy) = a.netlink().find_link("decoy").unwrap() {
            a.netlink().del_link(decoy.index).unwrap();
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn two_devices_of_a_container_are_not_mistaken_for_each_other() {
    rscni_test::run(|lab| {
        device(lab);
        let mut host = lab.host().netlink();
        host.add_veth(&Veth {
            mac: "02:00:00:00:00:02".parse().ok(),
            ..Veth::new("dev1", "peer1")
        })
        .unwrap();
        let a = lab.container("a");
        let before = snapshot(lab);
        let first = bare(lab).attach_as(&a, "net1");
        let second = bare(lab).with(&json!({ "device": "dev1" })).attach_as(&a, "net2");
        // Swaps name, alias and address of the devices.
        let mut netlink = a.netlink();
        for (from, to) in [("net1", "x"), ("net2", "net1"), ("x", "net2")] {
            rename(&mut netlink, from, to);
        }
        change(&mut netlink, "net1", &aliased("dev0"));
        change(&mut netlink, "net2", &aliased("dev1"));
        change(&mut netlink, "net1", &remac("02:00:00:00:00:01"));
        change(&mut netlink, "net2", &remac("02:00:00:00:00:02"));
        second.del().success();
        first.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_device_whose_index_is_taken_in_the_container_comes_back() {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        // Use the indices up to that of the device.
        while a.netlink().link_by_index(host_link(lab, "dev0").unwrap().index).is_err() {
            let number = a.netlink().links().unwrap().len();
            a.netlink().add_veth(&Veth::new(format!("a{number}"), format!("b{number}"))).unwrap();
        }
        let before = snapshot(lab);
        let index = host_link(lab, "dev0").unwrap().index;
        let attached = bare(lab).attach_as(&a, "net1");
        assert_ne!(attached.link().index, index);
        disguise(&attached);
        attached.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn del_fails_as_long_as_the_device_is_elsewhere(
    #[values("del", "gc", "without_netns")] how: &str,
    #[values("the container", "the host")] back: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let [a, nested] = ["a", "nested"].map(|name| lab.container(name));
        let before = snapshot(lab);
        let a = bare(lab).attach_as(&a, "net1");
        let del = || match how {
            "del" => a.del(),
            "gc" => a.network.gc(&[]),
            _ => a.del_without_netns(),
        };
        move_link(&a, "net1", &nested);
        for _ in 0..2 {
            del().error(11).mentions("dev0 is neither in /run/netns/a nor on the host");
            assert!(Path::new(RECORD).exists());
        }
        assert!(nested.netlink().find_link("net1").unwrap().is_some());
        move_link(&nested, "net1", if back == "the host" { lab.host() } else { &a });
        del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn del_succeeds_when_the_namespace_is_gone_without_the_device() {
    rscni_test::run(|lab| {
        device(lab);
        let nested = lab.container("nested");
        let a = bare(lab).attach(lab, "a");
        move_link(&a, "eth0", &nested);
        lab.remove_namespace(&a);
        // A new namespace of the same name is another one.
        lab.container("a");
        a.del().success();
        assert!(!Path::new(RECORD).exists());
        a.del().success();
    });
}

#[test]
fn a_veth_that_the_container_deleted_counts_as_destroyed() {
    rscni_test::run(|lab| {
        device(lab);
        lab.host().netlink().add_veth(&Veth::new("dev1", "peer1")).unwrap();
        // The peer of the first device is on the host, that of the second in another namespace.
        for (name, device) in [("a", "dev1"), ("b", "dev0")] {
            let a = bare(lab).with(&json!({ "device": device })).attach(lab, name);
            a.netlink().del_link(a.link().index).unwrap();
            a.del().success();
            assert!(!Path::new("/run/cni/host-device").join(device).exists());
            a.del().success();
        }
    });
}

#[test]
fn a_late_del_keeps_another_device_at_the_same_path() {
    rscni_test::run(|lab| {
        device(lab);
        lab.host().netlink().add_veth(&Veth::new("dev1", "peer1")).unwrap();
        let old = bare(lab).attach(lab, "a");
        lab.remove_namespace(&old);
        let path = lab.container("a");
        let network =
            bare(lab).with(&json!({ "device": "dev1", "ipam": fixed(&[("10.7.0.2/24", "")]) }));
        let add =
            network.plugin.call("ADD").attachment(&path, "eth0").env("CNI_CONTAINERID", "next");
        add.config(&network.config).run().success();
        old.del().success();
        assert!(!Path::new(RECORD).exists());
        assert!(Path::new("/run/cni/host-device/dev1").exists());
        assert!(path.netlink().find_link("eth0").unwrap().is_some());
    });
}

#[rstest]
#[case::by_alias(|a: &Attached| rename(&mut a.netlink(), "net1", "mine"))]
#[case::by_name_and_address(|a: &Attached| change(&mut a.netlink(), "net1", &aliased("eth7")))]
fn a_record_of_an_earlier_version_is_understood(#[case] disguise: fn(&Attached)) {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = bare(lab).attach_as(&a, "net1");
        let mut record: Value = serde_json::from_slice(&std::fs::read(RECORD).unwrap()).unwrap();
        assert!(record.as_object_mut().unwrap().remove("identity").is_some());
        std::fs::write(RECORD, record.to_string()).unwrap();
        disguise(&a);
        a.del().success();
        lab.assert_unchanged_since(&before);
    });
}

/// An ADD that is killed before it moves the device leaves a record.
#[test]
fn del_after_an_add_that_moved_nothing_succeeds() {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = network(lab, &json!({ "ipam": null })).attach_as(&a, "net1");
        let record = std::fs::read(RECORD).unwrap();
        a.del().success();
        std::fs::write(RECORD, record).unwrap();
        a.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn the_next_container_gets_a_device_that_was_disguised() {
    rscni_test::run(|lab| {
        let net = device(lab);
        let ipam = json!({ "ipam": fixed(&[("10.1.0.5/24", "10.1.0.1")]) });
        let network = network(lab, &ipam);
        let a = network.attach_as(&lab.container("a"), "net1");
        disguise(&a);
        a.del().success();
        let b = network.attach_as(&lab.container("b"), "net1");
        b.ping("10.1.0.1");
        net.ping("10.1.0.5");
        b.check().success();
        b.del().success();
    });
}
