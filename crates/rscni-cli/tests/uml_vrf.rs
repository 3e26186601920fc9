//! The vrf plugin after bridge, with packets.
//!
//! Run in User-Mode Linux, because many kernels lack VRFs: `cargo xtask test --only uml`.

mod support;

use std::{path::Path, time::Duration};

use rscni_linux::{AddressFlags, Bridge, LinkChange, Route, RouteFilter, Rule, Vrf};
use rscni_test::{Container, Lab};
use rstest::rstest;
use serde_json::{Value, json};

use support::{Attached, Network, addresses, change, fixed, up};

const V4: &str = "10.1.0.2";
const V6: &str = "fd01::2";

/// Attaches a router to the network and bridge NAME. All these networks have the same subnets.
fn router(lab: &Lab, name: &str) -> Attached {
    let ipam = fixed(&[
        ("10.1.0.1/24", ""),
        ("fd01::1/64", ""),
        ("192.0.2.1/32", ""),
        ("2001:db8::1/128", ""),
    ]);
    bridge(lab, name, &ipam, "1.1.0").attach(lab, name)
}

fn bridge(lab: &Lab, name: &str, ipam: &Value, version: &str) -> Network {
    Network::new(
        lab,
        "bridge",
        &json!({ "cniVersion": version, "name": name, "bridge": name, "ipam": ipam }),
    )
}

/// Attaches the container to that network as `NAME1`, without vrf.
fn attach(lab: &Lab, container: &Container, name: &str, version: &str) -> Attached {
    let mut ipam = fixed(&[("10.1.0.2/24", "10.1.0.1"), ("fd01::2/64", "fd01::1")]);
    ipam["routes"] =
        json!([{ "dst": "192.0.2.0/24" }, { "dst": "2001:db8::/32", "gw": "fd01::1" }]);
    bridge(lab, name, &ipam, version).attach_as(container, &format!("{name}1"))
}

fn vrf(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "vrf", keys)
}

/// Calls vrf after the interface plugin.
#[track_caller]
fn chained(before: &Attached, network: &Network) -> Attached {
    network.after(before)
}

/// Returns the routes of an interface in a table as `DESTINATION GATEWAY`.
fn routes(a: &Attached, table: u32) -> Vec<String> {
    let filter =
        RouteFilter { table: Some(table), oif: Some(a.link().index), ..RouteFilter::default() };
    let routes = a.netlink().routes(filter).unwrap();
    let beyond = routes.into_iter().filter(|route| {
        let is_own = route.dst.prefix_len() == route.dst.max_prefix_len()
            || route.dst.to_string() == "ff00::/8";
        !is_own && route.dst.to_string() != "fe80::/64"
    });
    let mut routes: Vec<String> = beyond
        .map(|route| {
            format!("{} {}", route.dst, route.gateway.map_or_else(String::new, |g| g.to_string()))
        })
        .collect();
    routes.sort();
    routes
}

const ROUTES: [&str; 4] =
    ["10.1.0.0/24 ", "192.0.2.0/24 10.1.0.1", "2001:db8::/32 fd01::1", "fd01::/64 "];

fn table(a: &Attached, name: &str) -> Option<u32> {
    a.netlink().find_link(name).unwrap().and_then(|link| link.vrf_table)
}

#[test]
fn two_networks_with_the_same_addresses_do_not_conflict() {
    rscni_test::run(|lab| {
        let [red, blue] = ["red", "blue"].map(|name| router(lab, name));
        let a = lab.container("a");
        let [red1, blue1] = ["red", "blue"].map(|name| attach(lab, &a, name, "1.1.0"));
        // The main table has one route to the subnet.
        let reached =
            || [&red, &blue].map(|router| router.try_ping(V4, Duration::from_secs(1)).is_ok());
        rscni_test::eventually("one of them reaches it", || {
            reached().contains(&true).then_some(())
        });
        let reached = reached();
        assert_ne!(reached, [true, true]);

        let red1 = chained(&red1, &vrf(lab, &json!({ "vrfname": "red" })));
        let blue1 = chained(&blue1, &vrf(lab, &json!({ "vrfname": "blue" })));
        // This sysctl lets servers answer in every VRF.
        a.run(|| std::fs::write("/proc/sys/net/ipv4/tcp_l3mdev_accept", "1").unwrap());
        for router in [&red, &blue] {
            for address in [V4, V6] {
                router.ping(address);
                lab.tcp(router, &a, address, 8080);
            }
        }
        // Addresses beyond the router are reachable by the routes of the VRF.
        for router in [&red, &blue] {
            let mut netlink = router.netlink();
            let index = router.link().index;
            for (destination, source) in
                [("10.1.0.2/32", "192.0.2.1"), ("fd01::2/128", "2001:db8::1")]
            {
                let dst: ipnet::IpNet = destination.parse().unwrap();
                let route = Route { oif: Some(index), src: source.parse().ok(), ..Route::new(dst) };
                netlink.add_route(&route).unwrap();
                router.ping(dst.addr());
            }
        }
        for attached in [&red1, &blue1] {
            attached.check().success();
            attached.del().success();
        }
        assert_eq!((table(&red1, "red"), table(&blue1, "blue")), (None, None));
    });
}

#[test]
fn addresses_and_routes_are_in_the_table_of_the_vrf() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let before = attach(lab, &lab.container("a"), "red", "1.1.0");
        let mut netlink = before.netlink();
        let oif = Some(before.link().index);
        // A route to a router outside of the subnets, and a route of another plugin in another
        // table.
        let router: ipnet::IpNet = "203.0.113.1/32".parse().unwrap();
        netlink.add_route(&Route { oif, ..Route::new(router) }).unwrap();
        let beyond: ipnet::IpNet = "198.51.100.0/24".parse().unwrap();
        netlink
            .add_route(&Route {
                oif,
                gateway: Some(router.addr()),
                mtu: Some(1300),
                ..Route::new(beyond)
            })
            .unwrap();
        netlink
            .add_route(&Route {
                table: Some(77),
                ..Route::default_via("10.1.0.1".parse().unwrap())
            })
            .unwrap();
        let expected: Vec<String> = ROUTES.iter().map(ToString::to_string).collect();
        let mut all = [expected, vec!["198.51.100.0/24 203.0.113.1".to_owned()]].concat();
        all.sort();
        assert_eq!(routes(&before, 254), all);

        let a = chained(&before, &vrf(lab, &json!({ "vrfname": "red", "table": 1000 })));
        assert_eq!(a.reply, before.reply);
        assert_eq!(table(&a, "red"), Some(1000));
        assert_eq!(routes(&a, 1000), all);
        assert_eq!(routes(&a, 254), Vec::<String>::new());
        assert_eq!(routes(&a, 77), ["0.0.0.0/0 10.1.0.1"]);
        let filter = RouteFilter { table: Some(1000), dst: Some(beyond), ..RouteFilter::default() };
        assert_eq!(netlink.routes(filter).unwrap()[0].mtu, Some(1300));
        assert_eq!(addresses(&a, "red1"), ["10.1.0.2/24", "fd01::2/64"]);
        a.check().success();
        before.check().success();
    });
}

#[test]
fn ipv6_addresses_are_restored_after_the_kernel_removed_them() {
    rscni_test::run(|lab| {
        let red = router(lab, "red");
        let before = attach(lab, &lab.container("a"), "red", "1.1.0");
        before
            .run(|| std::fs::write("/proc/sys/net/ipv6/conf/red1/keep_addr_on_down", "0").unwrap());
        let a = chained(&before, &vrf(lab, &json!({ "vrfname": "red" })));
        assert_eq!(addresses(&a, "red1"), ["10.1.0.2/24", "fd01::2/64"]);
        red.ping(V6);
        a.check().success();
    });
}

#[test]
fn an_unused_table_is_chosen() {
    rscni_test::run(|lab| {
        for name in ["red", "blue", "green"] {
            router(lab, name);
        }
        let a = lab.container("a");
        let [red, blue, green] =
            ["red", "blue", "green"].map(|name| attach(lab, &a, name, "1.1.0"));
        let mut netlink = a.netlink();
        netlink.add_rule(&Rule::new("203.0.113.0/24".parse::<ipnet::IpNet>().unwrap(), 2)).unwrap();
        netlink.add_link(&Vrf::new("other", 1)).unwrap();
        let red = chained(&red, &vrf(lab, &json!({ "vrfname": "red" })));
        assert_eq!(table(&red, "red"), Some(3));
        // An existing VRF is used, with or without its table in the configuration.
        chained(&blue, &vrf(lab, &json!({ "vrfname": "red", "table": 3 })));
        let green = chained(&green, &vrf(lab, &json!({ "vrfname": "red" })));
        assert_eq!(green.link().master, Some(netlink.link_by_name("red").unwrap().index));
        assert_eq!(red.link().master, green.link().master);
    });
}

/// Asserts that ADD fails and changes nothing.
#[track_caller]
fn assert_fails(lab: &Lab, before: &Attached, network: &Network, code: u64, word: &str) {
    let snapshot = support::snapshot(lab);
    network.call_after(before).error(code).mentions(word);
    lab.assert_unchanged_since(&snapshot);
}

#[test]
fn add_rolls_back_when_it_fails() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let before = attach(lab, &lab.container("a"), "red", "1.1.0");
        let mut netlink = before.netlink();
        // The kernel's rule for VRFs stays after the first one.
        let first = netlink.add_link(&Vrf::new("first", 500)).unwrap();
        assert_fails(
            lab,
            &before,
            &vrf(lab, &json!({ "vrfname": "first", "table": 501 })),
            7,
            "table 500",
        );
        netlink.del_link(first.index).unwrap();
        netlink.add_bridge(&Bridge::new("none")).unwrap();
        assert_fails(lab, &before, &vrf(lab, &json!({ "vrfname": "none" })), 7, "not a VRF");
        assert_fails(lab, &before, &vrf(lab, &json!({})), 7, "vrfname");
        let gone = Attached {
            ifname: "gone".into(),
            container: before.container.clone(),
            network: before.network.clone(),
            reply: before.reply.clone(),
        };
        assert_fails(lab, &gone, &vrf(lab, &json!({ "vrfname": "red" })), 5, "gone");
        let index = netlink.add_bridge(&Bridge::new("br0")).unwrap().index;
        change(&mut netlink, "red1", &LinkChange { master: Some(index), ..LinkChange::default() });
        assert_fails(lab, &before, &vrf(lab, &json!({ "vrfname": "blue" })), 7, "br0");
    });
}

#[test]
fn an_interface_leaves_the_vrf_if_its_routes_cannot_be_restored() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let before = attach(lab, &lab.container("a"), "red", "1.1.0");
        let mut netlink = before.netlink();
        // The kernel's rule for VRFs stays after the first one.
        let first = netlink.add_link(&Vrf::new("first", 500)).unwrap();
        netlink.del_link(first.index).unwrap();
        // The source is an address of another interface, which is not in the VRF.
        let other = netlink.add_bridge(&Bridge { up: true, ..Bridge::new("br0") }).unwrap().index;
        let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
        netlink.add_address(other, "fd07::7/64".parse().unwrap(), nodad).unwrap();
        let beyond: ipnet::IpNet = "2001:db8:7::/48".parse().unwrap();
        let route = Route {
            gateway: "fd01::1".parse().ok(),
            src: "fd07::7".parse().ok(),
            ..Route::new(beyond)
        };
        netlink.add_route(&route).unwrap();
        assert_fails(lab, &before, &vrf(lab, &json!({ "vrfname": "red" })), 5, "2001:db8:7::/48");
        before.check().success();
    });
}

#[rstest]
fn del_is_clean(#[values("with_result", "without_result", "released", "gone")] how: &str) {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        for name in ["red", "blue"] {
            router(lab, name);
        }
        let [red, blue] = ["red", "blue"].map(|name| attach(lab, &a, name, "1.1.0"));
        let network = vrf(lab, &json!({ "vrfname": "both" }));
        let (red, blue) = (chained(&red, &network), chained(&blue, &network));
        let mut netlink = a.netlink();
        match how {
            "with_result" => red.del().success(),
            "without_result" => red.del_without_result().success(),
            "released" => {
                change(
                    &mut netlink,
                    "red1",
                    &LinkChange { master: Some(0), ..LinkChange::default() },
                );
                red.del().success()
            }
            _ => {
                netlink.del_link(red.link().index).unwrap();
                red.del().success()
            }
        };
        if how != "gone" {
            assert_eq!(red.link().master, None);
        }
        blue.check().success();
        red.del().success();
        blue.del_without_netns().success();
        blue.check().success();
        blue.del().success();
        assert_eq!(table(&blue, "both"), None);
        blue.del().success();
        lab.remove_namespace(&a);
        blue.del().success();
    });
}

#[test]
fn del_leaves_interfaces_of_others_alone() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let red = attach(lab, &lab.container("a"), "red", "1.1.0");
        let mut netlink = red.netlink();
        let index = netlink.add_bridge(&Bridge::new("br0")).unwrap().index;
        change(&mut netlink, "red1", &LinkChange { master: Some(index), ..LinkChange::default() });
        for keys in [json!({ "vrfname": "br0" }), json!({ "vrfname": "other" })] {
            let network = vrf(lab, &keys);
            network.plugin.del(&red, "red1", &network.config).success();
            assert_eq!(red.link().master, Some(index));
        }
    });
}

#[test]
fn check_misses_what_was_changed() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let before = attach(lab, &lab.container("a"), "red", "1.1.0");
        let a = chained(&before, &vrf(lab, &json!({ "vrfname": "red", "table": 10 })));
        let mut netlink = a.netlink();
        a.check().success();
        for destination in ["192.0.2.0/24", "2001:db8::/32"] {
            let filter = RouteFilter { dst: destination.parse().ok(), ..RouteFilter::default() };
            let route = netlink.routes(filter).unwrap().remove(0);
            netlink.del_route(&route).unwrap();
            a.check_misses(&format!("route to {destination}"));
            // It has no effect in the main table.
            netlink.add_route(&Route { table: None, ..route.clone() }).ok();
            a.check_misses(&format!("route to {destination}"));
            netlink.del_route(&Route { table: None, ..route.clone() }).ok();
            netlink.add_route(&route).unwrap();
        }
        a.check().success();
        netlink.del_address(a.link().index, "fd01::2/64".parse().unwrap()).unwrap();
        a.check_misses("address fd01::2/64");
        let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
        netlink.add_address(a.link().index, "fd01::2/64".parse().unwrap(), nodad).unwrap();
        a.check().success();
        change(&mut netlink, "red", &up(false));
        a.check_misses("VRF red in /run/netns/a is down");
        change(&mut netlink, "red", &up(true));
        change(&mut netlink, "red1", &LinkChange { master: Some(0), ..LinkChange::default() });
        a.check_misses("does not belong to VRF red");
        let index = netlink.link_by_name("red").unwrap().index;
        netlink.del_link(index).unwrap();
        a.check_misses("VRF red is missing");
        netlink.add_link(&Vrf { up: true, ..Vrf::new("red", 11) }).unwrap();
        a.check_misses("table 11, ADD left 10");
    });
}

#[test]
fn sbr_after_vrf_uses_the_table_of_the_vrf() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let a = chained(
            &attach(lab, &lab.container("a"), "red", "1.1.0"),
            &vrf(lab, &json!({ "vrfname": "red" })),
        );
        let number = table(&a, "red").unwrap();
        let sbr = Network::new(lab, "sbr", &json!({}));
        let before = lab.snapshot();
        let config = a.reply.follow(&sbr.config);
        sbr.plugin
            .add(&a, &a.ifname, &config)
            .error(7)
            .mentions("VRF red")
            .mentions(&number.to_string());
        lab.assert_unchanged_since(&before);
        let b = chained(&a, &sbr.with(&json!({ "table": number })));
        let rules = b.netlink().rules().unwrap();
        assert!(
            rules
                .iter()
                .any(|rule| rule.src.to_string() == format!("{V4}/32") && rule.table == number),
            "{rules:?}"
        );
        b.check().success();
        b.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn it_must_be_chained() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let before = attach(lab, &lab.container("a"), "red", "1.1.0");
        let network = vrf(lab, &json!({ "vrfname": "red" }));
        network.plugin.add(&before, "red1", &network.config).error(7).mentions("prevResult");
        network.plugin.check(&before, "red1", &network.config).error(7).mentions("prevResult");
        network.status().success();
        let unnamed = vrf(lab, &json!({}));
        unnamed.status().error(7).mentions("vrfname");
        lab.remove_namespace(&before);
        network
            .plugin
            .add(&before, "red1", &before.reply.follow(&network.config))
            .error(8)
            .mentions("/run/netns/a");
    });
}

#[test]
fn every_version_works() {
    rscni_test::run(|lab| {
        router(lab, "red");
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let before = attach(lab, &lab.container(&format!("a{version}")), "red", version);
            let a =
                chained(&before, &vrf(lab, &json!({ "cniVersion": version, "vrfname": "red" })));
            assert_eq!(a.reply, before.reply);
            assert_eq!(routes(&a, 1), ROUTES, "{version}");
            let outcomes = [a.check(), a.network.gc(&[&a]), a.network.status()];
            for (outcome, since) in outcomes.iter().zip(["0.4.0", "1.1.0", "1.1.0"]) {
                if version >= since {
                    outcome.success();
                } else {
                    outcome.error(1);
                }
            }
            a.del().success();
            before.del().success();
        }
    });
}

#[test]
fn attachments_are_handed_over_from_and_to_the_go_plugin() {
    rscni_test::run(|lab| {
        router(lab, "red");
        let a = lab.container("a");
        let ours = vrf(lab, &json!({ "cniVersion": "1.0.0", "vrfname": "red" }));
        let go = ours.with_go(lab);
        // Debian's release loses the routes.
        let addresses = fixed(&[("10.1.0.2/24", "10.1.0.1"), ("fd01::2/64", "fd01::1")]);
        let network = bridge(lab, "red", &addresses, "1.0.0");
        for (first, second) in [(&go, &ours), (&ours, &go)] {
            let before = network.attach_as(&a, "red1");
            let added = chained(&before, first);
            assert_eq!(routes(&added, 1), ["10.1.0.0/24 ", "fd01::/64 "]);
            second.plugin.check(&a, "red1", &added.config()).success();
            second.plugin.del(&a, "red1", &added.config()).success();
            assert_eq!((table(&added, "red"), added.link().master), (None, None));
            before.del().success();
        }
    });
}
