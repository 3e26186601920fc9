//! The macvlan plugin, with packets.

mod container_link;
mod support;

use rscni_linux::{MacvlanMode, Veth};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use container_link::{Damage, assert_noticed, assert_talk_and_del, lan, network, remac};
use support::{Attached, Network, V4, V6, add_address, host_link, host_local, ip};

/// A network on `lan0`, with addresses of both families.
fn macvlan(lab: &Lab, keys: &Value) -> Network {
    network(lab, "macvlan").with(keys)
}

/// The same without addresses.
fn l2(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "macvlan", &json!({ "master": "lan0" })).with(keys)
}

#[rstest]
#[case::v4(&[V4], &[true])]
#[case::v6(&[V6], &[false])]
#[case::dual(&[V4, V6], &[true, false])]
fn two_containers_talk(#[case] subnets: &[&str], #[case] families: &[bool]) {
    rscni_test::run(|lab| {
        lan(lab);
        let mut ipam = host_local(subnets);
        ipam["routes"] = json!([{ "dst": "2001:db8::/32", "gw": "fd01::1" }]);
        if !families.contains(&false) {
            ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
        }
        let network = macvlan(lab, &json!({ "ipam": ipam }));
        assert_talk_and_del(lab, [&network, &network], families);
    });
}

#[rstest]
#[case::bridge("bridge", true)]
#[case::private("private", false)]
#[case::vepa("vepa", false)]
fn the_mode_isolates_containers_of_a_master(#[case] mode: &str, #[case] talk: bool) {
    rscni_test::run(|lab| {
        lan(lab);
        let network = macvlan(lab, &json!({ "mode": mode }));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        for a in [&a, &b] {
            assert_eq!(a.link().macvlan.unwrap().mode.to_string(), mode);
            a.ping("10.1.0.1");
            a.check().success();
        }
        if talk {
            support::assert_talk(lab, &a, &b, true);
        } else {
            a.cannot_ping(b.v4());
            b.cannot_ping(a.v6());
        }
    });
}

#[test]
fn passthru_takes_the_master_and_its_hardware_address_for_one_container() {
    rscni_test::run(|lab| {
        lan(lab);
        let network = macvlan(lab, &json!({ "mode": "passthru" }));
        let a = network.attach(lab, "a");
        assert_eq!(a.link().mac, host_link(lab, "lan0").mac);
        a.ping("10.1.0.1");
        a.check().success();
        let b = lab.container("b");
        let before = support::snapshot(lab);
        network.add(&b).error(5).mentions("create macvlan eth0 (passthru) on lan0");
        lab.assert_unchanged_since(&before);
        a.del().success();
        network.attach_as(&b, "eth0").ping("10.1.0.1");
    });
}

#[test]
fn add_succeeds_without_a_carrier() {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        ip(&outside, "link set lan0 down");
        let a = macvlan(lab, &json!({})).attach(lab, "a");
        ip(&outside, "link set lan0 up");
        add_address(&outside, "lan0", "fd01::1/64");
        a.ping("10.1.0.1");
        a.ping("fd01::1");
        ip(lab.host(), "link set lan0 down");
        let b = macvlan(lab, &json!({})).attach(lab, "b");
        ip(lab.host(), "link set lan0 up");
        b.ping("fd01::1");
        b.check().success();
    });
}

#[rstest]
#[case::key(json!({ "mac": "02:00:00:00:00:01" }), "", "02:00:00:00:00:01")]
#[case::cni_args(json!({ "mac": "02:00:00:00:00:01" }), "MAC=02:00:00:00:00:02", "02:00:00:00:00:02")]
#[case::runtime(
    json!({ "mac": "02:00:00:00:00:01", "runtimeConfig": { "mac": "02:00:00:00:00:03" } }),
    "IgnoreUnknown=true;MAC=02:00:00:00:00:02;K8S=x",
    "02:00:00:00:00:03"
)]
fn the_hardware_address_can_be_chosen(#[case] keys: Value, #[case] args: &str, #[case] mac: &str) {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        let mut network = l2(lab, &keys);
        network.plugin = network.plugin.env("CNI_ARGS", args);
        let a = network.attach(lab, "a");
        assert_eq!(
            (a.reply["interfaces"][0]["mac"].as_str(), a.link().mac.unwrap().to_string()),
            (Some(mac), mac.into())
        );
        add_address(&a, "eth0", "10.1.0.9/24");
        outside.ping("10.1.0.9");
        a.check().success();
        remac(lab, &a);
        a.check_misses("02:00:00:00:00:99");
    });
}

#[test]
fn unknown_arguments_are_refused() {
    rscni_test::run(|lab| {
        lan(lab);
        let network = l2(lab, &json!({}));
        let plugin = network.plugin.clone().env("CNI_ARGS", "K8S=x");
        plugin.add(&lab.container("a"), "eth0", &network.config).error(4).mentions("K8S");
    });
}

#[test]
fn a_later_plugin_may_change_the_mtu_in_the_result() {
    rscni_test::run(|lab| {
        lan(lab);
        let a = l2(lab, &json!({ "mtu": 1400 })).attach(lab, "a");
        ip(&a, "link set eth0 mtu 1300");
        let mut config = a.config();
        a.check_misses("MTU 1300");
        config["prevResult"]["interfaces"][0]["mtu"] = 1300.into();
        a.network.plugin.check(&a, "eth0", &config).success();
    });
}

#[test]
fn the_length_of_the_queue_of_broadcasts_can_be_chosen() {
    rscni_test::run(|lab| {
        lan(lab);
        let a = l2(lab, &json!({ "bcqueuelen": 200 })).attach(lab, "a");
        assert_eq!(a.link().macvlan.unwrap().bcqueuelen, 200);
        a.check().success();
        ip(&a, "link set eth0 type macvlan bcqueuelen 300");
        a.check_misses("bcqueuelen 300");
        a.del().success();
        let b = l2(lab, &json!({ "bcqueuelen": 0 })).attach(lab, "b");
        assert_eq!(b.link().macvlan.unwrap().bcqueuelen, 1000);
    });
}

#[rstest]
#[case::v4("10.1.0.9/24", &["route add default via 10.1.0.1 dev lan0"])]
#[case::v6("fd01::9/64", &["route add default via fd01::1 dev lan0"])]
#[case::the_better_of_two("10.1.0.9/24", &[
    "route add default dev other metric 100",
    "route add default via 10.1.0.1 dev lan0 metric 50",
    "route add default dev other table 99",
])]
fn the_default_master_has_the_default_route(#[case] address: &str, #[case] routes: &[&str]) {
    rscni_test::run(|lab| {
        let outside = lan(lab);
        let network = macvlan(lab, &json!({ "master": null }));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.add(&a).error(7).mentions("default route").mentions("set master");
        network.status().error(50).mentions("default route");
        network.del(&a).success();
        lab.assert_unchanged_since(&before);

        lab.host().netlink().add_veth(&Veth { up: true, ..Veth::new("other", "peer") }).unwrap();
        ip(lab.host(), "link set peer up");
        add_address(lab.host(), "lan0", address);
        for route in routes {
            ip(lab.host(), route);
        }
        network.status().success();
        let a = network.attach_as(&a, "eth0");
        outside.ping(a.v4());
        outside.ping(a.v6());
        // It stays as it is when the default route changes.
        ip(lab.host(), "route flush default");
        a.check().success();
        a.del().success();
    });
}

#[test]
fn a_macvlan_can_be_the_master_of_another() {
    rscni_test::run(|lab| {
        lan(lab);
        ip(lab.host(), "link add link lan0 name mac0 type macvlan mode bridge");
        ip(lab.host(), "link set mac0 up");
        let a = macvlan(lab, &json!({ "master": "mac0" })).attach(lab, "a");
        a.ping("10.1.0.1");
        a.check().success();
        let inside =
            l2(lab, &json!({ "master": "eth0", "linkInContainer": true })).attach_as(&a, "net1");
        inside.check().success();
        inside.del().success();
        a.del().success();
    });
}

/// Changes that only a macvlan has.
const DAMAGES: &[Damage] = &[
    (remac, "02:00:00:00:00:99"),
    (|_, a| ip(a, "link set eth0 type macvlan mode private"), "mode private"),
    (|lab, _| ip(lab.host(), "link del lan0"), "eth0 is missing"),
];

#[test]
fn check_notices_changes_of_a_macvlan() {
    rscni_test::run(|lab| {
        lan(lab);
        assert_noticed(lab, &macvlan(lab, &json!({})), DAMAGES);
    });
}

#[test]
fn check_notices_another_master() {
    rscni_test::run(|lab| {
        lan(lab);
        let a = macvlan(lab, &json!({})).attach(lab, "a");
        let mac = a.link().mac.unwrap();
        ip(&a, "link del eth0");
        lab.host().netlink().add_veth(&Veth { up: true, ..Veth::new("other", "peer") }).unwrap();
        ip(
            lab.host(),
            &format!(
                "link add link other name eth0 address {mac} netns a type macvlan mode bridge"
            ),
        );
        ip(&a, "link set eth0 up");
        a.check_misses("does not stand on lan0");
        let config = a.network.with(&json!({ "master": "gone0" })).config;
        a.network.plugin.check(&a, "eth0", &a.reply.follow(&config)).error(100).mentions("gone0");
        // One of that index, but in the container.
        ip(&a, "link del eth0");
        let index = host_link(lab, "lan0").index;
        ip(&a, &format!("link add low index {index} type veth peer name low1"));
        ip(&a, &format!("link add link low name eth0 address {mac} type macvlan mode bridge"));
        ip(&a, "link set low up");
        ip(&a, "link set eth0 up");
        a.check_misses("does not stand on lan0");
    });
}

#[rstest]
#[case(json!({ "mode": "source" }), 7, "source")]
#[case(json!({ "mtu": -5 }), 7, "-5")]
#[case(json!({ "mtu": "large" }), 7, "mtu")]
#[case(json!({ "mac": "02:00:00:00:00" }), 7, "02:00:00:00:00")]
#[case(json!({ "master": "no/such" }), 7, "no/such")]
#[case(json!({ "mtu": 60 }), 5, "eth0")]
fn invalid_config_is_rejected(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        lan(lab);
        macvlan(lab, &keys).assert_add_fails(lab, &lab.container("a"), code, word);
    });
}

#[test]
fn many_containers_attach_and_detach_concurrently() {
    rscni_test::run(|lab| {
        lan(lab);
        let network = macvlan(lab, &json!({}));
        let before = support::snapshot(lab);
        let names: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
        let attached: Vec<Attached> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                names.iter().map(|name| scope.spawn(|| network.attach(lab, name))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an ADD")).collect()
        });
        attached[0].ping(attached[11].v6());
        assert!(attached.iter().all(|a| a.link().macvlan.unwrap().mode == MacvlanMode::Bridge));
        for a in &attached {
            a.check().success();
        }
        support::assert_del_restores(lab, &before, &attached.iter().collect::<Vec<_>>());
    });
}
