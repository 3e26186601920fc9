//! The network between the machines: a bridge in the cluster's first network namespace.
//!
//! This namespace is also the router of the machines and the rest of the world. It has no routes to
//! pods, so only packets with a node's source address are answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use xtask::program;

/// Address of the router on the network of the machines.
const ROUTER: Machine = Machine(1);
/// The machine of the control plane.
pub(super) const CONTROL_PLANE: Machine = Machine(10);

/// Addresses of the world outside, in no network of the cluster.
pub(super) const WORLD: [&str; 2] = ["203.0.113.1", "2001:db8:113::1"];

/// A machine on the network, by the last part of its addresses.
#[derive(Clone, Copy)]
pub(super) struct Machine(u8);

impl Machine {
    /// Machine of a node, counted from 1.
    pub(super) fn of_node(index: u8) -> Self {
        Self(CONTROL_PLANE.0 + index)
    }

    pub(super) fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 200, 0, self.0)
    }

    /// Addresses of both families.
    pub(super) fn addresses(self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }

    pub(super) fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 0, self.0.into())
    }
}

/// Makes the bridge and the world in this namespace.
pub(super) fn create() -> Result<()> {
    let (ipv4, ipv6) = (ROUTER.ipv4(), ROUTER.ipv6());
    ip("link set lo up")?;
    ip("link add name lan type bridge forward_delay 0")?;
    ip(&format!("address add {ipv4}/24 dev lan"))?;
    ip(&format!("address add {ipv6}/64 dev lan nodad"))?;
    ip("link set lan up")?;
    ip(&format!("address add {}/32 dev lo", WORLD[0]))?;
    ip(&format!("address add {}/128 dev lo nodad", WORLD[1]))
}

/// Connects a machine to the bridge. `netns` is the name of its network namespace or the id of a
/// process in it, `inside` the options of `nsenter` for it.
pub(super) fn connect(machine: Machine, netns: &str, inside: &str) -> Result<()> {
    let port = format!("port{}", machine.0);
    ip(&format!("link add {port} type veth peer name eth0 netns {netns}"))?;
    ip(&format!("link set {port} up master lan"))?;
    let (router4, router6) = (ROUTER.ipv4(), ROUTER.ipv6());
    for line in [
        "link set lo up",
        "link set eth0 up",
        &format!("address add {}/24 dev eth0", machine.ipv4()),
        &format!("address add {}/64 dev eth0 nodad", machine.ipv6()),
        &format!("route add default via {router4}"),
        &format!("route add default via {router6}"),
    ] {
        program::output_of(&format!("nsenter {inside} ip {line}"))?;
    }
    Ok(())
}

fn ip(line: &str) -> Result<()> {
    program::output_of(&format!("ip {line}")).map(drop)
}
