//! A device is moved into a container and back.

use rscni_linux::{AddressFlags, Bridge, LinkChange};
use rscni_test::Container;
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    MAC, assert_fails, bare, device, host_link, network, snapshot,
    support::{self, Network, V4, V6, addresses, change, fixed, host_local, up},
};

#[rstest]
fn a_device_is_moved_works_and_is_restored(
    #[values("dev0", "net1")] ifname: &str,
    #[values("with_result", "without_result", "without_netns")] how: &str,
) {
    rscni_test::run(|lab| {
        let net = device(lab);
        support::install(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = network(lab, &json!({})).attach_as(&a, ifname);
        assert!(host_link(lab, "dev0").is_none());
        for v4 in [true, false] {
            a.ping(if v4 { "10.1.0.1" } else { "fd01::1" });
            lab.tcp(&net, &a, a.address(v4), 8080);
            lab.udp(&net, &a, a.address(v4), 5353);
        }
        // The alias keeps the name on the host, like with the Go plugin.
        assert_eq!(a.link().alias.as_deref(), Some("dev0"));
        assert_eq!((a.link().mtu, a.link().mac.unwrap().to_string().as_str()), (1400, MAC));
        a.check().success();
        a.end(lab, how).success();
        lab.assert_unchanged_since(&before.ignoring("sysctl net/ipv6/conf/lo/"));
        net.ping("10.5.0.9");
        a.end(lab, how).success();
    });
}

#[test]
fn a_device_that_was_down_is_down_after_del() {
    rscni_test::run(|lab| {
        device(lab);
        change(&mut lab.host().netlink(), "dev0", &up(false));
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = bare(lab).attach_as(&a, "eth0");
        assert!(a.link().up);
        // Changes by the container are undone.
        let mut netlink = a.netlink();
        change(&mut netlink, "eth0", &up(false));
        let other =
            LinkChange { mtu: Some(1300), mac: "02:00:00:00:00:77".parse().ok(), ..up(true) };
        change(&mut netlink, "eth0", &other);
        a.del().success();
        lab.assert_unchanged_since(&before.ignoring("/run/rscni-test"));
    });
}

#[test]
fn the_result_has_only_the_interface() {
    rscni_test::run(|lab| {
        device(lab);
        let a = bare(lab).with(&json!({ "dns": { "nameservers": ["10.1.0.1"] } })).attach(lab, "a");
        let interface = json!({ "name": "eth0", "mac": MAC, "mtu": 1400, "sandbox": a.path() });
        let dns = json!({ "nameservers": ["10.1.0.1"] });
        assert_eq!(
            *a.reply.json(),
            json!({ "cniVersion": "1.1.0", "interfaces": [interface], "dns": dns })
        );
        assert_eq!(addresses(&a, "eth0"), Vec::<String>::new());
        a.check().success();
        a.del().success();
        assert_eq!(addresses(lab.host(), "dev0"), ["10.5.0.9/24", "10.6.0.9/24", "fd05::9/64"]);
    });
}

#[rstest]
#[case::no_ipam_plugin(json!({ "ipam": { "type": "nothing" } }), 7, "nothing")]
#[case::route(json!({ "ipam": { "type": "static", "addresses": [{ "address": "10.1.0.5/24" }],
    "routes": [{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }] } }), 5, "203.0.113.1")]
#[case::no_address(json!({ "ipam": { "type": "static" } }), 7, "no address")]
fn a_failed_add_restores_the_device(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        if word == "nothing" {
            let before = snapshot(lab);
            network(lab, &keys).add(&a).error(code).mentions(word);
            lab.assert_unchanged_since(&before);
        } else {
            assert_fails(lab, &network(lab, &keys), &a, "eth0", code, word);
        }
    });
}

#[test]
fn a_duplicate_address_is_declined() {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &json!({ "ipam": fixed(&[("fd01::1/64", "")]) }));
        assert_fails(lab, &network, &lab.container("a"), "eth0", 11, "fd01::1");
    });
}

#[test]
fn names_in_use_are_rejected() {
    rscni_test::run(|lab| {
        device(lab);
        let network = bare(lab);
        let a = lab.container("a");
        a.netlink().add_bridge(&Bridge::new("eth0")).unwrap();
        assert_fails(lab, &network, &a, "eth0", 4, "eth0");
        // The host's name is in use in the container, and the container's name on the host.
        a.netlink().add_bridge(&Bridge::new("dev0")).unwrap();
        lab.host().netlink().add_bridge(&Bridge::new("net1")).unwrap();
        let before = snapshot(lab);
        let attached = network.attach_as(&a, "net1");
        attached.check().success();
        attached.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_device_stays_in_use_until_its_name_is_free_on_the_host() {
    rscni_test::run(|lab| {
        device(lab);
        let before = lab.container("a");
        let network = network(lab, &json!({ "ipam": fixed(&[("10.1.0.5/24", "10.1.0.1")]) }));
        let snapshot = snapshot(lab);
        let a = network.attach_as(&before, "net1");
        let other = lab.host().netlink().add_bridge(&Bridge::new("dev0")).unwrap();
        a.del().error(11).mentions("dev0");
        a.ping("10.1.0.1");
        lab.host().netlink().del_link(other.index).unwrap();
        a.del().success();
        lab.assert_unchanged_since(&snapshot);
    });
}

#[rstest]
fn a_device_is_found_although_the_container_changed_it(
    #[values("renamed", "alias", "no_alias")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = bare(lab).attach_as(&a, "net1");
        let mut netlink = a.netlink();
        let alias = |text: &str| LinkChange { alias: Some(text.into()), ..LinkChange::default() };
        match how {
            "renamed" => {
                change(&mut netlink, "net1", &up(false));
                change(
                    &mut netlink,
                    "net1",
                    &LinkChange { name: Some("mine".into()), ..LinkChange::default() },
                );
                a.check_misses("net1");
            }
            "alias" => {
                change(&mut netlink, "net1", &alias("eth0"));
                a.check_misses("alias eth0, ADD left dev0");
            }
            _ => {
                change(&mut netlink, "net1", &alias(""));
                a.check_misses("alias");
            }
        }
        a.del_without_result().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn check_misses_what_was_changed() {
    rscni_test::run(|lab| {
        device(lab);
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
        let a = network(lab, &json!({ "ipam": ipam })).attach(lab, "a");
        a.check().success();
        let mut netlink = a.netlink();
        change(&mut netlink, "eth0", &up(false));
        a.check_misses("down");
        change(&mut netlink, "eth0", &up(true));
        a.check_misses("route to 192.0.2.0/24");
        let route = rscni_linux::Route {
            gateway: "10.1.0.1".parse().ok(),
            ..rscni_linux::Route::new("192.0.2.0/24".parse::<ipnet::IpNet>().unwrap())
        };
        netlink.add_route(&route).unwrap();
        a.check().success();
        let mac = |mac: &str| LinkChange { mac: mac.parse().ok(), ..LinkChange::default() };
        change(&mut netlink, "eth0", &mac("02:00:00:00:00:77"));
        a.check_misses("02:00:00:00:00:77");
        change(&mut netlink, "eth0", &mac(MAC));
        for address in a.reply.ips() {
            netlink.del_address(a.link().index, address).unwrap();
            a.check_misses(&format!("address {address}"));
            netlink
                .add_address(
                    a.link().index,
                    address,
                    AddressFlags { nodad: true, ..AddressFlags::default() },
                )
                .unwrap();
        }
        std::fs::remove_file("/var/lib/cni/networks/net/10.1.0.2").unwrap();
        a.check().failure();
        netlink.del_link(a.link().index).unwrap();
        a.check().failure();
    });
}

#[test]
fn an_interface_of_the_container_is_not_moved() {
    rscni_test::run(|lab| {
        device(lab);
        let network = bare(lab);
        let other = Network::bridge(lab, &[V4], &json!({ "name": "other" })).attach(lab, "a");
        network.del(&other).success();
        other.check().success();
        let b = lab.container("b");
        b.netlink()
            .add_bridge(&Bridge {
                alias: Some("rscni net2 ctr-b eth0".into()),
                ..Bridge::new("eth0")
            })
            .unwrap();
        network.del(&b).success();
        assert!(b.netlink().find_link("eth0").unwrap().is_some());
    });
}

#[test]
fn one_of_two_concurrent_calls_gets_the_device() {
    rscni_test::run(|lab| {
        device(lab);
        let network = bare(lab);
        let containers: Vec<Container> =
            (0..4).map(|number| lab.container(&format!("c{number}"))).collect();
        let before = snapshot(lab);
        let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
            let calls: Vec<_> =
                containers.iter().map(|c| scope.spawn(|| network.add(c).exit_code())).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
        for container in &containers {
            network.del(container).success();
        }
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn every_version_works(
    #[values("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &json!({ "cniVersion": version }));
        let a = network.attach(lab, "a");
        let interface = match version {
            "0.1.0" | "0.2.0" => Value::Null,
            "1.1.0" => json!([{ "name": "eth0", "mac": MAC, "mtu": 1400, "sandbox": a.path() }]),
            _ => json!([{ "name": "eth0", "mac": MAC, "sandbox": a.path() }]),
        };
        assert_eq!(a.reply.get("interfaces").unwrap_or(&Value::Null), &interface);
        assert_eq!(a.reply.ips().len(), 2);
        let (check, gc, status) = (a.check(), network.gc(&[&a]), network.status());
        if ["0.4.0", "1.0.0", "1.1.0"].contains(&version) {
            check.success();
        } else {
            check.error(1).mentions("0.4.0");
        }
        if version == "1.1.0" {
            gc.success();
            status.success();
        } else {
            gc.error(1);
            status.error(1);
        }
        a.del().success();
        a.del().success();
        assert!(host_link(lab, "dev0").unwrap().up);
    });
}

#[test]
fn status_asks_ipam_and_not_for_the_device() {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &json!({}));
        network.attach(lab, "a");
        network.status().success();
        let network = network.with(&json!({ "ipam": { "type": "host-local" } }));
        network.status().failure();
    });
}
