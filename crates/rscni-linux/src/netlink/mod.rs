//! rtnetlink: links, addresses, routes, rules and neighbours, as `ip` and `bridge` manage them.
//!
//! A [`Netlink`] socket stays in the namespace it was opened in. A caller that works on the host
//! and in a container opens one for each, and no thread changes its namespace after that.
//!
//! Messages are written and read attribute by attribute, with the constants of the kernel headers.
//! Unknown attributes are skipped, so that one of a foreign driver cannot hide a link.

mod action;
mod address;
mod attribute;
mod bridge;
mod family;
mod forwarding;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod kind;
mod link;
mod message;
mod monitor;
mod neighbour;
mod nsid;
mod removal;
mod request;
mod route;
mod rule;
mod settle;
mod socket;
pub mod tc;
mod vlan;

pub use self::{
    address::{Address, AddressFlags, NewAddress},
    bridge::{BridgeInfo, BridgePort, BridgePortInfo},
    family::Family,
    forwarding::Forwarding,
    kind::{
        Bridge, Dummy, Ifb, Ipvlan, IpvlanMode, Macvlan, MacvlanInfo, MacvlanMode, NewLink,
        TunInfo, Veth, VlanLink, Vrf, Vxlan, VxlanInfo,
    },
    link::{Link, LinkChange, OperState},
    monitor::{Event, Monitor},
    neighbour::Neighbour,
    removal::Background,
    request::{Batch, Request},
    route::{Route, RouteFilter, RouteType},
    rule::Rule,
    vlan::{Vlan, VlanOwner},
};
pub(crate) use self::{
    attribute::{Attributes, Value, attributes},
    message::{
        AttributeBuf, Message, NLA_F_NESTED, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL,
        NLM_F_REPLACE, nul_terminated, octets,
    },
    socket::{Answer, Refusal, Socket},
};
use crate::{Error, Netns, Result};

/// An rtnetlink socket, bound to the namespace it was opened in.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Opens a socket in `netns`; the calling thread stays where it is.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        Ok(Self { socket: Socket::open_in(netns, netlink_sys::protocols::NETLINK_ROUTE)? })
    }

    /// Returns the port id of the socket, by which notifications name the originator of a change.
    /// The kernel assigns it when the first request is sent.
    pub fn port(&self) -> Result<u32> {
        self.socket.port()
    }
}

/// Turns "not found" into `None`.
pub(crate) trait Optional<T> {
    fn optional(self) -> Result<Option<T>>;
}

impl<T> Optional<T> for Result<T> {
    fn optional(self) -> Result<Option<T>> {
        match self {
            Err(error) if Error::is_not_found(&error) => Ok(None),
            outcome => outcome.map(Some),
        }
    }
}
