//! The network between the machines: two bridges in the cluster's first network namespace.
//!
//! The control plane and two nodes are on one of them, all other nodes on the other. This namespace
//! is the router between them and the rest of the world. It has no routes to pods, so only packets
//! with a node's source address are answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use fs_err as fs;
use xtask::program;

/// The machine of the control plane.
pub(super) const CONTROL_PLANE: Machine = Machine(10);
/// Nodes on the segment of the control plane. The others are behind the router.
const NEAR: u8 = 2;
const SEGMENTS: [&str; 2] = ["near", "behind"];

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

    /// Whether the machine is on the segment of the control plane.
    pub(super) fn is_near(self) -> bool {
        self.0 <= CONTROL_PLANE.0 + NEAR
    }

    fn segment(self) -> u8 {
        (!self.is_near()).into()
    }

    pub(super) fn ipv4(self) -> Ipv4Addr {
        ipv4(self.segment(), self.0)
    }

    pub(super) fn ipv6(self) -> Ipv6Addr {
        ipv6(self.segment(), self.0)
    }

    /// Addresses of both families.
    pub(super) fn addresses(self) -> [IpAddr; 2] {
        [self.ipv4().into(), self.ipv6().into()]
    }
}

fn ipv4(segment: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, segment, host)
}

fn ipv6(segment: u8, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x200, 0, segment.into(), 0, 0, 0, host.into())
}

/// Last part of the addresses of the router.
const ROUTER: u8 = 1;

/// Makes the bridges and the world in this namespace, which is the router between them.
pub(super) fn create() -> Result<()> {
    ip("link set lo up")?;
    for (name, segment) in SEGMENTS.into_iter().zip(0..) {
        let (ipv4, ipv6) = (ipv4(segment, ROUTER), ipv6(segment, ROUTER));
        ip(&format!("link add name {name} type bridge forward_delay 0"))?;
        ip(&format!("address add {ipv4}/24 dev {name}"))?;
        ip(&format!("address add {ipv6}/64 dev {name} nodad"))?;
        ip(&format!("link set {name} up"))?;
    }
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{setting}"), "1")?;
    }
    ip(&format!("address add {}/32 dev lo", WORLD[0]))?;
    ip(&format!("address add {}/128 dev lo nodad", WORLD[1]))
}

/// Connects a machine to the bridge. `netns` is the name of its network namespace or the id of a
/// process in it, `inside` the options of `nsenter` for it.
pub(super) fn connect(machine: Machine, netns: &str, inside: &str) -> Result<()> {
    let port = format!("port{}", machine.0);
    ip(&format!("link add {port} type veth peer name eth0 netns {netns}"))?;
    let segment = machine.segment();
    ip(&format!("link set {port} up master {}", SEGMENTS[usize::from(segment)]))?;
    let (router4, router6) = (ipv4(segment, ROUTER), ipv6(segment, ROUTER));
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
