//! The state of the kernel that peers cause: desired by the core, or read from the kernel.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    net::IpAddr,
};

use ipnet::IpNet;
use rscni_linux::MacAddr;

/// An object, by what is unique about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// An entry of the VXLAN device's forwarding database.
    Forwarding {
        /// Whether it is the device of IPv6.
        v6: bool,
        /// Hardware address of the peer's device.
        mac: MacAddr,
    },
    /// A permanent neighbour on the VXLAN device.
    Neighbour(IpAddr),
    /// An element of the set of pod networks, which are not masqueraded.
    Pods(IpNet),
    /// An element of the set of nodes, which are not masqueraded.
    Node(IpAddr),
    /// A route to a podCIDR.
    Route(IpNet),
}

/// The rest of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// Remote endpoint of a forwarding entry.
    Remote(IpAddr),
    /// Hardware address of a neighbour.
    Mac(MacAddr),
    /// An element of a set.
    Member,
    /// A plain route over the uplink, by its gateway.
    Direct(IpAddr),
    /// A route over the VXLAN device, by its gateway there.
    Tunnel(IpAddr),
}

/// Objects by their key.
pub type State = BTreeMap<Key, Value>;

/// A change of the kernel's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Adds the object, or replaces one of ours.
    Set(Key, Value),
    /// Removes the object.
    Remove(Key, Value),
}

impl Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarding { mac, .. } => write!(f, "hardware address {mac}"),
            Self::Neighbour(address) => write!(f, "neighbour {address}"),
            Self::Pods(net) => write!(f, "podCIDR {net}"),
            Self::Node(address) => write!(f, "address {address}"),
            Self::Route(net) => write!(f, "route to {net}"),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote(address) => write!(f, "at {address}"),
            Self::Mac(mac) => write!(f, "has {mac}"),
            Self::Member => f.write_str("not masqueraded"),
            Self::Direct(gateway) => write!(f, "via {gateway}"),
            Self::Tunnel(gateway) => write!(f, "via {gateway} over VXLAN"),
        }
    }
}

impl Change {
    fn is_removal(&self) -> bool {
        matches!(self, Self::Remove(..))
    }

    /// The key of the object.
    pub fn key(&self) -> Key {
        match self {
            Self::Set(key, _) | Self::Remove(key, _) => *key,
        }
    }
}

/// Returns the changes that lead from one state to another.
///
/// Additions precede removals, and what a route needs exists as long as the route.
pub fn difference(from: &State, to: &State) -> Vec<Change> {
    let set = to.iter().filter(|(key, value)| from.get(key) != Some(value));
    let gone = from.iter().filter(|(key, _)| !to.contains_key(key));
    let set = set.map(|(key, value)| Change::Set(*key, *value));
    set.chain(gone.rev().map(|(key, value)| Change::Remove(*key, *value))).collect()
}

/// Orders changes of different objects as [`difference`] does.
pub(super) fn order(changes: &mut [Change]) {
    changes.sort_by(|a, b| match (a.is_removal(), b.is_removal()) {
        (false, false) => a.key().cmp(&b.key()),
        (true, true) => b.key().cmp(&a.key()),
        (a_is_removal, b_is_removal) => a_is_removal.cmp(&b_is_removal),
    });
}
