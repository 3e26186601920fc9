//! Links of the host and of containers.

use rscni_linux::{AddressFlags, Link, LinkChange, MacAddr, Netlink, Netns, Veth};
use rscni_test::{Container, Lab, Namespace};

/// Connects the host interface `name` to the interface `peer` of another machine. Both are up.
#[track_caller]
pub(crate) fn cable(lab: &Lab, name: &str, machine: &Container, peer: &str) {
    let netns = Netns::open(machine.path()).expect("its namespace");
    let veth = Veth { up: true, peer_netns: Some(&netns), ..Veth::new(name, peer) };
    lab.host().netlink().add_veth(&veth).expect("add a veth");
    change(&mut machine.netlink(), peer, &up(true));
}

/// Adds an address without duplicate address detection.
#[track_caller]
pub(crate) fn add_address(namespace: &Namespace, link: &str, address: &str) {
    let mut netlink = namespace.netlink();
    let index = netlink.link_by_name(link).expect("the link").index;
    let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
    netlink.add_address(index, address.parse().expect("a CIDR"), nodad).expect("add an address");
}

/// The addresses of a link, without those that the kernel makes.
#[track_caller]
pub(crate) fn addresses(namespace: &Namespace, link: &str) -> Vec<String> {
    let mut netlink = namespace.netlink();
    let link = netlink.link_by_name(link).expect("the link");
    let addresses = netlink.addresses(link.index).expect("its addresses");
    let given = addresses.iter().filter(|address| address.scope != 253);
    given.map(|address| address.net.to_string()).collect()
}

/// The host's link of that name.
#[track_caller]
pub(crate) fn host_link(lab: &Lab, name: &str) -> Link {
    lab.host().netlink().link_by_name(name).unwrap_or_else(|error| panic!("{error}"))
}

/// Changes a link.
#[track_caller]
pub(crate) fn change(netlink: &mut Netlink, link: &str, change: &LinkChange<'_>) {
    let index = netlink.link_by_name(link).expect("the link").index;
    netlink.set_link(index, change).expect("change the link");
}

/// Brings a link up, or sets it down.
pub(crate) fn up(on: bool) -> LinkChange<'static> {
    LinkChange { up: Some(on), ..LinkChange::default() }
}

/// Moves a link between namespaces.
#[track_caller]
pub(crate) fn move_link(from: &Namespace, name: &str, to: &Namespace) {
    let netns = Netns::open(to.path()).expect("the namespace");
    change(&mut from.netlink(), name, &LinkChange { netns: Some(&netns), ..LinkChange::default() });
}

/// Value of `addr_assign_type` for an address that a program set (`NET_ADDR_SET`).
const SET: &str = "3";

/// Changes hardware addresses as udev does with `MACAddressPolicy=persistent`, its default: each
/// host interface whose address the kernel chose gets another one. Returns the names of these
/// interfaces.
#[track_caller]
pub(crate) fn act_as_udev(lab: &Lab) -> Vec<String> {
    let mut host = lab.host().netlink();
    let mut changed = Vec::new();
    for link in host.links().expect("the links").into_iter().filter(|link| !link.loopback) {
        let file = format!("/sys/class/net/{}/addr_assign_type", link.name);
        let kind = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{file}, which needs a sysfs of this network: {error}"));
        if kind.trim() != SET {
            let mac = Some(MacAddr::random().expect("an address"));
            change(&mut host, &link.name, &LinkChange { mac, ..LinkChange::default() });
            changed.push(link.name);
        }
    }
    changed
}
