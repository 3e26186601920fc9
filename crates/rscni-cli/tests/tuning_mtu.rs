//! `mtu` of the tuning plugin also changes the host's end of the veth pair.

mod support;

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use rscni_linux::{LinkChange, Netns, Veth};
use rscni_test::{Lab, Namespace};
use rstest::rstest;
use serde_json::json;

use support::{Attached, Network, V4, V6, change, host_link, up};

fn attached(lab: &Lab, plugin: &str, name: &str) -> Attached {
    match plugin {
        "bridge" => Network::bridge(lab, &[V4, V6], &json!({})).attach(lab, name),
        _ => Network::ptp(lab, &[V4, V6], &json!({})).attach(lab, name),
    }
}

fn tuning(lab: &Lab, mtu: u32) -> Network {
    Network::new(lab, "tuning", &json!({ "mtu": mtu }))
}

/// Asserts that a UDP datagram of this size arrives.
#[track_caller]
fn assert_arrives(from: &Namespace, to: &Namespace, address: IpAddr, size: usize) {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let [sender, receiver] =
        [from, to].map(|namespace| namespace.run(|| UdpSocket::bind(any).unwrap()));
    receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let port = receiver.local_addr().unwrap().port();
    let what = format!("{size} bytes from {} at {address}", from.name());
    rscni_test::eventually(&what, || {
        // Sending may fail while the kernel learns the path MTU.
        sender.send_to(&vec![7; size], (address, port)).ok()?;
        let mut buffer = vec![0; 65536];
        receiver.recv(&mut buffer).ok().filter(|length| *length == size)
    });
}

/// Asserts that packets of any size pass in both directions.
#[track_caller]
fn assert_all_sizes_pass(lab: &Lab, a: &Attached) {
    for gateway in a.reply.gateways() {
        for size in [1200, 1280, 1350, 1440, 1480, 3000, 8900] {
            assert_arrives(a, lab.host(), gateway, size);
            assert_arrives(lab.host(), a, a.address(gateway.is_ipv4()), size);
        }
    }
}

#[rstest]
fn both_ends_get_the_mtu_and_get_back_their_own(
    #[values("bridge", "ptp")] plugin: &str,
    #[values(1300, 9000)] mtu: u32,
) {
    rscni_test::run(|lab| {
        let first = attached(lab, plugin, "a");
        let before = lab.snapshot();
        let a = tuning(lab, mtu).after(&first);
        let port = first.port_name();
        assert_eq!((a.link().mtu, host_link(lab, &port).mtu), (mtu, mtu));
        for interface in a.reply["interfaces"].as_array().unwrap() {
            assert_eq!(interface["mtu"], mtu, "{interface}");
        }
        assert_all_sizes_pass(lab, &a);
        a.check().success();
        first.network.plugin.check(&a, "eth0", &a.reply.follow(&first.network.config)).success();

        change(&mut lab.host().netlink(), &port, &mtu_of(mtu + 1));
        a.check_misses(&format!("{port}, the other end of the veth pair, has mtu {}", mtu + 1));
        a.del().success();
        lab.assert_unchanged_since(&before.ignoring("directory /run/cni"));
        assert_all_sizes_pass(lab, &first);
        a.del().success();
    });
}

fn mtu_of(mtu: u32) -> LinkChange<'static> {
    LinkChange { mtu: Some(mtu), ..LinkChange::default() }
}

#[test]
fn two_tuning_plugins_of_a_list_restore_both_ends() {
    rscni_test::run(|lab| {
        let first = attached(lab, "ptp", "a");
        let port = first.port_name();
        let one = tuning(lab, 1400).after(&first);
        let two = tuning(lab, 1300).after(&one);
        assert_eq!(host_link(lab, &port).mtu, 1300);
        two.del().success();
        one.del().success();
        assert_eq!((first.link().mtu, host_link(lab, &port).mtu), (1500, 1500));
    });
}

#[test]
fn del_after_an_interrupted_add_restores_both_ends() {
    rscni_test::run(|lab| {
        let first = attached(lab, "ptp", "a");
        let port = first.port_name();
        let a = tuning(lab, 1400).after(&first);
        // As if ADD had been killed between the two ends, or before the first.
        for ends in [[1400, 1500], [1500, 1500]] {
            change(&mut first.netlink(), "eth0", &mtu_of(ends[0]));
            change(&mut lab.host().netlink(), &port, &mtu_of(ends[1]));
            let file = std::fs::read("/run/cni/tuning/ctr-a_eth0.json").unwrap();
            a.del_without_result().success();
            assert_eq!((first.link().mtu, host_link(lab, &port).mtu), (1500, 1500));
            std::fs::write("/run/cni/tuning/ctr-a_eth0.json", file).unwrap();
        }
    });
}

#[test]
fn other_containers_on_the_bridge_still_reach_everything() {
    rscni_test::run(|lab| {
        let [first, other] = ["a", "b"].map(|name| attached(lab, "bridge", name));
        let a = tuning(lab, 1300).after(&first);
        // The bridge has the smallest MTU of its ports.
        assert_eq!((host_link(lab, "br0").mtu, other.link().mtu), (1300, 1500));
        assert_all_sizes_pass(lab, &other);
        support::assert_talk(lab, &a, &other, true);
        support::assert_talk(lab, &a, &other, false);
        a.del().success();
        assert_eq!(host_link(lab, "br0").mtu, 1500);
    });
}

#[rstest]
#[case::smaller(9000, "bridge br0 has the MTU 1500, eth0 now has 9000: larger packets from eth0")]
#[case::larger(1400, "bridge br0 has the MTU 1500, its port veth")]
fn a_bridge_with_another_mtu_is_reported(#[case] mtu: u32, #[case] warning: &str) {
    rscni_test::run(|lab| {
        let first = attached(lab, "bridge", "a");
        // A configured MTU does not follow the ports.
        change(&mut lab.host().netlink(), "br0", &mtu_of(1400));
        change(&mut lab.host().netlink(), "br0", &mtu_of(1500));
        let outcome = tuning(lab, mtu).call_after(&first);
        outcome.success();
        assert!(outcome.stderr().contains(warning), "{outcome}");
    });
}

#[test]
fn an_end_with_an_mtu_of_its_own_keeps_it() {
    rscni_test::run(|lab| {
        let first = attached(lab, "ptp", "a");
        let port = first.port_name();
        change(&mut lab.host().netlink(), &port, &mtu_of(1600));
        let outcome = tuning(lab, 1400).call_after(&first);
        outcome.success();
        let warning = format!("{port}, the other end of eth0, keeps its own MTU 1600");
        assert!(outcome.stderr().contains(&warning), "{outcome}");
        assert_eq!(host_link(lab, &port).mtu, 1600);
    });
}

#[test]
fn a_pair_inside_the_container_has_one_mtu() {
    rscni_test::run(|lab| {
        let first = attached(lab, "ptp", "a");
        first.netlink().add_veth(&Veth::new("x0", "x1")).unwrap();
        let tuning = tuning(lab, 1400);
        let config = first.reply.follow(&tuning.config);
        tuning.plugin.add(&first, "x0", &config).success();
        let mtus = || ["x0", "x1"].map(|name| first.netlink().link_by_name(name).unwrap().mtu);
        assert_eq!(mtus(), [1400, 1400]);
        tuning.plugin.check(&first, "x0", &config).success();
        tuning.plugin.del(&first, "x0", &config).success();
        assert_eq!(mtus(), [1500, 1500]);
    });
}

#[test]
fn an_interface_of_the_host_with_the_same_index_is_left_alone() {
    rscni_test::run(|lab| {
        // On the host and in three namespaces each pair has the indices 2 and 2.
        let [b, c, third] = ["b", "c", "third"].map(|name| lab.container(name));
        let pair = |from: &Namespace, to: &Namespace| {
            let netns = Netns::open(to.path()).unwrap();
            let veth = Veth { peer_netns: Some(&netns), ..Veth::new("x0", "x1") };
            from.netlink().add_veth(&veth).unwrap();
            change(&mut to.netlink(), "x1", &up(true));
        };
        pair(lab.host(), &b);
        pair(&c, &third);
        let ends = [(lab.host(), "x0"), (&*b, "x1"), (&*c, "x0"), (&*third, "x1")];
        let links =
            || ends.map(|(namespace, name)| namespace.netlink().link_by_name(name).unwrap());
        assert_eq!(links().map(|link| link.index), [2; 4]);

        let tuning = tuning(lab, 1400);
        let previous = json!({ "prevResult": { "cniVersion": "1.1.0", "interfaces": [] } });
        let outcome = tuning.plugin.add(&c, "x0", &tuning.with(&previous).config);
        outcome.success();
        assert!(outcome.stderr().contains("is in another network namespace"), "{outcome}");
        assert_eq!(links().map(|link| link.mtu), [1500, 1500, 1400, 1500]);
        tuning.plugin.del(&c, "x0", &tuning.config).success();
        assert_eq!(links().map(|link| link.mtu), [1500; 4]);
    });
}
