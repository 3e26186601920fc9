//! The plugin ipvlan, with packets.
//!
//! Run in User-Mode Linux, because many kernels lack its links: `cargo xtask test --only uml`.

mod container_link;
mod support;

use rscni_linux::RouteFilter;
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use container_link::{Damage, assert_noticed, assert_talk_and_del, lan, network};
use support::{Network, V4, add_address, addresses, fixed, host_link, host_local, ip};

/// A network on `lan0`, with addresses of both families.
fn ipvlan(lab: &Lab, keys: &Value) -> Network {
    network(lab, "ipvlan").with(keys)
}

#[rstest]
fn two_containers_talk(#[values("l2", "l3", "l3s")] mode: &str) {
    rscni_test::run(|lab| {
        lan(lab);
        let network = ipvlan(lab, &json!({ "mode": mode }));
        // In these modes there is no ARP and NDP, so a gateway is not needed.
        assert_talk_and_del(lab, [&network, &network], &[true, false]);
    });
}

#[test]
fn the_hardware_address_is_that_of_the_master() {
    rscni_test::run(|lab| {
        lan(lab);
        let a = ipvlan(lab, &json!({})).attach(lab, "a");
        assert_eq!(a.link().mac, host_link(lab, "lan0").mac);
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
        // The machine outside needs routes to these subnets.
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
fn the_master_and_the_addresses_come_from_the_previous_plugin() {
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
            bad.add(&a).error(7).mentions(word);
        }
    });
}

#[test]
fn the_mtu_can_be_larger_than_that_of_the_master() {
    rscni_test::run(|lab| {
        lan(lab);
        ip(lab.host(), "link set lan0 mtu 1450");
        let a = ipvlan(lab, &json!({ "mtu": 1480 })).attach(lab, "a");
        assert_eq!(a.link().mtu, 1480);
        a.check().success();
        a.del().success();
    });
}

const DAMAGES: &[Damage] = &[
    (|_, a| ip(a, "link set eth0 type ipvlan mode l3"), "mode l3"),
    (|lab, _| ip(lab.host(), "link del lan0"), "eth0 is missing"),
];

#[test]
fn check_notices_changes_of_an_ipvlan() {
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
fn invalid_config_is_rejected(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        lan(lab);
        ipvlan(lab, &keys).assert_add_fails(lab, &lab.container("a"), code, word);
    });
}
