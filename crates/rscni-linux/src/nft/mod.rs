//! nftables over netlink: tables, chains, sets and rules, changed in one transaction.
//!
//! Names are those of `nft(8)`, and `nft list ruleset` prints everything that is created here, with
//! comments. [`Nft`] is the socket; [`Transaction`] collects changes and commits all or none; a
//! [`Rule`] consists of matches and a verdict; a [`Value`] is compared or looked up.

mod chain;
mod element;
mod expression;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod list;
mod message;
mod rule;
mod set;
mod transaction;
mod userdata;
mod value;
mod verdict;

use std::fmt;

use netlink_sys::protocols::NETLINK_NETFILTER;

pub(crate) use self::list::Notification;
pub use self::{
    chain::{BaseChain, Hook, Policy},
    element::{Data, Element},
    expression::{CtState, Field, NatFlags},
    list::{ChainInfo, ElementInfo, RawExpression, RuleInfo},
    rule::Rule,
    set::{DataType, Set, ValueType},
    transaction::Transaction,
    value::Value,
    verdict::Verdict,
};
use crate::{Netns, Result, closing::DeferredClose, netlink::Socket};

/// An nftables socket, bound to the namespace it was opened in.
#[derive(Debug)]
pub struct Nft {
    socket: DeferredClose<Socket>,
    /// Whether the kernel supports the destroy messages (since Linux 6.3).
    destroy: bool,
}

impl Nft {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        Socket::open(NETLINK_NETFILTER).map(Self::new)
    }

    /// Opens a socket in `netns`; the calling thread stays where it is.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        Socket::open_in(netns, NETLINK_NETFILTER).map(Self::new)
    }

    fn new(socket: Socket) -> Self {
        Self { socket: socket.into(), destroy: true }
    }

    /// Avoids the messages of Linux 6.3, for tests. An older kernel is detected automatically.
    pub fn assume_old_kernel(&mut self) {
        self.destroy = false;
    }

    /// Returns the port id of the socket, by which notifications name the originator of a change.
    pub fn port(&self) -> Result<u32> {
        self.socket.port()
    }

    /// Starts a transaction.
    pub fn transaction(&mut self) -> Transaction<'_> {
        Transaction::new(self)
    }
}

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
    /// Bridged frames.
    Bridge,
    /// Frames of one device.
    Netdev,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Arp => 3,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        let all = [Self::Inet, Self::Ip, Self::Ip6, Self::Arp, Self::Bridge, Self::Netdev];
        all.into_iter().find(|family| family.number() == number)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Arp => "arp",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        })
    }
}

/// A table, by family and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Name, unique in its family.
    pub name: String,
}

impl Table {
    /// Returns the table `name` of `family`.
    pub fn new(family: Family, name: impl Into<String>) -> Self {
        Self { family, name: name.into() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.family, self.name)
    }
}
