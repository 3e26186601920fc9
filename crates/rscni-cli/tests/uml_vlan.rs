//! The plugin vlan, with packets.
//!
//! Run in User-Mode Linux, since many kernels lack its links: `cargo xtask test --only uml`.

mod container_link;
mod support;

use rscni_test::{Container, Lab};
use rstest::rstest;
use serde_json::{Value, json};

use container_link::{
    Assertion, add_address, assert_noticed, assert_talk_and_go, ip, lan, network, remac,
};
use support::{Network, V4, V6, host_link};
/// A network in VLAN 100 of `lan0`, with addresses of both families.
fn vlan(lab: &Lab, keys: &Value) -> Network {
    network(lab, "vlan", &[V4, V6], &json!({ "master": "lan0", "vlanId": 100 })).with(keys)
}

/// The other end of the cable, where VLAN 100 has the addresses of the machine outside.
fn tag(outside: &Container, id: u16) {
    ip(outside, &format!("link add link lan0 name tagged type vlan id {id}"));
    ip(outside, "addr flush dev lan0");
    ip(outside, "link set tagged up");
    for address in ["10.1.0.1/24", "fd01::1/64"] {
        add_address(outside, "tagged", address);
    }
}

#[rstest]
#[case::versions(container_link::speaks_every_version)]
#[case::del(container_link::is_deleted_whatever_is_left_of_it)]
#[case::others(container_link::spares_what_belongs_to_others)]
#[case::names(container_link::does_not_mind_the_names_on_the_host)]
#[case::failure(container_link::leaves_nothing_when_it_fails)]
#[case::check_without_result(container_link::needs_the_result_for_check)]
#[case::gc(container_link::gives_back_addresses_with_gc)]
#[case::status(container_link::tells_whether_it_could_add)]
#[case::check(container_link::notices_what_was_changed)]
#[case::handover(container_link::is_handed_over_from_and_to_the_go_plugin)]
fn it_does_what_every_link_does(#[case] assertion: Assertion) {
    rscni_test::run(|lab| {
        lan(lab);
        assertion(lab, &vlan(lab, &json!({})));
    });
}

#[test]
fn a_container_talks_to_the_machines_of_its_vlan_and_to_no_others() {
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

#[rstest]
#[case::absent(json!(null))]
#[case::empty(json!({}))]
#[case::without_type(json!({ "type": "" }))]
fn without_ipam_the_link_is_only_set_up(#[case] ipam: Value) {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        tag(&outside, 100);
        let network = vlan(lab, &json!({ "ipam": ipam }));
        let before = support::snapshot(lab);
        let a = network.attach(lab, "a");
        assert!(
            a.reply.ips().is_empty() && a.reply["interfaces"][0]["name"] == "eth0",
            "{}",
            a.reply.json()
        );
        assert!(a.link().up && support::addresses(&a, "eth0").is_empty());
        a.check().success();
        network.plugin.status(&network.config).success();
        network.gc(&[&a]).success();
        add_address(&a, "eth0", "10.1.0.9/24");
        a.ping("10.1.0.1");
        a.del().success();
        a.del().success();
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
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
        assert_talk_and_go(lab, [&a, &b], &[true, false]);
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
        network
            .plugin
            .add(&b, "eth0", &network.config)
            .error(11)
            .mentions("VLAN 100 of lan0 is in use");
        lab.assert_unchanged_since(&before);
        // The master's name on the host does not matter.
        ip(lab.host(), "link add eth0 type dummy");
        network
            .plugin
            .add(&b, "eth0", &network.config)
            .error(11)
            .mentions("VLAN 100 of lan0 is in use");
        a.del().success();
        network.attach_as(&b, "eth0").check().success();
    });
}

#[test]
fn the_mtu_is_that_of_the_master_or_a_smaller_one() {
    rscni_test::run(|lab| {
        lan(lab);
        ip(lab.host(), "link set lan0 mtu 1450");
        for (keys, mtu) in
            [(json!({}), 1450), (json!({ "mtu": 1450 }), 1450), (json!({ "mtu": 1400 }), 1400)]
        {
            let a =
                vlan(lab, &keys).attach(lab, &format!("a{}{mtu}", keys.as_object().unwrap().len()));
            assert_eq!(a.link().mtu, mtu);
            a.check().success();
            a.del().success();
        }
        let network = vlan(lab, &json!({ "mtu": 1451 }));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).error(7).mentions("1451").mentions("1450");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn the_master_can_be_in_the_container() {
    rscni_test::run(|lab| {
        let below = Network::bridge(lab, &["10.9.0.0/24"], &json!({ "name": "below" }));
        let [a, b] = ["a", "b"].map(|name| below.attach(lab, name));
        let network = vlan(lab, &json!({ "master": "eth0", "linkInContainer": true }));
        let [c, d] = [&a, &b].map(|below| network.attach_as(below, "net1"));
        support::assert_talk(lab, &c, &d, true);
        c.check().success();
        d.del().success();
        c.cannot_ping(d.v4());
    });
}

#[test]
fn neighbours_learn_of_it() {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        // What the machine outside calls lan0 is in the VLAN.
        ip(&outside, "link set lan0 down");
        ip(&outside, "link set lan0 name cable");
        ip(&outside, "link set cable up");
        tag_as_lan0(&outside);
        container_link::tells_its_neighbours(lab, &vlan(lab, &json!({})));
    });
}

#[test]
fn an_address_that_another_machine_has_is_refused() {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        ip(&outside, "link set lan0 down");
        ip(&outside, "link set lan0 name cable");
        ip(&outside, "link set cable up");
        tag_as_lan0(&outside);
        container_link::refuses_an_address_that_another_machine_has(lab, &vlan(lab, &json!({})));
    });
}

fn tag_as_lan0(outside: &Container) {
    ip(outside, "addr flush dev cable");
    ip(outside, "link add link cable name lan0 type vlan id 100");
    ip(outside, "link set lan0 up");
    for address in ["10.1.0.1/24", "fd01::1/64"] {
        add_address(outside, "lan0", address);
    }
}

#[test]
fn check_notices_what_only_a_vlan_has() {
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
                // Now only what was on the link is gone.
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
fn the_configuration_is_wrong(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        lan(lab);
        let network = vlan(lab, &keys);
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).error(code).mentions(word);
        network.plugin.status(&network.config).error(code).mentions(word);
        lab.assert_unchanged_since(&before);
        network.plugin.del(&a, "eth0", &network.config).success();
    });
}

#[test]
fn a_master_that_is_down_is_said_to_be_so() {
    rscni_test::run(|lab| {
        lan(lab);
        ip(lab.host(), "link set lan0 down");
        let network = vlan(lab, &json!({}));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network
            .plugin
            .add(&a, "eth0", &network.config)
            .error(5)
            .mentions("eth0")
            .mentions("ENETDOWN");
        lab.assert_unchanged_since(&before);
    });
}
