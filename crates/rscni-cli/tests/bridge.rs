//! The bridge plugin, with packets.

mod support;

use rscni_linux::{AddressFlags, Bridge, LinkChange, Netns, Veth};
use rstest::rstest;
use serde_json::{Value, json};

use support::{
    Network, V4, V6, act_as_udev, add_address, addresses, assert_gone, assert_talk, change, fixed,
    host_link, host_local, up,
};

#[rstest]
#[case::v4(&[V4])]
#[case::v6(&[V6])]
#[case::dual(&[V4, V6])]
fn two_containers_talk_and_reach_the_gateway(#[case] subnets: &[&str]) {
    rscni_test::run(|lab| {
        support::install(lab);
        let before = support::snapshot(lab).ignoring("br0");
        let network = Network::bridge(lab, subnets, &json!({}));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        for v4 in subnets.iter().map(|subnet| subnet.contains('.')) {
            assert_talk(lab, &a, &b, v4);
        }
        for gateway in a.reply.gateways() {
            a.ping(gateway);
        }
        a.check().success();
        support::assert_del_restores(lab, &before, &[&a, &b]);
    });
}

#[test]
fn the_result_lists_bridge_port_and_container() {
    rscni_test::run(|lab| {
        let a = Network::bridge(lab, &[V4], &json!({ "mtu": 1400 })).attach(lab, "a");
        let port = host_link(lab, &a.port_name());
        let expected = json!([
            { "name": "br0", "mac": host_link(lab, "br0").mac.unwrap().to_string(), "mtu": 1400 },
            { "name": port.name, "mac": port.mac.unwrap().to_string(), "mtu": 1400 },
            { "name": "eth0", "mac": a.link().mac.unwrap().to_string(), "mtu": 1400, "sandbox": a.path() },
        ]);
        assert_eq!(a.reply["interfaces"], expected);
        assert_eq!(
            a.reply["ips"],
            json!([{ "interface": 2, "address": "10.1.0.2/24", "gateway": "10.1.0.1" }])
        );
        assert_eq!((a.link().mtu, port.mtu), (1400, 1400));
        assert_eq!(port.master, Some(host_link(lab, "br0").index));
        a.check().success();
    });
}

#[test]
fn a_bridge_without_is_gateway_has_no_address() {
    rscni_test::run(|lab| {
        let a = Network::bridge(lab, &[V4, V6], &json!({ "isGateway": false })).attach(lab, "a");
        assert_eq!(addresses(lab.host(), "br0"), [""; 0]);
        assert!(a.reply.routes().is_empty());
        a.check().success();
        a.del().success();
    });
}

#[test]
fn the_default_gateway_is_in_the_result_and_in_the_container() {
    rscni_test::run(|lab| {
        let network = Network::bridge(
            lab,
            &[V4, V6],
            &json!({ "isGateway": null, "isDefaultGateway": true }),
        );
        let a = network.attach(lab, "a");
        let expected =
            json!([{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }, { "dst": "::/0", "gw": "fd01::1" }]);
        assert_eq!(a.reply["routes"], expected);
        // Addresses of the host that are in no subnet of the container.
        for address in ["192.0.2.1/32", "2001:db8::1/128"] {
            add_address(lab.host(), "lo", address);
        }
        a.ping("192.0.2.1");
        a.ping("2001:db8::1");
        a.check().success();
    });
}

#[test]
fn a_conflicting_address_is_replaced_only_with_force_address() {
    rscni_test::run(|lab| {
        let first = Network::bridge(lab, &[V4, V6], &json!({})).attach(lab, "a");
        first.del().success();
        let other = ["10.2.0.0/24", "fd01::/48"];
        let second = Network::bridge(lab, &other, &json!({ "name": "net2" }));
        let b = lab.container("b");
        let before = support::snapshot(lab);
        second.add(&b).error(7).mentions("forceAddress");
        lab.assert_unchanged_since(&before);
        let forced = second.with(&json!({ "forceAddress": true })).attach_as(&b, "eth0");
        assert_eq!(addresses(lab.host(), "br0"), ["10.2.0.1/24", "fd01::1/48"]);
        b.ping("10.2.0.1");
        forced.check().success();
    });
}

#[test]
fn a_link_local_gateway_is_beside_the_address_that_the_kernel_gives() {
    rscni_test::run(|lab| {
        let mut ipam = support::fixed(&[("fd01::5/64", "fe80::1")]);
        ipam["routes"] = json!([{ "dst": "::/0" }]);
        // The first ADD creates the bridge, which has a link-local address by the time of the
        // second.
        for name in ["a", "b"] {
            let a = Network::bridge(lab, &[], &json!({ "isDefaultGateway": true, "ipam": ipam }))
                .attach(lab, name);
            a.check().success();
            a.del().success();
            let bridge = host_link(lab, "br0").index;
            let addresses = lab.host().netlink().addresses(bridge).unwrap();
            assert!(
                addresses.iter().any(|address| address.net.to_string() == "fe80::1/64"),
                "{addresses:?}"
            );
            assert!(
                addresses.iter().any(|address| address.net.to_string() != "fe80::1/64"),
                "{addresses:?}"
            );
        }
    });
}

#[test]
fn a_port_has_the_flags_that_are_asked_for() {
    rscni_test::run(|lab| {
        for (name, keys, flags) in [
            ("a", json!({}), (false, false)),
            ("b", json!({ "hairpinMode": true }), (true, false)),
            ("c", json!({ "portIsolation": true }), (false, true)),
        ] {
            let attached = Network::bridge(lab, &[V4], &keys).attach(lab, name);
            let port = host_link(lab, &attached.port_name()).bridge_port.unwrap();
            assert_eq!((port.hairpin, port.isolated), flags, "{keys}");
            attached.check().success();
        }
    });
}

#[test]
fn isolated_containers_reach_the_gateway_and_not_each_other() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4, V6], &json!({ "portIsolation": true }));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        a.ping("10.1.0.1");
        a.ping("fd01::1");
        a.cannot_ping(b.v4());
        a.cannot_ping(b.v6());
        let open = network.with(&json!({ "portIsolation": false })).attach(lab, "c");
        assert_talk(lab, &a, &open, true);
    });
}

#[test]
fn promiscuous_mode_is_set_on_the_bridge_and_does_not_trouble_its_other_networks() {
    rscni_test::run(|lab| {
        let promiscuous = Network::bridge(lab, &[V4], &json!({ "promiscMode": true }));
        let a = promiscuous.attach(lab, "a");
        assert!(host_link(lab, "br0").promisc);
        a.check().success();
        let b = promiscuous.with(&json!({ "promiscMode": false })).attach(lab, "b");
        b.check().success();
        change(
            &mut lab.host().netlink(),
            "br0",
            &LinkChange { promisc: Some(false), ..LinkChange::default() },
        );
        a.check_misses("promiscuous");
    });
}

#[test]
fn enabledad_rejects_a_duplicate_address() {
    rscni_test::run(|lab| {
        let network = Network::bridge(
            lab,
            &[],
            &json!({ "ipam": fixed(&[("fd01::5/64", "")]), "enabledad": true }),
        );
        let first = network.attach(lab, "a");
        let link = first.link();
        let present = first.netlink().addresses(link.index).unwrap();
        let settled = present.iter().find(|a| a.net.addr() == first.v6()).unwrap();
        assert!(!settled.tentative && !settled.nodad, "{settled:?}");
        let b = lab.container("b");
        let before = lab.snapshot().ignoring("sysctl");
        network.add(&b).error(11).mentions("fd01::5");
        lab.assert_unchanged_since(&before);
        // The first attachment still works.
        first.check().success();
        first.ping("fd01::1");
    });
}

#[test]
fn without_enabledad_addresses_can_be_used_at_once() {
    rscni_test::run(|lab| {
        let a = Network::bridge(lab, &[V6], &json!({})).attach(lab, "a");
        for (namespace, link) in [(&**a, "eth0"), (lab.host(), "br0")] {
            let mut netlink = namespace.netlink();
            let index = netlink.link_by_name(link).unwrap().index;
            let addresses = netlink.addresses(index).unwrap();
            assert!(
                addresses.iter().filter(|a| a.scope == 0).all(|a| a.nodad && !a.tentative),
                "{addresses:?}"
            );
        }
    });
}

#[test]
fn the_container_interface_stays_down_if_it_is_disabled() {
    rscni_test::run(|lab| {
        let keys = json!({ "disableContainerInterface": true, "isGateway": false });
        let a = Network::bridge(lab, &[], &keys).attach(lab, "a");
        assert!(!a.link().up);
        assert!(a.reply.ips().is_empty());
        a.check().success();
        a.del().success();
        assert!(a.netlink().find_link("eth0").unwrap().is_none());
    });
}

#[rstest]
#[case::missing(json!({}))]
#[case::empty(json!({ "ipam": {} }))]
fn without_ipam_there_is_a_link_and_no_address(#[case] ipam: Value) {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[], &ipam);
        let a = network.attach(lab, "a");
        assert!(a.link().up && a.reply.ips().is_empty());
        assert_eq!(a.reply.interfaces().len(), 3);
        a.check().success();
        a.del().success();
        network.status().success();
    });
}

#[rstest]
#[case::no_ipam(json!({}))]
#[case::disabled(json!({ "disableContainerInterface": true, "isGateway": false }))]
fn versions_whose_results_begin_with_an_address_need_ipam(
    #[values("0.1.0", "0.2.0")] version: &str,
    #[case] keys: Value,
) {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[], &keys).with(&json!({ "cniVersion": version }));
        let a = lab.container("a");
        let before = lab.snapshot();
        network.add(&a).error(7).mentions(version).mentions("ipam");
        lab.assert_unchanged_since(&before);
        network.del(&a).success();
    });
}

#[test]
fn the_hardware_address_comes_from_the_runtime_from_args_or_from_cni_args() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let mac = |last: u8| format!("02:00:00:00:00:{last:02x}");
        let by_runtime =
            network.with(&json!({ "runtimeConfig": { "mac": mac(1) } })).attach(lab, "a");
        let by_args =
            network.with(&json!({ "args": { "cni": { "mac": mac(2) } } })).attach(lab, "b");
        let c = lab.container("c");
        let variables = format!("IgnoreUnknown=1;MAC={}", mac(3));
        network
            .plugin
            .clone()
            .env("CNI_ARGS", variables)
            .add(&c, "eth0", &network.config)
            .success();
        let links = [&**by_runtime, &**by_args, &*c]
            .map(|namespace| namespace.netlink().link_by_name("eth0").unwrap());
        assert_eq!(links.map(|link| link.mac.unwrap().to_string()), [mac(1), mac(2), mac(3)]);
        assert_eq!(by_runtime.reply["interfaces"][2]["mac"], mac(1));
        by_runtime.ping(by_args.v4());
        by_runtime.check().success();
    });
}

#[test]
fn dns_of_the_network_goes_before_that_of_ipam() {
    rscni_test::run(|lab| {
        let mut ipam = fixed(&[("10.1.0.5/24", "")]);
        ipam["dns"] = json!({ "nameservers": ["10.1.0.53"], "search": ["ipam"] });
        let network = Network::bridge(lab, &[], &json!({ "ipam": ipam }));
        let a = network.attach(lab, "a");
        assert_eq!(a.reply["dns"], json!({ "nameservers": ["10.1.0.53"], "search": ["ipam"] }));
        a.del().success();
        let dns = json!({ "dns": { "domain": "net" } });
        let with_dns = network.with(&dns).attach_as(&a, "eth0");
        assert_eq!(with_dns.reply["dns"], dns["dns"]);
        with_dns.del().success();
        // An empty list sets no servers. An empty object sets nothing.
        let empty_list =
            network.with(&json!({ "dns": { "nameservers": [] } })).attach_as(&a, "eth0");
        assert!(empty_list.reply["dns"].get("search").is_none(), "{:?}", empty_list.reply["dns"]);
        empty_list.del().success();
        let empty = network.with(&json!({ "dns": {} })).attach_as(&a, "eth0");
        assert_eq!(empty.reply["dns"]["search"], json!(["ipam"]));
    });
}

#[test]
fn several_networks_share_a_bridge_and_a_container_is_on_both() {
    rscni_test::run(|lab| {
        let one = Network::bridge(lab, &[V4], &json!({ "isGateway": false }));
        let two = one.with(&json!({ "name": "net2", "ipam": host_local(&["10.2.0.0/24"]) }));
        let a1 = one.attach(lab, "a");
        let a2 = two.attach_as(&a1, "net-2.x");
        let (b1, b2) = (one.attach(lab, "b"), two.attach(lab, "c"));
        assert_talk(lab, &a1, &b1, true);
        assert_talk(lab, &a2, &b2, true);
        a1.del().success();
        a2.check().success();
        assert!(a1.netlink().find_link("eth0").unwrap().is_none());
        a2.ping(b2.v4());
    });
}

#[test]
fn an_existing_bridge_is_used_as_it_is() {
    rscni_test::run(|lab| {
        let mut host = lab.host().netlink();
        let bridge = host.add_bridge(&Bridge { mtu: Some(1450), ..Bridge::new("br0") }).unwrap();
        let a = Network::bridge(lab, &[V4], &json!({})).attach(lab, "a");
        assert_eq!((host_link(lab, "br0").index, host_link(lab, "br0").up), (bridge.index, true));
        a.ping("10.1.0.1");
        a.check().success();
        a.del().success();
        assert_eq!(host_link(lab, "br0").index, bridge.index);
    });
}

#[test]
fn the_bridge_keeps_its_address_when_ports_come_and_go() {
    rscni_test::run(|lab| {
        lab.host().netlink().add_bridge(&Bridge { up: true, ..Bridge::new("br0") }).unwrap();
        let network = Network::bridge(lab, &[V4], &json!({}));
        let a = network.attach(lab, "a");
        let mac = host_link(lab, "br0").mac;
        assert_eq!(a.reply["interfaces"][0]["mac"], mac.unwrap().to_string());
        for name in ["b", "c", "d"] {
            network.attach(lab, name).del().success();
        }
        a.del().success();
        assert_eq!(host_link(lab, "br0").mac, mac);
    });
}

#[test]
fn names_may_have_the_maximum_length() {
    rscni_test::run(|lab| {
        let name = "n".repeat(190);
        let keys = json!({ "name": name, "macspoofchk": true, "ipMasq": true });
        let network = Network::bridge(lab, &[V4, V6], &keys);
        let [a, b] = ["a", "b"].map(|name| lab.container(&name.repeat(150)));
        let [a, b] = [a, b].map(|container| network.attach_as(&container, "interface-15-cs"));
        assert_talk(lab, &a, &b, true);
        a.check().success();
        network.gc(&[&b]).success();
        assert!(a.netlink().find_link(&a.ifname).unwrap().is_none());
        b.check().success();
        b.del_without_result().success();
        assert_gone(lab, &["nft element", "link veth"]);
    });
}

#[test]
fn ipv6_works_in_a_container_that_disables_it() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4, V6], &json!({}));
        let a = lab.container("a");
        for link in ["all", "default", "lo"] {
            a.run(|| std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "1"))
                .unwrap();
        }
        let a = network.attach_as(&a, "eth0");
        a.ping("fd01::1");
        a.check().success();
    });
}

#[test]
fn a_container_may_have_several_addresses_of_a_subnet() {
    rscni_test::run(|lab| {
        let ipam = fixed(&[
            ("10.1.0.5/24", "10.1.0.1"),
            ("fd01::5/64", "fd01::1"),
            ("10.1.0.6/24", "10.1.0.1"),
            ("fd01::6/64", "fd01::1"),
        ]);
        let a =
            Network::bridge(lab, &[], &json!({ "ipam": ipam, "ipMasq": true })).attach(lab, "a");
        for address in ["10.1.0.5", "10.1.0.6", "fd01::5", "fd01::6"] {
            lab.host().ping(address);
        }
        a.check().success();
        a.del().success();
        assert_gone(lab, &["ctr-a"]);
    });
}

#[test]
fn status_tells_whether_add_could_work() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        network.status().success();
        let bad = network.with(&json!({ "ipam": host_local(&["10.1.0.0/32"]) }));
        bad.status().error(7).mentions("10.1.0.0/32");
        let bad = network.with(&json!({ "vlan": 5000 }));
        bad.status().error(7).mentions("5000");
        let bad = network.with(&json!({ "ipam": { "type": "nothing" } }));
        bad.status().error(7).mentions("nothing");
        for own in ["bridge", "loopback"] {
            let bad = network.with(&json!({ "ipam": { "type": own } }));
            bad.status().error(7).mentions(&format!("{own} gives no addresses: set host-local"));
        }
    });
}

#[test]
fn a_second_add_of_an_attachment_fails_and_changes_nothing() {
    rscni_test::run(|lab| {
        let network =
            Network::bridge(lab, &[V4, V6], &json!({ "ipMasq": true, "macspoofchk": true }));
        let a = network.attach(lab, "a");
        let before = support::snapshot(lab);
        network.add(&a).error(4).mentions("eth0");
        lab.assert_unchanged_since(&before);
        a.check().success();
    });
}

#[test]
fn routes_by_another_router_of_the_subnet_are_in_the_container() {
    rscni_test::run(|lab| {
        let mut ipam = host_local(&[V4]);
        let route = json!({ "dst": "192.0.2.0/24", "gw": "10.1.0.9", "table": 100, "priority": 7, "mtu": 1300 });
        ipam["routes"] = json!([{ "dst": "198.51.100.0/24", "gw": "10.1.0.9" }, route]);
        let a = Network::bridge(lab, &[], &json!({ "ipam": ipam })).attach(lab, "a");
        let found = a.netlink().route_to("198.51.100.1".parse().unwrap()).unwrap().unwrap();
        assert_eq!(found.gateway, Some("10.1.0.9".parse().unwrap()));
        assert_eq!(a.reply["routes"][1], route);
        a.check().success();
    });
}

#[test]
fn the_table_and_the_metric_of_a_route_take_effect_in_every_version() {
    rscni_test::run(|lab| {
        let mut ipam = host_local(&[V4]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24", "table": 100, "priority": 7 }]);
        for version in ["0.3.0", "1.0.0"] {
            let keys = json!({ "cniVersion": version, "ipam": ipam, "isGateway": true });
            let a = Network::bridge(lab, &[], &keys).attach(lab, &version.replace('.', "-"));
            let filter = rscni_linux::RouteFilter {
                table: Some(100),
                ..rscni_linux::RouteFilter::default()
            };
            let routes = a.netlink().routes(filter).unwrap();
            assert_eq!(
                routes.iter().map(|r| (r.dst.to_string(), r.priority)).collect::<Vec<_>>(),
                [("192.0.2.0/24".into(), Some(7))]
            );
            // Like the Go plugins, although the specification has these keys only since 1.1.0.
            assert_eq!(a.reply["routes"], ipam["routes"]);
            if version == "1.0.0" {
                a.check().success();
            }
        }
    });
}

#[rstest]
#[case::gateway("bridge", json!({ "isGateway": true }))]
#[case::no_gateway("bridge", json!({}))]
#[case::ptp("ptp", json!({}))]
fn udev_leaves_the_hardware_addresses_on_the_host(#[case] plugin: &str, #[case] keys: Value) {
    rscni_test::run(|lab| {
        let ipam = json!({ "ipam": host_local(&[V4, V6]), "bridge": "br0" });
        let network = Network::new(lab, plugin, &ipam).with(&keys);
        let limits = json!({ "ingressRate": 8_000_000, "egressRate": 8_000_000,
            "ingressBurst": 800_000, "egressBurst": 800_000 });
        let bandwidth = Network::new(lab, "bandwidth", &limits);
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        let limited = bandwidth.after(&a);
        // The containers resolve the addresses before udev changes them.
        for v4 in [true, false] {
            assert_talk(lab, &a, &b, v4);
        }
        assert_eq!(act_as_udev(lab), [""; 0]);
        for v4 in [true, false] {
            assert_talk(lab, &a, &b, v4);
        }
        a.check().success();
        limited.check().success();
        // The address is derived from the attachment, so another one of the same names gets it too.
        let before = host_link(lab, &a.port_name()).mac;
        limited.del().success();
        a.del().success();
        let again = network.attach_as(&a.container, "eth0");
        assert_eq!(host_link(lab, &again.port_name()).mac, before);
        for v4 in [true, false] {
            assert_talk(lab, &again, &b, v4);
        }
    });
}

/// Adds a veth pair between a port of the bridge and another namespace. It has the address of a
/// network card.
fn uplink(lab: &rscni_test::Lab, bridge: &str, to: &rscni_test::Namespace) {
    let netns = Netns::open(to.path()).unwrap();
    let mut host = lab.host().netlink();
    let master = Some(host.link_by_name(bridge).unwrap().index);
    let mac = Some("f8:0f:6f:00:00:01".parse().unwrap());
    let veth = Veth { master, mac, peer_netns: Some(&netns), ..Veth::new("uplink", "uplink") };
    let index = host.add_veth(&veth).unwrap().index;
    host.set_link(index, &up(true)).unwrap();
    change(&mut to.netlink(), "uplink", &up(true));
}

#[test]
fn a_bridge_keeps_its_hardware_address_when_ports_come_and_go() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({ "isGateway": false }));
        let a = network.attach(lab, "a");
        let mac = host_link(lab, "br0").mac;
        uplink(lab, "br0", &lab.container("router"));
        let b = network.attach(lab, "b");
        assert_eq!(host_link(lab, "br0").mac, mac);
        a.del().success();
        b.del().success();
        assert_eq!(host_link(lab, "br0").mac, mac);
        // A bridge that is created again has it too.
        lab.host().netlink().del_link(host_link(lab, "br0").index).unwrap();
        network.attach(lab, "c");
        assert_eq!(host_link(lab, "br0").mac, mac);
    });
}

/// An interrupted ADD, or the operator, may leave a bridge with the gateway's address whose
/// hardware address the kernel chose.
#[rstest]
#[case::v4(&[V4], &["10.1.0.1/24"], false)]
#[case::v6(&[V6], &["fd01::1/64"], false)]
#[case::one_of_both_families(&[V4, V6], &["fd01::1/64"], false)]
#[case::after_its_last_port(&[V4, V6], &[], true)]
#[case::with_addresses_after_its_last_port(&[V4, V6], &["10.1.0.1/24", "fd01::1/64"], true)]
fn a_gateway_bridge_has_a_stable_hardware_address(
    #[case] subnets: &[&str],
    #[case] present: &[&str],
    #[case] had_ports: bool,
) {
    rscni_test::run(|lab| {
        let mut host = lab.host().netlink();
        let index = host.add_bridge(&Bridge { up: true, ..Bridge::new("br0") }).unwrap().index;
        if had_ports {
            let port = Veth { master: Some(index), up: true, ..Veth::new("port", "peer") };
            let port = host.add_veth(&port).unwrap().index;
            host.del_link(port).unwrap();
            assert_eq!(host_link(lab, "br0").mac.unwrap().as_bytes(), &[0; 6]);
        }
        for address in present {
            let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
            host.add_address(index, address.parse().unwrap(), nodad).unwrap();
        }
        let before = host_link(lab, "br0").mac;
        let network = Network::bridge(lab, subnets, &json!({}));
        let a = network.attach(lab, "a");
        let mac = host_link(lab, "br0").mac;
        assert_eq!(a.reply["interfaces"][0]["mac"], mac.unwrap().to_string());
        assert!(had_ports || mac == before, "{before:?} {mac:?}");
        for gateway in a.reply.gateways() {
            a.ping(gateway);
        }
        // A port with the lowest address of all, and then none.
        let mac_of_port = Some("02:00:00:00:00:01".parse().unwrap());
        let port =
            Veth { master: Some(index), mac: mac_of_port, up: true, ..Veth::new("port", "peer") };
        let port = host.add_veth(&port).unwrap().index;
        assert_eq!(host_link(lab, "br0").mac, mac);
        host.del_link(port).unwrap();
        a.del().success();
        assert_eq!(host_link(lab, "br0").mac, mac);
    });
}

#[test]
fn a_bridge_of_the_operator_keeps_the_address_of_its_uplink() {
    rscni_test::run(|lab| {
        lab.host().netlink().add_bridge(&Bridge { up: true, ..Bridge::new("br0") }).unwrap();
        uplink(lab, "br0", &lab.container("router"));
        let mac = host_link(lab, "br0").mac;
        assert_eq!(mac.unwrap().to_string(), "f8:0f:6f:00:00:01");
        let network = Network::bridge(lab, &[V4], &json!({ "isGateway": false }));
        for name in ["a", "b", "c", "d"] {
            network.attach(lab, name);
            assert_eq!(host_link(lab, "br0").mac, mac);
        }
    });
}

#[test]
fn bridges_of_one_name_on_two_hosts_of_a_segment_talk() {
    rscni_test::run(|lab| {
        // The second host is on the same machine, with its own network namespace.
        let second = lab.container("second-host");
        let first =
            Network::bridge(lab, &[], &json!({ "ipam": fixed(&[("10.1.0.2/24", "10.1.0.1")]) }));
        let other = first.with(&json!({ "ipam": fixed(&[("10.1.0.4/24", "10.1.0.3")]) }));
        let a = first.attach(lab, "a");
        let b = lab.container("b");
        let reply = second.run(|| other.add(&b)).success();
        uplink(lab, "br0", &second);
        let mut netlink = second.netlink();
        let master = Some(netlink.link_by_name("br0").unwrap().index);
        change(&mut netlink, "uplink", &LinkChange { master, ..LinkChange::default() });
        let macs = [host_link(lab, "br0"), netlink.link_by_name("br0").unwrap()].map(|br| br.mac);
        assert_ne!(macs[0], macs[1], "{reply:?}");
        a.ping("10.1.0.4");
        for gateway in ["10.1.0.1", "10.1.0.3"] {
            a.ping(gateway);
            b.ping(gateway);
        }
    });
}
