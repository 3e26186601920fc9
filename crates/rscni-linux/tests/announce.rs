//! Announcements, as received by a neighbour.

mod support;

use std::net::IpAddr;

use rscni_linux::{AddressFlags, LinkChange, MacAddr, Netlink, Netns, Veth, announce, sysctl};
use support::private_network;

/// Checks that a neighbour with a stale hardware address for each address learns the announced one.
fn assert_neighbour_learns(own: &str, addresses: &[IpAddr]) {
    let netns = Netns::create().unwrap();
    let mut host = Netlink::open().unwrap();
    let mut container = Netlink::open_in(&netns).unwrap();
    let veth = Veth { peer_netns: Some(&netns), ..Veth::new("veth0", "eth0") };
    let near = host.add_veth(&veth).unwrap().index;
    let far = container.link_by_name("eth0").unwrap();
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    host.set_link(near, &up).unwrap();
    container.set_link(far.index, &up).unwrap();
    let limit = std::time::Duration::from_secs(60);
    host.wait_until_up(near, limit).unwrap();
    container.wait_until_up(far.index, limit).unwrap();
    let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
    host.add_address(near, own.parse().unwrap(), nodad).unwrap();
    // IPv6 on a new link accepts packets only after its own address is ready.
    host.settle_addresses(near, limit).unwrap();
    // IPv4 does not replace an entry that changed within the last second.
    sysctl::set("net/ipv4/neigh/veth0/locktime", "0").unwrap();
    let stale = MacAddr([2, 0, 0, 0, 0, 0x99]);
    for address in addresses {
        let name = format!("neigh replace {address} lladdr {stale} dev veth0 nud stale");
        support::ip(&name);
    }
    announce(&netns, &far, addresses).unwrap();
    let deadline = std::time::Instant::now() + limit;
    loop {
        let known = host.neighbours(near).unwrap();
        let learnt = addresses.iter().all(|address| {
            known.iter().any(|neighbour| neighbour.address == *address && neighbour.mac == far.mac)
        });
        if learnt {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{known:?}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn neighbour_learns_an_ipv4_address() {
    private_network(|| assert_neighbour_learns("10.1.0.1/24", &["10.1.0.2".parse().unwrap()]));
}

#[test]
fn neighbour_learns_an_ipv6_address() {
    private_network(|| assert_neighbour_learns("fd00::1/64", &["fd00::2".parse().unwrap()]));
}

#[test]
fn announcement_waits_for_a_full_queue() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_veth(&Veth::new("a", "b")).unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        nl.set_link(link.index, &up).unwrap();
        let peer = nl.link_by_name("b").unwrap().index;
        nl.set_link(peer, &up).unwrap();
        nl.wait_until_up(link.index, std::time::Duration::from_secs(60)).unwrap();
        support::run("tc", "qdisc add dev a root pfifo limit 0");
        let netns = Netns::current().unwrap();
        let addresses = ["10.1.0.2".parse().unwrap()];
        let error = announce(&netns, &link, &addresses).unwrap_err().to_string();
        assert!(error.ends_with("(ENOBUFS)"), "{error}");

        let empty = std::thread::spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            support::run("tc", "qdisc del dev a root");
        });
        announce(&netns, &link, &addresses).unwrap();
        empty.join().unwrap();
    });
}

#[test]
fn announcement_on_a_link_that_is_down_fails() {
    private_network(|| {
        let mut nl = Netlink::open().unwrap();
        let link = nl.add_veth(&Veth::new("a", "b")).unwrap();
        let netns = Netns::current().unwrap();
        let error = announce(&netns, &link, &["10.1.0.2".parse().unwrap()]).unwrap_err();
        assert_eq!(error.to_string(), "announce 10.1.0.2 on a: Network is down (ENETDOWN)");
    });
}
