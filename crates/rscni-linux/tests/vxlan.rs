//! VXLAN links, their forwarding databases, and notifications.

mod support;

use std::net::IpAddr;

use rscni_linux::{
    AddressFlags, Event, Link, LinkChange, MacAddr, Monitor, Netlink, Nft, Route, Vxlan,
    nft::{BaseChain, Family, Hook, Rule, Table},
};
use support::{ip, private_network};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vxlan(netlink: &mut Netlink) -> Link {
    let lower = netlink.link_by_name("lo").unwrap().index;
    let vxlan = Vxlan {
        name: "flannel.1".into(),
        vni: 1,
        local: address("127.0.0.1"),
        lower,
        port: 8472,
        mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
        mtu: Some(1450),
    };
    netlink.add_link(&vxlan).unwrap()
}

#[test]
fn vxlan_link_has_its_settings() {
    private_network(|| {
        let mut netlink = Netlink::open().unwrap();
        let link = vxlan(&mut netlink);
        assert_eq!(link.mac, Some(MacAddr([2, 0, 0, 0, 0, 1])));
        assert_eq!((link.mtu, link.up), (1450, true));
        let info = link.vxlan.unwrap();
        assert_eq!((info.vni, info.port, info.learning), (1, 8472, false));
        assert_eq!((info.local, info.lower), (Some(address("127.0.0.1")), Some(1)));
        let shown = ip("-d link show flannel.1");
        assert!(shown.contains("vxlan id 1 local 127.0.0.1 dev lo"), "{shown}");
        assert!(shown.contains("dstport 8472 nolearning"), "{shown}");
    });
}

#[test]
fn forwarding_entry_is_replaced_listed_and_removed() {
    private_network(|| {
        let mut netlink = Netlink::open().unwrap();
        let index = vxlan(&mut netlink).index;
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        netlink.add_forwarding(index, mac, address("192.0.2.1")).unwrap();
        netlink.add_forwarding(index, mac, address("192.0.2.2")).unwrap();
        let entries = netlink.forwarding(index).unwrap();
        let [entry] = entries[..] else { panic!("{entries:?}") };
        assert_eq!((entry.mac, entry.remote), (mac, address("192.0.2.2")));
        assert!(entry.permanent);
        netlink.del_forwarding(index, mac, address("192.0.2.2")).unwrap();
        assert_eq!(netlink.forwarding(index).unwrap(), []);
    });
}

fn events(monitor: &mut Monitor) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let some = monitor.receive().unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

#[test]
fn monitor_ignores_the_changes_of_a_socket() {
    private_network(|| {
        let (mut own, mut other) = (Netlink::open().unwrap(), Netlink::open().unwrap());
        let link = vxlan(&mut own);
        let mut monitor = Monitor::open().unwrap();
        monitor.ignore(own.port().unwrap()).unwrap();
        for (netlink, last) in [(&mut own, 2), (&mut other, 3)] {
            let dst = net_of(&format!("10.{last}.0.0/24"));
            netlink.add_route(&Route { oif: Some(link.index), ..Route::new(dst) }).unwrap();
            let mac = MacAddr([2, 0, 0, 0, 0, last]);
            netlink.add_neighbour(link.index, [10, 1, 0, last].into(), mac).unwrap();
        }
        let seen = events(&mut monitor);
        assert!(matches!(&seen[0], Event::Route(it) if it.dst == net_of("10.3.0.0/24")));
        assert!(matches!(&seen[1], Event::Neighbour(it) if it.address == address("10.1.0.3")));
        assert_eq!(seen.len(), 2, "{seen:?}");
    });
}

#[test]
fn monitor_reports_changes_of_links_routes_and_forwarding() {
    private_network(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        assert_eq!(monitor.receive().unwrap(), []);
        let link = vxlan(&mut netlink);
        let net = "10.1.0.1/24".parse().unwrap();
        netlink.add_address(link.index, net, AddressFlags::default()).unwrap();
        let route = Route { oif: Some(link.index), ..Route::new(net_of("10.2.0.0/24")) };
        netlink.add_route(&route).unwrap();
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        netlink.add_forwarding(link.index, mac, address("192.0.2.1")).unwrap();
        netlink.add_neighbour(link.index, address("10.1.0.2"), mac).unwrap();
        let seen = events(&mut monitor);
        let has = |wanted: &dyn Fn(&Event) -> bool| seen.iter().any(wanted);
        assert!(has(&|event| matches!(event, Event::Link(it) if it.name == "flannel.1")));
        assert!(has(&|event| matches!(event, Event::Address(it) if it.net == net)));
        assert!(has(&|event| matches!(event, Event::Route(it) if it.dst == route.dst)));
        assert!(has(&|event| matches!(event, Event::Forwarding(it) if it.mac == mac)));
        assert!(has(&|event| matches!(event, Event::Neighbour(it) if it.mac == Some(mac))));

        netlink.del_route(&route).unwrap();
        netlink.del_forwarding(link.index, mac, address("192.0.2.1")).unwrap();
        netlink
            .set_link(link.index, &LinkChange { up: Some(false), ..Default::default() })
            .unwrap();
        netlink.del_link(link.index).unwrap();
        let seen = events(&mut monitor);
        let has = |wanted: &dyn Fn(&Event) -> bool| seen.iter().any(wanted);
        assert!(has(&|event| matches!(event, Event::RouteGone(it) if it.dst == route.dst)));
        assert!(has(&|event| matches!(event, Event::ForwardingGone(it) if it.mac == mac)));
        assert!(has(&|event| matches!(event, Event::LinkGone(it) if it.name == "flannel.1")));
    });
}

fn net_of(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

#[test]
fn monitor_reports_lost_notifications() {
    private_network(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut monitor = Monitor::open().unwrap();
        let link = vxlan(&mut netlink);
        let change =
            |alias: u32| LinkChange { alias: Some(format!("{alias}")), ..Default::default() };
        for alias in 0..20_000 {
            netlink.set_link(link.index, &change(alias)).unwrap();
        }
        assert!(events(&mut monitor).contains(&Event::Lost));
    });
}

#[test]
fn monitor_reports_base_chains_and_removed_rules() {
    private_network(|| {
        let mut monitor = Monitor::open_nftables().unwrap();
        let table = Table::new(Family::Ip, "watched");
        let mut nft = Nft::open().unwrap();
        let mut transaction = nft.transaction();
        let base = BaseChain::filter(Hook::Forward, 0);
        transaction.add_table(&table).add_chain(&table, "some", Some(&base));
        transaction.add_chain(&table, "other", None);
        transaction.add_rule(&table, "some", &Rule::new().comment("marked").accept());
        transaction.commit().unwrap();
        let specific = |events: Vec<Event>| {
            let is_specific = |event: &Event| !matches!(event, Event::Nftables(_));
            events.into_iter().filter(is_specific).collect::<Vec<_>>()
        };
        assert_eq!(specific(events(&mut monitor)), [Event::Chain(Hook::Forward)]);
        let chains = nft.base_chains(Hook::Forward).unwrap();
        let found = chains.iter().map(|(table, chain)| (table, &*chain.name));
        assert_eq!(found.collect::<Vec<_>>(), [(&table, "some")]);
        assert_eq!(nft.base_chains(Hook::Input).unwrap(), []);
        let mut transaction = nft.transaction();
        transaction.flush_chain(&table, "some");
        transaction.commit().unwrap();
        assert_eq!(specific(events(&mut monitor)), [Event::RuleGone("marked".into())]);
    });
}

#[test]
fn monitor_reports_the_table_of_a_changed_ruleset() {
    private_network(|| {
        let mut monitor = Monitor::open_nftables().unwrap();
        let table = Table::new(Family::Inet, "watched");
        let mut nft = Nft::open().unwrap();
        let mut transaction = nft.transaction();
        transaction.add_table(&table).add_chain(&table, "some", None);
        transaction.commit().unwrap();
        assert_eq!(events(&mut monitor), vec![Event::Nftables("watched".into()); 2]);
        let mut transaction = nft.transaction();
        transaction.del_table(&table);
        transaction.commit().unwrap();
        assert!(events(&mut monitor).contains(&Event::Nftables("watched".into())));
    });
}
