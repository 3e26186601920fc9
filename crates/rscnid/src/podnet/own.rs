//! The facts about this node: its podCIDRs, its uplinks and its tunnels.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::{Address, Family, Link, MacAddr};

use super::{Both, Bridge, FAMILIES, NodeInfo, Reason};

/// The way to other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Backend {
    /// A plain route to nodes on the same segment, VXLAN to all others.
    #[default]
    Auto,
    /// Plain routes only.
    Direct,
    /// VXLAN only.
    Vxlan,
}

/// The interface that has the address of this Node, for one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Index.
    pub index: u32,
    /// Address of this Node.
    pub address: IpAddr,
    /// Subnets of the interface: its neighbours are reached without a router.
    pub segments: Vec<IpNet>,
    /// MTU.
    pub mtu: u32,
}

/// This node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Own {
    /// Name of the Node.
    pub name: String,
    /// Its podCIDRs.
    pub pod_cidrs: Both<Option<IpNet>>,
    /// Its `InternalIP`s.
    pub addresses: Both<Option<IpAddr>>,
    /// Hardware addresses of its VXLAN devices.
    pub macs: Both<MacAddr>,
    /// Its uplinks.
    pub uplinks: Both<Option<Uplink>>,
    /// The configured way to other nodes.
    pub backend: Backend,
    /// The bridge of another pod network, whose pods stay.
    pub bridge: Option<Bridge>,
}

impl Own {
    /// Finds the uplinks by the addresses of the Node, however the default route leads. The address
    /// in `before` is kept if it exists and that of the Node does not.
    pub fn find(
        node: &NodeInfo,
        backend: Backend,
        before: Option<&Self>,
        links: &[Link],
        addresses: &[Address],
    ) -> Self {
        let uplink_with = |family: Family, own: IpAddr| {
            let index = addresses.iter().find(|address| address.net.addr() == own)?.index;
            let link = links.iter().find(|link| link.index == index)?;
            let subnets = addresses.iter().filter(|address| {
                let net = &address.net;
                address.index == index
                    && Family::of(&net.addr()) == family
                    && net.prefix_len() < net.max_prefix_len()
                    && !is_link_local(net)
            });
            let segments = subnets.map(|address| address.net.trunc()).collect();
            Some(Uplink { index, address: own, segments, mtu: link.mtu })
        };
        let uplink = |family: Family| {
            let before = before.and_then(|own| own.uplinks.of(family).as_ref());
            let known = [*node.addresses.of(family), before.map(|uplink| uplink.address)];
            known.into_iter().flatten().find_map(|own| uplink_with(family, own))
        };
        Self {
            name: node.name.clone(),
            pod_cidrs: node.pod_cidrs,
            addresses: node.addresses,
            macs: Both::each(|family| vtep_mac(&node.name, family)),
            uplinks: Both::each(uplink),
            backend,
            bridge: Bridge::find(&node.pod_cidrs, links, addresses),
        }
    }

    /// Returns what prevents the pod network of this node, or a part of it.
    pub fn faults(&self) -> Vec<Reason> {
        if self.pod_cidrs == Both::default() {
            return vec![Reason::NoPodCidrs];
        }
        let fault = |family: Family| {
            self.pod_cidrs.of(family).as_ref()?;
            match self.uplinks.of(family) {
                None => Some(Reason::NoUplink(family)),
                Some(uplink) => (Some(uplink.address) != *self.addresses.of(family))
                    .then_some(Reason::OldUplink(uplink.address)),
            }
        };
        let unfiltered = |bridge: &Bridge| {
            let is_affected = |family: Family| {
                *bridge.unfiltered.of(family) && self.pod_cidrs.of(family).is_some()
            };
            let any = FAMILIES.into_iter().any(is_affected);
            any.then(|| Reason::BridgeNotFiltered(bridge.name.clone()))
        };
        let bridge = self.bridge.as_ref().and_then(unfiltered);
        FAMILIES.into_iter().filter_map(fault).chain(bridge).collect()
    }

    /// Whether pods of other nodes can be reached over one family, at least.
    pub fn is_connected(&self) -> bool {
        let has_both = |family: Family| {
            self.pod_cidrs.of(family).is_some() && self.uplinks.of(family).is_some()
        };
        FAMILIES.into_iter().any(has_both)
    }
}

fn is_link_local(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Returns the hardware address of this node's VXLAN device. It depends on the name only, so that
/// it is the same after a reboot.
pub fn vtep_mac(name: &str, family: Family) -> MacAddr {
    // FNV-1a.
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let salt = if family == Family::V4 { b'4' } else { b'6' };
    let hash = name.bytes().chain([salt]).fold(0xcbf2_9ce4_8422_2325, fold);
    let [mut mac @ .., _, _] = (hash ^ hash.rotate_right(17)).to_be_bytes();
    // Locally administered, unicast.
    mac[0] = mac[0] & !1 | 2;
    MacAddr(mac)
}
