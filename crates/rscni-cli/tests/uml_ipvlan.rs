//! The plugin ipvlan, with packets.
//!
//! Run in User-Mode Linux, since many kernels lack its links: `cargo xtask test --only uml`.

mod container_link;
mod support;

use rscni_linux::RouteFilter;
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use container_link::{
    Assertion, Damage, add_address, assert_noticed, assert_talk_and_go, ip, lan, network,
};
use support::{Network, V4, V6, addresses, fixed, host_link, host_local};
/// A network on `lan0`, with addresses of both families.
fn ipvlan(lab: &Lab, keys: &Value) -> Network {
    network(lab, "ipvlan", &[V4, V6], &json!({ "master": "lan0" })).with(keys)
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
#[case::race(container_link::gives_a_name_once)]
#[case::check(container_link::notices_what_was_changed)]
#[case::handover(container_link::is_handed_over_from_and_to_the_go_plugin)]
#[case::announcement(container_link::tells_its_neighbours)]
#[case::duplicate(container_link::refuses_an_address_that_another_machine_has)]
fn it_does_what_every_link_does(#[case] assertion: Assertion) {
    rscni_test::run(|lab| {
        lan(lab);
        assertion(lab, &ipvlan(lab, &json!({})));
    });
}

#[rstest]
fn two_containers_talk(#[values("l2", "l3", "l3s")] mode: &str) {
    rscni_test::run(|lab| {
        lan(lab);
        let network = ipvlan(lab, &json!({ "mode": mode }));
        // Without ARP and NDP nobody asks for a gateway.
        assert_talk_and_go(lab, [&network, &network], &[true, false]);
    });
}

#[test]
fn containers_reach_machines_outside_with_the_hardware_address_of_the_master() {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        let a = ipvlan(lab, &json!({})).attach(lab, "a");
        assert_eq!(a.link().mac, host_link(lab, "lan0").mac);
        for (own, other) in [("10.1.0.1", a.v4()), ("fd01::1", a.v6())] {
            a.ping(own);
            outside.ping(other);
            lab.tcp(&outside, &a, other, 80);
        }
    });
}

#[test]
fn in_mode_l3_the_host_routes_to_networks_of_different_subnets() {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        let with = |address: &str| {
            let mut ipam = fixed(&[(address, "")]);
            ipam["routes"] = json!([{ "dst": "0.0.0.0/0", "scope": 253 }]);
            ipvlan(lab, &json!({ "mode": "l3", "ipam": ipam }))
        };
        let [a, b] = [("a", "10.7.0.2/24"), ("b", "10.8.0.2/24")]
            .map(|(name, ip)| with(ip).attach(lab, name));
        support::assert_talk(lab, &a, &b, true);
        // Outside they have to be told of.
        add_address(lab.host(), "lan0", "10.1.0.9/24");
        for subnet in ["10.7.0.0/24", "10.8.0.0/24"] {
            ip(&outside, &format!("route add {subnet} via 10.1.0.9"));
        }
        a.ping("10.1.0.1");
        outside.ping("10.8.0.2");
        a.check().success();
    });
}

#[test]
fn it_stands_on_the_interface_of_the_plugin_before_and_takes_its_addresses() {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        let previous = json!({
            "cniVersion": "1.1.0", "interfaces": [{ "name": "lan0" }],
            "ips": [{ "address": "10.1.0.7/24", "gateway": "10.1.0.1", "interface": 0 }],
            "routes": [{ "dst": "192.0.2.0/24" }],
        });
        let network = ipvlan(lab, &json!({ "master": null, "ipam": null, "prevResult": previous }));
        network.plugin.status(&network.with(&json!({ "prevResult": null })).config).success();
        let a = network.attach(lab, "a");
        assert_eq!(a.reply.interfaces(), ["eth0"]);
        assert_eq!(a.reply["ips"], previous["ips"]);
        assert_eq!(addresses(&a, "eth0"), ["10.1.0.7/24"]);
        outside.ping("10.1.0.7");
        a.check().success();
        let filter =
            RouteFilter { dst: Some("192.0.2.0/24".parse().unwrap()), ..RouteFilter::default() };
        assert_eq!(
            a.netlink().routes(filter).unwrap()[0].gateway,
            Some("10.1.0.1".parse().unwrap())
        );
        a.del().success();
        assert!(a.netlink().find_link("eth0").unwrap().is_none());

        let none =
            json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "lan0" }, { "name": "x" }] });
        for (keys, word) in [
            (json!({ "prevResult": none, "ipam": network.config["ipam"] }), "ipam"),
            (json!({ "prevResult": none, "ipam": host_local(&[V4]) }), "2 interfaces"),
            (json!({ "prevResult": null, "ipam": host_local(&[V4]) }), "default route"),
        ] {
            let bad = network.with(&keys);
            bad.plugin.add(&a, "eth0", &bad.config).error(7).mentions(word);
        }
    });
}

#[test]
fn the_mtu_is_that_of_the_master_or_another_one() {
    rscni_test::run(|lab| {
        lan(lab);
        ip(lab.host(), "link set lan0 mtu 1450");
        for (keys, mtu) in
            [(json!({}), 1450), (json!({ "mtu": 1400 }), 1400), (json!({ "mtu": 1480 }), 1480)]
        {
            let a = ipvlan(lab, &keys).attach(lab, &format!("a{mtu}"));
            assert_eq!(a.link().mtu, mtu);
            a.check().success();
            a.del().success();
        }
    });
}

#[test]
fn the_master_can_be_in_the_container() {
    rscni_test::run(|lab| {
        let below = Network::bridge(
            lab,
            &["10.9.0.0/24"],
            &json!({ "name": "below", "isDefaultGateway": true }),
        );
        let [a, b] = ["a", "b"].map(|name| below.attach(lab, name));
        for master in [json!("eth0"), json!(null)] {
            let network = ipvlan(lab, &json!({ "master": master, "linkInContainer": true }));
            let [c, d] = [&a, &b].map(|below| network.attach_as(below, "net1"));
            assert_eq!((c.link().peer_index, c.link().peer_netnsid), (Some(a.link().index), None));
            support::assert_talk(lab, &c, &d, true);
            for attached in [&c, &d] {
                attached.check().success();
                attached.del().success();
            }
        }
    });
}

const DAMAGES: &[Damage] = &[
    (|_, a| ip(a, "link set eth0 type ipvlan mode l3"), "mode l3"),
    (|lab, _| ip(lab.host(), "link del lan0"), "eth0 is missing"),
];

#[test]
fn check_notices_what_only_an_ipvlan_has() {
    for damage in DAMAGES {
        rscni_test::run(|lab| {
            lan(lab);
            assert_noticed(lab, &ipvlan(lab, &json!({})), std::slice::from_ref(damage));
        });
    }
}

#[rstest]
#[case(json!({ "mode": "l4" }), 7, "l3s")]
#[case(json!({ "mtu": -5 }), 7, "-5")]
#[case(json!({ "ipam": {} }), 7, "ipam")]
fn the_configuration_is_wrong(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        lan(lab);
        let network = ipvlan(lab, &keys);
        network.plugin.add(&lab.container("a"), "eth0", &network.config).error(code).mentions(word);
    });
}
