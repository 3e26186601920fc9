//! The plugin tap, with packets.
//!
//! Run in User-Mode Linux, since `/dev/net/tun` is for root alone on many machines: `cargo xtask test --only uml`.

mod container_link;
mod support;

use std::{
    fs::File,
    io::{Read, Write},
    process::Command,
};

use rscni_linux::{Bridge, Netns, Tap, TunInfo};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use container_link::{Assertion, Damage, add_address, assert_noticed, ip, network, remac};
use support::{Attached, Network, V4, V6, addresses, up};

/// Runs the test where there are taps.
fn with_taps(test: impl FnOnce(&Lab) + Send) {
    // Once the test is in its private network, it is there already.
    let _ = Command::new("modprobe").arg("tun").status();
    rscni_test::run(test);
}

/// A network with addresses of both families.
fn tap(lab: &Lab, keys: &Value) -> Network {
    network(lab, "tap", &[V4, V6], keys)
}

/// The same without addresses.
fn l2(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "tap", keys)
}

/// The file in which the packets of a tap are.
fn open(a: &Attached, multi_queue: bool) -> rscni_linux::Result<File> {
    Tap { multi_queue, ..Tap::new(&a.ifname) }.open_in(&Netns::open(a.path()).unwrap())
}

fn info(a: &Attached) -> TunInfo {
    a.link().tun.unwrap()
}

/// Lays a cable between the two: what leaves by one tap arrives at the other.
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

#[rstest]
#[case::versions(container_link::speaks_every_version)]
#[case::del(container_link::is_deleted_whatever_is_left_of_it)]
#[case::others(container_link::spares_what_belongs_to_others)]
#[case::names(container_link::does_not_mind_the_names_on_the_host)]
#[case::failure(container_link::leaves_nothing_when_it_fails)]
#[case::check(container_link::notices_what_was_changed)]
#[case::check_without_result(container_link::needs_the_result_for_check)]
#[case::gc(container_link::gives_back_addresses_with_gc)]
#[case::status(container_link::tells_whether_it_could_add)]
#[case::race(container_link::gives_a_name_once)]
fn it_does_what_every_link_does(#[case] assertion: Assertion) {
    with_taps(|lab| assertion(lab, &tap(lab, &json!({}))));
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
            // With the file open, too.
            attached.del().success();
            assert!(attached.netlink().find_link("eth0").unwrap().is_none());
        }
    });
}

#[test]
fn it_is_there_when_nobody_has_it_open() {
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
fn it_has_one_queue_or_several() {
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
fn it_belongs_to_a_user_and_a_group() {
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
        // In here there is no such user.
        for key in ["owner", "group"] {
            let network = l2(lab, &json!({ key: 12345 }));
            let a = lab.container(key);
            let before = support::snapshot(lab);
            network.plugin.add(&a, "eth0", &network.config).error(5).mentions("12345");
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
fn as_a_port_of_a_bridge_it_leads_to_what_is_on_the_bridge() {
    with_taps(|lab| {
        let a = lab.container("a");
        let network = l2(lab, &json!({ "bridge": "br1" }));
        let before = support::snapshot(lab);
        network
            .plugin
            .add(&a, "eth0", &network.config)
            .error(7)
            .mentions("br1")
            .mentions("in the container");
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

/// A bridge of another sort than bridges cannot have it: the tap that was made by then goes.
#[test]
fn what_is_no_bridge_is_refused_and_leaves_no_tap() {
    with_taps(|lab| {
        let a = lab.container("a");
        ip(&a, "link add br1 type veth peer name other");
        let network = l2(lab, &json!({ "bridge": "br1" }));
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).error(5).mentions("attach eth0 to br1");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_tun_of_that_name_is_none_of_ours() {
    with_taps(|lab| {
        let network = l2(lab, &json!({}));
        let a = lab.container("a");
        ip(&a, "tuntap add mode tun name eth0");
        network.plugin.add(&a, "eth0", &network.config).error(4).mentions("eth0");
        network.plugin.del(&a, "eth0", &network.config).success();
        assert!(a.netlink().find_link("eth0").unwrap().is_some());
        ip(&a, "tuntap del mode tun name eth0");
        // One that something else made as the Go plugin does is.
        ip(&a, "tuntap add mode tap name eth0 user 0");
        network.plugin.del(&a, "eth0", &network.config).success();
        assert!(a.netlink().find_link("eth0").unwrap().is_none());
    });
}

/// Another tap in place of the one that ADD made.
fn replace(a: &Attached, words: &str) {
    let mac = a.link().mac.unwrap();
    ip(a, "link del eth0");
    ip(a, &format!("tuntap add name eth0 {words}"));
    ip(a, &format!("link set eth0 address {mac}"));
    support::change(&mut a.netlink(), "eth0", &up(true));
}

#[test]
fn check_notices_what_only_a_tap_has() {
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
fn with_a_label_ip_makes_the_tap() {
    with_taps(|lab| {
        // This kernel has no policy, so each label is as good as any other.
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
        other
            .plugin
            .add(&b, "eth0", &other.config)
            .error(5)
            .mentions("ip could not create tap eth0");
        lab.assert_unchanged_since(&before);
        a.del().success();
    });
}

#[test]
fn a_label_is_refused_where_there_are_none() {
    with_taps(|lab| {
        let without = lab.dir().join("filesystems");
        std::fs::write(&without, "nodev\tproc\n\text4\n").unwrap();
        let mount =
            Command::new("mount").arg("--bind").arg(&without).arg("/proc/filesystems").status();
        assert!(mount.unwrap().success());
        let network = l2(lab, &json!({ "selinuxContext": "system_u:system_r:container_t:s0" }));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network
            .plugin
            .add(&a, "eth0", &network.config)
            .error(7)
            .mentions("selinuxContext")
            .mentions("SELinux");
        lab.assert_unchanged_since(&before);
        network.plugin.del(&a, "eth0", &network.config).success();
    });
}

#[rstest]
#[case(json!({ "owner": -1 }), 7, "owner")]
#[case(json!({ "multiQueue": "yes" }), 7, "multiQueue")]
#[case(json!({ "mac": "02:00" }), 7, "02:00")]
#[case(json!({ "mtu": 60 }), 5, "eth0")]
fn the_configuration_is_wrong(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    with_taps(|lab| {
        let network = tap(lab, &keys);
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).error(code).mentions(word);
        lab.assert_unchanged_since(&before);
        network.plugin.del(&a, "eth0", &network.config).success();
    });
}
