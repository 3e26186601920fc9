//! `useInterfaceNetwork`: the container gets the addresses, routes and rules that the device has on
//! the host.

use ipnet::IpNet;
use rscni_linux::{Route, RouteFilter, Rule};
use rscni_test::{Container, Lab, Namespace};
use rstest::rstest;
use serde_json::{Value, json};

use super::{
    MAC, assert_fails, device, found, host_link, network,
    returned::fall_back,
    snapshot,
    support::{self, Attached, Network, addresses, fixed, host_local},
};

const ADDRESSES: [&str; 3] = ["10.5.0.9/24", "10.6.0.9/24", "fd05::9/64"];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Routes of the device.
fn routes() -> Vec<Route> {
    let via = |dst: &str, gateway: &str, table| Route {
        gateway: gateway.parse().ok(),
        table: Some(table),
        ..Route::new(net(dst))
    };
    vec![
        Route { priority: Some(50), ..via("0.0.0.0/0", "10.5.0.1", 254) },
        Route {
            mtu: Some(1300),
            src: "10.5.0.9".parse().ok(),
            ..via("192.0.2.0/24", "10.5.0.1", 254)
        },
        Route { scope: Some(253), ..Route::new(net("198.51.100.0/24")) },
        // The router is on the link, in none of its subnets.
        Route { onlink: true, ..via("203.0.113.0/24", "198.18.0.1", 254) },
        Route { priority: Some(20), ..via("::/0", "fd05::1", 254) },
        via("192.0.2.0/24", "10.5.0.1", 100),
        via("2001:db8::/32", "fd05::1", 1000),
    ]
}

fn rules() -> [Rule; 2] {
    let rule = |src: &str, table, priority| Rule {
        priority: Some(priority),
        ..Rule::new(net(src), table)
    };
    [rule("10.5.0.9/32", 100, 1000), rule("fd05::/64", 1000, 1001)]
}

/// Creates the device with its routes and rules, and the network behind it.
fn routed_device(lab: &Lab) -> Container {
    let outside = device(lab);
    for (link, address) in
        [("peer", "fd05::1/64"), ("lo", "192.0.2.1/32"), ("lo", "2001:db8::1/128")]
    {
        support::add_address(&outside, link, address);
    }
    support::change(&mut outside.netlink(), "lo", &support::up(true));
    let mut host = lab.host().netlink();
    let index = host.link_by_name("dev0").unwrap().index;
    for route in routes() {
        host.add_route(&Route { oif: Some(index), ..route }).unwrap();
    }
    for rule in rules() {
        host.add_rule(&rule).unwrap();
    }
    // One rule is for another address, the other for a table without a route of the device.
    host.add_rule(&Rule::new(net("10.99.0.0/16"), 100)).unwrap();
    host.add_rule(&Rule::new(net("10.5.0.0/24"), 101)).unwrap();
    outside
}

fn lending(lab: &Lab, keys: &Value) -> Network {
    network(lab, &json!({ "useInterfaceNetwork": true, "ipam": null })).with(keys)
}

/// Returns the routes of an interface as text, without those of the kernel.
fn routes_of(namespace: &Namespace, link: &str) -> Vec<String> {
    let mut netlink = namespace.netlink();
    let index = netlink.link_by_name(link).unwrap().index;
    let filter = RouteFilter { oif: Some(index), ..RouteFilter::default() };
    let mut routes = netlink.routes(filter).unwrap();
    routes.retain(|route| route.protocol != Some(2));
    let show = |route: &Route| {
        let Route { dst, gateway, table, src, scope, priority, mtu, onlink, .. } = route;
        format!("{dst} {gateway:?} {table:?} {src:?} {scope:?} {priority:?} {mtu:?} {onlink}")
    };
    let mut routes: Vec<_> = routes.iter().map(show).collect();
    routes.sort();
    routes
}

#[track_caller]
fn assert_has_all(lab: &Lab, a: &Attached, expected: &[String]) {
    let present = addresses(a, &a.ifname);
    assert!(ADDRESSES.iter().all(|it| present.contains(&(*it).to_owned())), "{present:?}");
    assert_eq!(routes_of(a, &a.ifname), expected);
    let present = a.netlink().rules().unwrap();
    assert!(rules().iter().all(|rule| present.contains(rule)), "{present:?}");
    assert!(!present.iter().any(|rule| rule.src == net("10.99.0.0/16")), "{present:?}");
    for address in ["10.5.0.1", "fd05::1", "192.0.2.1", "2001:db8::1"] {
        a.ping(address);
    }
    assert!(host_link(lab, "dev0").is_none());
    a.check().success();
}

#[rstest]
fn addresses_and_routes_are_moved_and_returned(
    #[values("dev0", "net1")] ifname: &str,
    #[values("with_result", "without_result", "without_netns", "gc", "netns_gone")] how: &str,
) {
    rscni_test::run(|lab| {
        let outside = routed_device(lab);
        let before_container = snapshot(lab);
        let a = lab.container("a");
        let expected = routes_of(lab.host(), "dev0");
        assert_eq!(expected.len(), routes().len());
        let before = snapshot(lab);
        let a = lending(lab, &json!({})).attach_as(&a, ifname);
        assert_has_all(lab, &a, &expected);
        if how == "netns_gone" {
            fall_back(lab, &a, "dev7");
            a.del().success();
        } else {
            a.end(lab, how).success();
        }
        let before = if how == "netns_gone" { before_container } else { before };
        lab.assert_unchanged_since(&before.ignoring("sysctl net/ipv6/conf/lo/"));
        assert_eq!(routes_of(lab.host(), "dev0"), expected);
        outside.ping("10.5.0.9");
        lab.host().ping("2001:db8::1");
        a.del().success();
    });
}

#[test]
fn the_result_shows_addresses_and_routes() {
    rscni_test::run(|lab| {
        routed_device(lab);
        let a = lending(lab, &json!({})).attach(lab, "a");
        let ips = ADDRESSES.map(|address| json!({ "interface": 0, "address": address }));
        assert_eq!(a.reply["ips"], json!(ips));
        let mut routes: Vec<String> =
            a.reply["routes"].as_array().unwrap().iter().map(Value::to_string).collect();
        routes.sort();
        let expected = [
            r#"{"dst":"0.0.0.0/0","gw":"10.5.0.1","priority":50,"table":254}"#,
            r#"{"dst":"192.0.2.0/24","gw":"10.5.0.1","mtu":1300,"table":254}"#,
            r#"{"dst":"192.0.2.0/24","gw":"10.5.0.1","table":100}"#,
            r#"{"dst":"198.51.100.0/24","table":254,"scope":253}"#,
            r#"{"dst":"2001:db8::/32","gw":"fd05::1","priority":1024,"table":1000}"#,
            r#"{"dst":"203.0.113.0/24","gw":"198.18.0.1","table":254}"#,
            r#"{"dst":"::/0","gw":"fd05::1","priority":20,"table":254}"#,
        ];
        assert_eq!(routes, expected);
        let interface = json!({ "name": "eth0", "mac": MAC, "mtu": 1400, "sandbox": a.path() });
        assert_eq!(a.reply["interfaces"], json!([interface]));
    });
}

#[test]
fn ipam_can_add_to_it() {
    rscni_test::run(|lab| {
        let outside = routed_device(lab);
        let expected = routes_of(lab.host(), "dev0");
        let a = lab.container("a");
        let before = snapshot(lab);
        let ipam = json!({ "ipam": host_local(&["10.1.0.0/24"]) });
        let a = lending(lab, &ipam).attach_as(&a, "net1");
        assert_eq!(a.reply["ips"][0]["address"], "10.1.0.2/24");
        assert_eq!(a.reply["ips"].as_array().unwrap().len(), 4);
        assert_has_all(lab, &a, &expected);
        a.ping("10.1.0.1");
        outside.ping("10.1.0.2");
        a.del().success();
        lab.assert_unchanged_since(&before.ignoring("sysctl net/ipv6/conf/lo/"));
        // A result with routes only is enough.
        let ipam =
            json!({ "type": "static", "routes": [{ "dst": "10.77.0.0/16", "gw": "10.5.0.1" }] });
        let b = lending(lab, &json!({ "ipam": ipam })).attach(lab, "b");
        assert_eq!(b.reply["routes"][0], json!({ "dst": "10.77.0.0/16", "gw": "10.5.0.1" }));
        assert_eq!(routes_of(&b, "eth0").len(), expected.len() + 1);
        b.check().success();
        b.del().success();
    });
}

#[rstest]
#[case::no_ipam_plugin(json!({ "type": "nothing" }), 7, "nothing")]
#[case::route(
    json!({ "type": "static", "routes": [{ "dst": "192.0.2.0/24", "gw": "203.0.114.1" }] }), 5, "203.0.114.1"
)]
#[case::address_of_another_host(fixed(&[("fd01::1/64", "")]), 11, "fd01::1")]
fn a_failed_add_gives_everything_back(#[case] ipam: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        routed_device(lab);
        let a = lab.container("a");
        let mut host = lab.host().netlink();
        // Without a default route there is no route to the router of IPAM.
        let index = host.link_by_name("dev0").unwrap().index;
        let default = routes().swap_remove(0);
        host.del_route(&Route { oif: Some(index), ..default }).unwrap();
        let before = snapshot(lab);
        let network = lending(lab, &json!({ "ipam": ipam }));
        network.add(&a).error(code).mentions(word);
        lab.assert_unchanged_since(&before.ignoring("sysctl net/ipv6/conf/lo/"));
    });
}

#[test]
fn check_names_what_is_missing() {
    rscni_test::run(|lab| {
        routed_device(lab);
        let a = lending(lab, &json!({})).attach(lab, "a");
        let mut netlink = a.netlink();
        let index = a.link().index;
        let rule = &rules()[0];
        netlink.del_rule(rule).unwrap();
        a.check_misses("rule from 10.5.0.9/32 lookup 100");
        netlink.add_rule(rule).unwrap();
        let route = Route { oif: Some(index), ..routes().swap_remove(5) };
        netlink.del_route(&route).unwrap();
        a.check_misses("route to 192.0.2.0/24 via 10.5.0.1");
        netlink.add_route(&route).unwrap();
        a.check().success();
        netlink.del_address(index, net("10.6.0.9/24")).unwrap();
        a.check_misses("address 10.6.0.9/24");
    });
}

/// The Go plugin does the same: nothing in the container renews a lease, but routers advertise
/// again.
#[test]
fn expiring_ipv4_addresses_are_moved_but_not_ipv6_addresses() {
    rscni_test::run(|lab| {
        device(lab);
        for address in ["10.8.0.9/24", "fd08::9/64"] {
            let command =
                format!("address add {address} dev dev0 valid_lft 9000 preferred_lft 9000");
            support::ip(lab.host(), &command);
        }
        let a = lending(lab, &json!({})).attach(lab, "a");
        let expected = ["10.5.0.9/24", "10.6.0.9/24", "10.8.0.9/24", "fd05::9/64"];
        assert_eq!(addresses(&a, "eth0"), expected);
        assert_eq!(a.reply.ips(), expected.map(net));
        a.check().success();
        a.del().success();
        assert_eq!(addresses(lab.host(), "dev0"), expected);
    });
}

#[test]
fn a_rule_of_the_container_stays_there() {
    rscni_test::run(|lab| {
        routed_device(lab);
        let a = lab.container("a");
        a.netlink().add_rule(&rules()[0]).unwrap();
        let before = snapshot(lab);
        let a = lending(lab, &json!({})).attach_as(&a, "eth0");
        a.del().success();
        lab.assert_unchanged_since(&before.ignoring("sysctl net/ipv6/conf/lo/"));
    });
}

#[rstest]
#[case::by_configuration(json!({ "DPDKMode": true }))]
#[case::by_its_driver(json!({ "pciBusID": found::PCI }))]
fn a_dpdk_device_is_rejected(#[case] keys: Value) {
    rscni_test::run(|lab| {
        routed_device(lab);
        support::install(lab);
        found::sysfs(lab, "bus/pci/devices/0000:3b:00.1", Some("vfio-pci"));
        let network = lending(lab, &keys);
        assert_fails(lab, &network, &lab.container("a"), "net1", 7, "useInterfaceNetwork");
    });
}

#[rstest]
fn every_version_has_it(#[values("0.2.0", "0.4.0", "1.0.0", "1.1.0")] version: &str) {
    rscni_test::run(|lab| {
        routed_device(lab);
        let expected = routes_of(lab.host(), "dev0");
        let a = lending(lab, &json!({ "cniVersion": version })).attach(lab, "a");
        assert_eq!(routes_of(&a, "eth0"), expected);
        if version != "0.2.0" {
            assert_eq!(a.reply.ips(), ADDRESSES.map(net));
            a.check().success();
        }
        a.del().success();
        assert_eq!(routes_of(lab.host(), "dev0"), expected);
    });
}
