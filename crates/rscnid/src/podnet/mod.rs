//! The pod network: routes to the pods of other nodes, and the network list of this node.
//!
//! [`Core`] decides. It is given Nodes and this node's interfaces, and returns changes of the
//! kernel's state. It has no clock, socket or thread, so that a simulator can drive it.

mod acceptance;
mod adoption;
pub mod conflist;
mod core;
pub mod daemon;
pub mod kernel;
mod list_file;
mod masquerade;
pub mod node;
pub mod own;
mod plan;
pub mod probe;
mod prober;
mod problems;
mod repair;
pub mod state;

pub use self::{
    adoption::Bridge,
    core::Core,
    node::{NodeInfo, Tunnel},
    own::{Backend, Own, Uplink},
    plan::{Problem, Reason},
    state::{Change, Key, State, Value, difference},
};
use ipnet::IpNet;
use rscni_linux::Family;
use serde::Serialize;

/// A value for each address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Both<T> {
    /// The value for IPv4.
    pub v4: T,
    /// The value for IPv6.
    pub v6: T,
}

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl<T> Both<T> {
    /// Returns the value for a family.
    pub fn of(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Returns the value for a family, to change it.
    pub fn of_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Creates the values from the families.
    pub fn each(mut value: impl FnMut(Family) -> T) -> Self {
        Self { v4: value(Family::V4), v6: value(Family::V6) }
    }

    /// Iterates over the values.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        [&self.v4, &self.v6].into_iter()
    }
}

/// Whether two subnets have addresses in common.
pub(crate) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}
