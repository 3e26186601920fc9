//! The plugin tap, with packets.
//!
//! Run in User-Mode Linux, because only root can open `/dev/net/tun` on many machines: `cargo xtask
//! test --only uml`.

mod container_link;
mod support;

use std::{
    fs::File,
    io::{Read, Write},
};

use rscni_linux::{Bridge, Netns, Tap, TunInfo};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use container_link::{Damage, assert_noticed, network, remac};
use support::{Attached, Network, add_address, addresses, ip, sh, up};

/// Runs a test with the module for taps.
fn with_taps(test: impl FnOnce(&Lab) + Send) {
    // In the private network the module cannot be loaded any more.
    sh("modprobe tun");
    rscni_test::run(test);
}

/// A network with addresses of both families.
fn tap(lab: &Lab, keys: &Value) -> Network {
    network(lab, "tap").with(keys)
}

/// The same without addresses.
fn l2(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "tap", keys)
}

/// Opens the file of a tap.
fn open(a: &Attached, multi_queue: bool) -> rscni_linux::Result<File> {
    Tap { multi_queue, ..Tap::new(&a.ifname) }.open_in(&Netns::open(a.path()).unwrap())
}

fn info(a: &Attached) -> TunInfo {
    a.link().tun.unwrap()
}

/// Connects two taps: packets from one arrive at the other.
fn connect(a: &Attached, b: &Attached) {
    let files = [a, b].map(|attached| open(attached, false).unwrap());
    for (from, to) in [(&files[0], &files[1]), (&files[1], &files[0])] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut packet = vec![0; 65536];
            // Until the tap is gone.
            while let Ok(length) = from.read(&mut packet) {
                let _ = to.write(&packet[..length]);
            }
        });
    }
}

#[test]
fn packets_go_through_the_file_in_both_directions() {
    with_taps(|lab| {
        let network = tap(lab, &json!({}));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        a.cannot_ping(b.v4());
        connect(&a, &b);
        support::assert_talk(lab, &a, &b, true);
        support::assert_talk(lab, &a, &b, false);
        for attached in [&a, &b] {
            attached.check().success();
            // This works with the file open, too.
            attached.del().success();
            assert!(attached.netlink().find_link("eth0").unwrap().is_none());
        }
    });
}

#[test]
fn a_tap_persists_when_it_is_closed() {
    with_taps(|lab| {
        let a = l2(lab, &json!({})).attach(lab, "a");
        drop(open(&a, false).unwrap());
        a.check().success();
        let is = info(&a);
        assert!(is.tap && is.persist && !is.multi_queue);
        assert_eq!((is.owner, is.group), (None, None));
        assert!(
            a.reply.ips().is_empty() && a.reply["interfaces"][0]["name"] == "eth0",
            "{}",
            a.reply.json()
        );
        assert!(a.link().up && addresses(&a, "eth0").is_empty());
    });
}

#[test]
fn a_tap_has_one_or_several_queues() {
    with_taps(|lab| {
        let one = l2(lab, &json!({})).attach(lab, "one");
        let first = open(&one, false).unwrap();
        assert!(open(&one, false).unwrap_err().is_busy());
        drop(first);
        let several = l2(lab, &json!({ "multiQueue": true })).attach(lab, "several");
        let queues = [(); 3].map(|()| open(&several, true).unwrap());
        assert!(info(&several).multi_queue);
        several.check().success();
        drop(queues);
    });
}

#[test]
fn a_tap_belongs_to_a_user_and_a_group() {
    with_taps(|lab| {
        for (number, (owner, group)) in
            [(Some(0), None), (None, Some(0)), (Some(0), Some(0))].into_iter().enumerate()
        {
            let keys =
                json!({ "owner": owner, "group": group, "mac": "02:00:00:00:00:01", "mtu": 1400 });
            let a = l2(lab, &keys).attach(lab, &format!("a{number}"));
            let link = a.link();
            assert_eq!((info(&a).owner, info(&a).group), (owner, group));
            assert_eq!(
                (link.mtu, link.mac.unwrap().to_string().as_str()),
                (1400, "02:00:00:00:00:01")
            );
            assert_eq!(a.reply["interfaces"][0]["mac"], "02:00:00:00:00:01");
            assert_eq!(a.reply["interfaces"][0]["mtu"], 1400);
            a.check().success();
            a.del().success();
        }
        // The user namespace has no such user.
        for key in ["owner", "group"] {
            let network = l2(lab, &json!({ key: 12345 }));
            let a = lab.container(key);
            let before = support::snapshot(lab);
            network.add(&a).error(5).mentions("12345");
            lab.assert_unchanged_since(&before);
        }
    });
}

#[test]
fn the_hardware_address_can_be_chosen_by_the_runtime() {
    with_taps(|lab| {
        let keys =
            json!({ "mac": "02:00:00:00:00:01", "runtimeConfig": { "mac": "02:00:00:00:00:03" } });
        let mut network = l2(lab, &keys);
        network.plugin = network.plugin.env("CNI_ARGS", "MAC=02:00:00:00:00:02");
        assert_eq!(network.attach(lab, "a").reply["interfaces"][0]["mac"], "02:00:00:00:00:03");
        let network = network.with(&json!({ "runtimeConfig": null }));
        assert_eq!(network.attach(lab, "b").reply["interfaces"][0]["mac"], "02:00:00:00:00:02");
    });
}

#[test]
fn a_tap_is_a_port_of_a_bridge_in_the_container() {
    with_taps(|lab| {
        let a = lab.container("a");
        let network = l2(lab, &json!({ "bridge": "br1" }));
        let before = support::snapshot(lab);
        network.add(&a).error(7).mentions("br1").mentions("in the container");
        lab.assert_unchanged_since(&before);

        a.netlink().add_bridge(&Bridge { up: true, ..Bridge::new("br1") }).unwrap();
        add_address(&a, "br1", "10.1.0.50/24");
        let a = network.attach_as(&a, "eth0");
        assert_eq!(a.link().master, Some(a.netlink().link_by_name("br1").unwrap().index));
        let b = tap(lab, &json!({})).attach(lab, "b");
        connect(&a, &b);
        b.ping("10.1.0.50");
        a.check().success();
        ip(&a, "link set eth0 nomaster");
        a.check_misses("not a port of bridge br1");
        ip(&a, "link del br1");
        a.check_misses("bridge br1 is missing");
        a.del().success();
    });
}

/// The tap cannot be a port of this interface, so it is removed again.
#[test]
fn an_interface_other_than_a_bridge_is_rejected_and_leaves_no_tap() {
    with_taps(|lab| {
        let a = lab.container("a");
        ip(&a, "link add br1 type veth peer name other");
        let network = l2(lab, &json!({ "bridge": "br1" }));
        let before = support::snapshot(lab);
        network.add(&a).error(5).mentions("attach eth0 to br1");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_tun_of_that_name_is_not_removed() {
    with_taps(|lab| {
        let network = l2(lab, &json!({}));
        let a = lab.container("a");
        ip(&a, "tuntap add mode tun name eth0");
        network.add(&a).error(4).mentions("eth0");
        network.del(&a).success();
        assert!(a.netlink().find_link("eth0").unwrap().is_some());
        ip(&a, "tuntap del mode tun name eth0");
        // A tap like that of the Go plugin is removed.
        ip(&a, "tuntap add mode tap name eth0 user 0");
        network.del(&a).success();
        assert!(a.netlink().find_link("eth0").unwrap().is_none());
    });
}

/// Replaces the tap by another one.
fn replace(a: &Attached, words: &str) {
    let mac = a.link().mac.unwrap();
    ip(a, "link del eth0");
    ip(a, &format!("tuntap add name eth0 {words}"));
    ip(a, &format!("link set eth0 address {mac}"));
    support::change(&mut a.netlink(), "eth0", &up(true));
}

#[test]
fn check_notices_changes_of_a_tap() {
    const DAMAGES: &[Damage] = &[
        (remac, "02:00:00:00:00:99"),
        (|_, a| replace(a, "mode tap group 0 multi_queue"), "owner none"),
        (|_, a| replace(a, "mode tap user 0 multi_queue"), "group none"),
        (|_, a| replace(a, "mode tap user 0 group 0"), "multiQueue false"),
        (|_, a| replace(a, "mode tap user 0 group 0 multi_queue"), "10.1.0.2/24"),
    ];
    with_taps(|lab| {
        let network = tap(lab, &json!({ "owner": 0, "group": 0, "multiQueue": true }));
        assert_noticed(lab, &network, DAMAGES);
    });
}

#[test]
fn ip_creates_taps_with_a_label() {
    with_taps(|lab| {
        // Without a policy the kernel accepts any label.
        let keys = json!({ "selinuxContext": "system_u:system_r:container_t:s0", "owner": 0, "multiQueue": true });
        let network = tap(lab, &keys);
        let a = network.attach(lab, "a");
        assert!(info(&a).multi_queue && info(&a).persist && info(&a).owner == Some(0));
        a.check().success();
        let b = lab.container("b");
        let before = support::snapshot(lab);
        let without = network.plugin.clone().env("PATH", "");
        without
            .add(&b, "eth0", &network.config)
            .error(5)
            .mentions("selinuxContext")
            .mentions("iproute2");
        let other = network.with(&json!({ "owner": 12345 }));
        other.add(&b).error(5).mentions("ip could not create tap eth0");
        lab.assert_unchanged_since(&before);
        a.del().success();
    });
}

#[test]
fn a_label_without_selinux_is_rejected() {
    with_taps(|lab| {
        let without = lab.dir().join("filesystems");
        std::fs::write(&without, "nodev\tproc\n\text4\n").unwrap();
        sh(&format!("mount --bind {} /proc/filesystems", without.display()));
        let network = l2(lab, &json!({ "selinuxContext": "system_u:system_r:container_t:s0" }));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.add(&a).error(7).mentions("selinuxContext").mentions("SELinux");
        lab.assert_unchanged_since(&before);
        network.del(&a).success();
    });
}

#[rstest]
#[case(json!({ "owner": -1 }), 7, "owner")]
#[case(json!({ "multiQueue": "yes" }), 7, "multiQueue")]
#[case(json!({ "mac": "02:00" }), 7, "02:00")]
#[case(json!({ "mtu": 60 }), 5, "eth0")]
fn invalid_config_is_rejected(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    with_taps(|lab| {
        tap(lab, &keys).assert_add_fails(lab, &lab.container("a"), code, word);
    });
}
