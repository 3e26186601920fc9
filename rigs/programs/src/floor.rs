//! The netlink messages for the effect of a plugin, and nothing else: no JSON, no checks, no
//! reservation, no undo.
//!
//! It is a static program like `rscni`, so its start costs as much as that of an empty program, and
//! the difference to a plugin is the plugin's own cost.
//!
//! ```text
//! floor lo-up NETNS
//! floor lo-down NETNS
//! floor bridge-add BRIDGE_INDEX HOST_END NETNS ADDRESS GATEWAY
//! floor ptp-add HOST_END NETNS ADDRESS GATEWAY
//! floor del LINK_INDEX
//! ```

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rscni_linux::{AddressFlags, Link, LinkChange, Netlink, Netns, Route, Veth};

/// `lo` is the first interface of every network namespace.
const LOOPBACK: u32 = 1;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        ["lo-up", netns] => {
            Ok(Netlink::open_in(&Netns::open(netns)?)?.set_link(LOOPBACK, &set(true))?)
        }
        ["lo-down", netns] => {
            Ok(Netlink::open_in(&Netns::open(netns)?)?.set_link(LOOPBACK, &set(false))?)
        }
        ["bridge-add", bridge, end, netns, address, gateway] => {
            let bridge = bridge.parse().context("the index of the bridge")?;
            let netns = Netns::open(netns)?;
            let port = add_veth(&mut Netlink::open()?, end, &netns, Some(bridge))?;
            configure(&netns, &port, address.parse()?, &[Route::default_via(gateway.parse()?)])
        }
        ["ptp-add", end, netns, address, gateway] => {
            let (address, gateway): (IpNet, IpNet) = (address.parse()?, gateway.parse()?);
            let netns = Netns::open(netns)?;
            let mut host = Netlink::open()?;
            let near = add_veth(&mut host, end, &netns, None)?;
            let mut batch = host.batch();
            batch.add_address(near.index, gateway, AddressFlags::default());
            batch.add_route(&Route { oif: Some(near.index), ..Route::new(address.addr()) });
            batch.commit()?;
            let container_end = near.peer_index;
            let to_gateway = Route { oif: container_end, ..Route::new(gateway.addr()) };
            configure(&netns, &near, address, &[to_gateway, Route::default_via(gateway.addr())])
        }
        ["del", index] => {
            Ok(Netlink::open()?.del_link(index.parse().context("the index of the link")?)?)
        }
        _ => bail!("unknown arguments: {}", arguments.join(" ")),
    }
}

fn set(up: bool) -> LinkChange<'static> {
    LinkChange { up: Some(up), ..LinkChange::default() }
}

fn add_veth(host: &mut Netlink, end: &str, netns: &Netns, master: Option<u32>) -> Result<Link> {
    Ok(host.add_veth(&Veth {
        master,
        up: true,
        peer_netns: Some(netns),
        ..Veth::new(end, "eth0")
    })?)
}

/// Brings up the container interface, and adds its address and routes.
fn configure(netns: &Netns, near: &Link, address: IpNet, routes: &[Route]) -> Result<()> {
    let end = near.peer_index.context("a veth has a peer")?;
    let mut container = Netlink::open_in(netns)?;
    let mut batch = container.batch();
    batch.set_link(end, &set(true));
    batch.add_address(end, address, AddressFlags::default());
    for route in routes {
        batch.add_route(route);
    }
    Ok(batch.commit()?)
}
