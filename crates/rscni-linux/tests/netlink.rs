//! Links, addresses, routes, rules and neighbours, compared with the output of `ip`.

mod support;

use std::{net::IpAddr, time::Duration};

use rscni_linux::{
    AddressFlags, Bridge, BridgePort, Error, Family, LinkChange, MacAddr, Macvlan, MacvlanMode,
    Netlink, Netns, Route, RouteFilter, Rule, Veth,
};
use support::{ip, json, private_network};

const NODAD: AddressFlags = AddressFlags { nodad: true, noprefixroute: false };

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn up() -> LinkChange<'static> {
    LinkChange { up: Some(true), ..LinkChange::default() }
}

/// A veth pair into a new namespace, both ends up.
fn pair() -> (Netlink, u32, Netns, Netlink, u32) {
    let netns = Netns::create().unwrap();
    let mut host = Netlink::open().unwrap();
    let mut container = Netlink::open_in(&netns).unwrap();
    let veth = Veth { peer_netns: Some(&netns), ..Veth::new("veth0", "eth0") };
    let near = host.add_veth(&veth).unwrap().index;
    let far = container.link_by_name("eth0").unwrap().index;
    host.set_link(near, &up()).unwrap();
    container.set_link(far, &up()).unwrap();
    (host, near, netns, container, far)
}

#[test]
fn veth_is_created_with_its_peer_in_the_container() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let mut host = Netlink::open().unwrap();
        let mac: MacAddr = "02:00:00:00:00:01".parse().unwrap();
        let peer_mac: MacAddr = "02:00:00:00:00:02".parse().unwrap();
        let bridge = host.add_bridge(&Bridge::new("cni0")).unwrap();
        let made = host
            .add_veth(&Veth {
                alias: Some("net/container/eth0".to_owned()),
                mtu: Some(1400),
                mac: Some(mac),
                master: Some(bridge.index),
                up: true,
                peer_netns: Some(&netns),
                peer_mac: Some(peer_mac),
                ..Veth::new("vethab12cd34", "eth0")
            })
            .unwrap();
        let near = host.link_by_name("vethab12cd34").unwrap();
        assert_eq!(made.index, near.index);
        assert_eq!(near.alias.as_deref(), Some("net/container/eth0"));
        assert_eq!(made.alias, near.alias);
        assert_eq!(near.kind.as_deref(), Some("veth"));
        assert_eq!((near.mac, near.mtu), (Some(mac), 1400));
        assert_eq!(near.master, Some(bridge.index));
        assert!(near.up);
        let port = near.bridge_port.expect("it is a port of a bridge");
        assert!(port.learning && !port.hairpin);

        let mut container = Netlink::open_in(&netns).unwrap();
        let far = container.link_by_name("eth0").unwrap();
        assert_eq!((far.mac, far.mtu), (Some(peer_mac), 1400));
        assert_eq!(far.peer_index, Some(near.index));
        assert_eq!(near.peer_index, Some(far.index));
        assert!(near.peer_netnsid.is_some());
        assert!(!far.up);

        // More queues would make the kernel wait for an RCU grace period.
        let shown = &json("ip", "-j -d link show vethab12cd34")[0];
        assert_eq!((&shown["num_tx_queues"], &shown["num_rx_queues"]), (&1.into(), &1.into()));
        assert_eq!(shown["ifalias"], "net/container/eth0");
        assert_eq!(shown["master"], "cni0");
        assert_eq!(host.links_by_alias("net/container/eth0").unwrap().len(), 1);
    });
}

#[test]
fn existing_name_is_reported_and_left_alone() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        nl.add_bridge(&Bridge::new("cni0")).unwrap();
        let taken = Veth { alias: Some("mine".to_owned()), ..Veth::new("cni0", "peer") };
        let error = nl.add_veth(&taken).unwrap_err();
        assert!(error.is_exists(), "{error}");
        assert!(
            error.to_string().starts_with("create veth cni0 with peer peer: File exists (EEXIST)"),
            "{error}"
        );
        assert_eq!(nl.link_by_name("cni0").unwrap().alias, None);
        assert!(nl.find_link("peer").unwrap().is_none());
    });
}

#[test]
fn missing_links_are_not_found() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        assert!(nl.find_link("nope").unwrap().is_none());
        let error = nl.link_by_name("nope").unwrap_err();
        assert_eq!(error.to_string(), "interface nope does not exist");
        assert!(nl.del_link(4711).unwrap_err().is_not_found());
        assert!(nl.addresses(4711).is_err_and(|error| error.is_not_found()));
        assert!(nl.link_by_index(4711).unwrap_err().is_not_found());
    });
}

#[test]
fn error_names_the_links_and_contains_the_message_of_the_kernel() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let a = nl.add_bridge(&Bridge::new("br-a")).unwrap().index;
        let b = nl.add_bridge(&Bridge::new("br-b")).unwrap().index;
        let attach = LinkChange { master: Some(a), ..LinkChange::default() };
        let error = nl.set_link(b, &attach).unwrap_err();
        let Error::Netlink { action, extack, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(action, "attach br-b to br-a");
        assert!(extack.is_some(), "{error}");
    });
}

#[test]
fn name_with_a_number_sign_is_shown_unchanged() {
    private_network(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.add_veth(&Veth::new("a#1", "web#1")).unwrap().index;
        let text = |outcome: rscni_linux::Result<()>| outcome.unwrap_err().to_string();
        let taken = netlink.add_veth(&Veth::new("a#1", "web#2")).unwrap_err().to_string();
        assert!(taken.starts_with("create veth a#1 with peer web#2: "), "{taken}");
        let taken =
            text(netlink.set_link(
                index,
                &LinkChange { name: Some("web#1".into()), ..LinkChange::default() },
            ));
        assert!(taken.starts_with("rename a#1 to web#1: "), "{taken}");
        let large = LinkChange { mtu: Some(70_000), ..LinkChange::default() };
        let refused = text(netlink.change_link(index, &large).map(drop));
        assert!(refused.starts_with("set the MTU of a#1 to 70000: "), "{refused}");
        let absent = text(netlink.add_address(4711, net("10.9.9.1/24"), AddressFlags::default()));
        assert!(absent.starts_with("add address 10.9.9.1/24 to interface 4711: "), "{absent}");
    });
}

#[test]
fn link_is_changed_in_one_message() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_veth(&Veth::new("a", "b")).unwrap();
        let mac = MacAddr::random().unwrap();
        let change = LinkChange {
            up: Some(true),
            mtu: Some(1300),
            mac: Some(mac),
            name: Some("renamed".to_owned()),
            alias: Some("other".to_owned()),
            promisc: Some(true),
            allmulticast: Some(true),
            txqlen: Some(77),
            ..LinkChange::default()
        };
        nl.set_link(link.index, &change).unwrap();
        let link = nl.link_by_name("renamed").unwrap();
        assert_eq!((link.mtu, link.mac, link.txqlen), (1300, Some(mac), 77));
        assert_eq!(link.alias.as_deref(), Some("other"));
        assert!(link.up && link.promisc && link.promiscuity == 1 && link.allmulticast);
        let off = LinkChange {
            up: Some(false),
            promisc: Some(false),
            alias: Some(String::new()),
            ..LinkChange::default()
        };
        nl.set_link(link.index, &off).unwrap();
        let link = nl.link_by_index(link.index).unwrap();
        assert!(!link.up && !link.promisc);
        assert_eq!(link.alias, None);
        nl.del_link(link.index).unwrap();
        assert!(nl.find_link("b").unwrap().is_none(), "the peer goes too");
    });
}

#[test]
fn link_moves_to_a_namespace_under_a_new_name() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_veth(&Veth::new("a", "b")).unwrap();
        let change = LinkChange {
            netns: Some(&netns),
            name: Some("eth0".to_owned()),
            ..LinkChange::default()
        };
        nl.set_link(link.index, &change).unwrap();
        assert!(nl.find_link("a").unwrap().is_none());
        let mut inside = Netlink::open_in(&netns).unwrap();
        assert!(inside.find_link("eth0").unwrap().is_some());
    });
}

#[test]
fn port_flags_are_set_and_listed() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let bridge = nl.add_bridge(&Bridge::new("cni0")).unwrap();
        let veth = Veth { master: Some(bridge.index), ..Veth::new("a", "b") };
        let port = nl.add_veth(&veth).unwrap().index;
        let flags = BridgePort {
            hairpin: Some(true),
            isolated: Some(true),
            learning: Some(false),
            ..BridgePort::default()
        };
        nl.set_bridge_port(port, &flags).unwrap();
        let info = nl.link_by_index(port).unwrap().bridge_port.unwrap();
        assert!(info.hairpin && info.isolated && !info.learning && info.flood);
        let shown = &json("bridge", "-j -d link show dev a")[0];
        assert_eq!(shown["hairpin"], true);
        assert_eq!(shown["isolated"], true);
        let detach = LinkChange { master: Some(0), ..LinkChange::default() };
        nl.set_link(port, &detach).unwrap();
        assert_eq!(nl.link_by_index(port).unwrap().master, None);
    });
}

#[test]
fn addresses_are_added_listed_and_removed() {
    private_network(|| {
        let (_host, _, _netns, mut nl, eth0) = pair();
        nl.add_address(eth0, net("10.1.0.2/24"), NODAD).unwrap();
        nl.add_address(eth0, net("fd00::2/64"), NODAD).unwrap();
        let again = nl.add_address(eth0, net("10.1.0.2/24"), NODAD).unwrap_err();
        assert!(again.is_exists(), "{again}");
        let addresses = nl.addresses(eth0).unwrap();
        assert!(addresses.iter().all(|address| address.index == eth0));
        let v4 = addresses.iter().find(|address| address.net == net("10.1.0.2/24")).unwrap();
        assert!(v4.permanent && !v4.tentative);
        let v6 = addresses.iter().find(|address| address.net == net("fd00::2/64")).unwrap();
        assert!(v6.nodad && !v6.tentative, "it can be used at once");
        nl.settle_addresses(eth0, Duration::from_secs(30)).unwrap();
        nl.wait_until_up(eth0, Duration::from_secs(30)).unwrap();
        nl.del_address(eth0, net("10.1.0.2/24")).unwrap();
        let gone = nl.del_address(eth0, net("10.1.0.2/24")).unwrap_err();
        assert!(gone.is_not_found(), "{gone}");
    });
}

#[test]
fn ipv4_address_gets_the_broadcast_address_of_its_subnet() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_bridge(&Bridge::new("br")).unwrap().index;
        nl.add_address(link, net("10.1.2.3/24"), AddressFlags::default()).unwrap();
        let shown = &json("ip", "-j addr show br")[0]["addr_info"][0];
        assert_eq!(shown["broadcast"], "10.1.2.255");
        assert_eq!(shown["local"], "10.1.2.3");
    });
}

#[test]
fn routes_are_added_listed_looked_up_and_removed() {
    private_network(|| {
        let (_host, _, _netns, mut nl, eth0) = pair();
        nl.add_address(eth0, net("10.1.0.2/24"), NODAD).unwrap();
        nl.add_address(eth0, net("fd00::2/64"), NODAD).unwrap();
        let mut batch = nl.batch();
        batch.add_route(&Route::default_via(addr("10.1.0.1")));
        batch.add_route(&Route::default_via(addr("fd00::1")));
        batch.add_route(&Route {
            oif: Some(eth0),
            priority: Some(7),
            mtu: Some(1200),
            advmss: Some(1100),
            src: Some(addr("10.1.0.2")),
            ..Route::new(net("10.2.0.0/16"))
        });
        batch.add_route(&Route {
            gateway: Some(addr("192.0.2.1")),
            oif: Some(eth0),
            onlink: true,
            table: Some(1000),
            ..Route::new(net("10.3.0.0/16"))
        });
        batch
            .add_route(&Route { gateway: Some(addr("fd00::1")), ..Route::new(net("10.4.0.0/16")) });
        batch.commit().unwrap();

        let main = RouteFilter { table: Some(254), oif: Some(eth0), ..RouteFilter::default() };
        let routes = nl.routes(main).unwrap();
        let to = |dst: &str| {
            let dst = net(dst);
            let found = routes.iter().find(|route| route.dst == dst);
            found.unwrap_or_else(|| panic!("no route to {dst}: {routes:?}"))
        };
        assert_eq!(to("0.0.0.0/0").gateway, Some(addr("10.1.0.1")));
        assert_eq!(to("::/0").gateway, Some(addr("fd00::1")));
        assert_eq!(to("10.4.0.0/16").gateway, Some(addr("fd00::1")));
        let direct = to("10.2.0.0/16");
        assert_eq!(direct.scope, Some(253));
        assert_eq!((direct.mtu, direct.advmss), (Some(1200), Some(1100)));
        assert_eq!(direct.priority, Some(7));
        assert_eq!(direct.src, Some(addr("10.1.0.2")));

        let other =
            RouteFilter { table: Some(1000), family: Some(Family::V4), ..RouteFilter::default() };
        let listed = nl.routes(other).unwrap();
        assert_eq!(listed.len(), 1);
        assert!(listed[0].onlink);
        let empty = RouteFilter { table: Some(2000), ..RouteFilter::default() };
        assert_eq!(nl.routes(empty).unwrap(), []);

        let route = nl.route_to(addr("10.2.3.4")).unwrap().unwrap();
        assert_eq!(route.oif, Some(eth0));
        let again = nl.add_route(&Route::default_via(addr("10.1.0.3")));
        assert!(again.unwrap_err().is_exists());
        nl.replace_route(&Route::default_via(addr("10.1.0.3"))).unwrap();
        nl.del_route(&Route::default_via(addr("10.1.0.3"))).unwrap();
        let gone = nl.del_route(&Route::default_via(addr("10.1.0.3")));
        let gone = gone.unwrap_err();
        assert!(gone.is_not_found());
        assert!(gone.to_string().starts_with("remove default route via 10.1.0.3: "), "{gone}");
        assert_eq!(nl.route_to(addr("192.0.2.99")).unwrap(), None);
    });
}

#[test]
fn batch_error_names_the_refused_request_and_the_socket_stays_usable() {
    private_network(|| {
        let (_host, _, _netns, mut nl, eth0) = pair();
        let mut batch = nl.batch();
        batch.add_address(eth0, net("10.1.0.2/24"), NODAD);
        batch.add_route(&Route::default_via(addr("192.0.2.1")));
        batch.add_neighbour(eth0, addr("10.1.0.1"), MacAddr([2, 0, 0, 0, 0, 9]));
        let error = batch.commit().unwrap_err();
        assert!(
            error.to_string().starts_with(
                "add default route via 192.0.2.1: Network is unreachable (ENETUNREACH)"
            ),
            "{error}"
        );
        let neighbours = nl.neighbours(eth0).unwrap();
        assert_eq!(neighbours.len(), 1, "the kernel goes on after a refusal");
        assert!(neighbours[0].permanent);
        assert_eq!(neighbours[0].mac, Some(MacAddr([2, 0, 0, 0, 0, 9])));
        nl.del_neighbour(eth0, addr("10.1.0.1")).unwrap();
        assert_eq!(nl.neighbours(eth0).unwrap(), []);
    });
}

#[test]
fn batch_ends_if_the_kernel_drops_answers() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        nl.set_link(1, &up()).unwrap();
        let address = net("192.0.2.1/32");
        nl.add_address(1, address, NODAD).unwrap();
        // More refusals than the receive buffer has room for, and the last answer is none.
        let mut batch = nl.batch();
        for _ in 0..1000 {
            batch.add_address(1, address, NODAD);
        }
        batch.add_address(1, net("192.0.2.2/32"), NODAD);
        assert!(batch.commit().unwrap_err().is_exists());
        let addresses = nl.addresses(1).unwrap();
        assert!(addresses.iter().any(|it| it.net == net("192.0.2.2/32")), "{addresses:?}");
    });
}

#[test]
fn large_answer_arrives_complete() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_bridge(&Bridge::new("br")).unwrap().index;
        let mut batch = nl.batch();
        for host in 0..1000_u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0001 + host);
            batch.add_address(link, ipnet::IpNet::from(IpAddr::from(address)), NODAD);
        }
        batch.commit().unwrap();
        assert_eq!(nl.addresses(link).unwrap().len(), 1000);
    });
}

#[test]
fn error_names_the_missing_capability() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        drop_capabilities();
        let error = nl.add_bridge(&Bridge::new("cni0")).unwrap_err();
        assert!(error.is_permission(), "{error}");
        assert_eq!(
            error.to_string(),
            "create bridge cni0: Operation not permitted (EPERM); CAP_NET_ADMIN is needed"
        );
    });
}

fn drop_capabilities() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).unwrap();
}

#[test]
fn rules_are_added_listed_and_removed() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let before = nl.rules().unwrap();
        assert!(before.iter().any(|rule| rule.src == net("::/0") && rule.table == 254));
        let wanted = [
            Rule::new(net("10.1.0.2/32"), 100),
            Rule { priority: Some(7), ..Rule::new(net("fd01::2/128"), 70_000) },
            Rule { priority: Some(8), ..Rule::new(net("0.0.0.0/0"), 101) },
        ];
        for rule in &wanted {
            nl.add_rule(rule).unwrap();
        }
        assert!(nl.add_rule(&wanted[1]).unwrap_err().is_exists());
        let shown = json("ip", "-j rule show from 10.1.0.2");
        assert_eq!((&shown[0]["src"], &shown[0]["table"]), (&"10.1.0.2".into(), &"100".into()));
        let shown = json("ip", "-j -6 rule show priority 7");
        assert_eq!((&shown[0]["src"], &shown[0]["table"]), (&"fd01::2".into(), &"70000".into()));
        let listed: Vec<Rule> =
            nl.rules().unwrap().into_iter().filter(|rule| !before.contains(rule)).collect();
        assert_eq!(listed.len(), 3);
        for rule in &wanted {
            let is_like = |other: &&Rule| {
                other.src == rule.src && other.table == rule.table && !other.has_more
            };
            let found = listed.iter().find(is_like).unwrap();
            nl.del_rule(&Rule { priority: found.priority, ..rule.clone() }).unwrap();
        }
        assert_eq!(nl.rules().unwrap(), before);
        assert!(nl.del_rule(&wanted[0]).unwrap_err().is_not_found());
    });
}

#[test]
fn rules_with_other_selectors_are_marked() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        for more in [
            "to 10.9.0.0/16",
            "fwmark 5",
            "iif lo",
            "oif lo",
            "tos 0x10",
            "ipproto tcp",
            "uidrange 0-0",
            "dport 80",
        ] {
            ip(&format!("rule add from 10.1.0.2 {more} lookup 100"));
        }
        for other in ["rule add not from 10.1.0.2 lookup 100", "rule add from 10.1.0.2 blackhole"] {
            ip(other);
        }
        let rules: Vec<Rule> =
            nl.rules().unwrap().into_iter().filter(|rule| rule.src == net("10.1.0.2/32")).collect();
        assert_eq!(rules.len(), 10);
        assert!(rules.iter().all(|rule| rule.has_more), "{rules:?}");
    });
}

#[test]
fn multipath_route_is_listed_once_per_next_hop() {
    private_network(|| {
        let (_, _, _, mut container, far) = pair();
        let other = container.add_bridge(&Bridge { up: true, ..Bridge::new("br0") }).unwrap().index;
        container.add_address(far, net("fd01::2/64"), NODAD).unwrap();
        container.add_address(other, net("fd02::2/64"), NODAD).unwrap();
        let ways = [(far, "fd01::1"), (other, "fd02::1")];
        for (oif, gateway) in ways {
            container
                .append_route(&Route { oif: Some(oif), ..Route::default_via(addr(gateway)) })
                .unwrap();
        }
        let default = RouteFilter { dst: Some(net("::/0")), ..RouteFilter::default() };
        for (oif, gateway) in ways {
            let routes = container.routes(RouteFilter { oif: Some(oif), ..default }).unwrap();
            assert_eq!(
                routes.iter().map(|route| route.gateway).collect::<Vec<_>>(),
                [Some(addr(gateway))]
            );
        }
        let first = container.routes(RouteFilter { oif: Some(far), ..default }).unwrap().remove(0);
        container.del_route(&first).unwrap();
        let left: Vec<_> =
            container.routes(default).unwrap().iter().map(|route| route.oif).collect();
        assert_eq!(left, [Some(other)]);
    });
}

#[test]
fn macvlan_is_created_in_another_namespace_with_all_settings() {
    private_network(|| {
        let (mut host, lower, netns, mut inside, _) = pair();
        let macvlan = Macvlan {
            name: "lower".to_owned(),
            lower,
            mode: MacvlanMode::Vepa,
            bcqueuelen: Some(100),
            mtu: Some(1400),
            mac: Some("02:00:00:00:00:01".parse().unwrap()),
        };
        // Another interface in this namespace has the name.
        host.set_link(lower, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
        host.set_link(lower, &LinkChange { name: Some("lower".to_owned()), ..up() }).unwrap();
        let link = host.add_link_in(&netns, &mut inside, &macvlan).unwrap();
        assert_eq!((link.name.as_str(), link.mtu, link.mac), ("lower", 1400, macvlan.mac));
        let info = link.macvlan.unwrap();
        assert_eq!((info.mode, info.bcqueuelen), (MacvlanMode::Vepa, 100));
        assert_eq!((link.peer_index, link.peer_netnsid.is_some()), (Some(lower), true));
        assert!(host.add_link_in(&netns, &mut inside, &macvlan).unwrap_err().is_exists());
        assert_eq!(inside.links().unwrap().len(), 3, "lo, the veth, the macvlan");

        // Within one namespace the error shows the name of the lower link.
        let own = Macvlan { name: "mac0".to_owned(), mtu: Some(9000), ..macvlan };
        let error = host.add_link(&own).unwrap_err().to_string();
        assert!(error.starts_with("create macvlan mac0 (vepa) on lower: "), "{error}");
        let own = Macvlan { mtu: None, ..own };
        assert_eq!(host.add_link(&own).unwrap().peer_netnsid, None);
    });
}
