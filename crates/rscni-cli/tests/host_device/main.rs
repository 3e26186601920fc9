//! The host-device plugin, with packets. The device is one end of a veth pair, and the other end is
//! its network.

mod found;
mod identified;
mod interface_network;
mod moved;
mod returned;
#[path = "../support/mod.rs"]
mod support;

use rscni_linux::{AddressFlags, Link, LinkChange, Netns, Veth};
use rscni_test::{Container, Lab, Snapshot};
use serde_json::{Value, json};

use support::{Network, V4, V6, host_local, up};

const MAC: &str = "02:00:00:00:00:01";
const STATE: &str = "/run/cni/host-device";

/// Everything except the plugin's empty directory.
#[track_caller]
fn snapshot(lab: &Lab) -> Snapshot {
    support::snapshot(lab).ignoring(&format!("directory {STATE}")).ignoring("directory /run/cni ")
}

/// Creates the device `dev0`, which is up and has addresses, an MTU and an alias. Its peer has the
/// gateway's addresses.
fn device(lab: &Lab) -> Container {
    let net = lab.container("net");
    let netns = Netns::open(net.path()).unwrap();
    let mut host = lab.host().netlink();
    let veth = Veth {
        mac: Some(MAC.parse().unwrap()),
        peer_netns: Some(&netns),
        ..Veth::new("dev0", "peer")
    };
    let index = host.add_veth(&veth).unwrap().index;
    let change = LinkChange { mtu: Some(1400), alias: Some("the uplink".into()), ..up(true) };
    host.set_link(index, &change).unwrap();
    let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
    let plain = AddressFlags { noprefixroute: true, ..nodad };
    for (address, flags) in [("10.5.0.9/24", nodad), ("10.6.0.9/24", plain), ("fd05::9/64", nodad)]
    {
        host.add_address(index, address.parse().unwrap(), flags).unwrap();
    }
    let mut netlink = net.netlink();
    let index = netlink.link_by_name("peer").unwrap().index;
    netlink.set_link(index, &up(true)).unwrap();
    for address in ["10.1.0.1/24", "fd01::1/64", "10.5.0.1/24"] {
        netlink.add_address(index, address.parse().unwrap(), nodad).unwrap();
    }
    net
}

/// A network with that device and addresses of both families.
fn network(lab: &Lab, keys: &Value) -> Network {
    let ipam = host_local(&[V4, V6]);
    Network::new(lab, "host-device", &json!({ "device": "dev0", "ipam": ipam })).with(keys)
}

/// A network without IPAM.
fn bare(lab: &Lab) -> Network {
    network(lab, &json!({ "ipam": null }))
}

fn host_link(lab: &Lab, name: &str) -> Option<Link> {
    lab.host().netlink().find_link(name).unwrap()
}

/// Asserts that ADD fails and changes nothing.
#[track_caller]
fn assert_fails(lab: &Lab, network: &Network, a: &Container, ifname: &str, code: u64, word: &str) {
    let before = snapshot(lab);
    network.plugin.add(a, ifname, &network.config).error(code).mentions(word);
    lab.assert_unchanged_since(&before);
    network.plugin.del(a, ifname, &network.config).success();
    lab.assert_unchanged_since(&before);
}
