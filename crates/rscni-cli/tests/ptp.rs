//! The ptp plugin, with packets.

mod support;

use rscni_linux::{RouteFilter, Veth};
use rstest::rstest;
use serde_json::{Value, json};

use support::{Attached, Network, V4, V6, addresses, assert_talk, fixed, host_link, host_local};

#[rstest]
#[case::v4(&[V4])]
#[case::v6(&[V6])]
#[case::dual(&[V4, V6])]
fn two_containers_talk_by_way_of_the_host(#[case] subnets: &[&str]) {
    rscni_test::run(|lab| {
        support::install(lab);
        let before = support::snapshot(lab);
        let network = Network::ptp(lab, subnets, &json!({}));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        for v4 in subnets.iter().map(|subnet| subnet.contains('.')) {
            assert_talk(lab, &a, &b, v4);
            a.ping(a.reply.gateways().into_iter().find(|gateway| gateway.is_ipv4() == v4).unwrap());
        }
        a.check().success();
        support::assert_del_restores(lab, &before, &[&a, &b]);
    });
}

#[test]
fn the_result_lists_the_host_and_the_container() {
    rscni_test::run(|lab| {
        let a = Network::ptp(lab, &[V4, V6], &json!({ "mtu": 1400 })).attach(lab, "a");
        let outer = host_link(lab, &a.port_name());
        let expected = json!([
            { "name": outer.name, "mac": outer.mac.unwrap().to_string(), "mtu": 1400 },
            { "name": "eth0", "mac": a.link().mac.unwrap().to_string(), "mtu": 1400, "sandbox": a.path() },
        ]);
        assert_eq!(a.reply["interfaces"], expected);
        assert_eq!(
            a.reply["ips"][0],
            json!({ "interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1" })
        );
        assert_eq!((a.link().mtu, outer.mtu), (1400, 1400));
        assert_eq!(addresses(lab.host(), &outer.name), ["10.1.0.1/32", "fd01::1/128"]);
    });
}

#[test]
fn several_addresses_may_have_one_gateway() {
    rscni_test::run(|lab| {
        let ipam = fixed(&[
            ("10.1.0.5/24", "10.1.0.1"),
            ("10.1.0.6/24", "10.1.0.1"),
            ("fd01::5/64", "fd01::1"),
        ]);
        let a = Network::new(lab, "ptp", &json!({ "ipam": ipam })).attach(lab, "a");
        for address in ["10.1.0.5", "10.1.0.6", "fd01::5"] {
            lab.host().ping(address);
        }
        a.ping("10.1.0.1");
        a.check().success();
        a.del().success();
    });
}

#[rstest]
#[case::a_single_address(&[("10.1.0.5/32", "169.254.1.1"), ("fd01::5/128", "fe80::1")])]
#[case::a_pair(&[("10.1.0.5/31", "10.1.0.4"), ("fd01::5/127", "fd01::4")])]
fn the_smallest_subnets_work(#[case] ips: &[(&str, &str)]) {
    rscni_test::run(|lab| {
        let mut ipam = fixed(ips);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let a = Network::new(lab, "ptp", &json!({ "ipam": ipam })).attach(lab, "a");
        lab.host().ping("10.1.0.5");
        lab.host().ping("fd01::5");
        a.check().success();
        a.del().success();
    });
}

/// A container with this route.
fn with_route(lab: &rscni_test::Lab, route: &Value) -> Attached {
    let mut ipam = host_local(&[V4, V6]);
    ipam["routes"] = json!([route]);
    Network::new(lab, "ptp", &json!({ "ipam": ipam })).attach(lab, "a")
}

#[rstest]
#[case::by_the_gateway(json!({ "dst": "192.0.2.0/24" }), 254, Some("10.1.0.1"))]
#[case::by_a_router_of_its_own(json!({ "dst": "192.0.2.0/24", "gw": "10.1.0.1" }), 254, Some("10.1.0.1"))]
#[case::ipv6(json!({ "dst": "2001:db8::/32" }), 254, Some("fd01::1"))]
#[case::small_table(json!({ "dst": "192.0.2.0/24", "table": 100 }), 100, Some("10.1.0.1"))]
#[case::large_table(json!({ "dst": "2001:db8::/32", "table": 1000 }), 1000, Some("fd01::1"))]
#[case::on_the_link(json!({ "dst": "192.0.2.0/24", "scope": 253 }), 254, None)]
#[case::with_everything(
    json!({ "dst": "192.0.2.0/24", "gw": "10.1.0.1", "mtu": 1300, "advmss": 1200, "priority": 7 }),
    254,
    Some("10.1.0.1")
)]
#[case::with_bits_of_a_host(json!({ "dst": "192.0.2.77/24" }), 254, Some("10.1.0.1"))]
fn routes_of_ipam_are_in_the_container(
    #[case] route: Value,
    #[case] table: u32,
    #[case] gateway: Option<&str>,
) {
    rscni_test::run(|lab| {
        let a = with_route(lab, &route);
        let dst: ipnet::IpNet = route["dst"].as_str().unwrap().parse().unwrap();
        let filter =
            RouteFilter { dst: Some(dst.trunc()), table: Some(table), ..RouteFilter::default() };
        let found = a.netlink().routes(filter).unwrap();
        let [found] = &found[..] else { panic!("{found:?}") };
        assert_eq!(found.gateway, gateway.map(|gateway| gateway.parse().unwrap()));
        let number = |key: &str| route[key].as_u64().map(|n| u32::try_from(n).unwrap());
        assert_eq!((found.mtu, found.advmss), (number("mtu"), number("advmss")));
        if let Some(priority) = number("priority") {
            assert_eq!(found.priority, Some(priority));
        }
        if let Some(scope) = number("scope") {
            assert_eq!(found.scope.map(u32::from), Some(scope));
        }
        assert_eq!(a.reply["routes"][0]["dst"], route["dst"]);
        a.check().success();
        a.netlink().del_route(found).unwrap();
        a.check_misses(&format!("route to {dst}"));
        a.del().success();
    });
}

#[test]
fn an_address_without_gateway_is_refused() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "ptp", &json!({ "ipam": fixed(&[("10.1.0.5/24", "")]) }));
        let a = lab.container("a");
        let before = lab.snapshot();
        network.add(&a).error(7).mentions("gateway");
        lab.assert_unchanged_since(&before);
        network.del(&a).success();
    });
}

#[test]
fn ipam_is_required() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "ptp", &json!({}));
        let a = lab.container("a");
        network.add(&a).error(7).mentions("ipam");
        network.status().error(7).mentions("ipam");
        network.del(&a).success();
    });
}

#[test]
fn del_in_one_network_keeps_the_other() {
    rscni_test::run(|lab| {
        let one = Network::ptp(lab, &[V4], &json!({}));
        let two = one.with(&json!({ "name": "net2", "ipam": host_local(&["10.2.0.0/24"]) }));
        let a1 = one.attach(lab, "a");
        let a2 = two.attach_as(&a1, "net1");
        two.add(&a1).error(4).mentions("eth0");
        two.del(&a1).success();
        a1.check().success();
        a1.del().success();
        a2.check().success();
        a2.ping("10.2.0.1");
    });
}

#[test]
fn a_container_on_one_network_twice_is_reached_by_both_interfaces_until_one_goes() {
    rscni_test::run(|lab| {
        support::install(lab);
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let network = Network::ptp(lab, &[], &json!({ "ipam": ipam, "ipMasq": true }));
        let first = network.attach(lab, "a");
        let before = support::snapshot(lab);
        let second = network.attach_as(&first, "net1");
        for attached in [&first, &second] {
            attached.check().success();
            for v4 in [true, false] {
                lab.host().ping(attached.address(v4));
            }
        }
        second.del().success();
        lab.assert_unchanged_since(&before);
        first.check().success();
        for gateway in ["10.1.0.1", "fd01::1"] {
            first.ping(gateway);
        }
        // The older one may be removed first.
        let second = network.attach_as(&first, "net1");
        first.del().success();
        second.check().success();
        for gateway in ["10.1.0.1", "fd01::1"] {
            second.ping(gateway);
        }
    });
}

#[test]
fn del_works_without_result_without_netns_and_with_netns_gone() {
    rscni_test::run(|lab| {
        support::install(lab);
        let before = support::snapshot(lab);
        let network = Network::ptp(lab, &[V4, V6], &json!({ "ipMasq": true }));
        let [a, b, c] = ["a", "b", "c"].map(|name| network.attach(lab, name));
        a.del_without_result().success();
        b.del_without_netns().success();
        lab.remove_namespace(&c);
        c.del().success();
        for attached in [&a, &b] {
            lab.remove_namespace(attached);
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_veth_with_another_owner_tag_is_not_removed() {
    rscni_test::run(|lab| {
        let network = Network::ptp(lab, &[V4], &json!({}));
        let a = lab.container("a");
        let netns = rscni_linux::Netns::open(a.path()).unwrap();
        let veth = |alias: Option<String>| Veth {
            alias,
            peer_netns: Some(&netns),
            ..Veth::new("vethx", "eth0")
        };
        let mut host = lab.host().netlink();
        host.add_veth(&veth(Some("rscni other ctr-a eth0".into()))).unwrap();
        network.del(&a).success();
        let index = host.link_by_name("vethx").unwrap().index;
        host.del_link(index).unwrap();
        host.add_veth(&veth(None)).unwrap();
        network.del(&a).success();
        assert!(host.find_link("vethx").unwrap().is_none());
    });
}

/// Adds an address to a link.
#[track_caller]
fn give_address(netlink: &mut rscni_linux::Netlink, link: &str, address: &str) {
    let index = netlink.link_by_name(link).unwrap().index;
    let flags = rscni_linux::AddressFlags { nodad: true, ..Default::default() };
    netlink.add_address(index, address.parse().unwrap(), flags).unwrap();
}

#[rstest]
fn an_empty_ipam_leaves_a_pair_without_addresses(
    #[values("0.3.1", "0.4.0", "1.0.0", "1.1.0")] version: &str,
    #[values(true, false)] masquerades: bool,
) {
    rscni_test::run(|lab| {
        support::install(lab);
        let before = support::snapshot(lab);
        let keys = json!({ "cniVersion": version, "ipam": {}, "ipMasq": masquerades, "mtu": 1400 });
        let network = Network::new(lab, "ptp", &keys);
        let a = network.attach(lab, "a");
        assert!(a.reply.ips().is_empty());
        assert_eq!((a.link().up, a.link().mtu), (true, 1400));
        let outer = host_link(lab, &a.port_name());
        assert_eq!((outer.up, outer.mtu), (true, 1400));
        assert!(addresses(&a, "eth0").is_empty() && addresses(lab.host(), &outer.name).is_empty());
        assert_eq!(lab.host().sysctl("net/ipv4/ip_forward"), "0");
        // Addresses can be added by hand.
        for (inside, outside) in [("10.9.0.2/24", "10.9.0.1/24"), ("fd09::2/64", "fd09::1/64")] {
            give_address(&mut a.netlink(), "eth0", inside);
            give_address(&mut lab.host().netlink(), &outer.name, outside);
            a.ping(outside.split('/').next().unwrap());
        }
        if version != "0.3.1" {
            a.check().success();
            support::change(&mut a.netlink(), "eth0", &support::up(false));
            a.check_misses("eth0");
        }
        if version == "1.1.0" {
            network.status().success();
            network.gc(&[&a]).success();
            assert!(lab.host().netlink().find_link(&outer.name).unwrap().is_some());
        }
        a.del().success();
        a.del().success();
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn only_an_empty_ipam_means_no_ipam() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        for ipam in [Value::Null, json!({ "subnet": V4 }), json!({ "type": "" , "subnet": V4 })] {
            let network = Network::new(lab, "ptp", &json!({ "ipam": ipam }));
            network.add(&a).error(7).mentions("ipam");
            network.status().error(7).mentions("ipam");
        }
        let keys = json!({ "cniVersion": "0.2.0", "ipam": {} });
        let network = Network::new(lab, "ptp", &keys);
        network.add(&a).error(7).mentions("0.3.0");
    });
}

#[test]
fn an_error_has_the_interface_name_of_the_call() {
    rscni_test::run(|lab| {
        // An MTU that a veth cannot have.
        let network = Network::ptp(lab, &[V4], &json!({ "mtu": 70_000 }));
        let a = lab.container("a");
        network.plugin.add(&a, "web#1", &network.config).error(5).mentions("web#1");
    });
}

#[test]
fn addresses_survive_a_link_that_was_down_but_routes_do_not() {
    rscni_test::run(|lab| {
        let a = with_route(lab, &json!({ "dst": "192.0.2.0/24" }));
        for on in [false, true] {
            support::change(&mut a.netlink(), "eth0", &support::up(on));
        }
        assert_eq!(addresses(&a, "eth0"), ["10.1.0.2/24", "fd01::2/64"]);
        a.check_misses("route to 192.0.2.0/24");
    });
}
