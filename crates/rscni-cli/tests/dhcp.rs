//! The dhcp plugin with Debian's dnsmasq as the server.

mod support;

use rscni_linux::{AddressFlags, RouteFilter};
use rscni_test::eventually;
use rstest::rstest;
use serde_json::json;

use support::{
    Network,
    dhcp::{self, address, leased},
};

#[test]
fn a_lease_is_obtained_used_and_released() {
    rscni_test::run(|lab| {
        let (server, _daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let before = support::snapshot(lab);
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        assert_eq!(a.reply["ips"][0]["gateway"], dhcp::SERVER);
        assert_eq!(a.reply["routes"], json!([{ "dst": "0.0.0.0/0", "gw": dhcp::SERVER }]));
        support::assert_talk(lab, &a, &b, true);
        a.ping(dhcp::SERVER);
        let mut addresses = [address(&a), address(&b)];
        let mut given = leased(lab);
        addresses.sort();
        given.sort();
        assert_eq!(given, addresses);
        a.check().success();
        for attached in [&a, &b] {
            attached.del().success();
            attached.del().success();
            lab.remove_namespace(attached);
        }
        server.says_times("DHCPRELEASE", 2);
        eventually("the release", || leased(lab).is_empty().then_some(()));
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
#[case::with_result(true)]
#[case::without_result(false)]
fn a_released_address_is_free_for_another_container(#[case] with_result: bool) {
    rscni_test::run(|lab| {
        let one = ["--dhcp-range=10.50.0.200,10.50.0.200,255.255.255.0,1h", "--dhcp-ignore-names"];
        dhcp::lan(lab);
        let _server = dhcp::dnsmasq_with_range(lab, &one);
        // A daemon with a short timeout, for requests without an answer.
        let hasty = lab.dir().join("hasty.sock");
        let (_daemon, _hasty) = (
            dhcp::daemon(lab, &[]),
            dhcp::daemon(lab, &["-socketpath", hasty.to_str().unwrap(), "-resendtimeout", "2s"]),
        );
        let network = dhcp::network(lab, &json!({}));
        let a = network.attach(lab, "a");
        assert_eq!(address(&a), "10.50.0.200");
        let b = lab.container("b");
        let in_vain = dhcp::network(lab, &json!({ "daemonSocketPath": hasty }));
        in_vain.add(&b).error(11).mentions("no DHCP server gave an address");
        let outcome = if with_result { a.del() } else { a.del_without_result() };
        outcome.success();
        assert_eq!(address(&network.attach_as(&b, "eth0")), "10.50.0.200");
    });
}

#[rstest]
#[case::known_prefix("cnv-dhcp")]
#[case::link("leases")]
fn a_lease_of_dhcp_under_another_name_is_released(#[case] name: &str) {
    rscni_test::run(|lab| {
        let (server, _daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({ "type": name }));
        let program = std::path::Path::new("/run/rscni-test/bin").join(name);
        std::os::unix::fs::symlink("dhcp", program).unwrap();
        let a = network.attach(lab, "a");
        a.ping(dhcp::SERVER);
        // The release is sent through the interface, so dhcp is called before its removal.
        a.del().success();
        server.says_times("DHCPRELEASE", 1);
        eventually("the release", || leased(lab).is_empty().then_some(()));
    });
}

#[test]
fn a_lease_is_renewed_by_its_server() {
    rscni_test::run(|lab| {
        let (server, daemon) = dhcp::set_up(lab, &["--dhcp-option=option:T1,3"]);
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        // Unicast from the address to the server: the first container and two more.
        server.says_times(&format!("DHCPACK(br-lan) {}", address(&a)), 3);
        daemon.says_times(&format!("{}/24 of {}", address(&a), dhcp::SERVER), 3);
        a.check().success();
        a.ping(dhcp::SERVER);
        a.del().success();
        server.says("DHCPRELEASE");
    });
}

#[test]
fn options_are_sent_and_asked_for() {
    rscni_test::run(|lab| {
        let (server, _daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(
            lab,
            &json!({
                "request": [{ "option": "domain-name" }, { "option": "42" }],
                "provide": [
                    { "option": "host-name", "fromArg": "K8S_POD_NAME" },
                    { "option": "vendor-class-identifier", "value": "rscni-test" },
                    { "option": "77", "value": "class-of-user" },
                ],
            }),
        );
        let network = Network {
            plugin: network.plugin.clone().env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web-0"),
            ..network
        };
        let a = network.attach(lab, "a");
        for said in [
            "requested options: 15:domain-name, 42:ntp-server, 3:router",
            "requested options: 1:netmask",
            "client provides name: web-0",
            "vendor class: rscni-test",
            "user class: class-of-user",
        ] {
            server.says(said);
        }
        // The identifier of the Go plugin: type 0, then container, network and interface.
        let id: Vec<_> =
            format!("\0{}/net/eth0", a.id()).bytes().map(|byte| format!("{byte:02x}")).collect();
        let leases = std::fs::read_to_string(lab.dir().join("dnsmasq.leases")).unwrap();
        assert!(leases.contains(&id.join(":")), "{leases}");
        a.del().success();
    });
}

#[test]
fn nothing_is_asked_for_that_is_to_be_skipped() {
    rscni_test::run(|lab| {
        let (server, _daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(
            lab,
            &json!({ "request": [{ "skipDefault": true, "option": "subnet-mask" }] }),
        );
        let a = network.attach(lab, "a");
        server.says("requested options: 1:netmask\n");
        assert_eq!((a.reply.get("routes"), a.reply["ips"][0].get("gateway")), (None, None));
        a.ping(dhcp::SERVER);
        a.del().success();
    });
}

#[test]
fn routes_and_dns_settings_are_those_of_the_server() {
    rscni_test::run(|lab| {
        let (_server, _daemon) = dhcp::set_up(
            lab,
            &[
                "--dhcp-option=121,192.0.2.0/24,10.50.0.1,198.51.100.0/24,0.0.0.0,0.0.0.0/0,10.50.0.1",
                "--dhcp-option=option:dns-server,10.50.0.53",
                "--dhcp-option=option:domain-name,lan.example",
                "--dhcp-option=option:domain-search,a.lan.example,b.lan.example",
            ],
        );
        let index = lab.host().netlink().link_by_name(dhcp::LAN).unwrap().index;
        lab.host()
            .netlink()
            .add_address(index, "192.0.2.1/32".parse().unwrap(), AddressFlags::default())
            .unwrap();
        let request =
            ["rfc3442-classless-static-routes", "domain-name-servers", "15", "domain-search"];
        let request: Vec<_> = request.iter().map(|option| json!({ "option": option })).collect();
        let a = dhcp::network(lab, &json!({ "request": request, "priority": 7 })).attach(lab, "a");
        assert_eq!(
            a.reply["routes"],
            json!([
                { "dst": "192.0.2.0/24", "gw": dhcp::SERVER, "priority": 7 },
                { "dst": "198.51.100.0/24", "priority": 7, "scope": 253 },
                { "dst": "0.0.0.0/0", "gw": dhcp::SERVER, "priority": 7 },
            ])
        );
        assert_eq!(
            a.reply["dns"],
            json!({
                "nameservers": ["10.50.0.53"], "domain": "lan.example", "search": ["a.lan.example", "b.lan.example"],
            })
        );
        a.ping("192.0.2.1");
        let dst = "198.51.100.0/24".parse().unwrap();
        let [route] =
            &a.netlink().routes(RouteFilter { dst: Some(dst), ..RouteFilter::default() }).unwrap()
                [..]
        else {
            panic!("one route to {dst}");
        };
        assert_eq!((route.gateway, route.priority), (None, Some(7)));
        a.check().success();
        a.del().success();
    });
}

#[test]
fn check_names_what_is_missing() {
    rscni_test::run(|lab| {
        let (_server, mut daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let a = network.attach(lab, "a");
        a.check().success();
        let index = a.link().index;
        a.netlink().del_address(index, a.reply.ips()[0]).unwrap();
        a.check_misses(&format!("{} is leased, and not on eth0", a.reply.ips()[0]));
        a.netlink().add_address(index, a.reply.ips()[0], AddressFlags::default()).unwrap();
        network.check(&a).error(7).mentions("prevResult");
        let ipam = network.with(&json!({ "type": "dhcp" }));
        lab.plugin("/run/rscni-test/bin/dhcp")
            .check(&a, "eth0", &ipam.config)
            .error(7)
            .mentions("prevResult");
        let mut other = a.config();
        other["prevResult"]["ips"][0]["address"] = "10.50.0.77/24".into();
        network.plugin.check(&a, "eth0", &other).error(100).mentions("not in prevResult");
        daemon.end();
        a.check_misses("no DHCP daemon listens");
        let _daemon = dhcp::daemon(lab, &[]);
        // The daemon resumed the lease and loses it now.
        let ipam = network.with(&json!({ "type": "dhcp" }));
        let ipam = lab.plugin("/run/rscni-test/bin/dhcp").del(&a, "eth0", &ipam.config);
        ipam.success();
        a.check_misses("there is no DHCP lease");
        a.del().success();
    });
}

#[test]
fn an_add_that_fails_leaves_no_lease() {
    rscni_test::run(|lab| {
        let (server, _daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}))
            .with(&json!({ "ipMasq": true, "ipMasqBackend": "iptables" }));
        let network = Network { plugin: network.plugin.clone().env("PATH", ""), ..network };
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.add(&a).error(5).mentions("iptables");
        server.says("DHCPRELEASE");
        eventually("the release", || leased(lab).is_empty().then_some(()));
        lab.assert_unchanged_since(&before);
        network.del(&a).success();
    });
}

#[test]
fn a_lease_is_released_without_its_address_on_the_interface() {
    rscni_test::run(|lab| {
        let (_server, _daemon) = dhcp::set_up(lab, &[]);
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        let index = a.link().index;
        a.netlink().del_address(index, a.reply.ips()[0]).unwrap();
        a.del().success();
        eventually("the release", || leased(lab).is_empty().then_some(()));
    });
}

#[test]
fn a_lease_is_released_without_the_servers_hardware_address() {
    rscni_test::run(|lab| {
        let (_server, _daemon) = dhcp::set_up(lab, &[]);
        let a = dhcp::network(lab, &json!({})).attach(lab, "a");
        a.ping(dhcp::SERVER);
        let index = a.link().index;
        a.netlink().del_neighbour(index, dhcp::SERVER.parse().unwrap()).unwrap();
        rscni_linux::sysctl::set(&format!("net/ipv4/conf/{}/arp_ignore", dhcp::LAN), "8").unwrap();
        a.del().success();
        eventually("the release", || leased(lab).is_empty().then_some(()));
    });
}

#[test]
fn gc_returns_devices_of_stale_attachments() {
    rscni_test::run(|lab| {
        let (_server, _daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        let other = network.with(&json!({ "name": "other" })).attach(lab, "c");
        network.gc(&[&b]).success();
        let mut kept = [address(&b), address(&other)];
        kept.sort();
        eventually("the release", || {
            let mut now = leased(lab);
            now.sort();
            (now == kept).then_some(())
        });
        b.check().success();
        other.check().success();
        a.check().error(100);
        for attached in [&a, &b, &other] {
            attached.del().success();
        }
        let config = network.with(&json!({ "type": "dhcp" })).config;
        lab.plugin("/run/rscni-test/bin/dhcp").gc(&config).success();
    });
}

#[test]
fn a_new_interface_does_not_get_the_old_lease_unchecked() {
    rscni_test::run(|lab| {
        let (server, daemon) = dhcp::set_up(lab, &[]);
        let network = dhcp::network(lab, &json!({}));
        let a = network.attach(lab, "a");
        lab.host().netlink().del_link(support::host_link(lab, &a.port_name()).index).unwrap();
        let again = network.attach_as(&a.container, "eth0");
        daemon.says("it is added again");
        server.says_times("DHCPACK", 2);
        // The client is the same, and so is the address.
        assert_eq!(address(&again), address(&a));
        again.check().success();
        again.ping(dhcp::SERVER);
        again.del().success();
    });
}

#[rstest]
#[case(json!({ "provide": [{ "option": "no-such", "value": "x" }] }), "no-such")]
#[case(json!({ "request": [{ "option": "256" }] }), "256")]
#[case(json!({ "provide": { "option": "12" } }), "ipam")]
#[case(json!({ "priority": -1 }), "ipam")]
#[case(json!({ "daemonSocketPath": 7 }), "daemonSocketPath")]
fn bad_keys_are_named(#[case] keys: serde_json::Value, #[case] word: &str) {
    rscni_test::run(|lab| {
        dhcp::lan(lab);
        let network = dhcp::network(lab, &keys);
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.add(&a).error(7).mentions(word);
        lab.assert_unchanged_since(&before);
        network.status().error(7).mentions(word);
    });
}

#[rstest]
fn every_version_works(
    #[values("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        let (_server, _daemon) = dhcp::set_up(lab, &[]);
        let a = dhcp::network(lab, &json!({ "priority": 5 }))
            .with(&json!({ "cniVersion": version }))
            .attach(lab, "a");
        assert_eq!(a.reply["cniVersion"], version);
        // The metric has an effect in all versions whose results have lists.
        let routes = a.netlink().routes(RouteFilter {
            dst: Some("0.0.0.0/0".parse().unwrap()),
            ..RouteFilter::default()
        });
        let priority = routes.unwrap()[0].priority;
        assert_eq!(priority == Some(5), !["0.1.0", "0.2.0"].contains(&version), "{priority:?}");
        a.ping(dhcp::SERVER);
        match version {
            "0.1.0" | "0.2.0" | "0.3.0" | "0.3.1" => drop(a.check().error(1)),
            _ => drop(a.check().success()),
        }
        a.del().success();
    });
}

#[test]
fn the_go_bridge_gets_addresses_too() {
    rscni_test::run(|lab| {
        let (_server, _daemon) = dhcp::set_up(lab, &[]);
        let ours = dhcp::network(lab, &json!({})).with(&json!({ "cniVersion": "1.0.0" }));
        let theirs = Network {
            plugin: lab.plugin("/usr/lib/cni/bridge").cni_path(["/run/rscni-test/bin"]),
            ..ours
        };
        let a = theirs.attach(lab, "a");
        a.ping(dhcp::SERVER);
        a.check().success();
        a.del().success();
        eventually("the end of the lease", || dhcp::kept(dhcp::SOCKET).is_empty().then_some(()));
    });
}
