//! The plugin vlan, with packets.
//!
//! Run in User-Mode Linux, because many kernels lack its links: `cargo xtask test --only uml`.

mod container_link;
mod support;

use rscni_test::{Container, Lab};
use rstest::rstest;
use serde_json::{Value, json};

use container_link::{assert_noticed, assert_talk_and_del, lan, network, remac};
use support::{Network, add_address, host_link, ip};

/// A network in VLAN 100 of `lan0`, with addresses of both families.
fn vlan(lab: &Lab, keys: &Value) -> Network {
    network(lab, "vlan").with(&json!({ "vlanId": 100 })).with(keys)
}

/// Moves the addresses of the machine outside into a VLAN.
fn tag(outside: &Container, id: u16) {
    ip(outside, &format!("link add link lan0 name tagged type vlan id {id}"));
    ip(outside, "addr flush dev lan0");
    ip(outside, "link set tagged up");
    for address in ["10.1.0.1/24", "fd01::1/64"] {
        add_address(outside, "tagged", address);
    }
}

#[test]
fn a_container_reaches_only_machines_of_its_vlan() {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        let a = vlan(lab, &json!({})).attach(lab, "a");
        a.cannot_ping("10.1.0.1");
        tag(&outside, 100);
        for (own, other) in [("10.1.0.1", a.v4()), ("fd01::1", a.v6())] {
            a.ping(own);
            outside.ping(other);
            lab.tcp(&outside, &a, other, 80);
        }
        ip(&outside, "link del tagged");
        tag(&outside, 101);
        a.cannot_ping("10.1.0.1");
        assert_eq!(a.link().mac, host_link(lab, "lan0").mac);
    });
}

#[test]
fn two_containers_talk_over_two_ends_of_a_cable() {
    rscni_test::run(|lab| {
        ip(lab.host(), "link add one type veth peer name two");
        for link in ["one", "two"] {
            ip(lab.host(), &format!("link set {link} up"));
        }
        let [a, b] = ["one", "two"].map(|master| vlan(lab, &json!({ "master": master })));
        assert_talk_and_del(lab, [&a, &b], &[true, false]);
    });
}

#[test]
fn a_vlan_of_a_master_is_for_one_container() {
    rscni_test::run(|lab| {
        lan(lab);
        let network = vlan(lab, &json!({}));
        let a = network.attach(lab, "a");
        let b = lab.container("b");
        let before = support::snapshot(lab);
        network.add(&b).error(11).mentions("VLAN 100 of lan0 is in use");
        lab.assert_unchanged_since(&before);
        // The master's name on the host does not matter.
        ip(lab.host(), "link add eth0 type dummy");
        network.add(&b).error(11).mentions("VLAN 100 of lan0 is in use");
        a.del().success();
        network.attach_as(&b, "eth0").check().success();
    });
}

#[test]
fn check_notices_changes_of_a_vlan() {
    rscni_test::run(|lab| {
        lan(lab);
        let network = vlan(lab, &json!({}));
        assert_noticed(lab, &network, &[(remac, "02:00:00:00:00:99")]);
        let a = network.attach(lab, "a");
        let mac = a.link().mac.unwrap();
        for id in [101, 100] {
            ip(&a, "link del eth0");
            ip(
                lab.host(),
                &format!("link add link lan0 name x address {mac} netns a type vlan id {id}"),
            );
            ip(&a, "link set x name eth0");
            ip(&a, "link set eth0 up");
            if id == 101 {
                a.check_misses("VLAN 101");
            } else {
                // Now only the addresses are missing.
                a.check_misses("10.1.0.2/24");
            }
        }
        ip(lab.host(), "link add other type dummy");
        ip(lab.host(), "link set other up");
        ip(&a, "link del eth0");
        ip(
            lab.host(),
            &format!("link add link other name x address {mac} netns a type vlan id 100"),
        );
        ip(&a, "link set x name eth0");
        ip(&a, "link set eth0 up");
        a.check_misses("does not stand on lan0");
    });
}

#[rstest]
#[case(json!({ "master": null }), 7, "master")]
#[case(json!({ "vlanId": 4095 }), 7, "4094")]
#[case(json!({ "vlanId": -1 }), 7, "-1")]
#[case(json!({ "mtu": -5 }), 7, "-5")]
fn invalid_config_is_rejected(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        lan(lab);
        let network = vlan(lab, &keys);
        network.status().error(code).mentions(word);
        network.assert_add_fails(lab, &lab.container("a"), code, word);
    });
}

#[test]
fn a_master_that_is_down_is_reported() {
    rscni_test::run(|lab| {
        lan(lab);
        ip(lab.host(), "link set lan0 down");
        let network = vlan(lab, &json!({}));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.add(&a).error(5).mentions("eth0").mentions("ENETDOWN");
        lab.assert_unchanged_since(&before);
    });
}
