//! The way to the pods of one Node, decided from that Node and this one alone.

use std::{
    fmt::{self, Display},
    net::IpAddr,
};

use ipnet::IpNet;
use rscni_linux::Family;

use super::{Backend, Key, NodeInfo, Own, Tunnel, overlap};

/// Why a Node, or a family of it, is not part of the network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    /// Name of the Node.
    pub node: String,
    /// The reason.
    pub reason: Reason,
}

/// See [`Problem`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A value could not be read.
    Fault(String),
    /// The podCIDR cannot be that of a Node.
    Unusable(IpNet),
    /// The podCIDR contains addresses of this node or of its segments.
    CoversSegment(IpNet, IpNet),
    /// Another Node owns the resource.
    Conflict(Key, String),
    /// The address of the Node, or the endpoint of its tunnel, belongs to this node or to pods.
    WrongEndpoint(IpAddr),
    /// The Node has no address of this family.
    NoAddress(Family),
    /// The Node is on another segment, and plain routes are forced.
    NotOnSegment(IpAddr),
    /// The Node is on another segment and has not published a tunnel.
    NoTunnel(Family),
    /// This node has no podCIDR.
    NoPodCidrs,
    /// No interface of this node has its `InternalIP`.
    NoUplink(Family),
    /// No interface of this node has its `InternalIP`, and a previous one stays in use.
    OldUplink(IpAddr),
    /// Packets between ports of this bridge skip netfilter.
    BridgeNotFiltered(String),
    /// The kernel refused a change.
    Refused(String),
    /// The daemon of the Node does not answer over the tunnel.
    Unreachable(IpAddr),
    /// Packets arrive over the tunnel only if they have no checksum.
    WrongChecksums(IpAddr),
    /// Other rules of this node drop packets of pods.
    Dropped(String),
    /// The kernel or the network list could not be brought into the desired state.
    NotSynchronized(String),
}

impl Reason {
    /// A word for programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fault(_) => "InvalidNode",
            Self::Unusable(_) => "InvalidPodCIDR",
            Self::CoversSegment(..) => "OverlappingPodCIDR",
            Self::Conflict(..) => "Conflict",
            Self::WrongEndpoint(_) => "InvalidEndpoint",
            Self::NoAddress(_) => "NoInternalIP",
            Self::NotOnSegment(_) => "NotOnSegment",
            Self::NoTunnel(_) => "NoTunnel",
            Self::NoPodCidrs => "NoPodCIDRs",
            Self::NoUplink(_) | Self::OldUplink(_) => "NoUplink",
            Self::BridgeNotFiltered(_) => "BridgeNotFiltered",
            Self::Refused(_) => "RefusedByKernel",
            Self::Unreachable(_) => "Unreachable",
            Self::WrongChecksums(_) => "WrongChecksums",
            Self::Dropped(_) => "ForwardingDropped",
            Self::NotSynchronized(_) => "NotSynchronized",
        }
    }
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node {}: {}", self.node, self.reason)
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(text)
            | Self::Refused(text)
            | Self::Dropped(text)
            | Self::NotSynchronized(text) => f.write_str(text),
            Self::Unusable(net) => write!(f, "podCIDR {net} is too large or not unicast"),
            Self::CoversSegment(net, own) => {
                write!(f, "podCIDR {net} overlaps {own}, which this node is connected to")
            }
            Self::Conflict(key, node) => write!(f, "{key} belongs to Node {node}"),
            Self::WrongEndpoint(address) => {
                write!(f, "address {address} belongs to this node or to pods")
            }
            Self::NoAddress(family) => write!(f, "no InternalIP for {family:?}"),
            Self::NotOnSegment(address) => {
                write!(f, "address {address} is on another segment, and --backend is direct")
            }
            Self::NoTunnel(family) => {
                write!(f, "on another segment, and no tunnel for {family:?} is published yet")
            }
            Self::NoPodCidrs => f.write_str(
                "the Node has no spec.podCIDRs; start kube-controller-manager with \
                 --allocate-node-cidrs and --cluster-cidr",
            ),
            Self::NoUplink(family) => write!(
                f,
                "no interface has an InternalIP of the Node for {family:?}; pods of other nodes \
                 cannot be reached over it"
            ),
            Self::BridgeNotFiltered(bridge) => write!(
                f,
                "packets between ports of {bridge} skip netfilter, so that pods do not reach \
                 Services with a pod on the same node; load br_netfilter, and set \
                 net.bridge.bridge-nf-call-iptables and bridge-nf-call-ip6tables to 1"
            ),
            Self::Unreachable(endpoint) => write!(
                f,
                "no answer from {endpoint} over VXLAN; allow UDP port {} between nodes, and UDP \
                 port {} on the VXLAN device",
                super::kernel::PORT,
                super::prober::PORT
            ),
            Self::WrongChecksums(endpoint) => write!(
                f,
                "packets to {endpoint} over VXLAN, or from it, have wrong checksums; turn off \
                 checksum offload for tunnels on the uplinks (ethtool -K UPLINK tx off)"
            ),
            Self::OldUplink(address) => {
                write!(f, "no interface has the InternalIP of the Node; {address} stays in use")
            }
        }
    }
}

/// The way to a Node's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hop {
    /// A plain route.
    Direct(IpAddr),
    /// A tunnel.
    Tunnel(Tunnel),
}

/// The largest podCIDRs that are accepted.
const MIN_PREFIX: super::Both<u8> = super::Both { v4: 8, v6: 32 };

/// Checks a podCIDR against this node.
pub(super) fn check_cidr(own: &Own, net: IpNet) -> Result<(), Reason> {
    let family = Family::of(&net.addr());
    let address = net.addr();
    if net.prefix_len() < *MIN_PREFIX.of(family)
        || address.is_multicast()
        || address.is_loopback()
        || matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
        || matches!(address, IpAddr::V4(v4) if v4.is_link_local() || v4.octets()[0] == 0)
    {
        return Err(Reason::Unusable(net));
    }
    let uplinks = own.uplinks.iter().flatten();
    let connected = |uplink: &super::Uplink| {
        let mut nets = uplink.segments.clone();
        nets.push(uplink.address.into());
        nets
    };
    match uplinks.flat_map(connected).find(|segment| overlap(segment, &net)) {
        Some(segment) => Err(Reason::CoversSegment(net, segment)),
        None => Ok(()),
    }
}

/// Returns the way to a Node's pods, and whether it needs this node's tunnel to be published.
pub(super) fn hop(own: &Own, node: &NodeInfo, family: Family) -> (Result<Hop, Reason>, bool) {
    let Some(uplink) = own.uplinks.of(family) else {
        return (Err(Reason::NoAddress(family)), false);
    };
    let is_wrong = |address: IpAddr| {
        let is_pod = |net: &IpNet| net.contains(&address);
        own.uplinks.iter().flatten().any(|uplink| uplink.address == address)
            || own.pod_cidrs.iter().chain(node.pod_cidrs.iter()).flatten().any(is_pod)
    };
    let address = *node.addresses.of(family);
    let on_segment =
        |address: &IpAddr| uplink.segments.iter().any(|segment| segment.contains(address));
    let is_direct = match own.backend {
        Backend::Direct => true,
        Backend::Vxlan => false,
        // With strict rp_filter, both ends have to choose the same way.
        Backend::Auto => !node.tunnel_only && address.as_ref().is_some_and(on_segment),
    };
    if is_direct {
        let hop = match address {
            None => Err(Reason::NoAddress(family)),
            Some(address) if is_wrong(address) => Err(Reason::WrongEndpoint(address)),
            Some(address) if !on_segment(&address) => Err(Reason::NotOnSegment(address)),
            Some(address) => Ok(Hop::Direct(address)),
        };
        return (hop, false);
    }
    let hop = match node.tunnels.of(family) {
        None => Err(Reason::NoTunnel(family)),
        Some(tunnel) if is_wrong(tunnel.endpoint) => Err(Reason::WrongEndpoint(tunnel.endpoint)),
        Some(tunnel) => Ok(Hop::Tunnel(*tunnel)),
    };
    (hop, true)
}
