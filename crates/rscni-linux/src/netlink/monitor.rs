//! Notifications of changes, as `ip monitor` and `nft monitor` print them.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELNEIGH, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH,
    RTM_NEWROUTE,
};
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::io::Errno;
use socket2::{SockFilter, SockRef};

use super::{Address, Forwarding, Link, Neighbour, Netlink, Route, Socket, link::AF_BRIDGE};
use crate::{
    Error, Netns, Result,
    bpf::{JUMP_IF_EQUAL, LOAD_WORD, RETURN},
    nft,
};

const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const NFNLGRP_NFTABLES: u32 = 7;
const NFT_MSG_NEWGEN: u16 = 15;
/// Room for the notifications of some ten thousand changes.
const QUEUE: usize = 4 << 20;

/// A change in the namespace of a [`Monitor`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A link was created or changed.
    Link(Link),
    /// A link was deleted.
    LinkGone(Link),
    /// An address was added.
    Address(Address),
    /// An address was removed.
    AddressGone(Address),
    /// A route was added or replaced. A multipath route is one event for each next hop.
    Route(Route),
    /// A route was removed.
    RouteGone(Route),
    /// A neighbour was added or changed.
    Neighbour(Neighbour),
    /// A neighbour was removed.
    NeighbourGone(Neighbour),
    /// An entry of a forwarding database was added or changed.
    Forwarding(Forwarding),
    /// An entry of a forwarding database was removed.
    ForwardingGone(Forwarding),
    /// The table of nftables with this name, or something in it, was changed.
    Nftables(String),
    /// A base chain of nftables at this hook was created or changed.
    Chain(nft::Hook),
    /// A rule of nftables with this comment was removed.
    RuleGone(String),
    /// Notifications were lost because they were not read in time. Everything may have changed.
    Lost,
}

/// A socket that receives notifications. It does not block: wait until its descriptor is readable.
///
/// It reports the changes of its own process too.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    netfilter: bool,
    ignored: Option<u32>,
}

impl Monitor {
    /// Subscribes to links, addresses, routes, neighbours and forwarding databases in the calling
    /// thread's namespace.
    pub fn open() -> Result<Self> {
        let groups = [
            RTNLGRP_LINK,
            RTNLGRP_NEIGH,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_IPV6_ROUTE,
        ];
        Self::subscribe(NETLINK_ROUTE, &groups, false)
    }

    /// Like [`Monitor::open`], in a namespace.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.enter(Self::open)?
    }

    /// Subscribes to changes of nftables in the calling thread's namespace.
    pub fn open_nftables() -> Result<Self> {
        Self::subscribe(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], true)
    }

    /// Like [`Monitor::open_nftables`], in a namespace.
    pub fn open_nftables_in(netns: &Netns) -> Result<Self> {
        netns.enter(Self::open_nftables)?
    }

    /// Skips changes of the socket with this port, see [`Nft::port`](crate::Nft::port) and
    /// [`Netlink::port`]. Those of forwarding databases do not name their originator.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the filter.
    pub fn ignore(&mut self, port: u32) -> Result<()> {
        if self.ignored != Some(port) {
            self.ignored = Some(port);
            // A datagram of nftables may have changes of several originators.
            if !self.netfilter {
                let attached = SockRef::from(&self.socket).attach_filter(&of_others(port));
                attached.map_err(|error| Error::io("filter notifications", error))?;
            }
        }
        Ok(())
    }

    fn subscribe(protocol: isize, groups: &[u32], netfilter: bool) -> Result<Self> {
        let mut socket = Socket::open(protocol)?;
        socket.join(groups, QUEUE).map_err(|error| Error::io("subscribe to changes", error))?;
        Ok(Self { socket, netfilter, ignored: None })
    }

    /// Returns the events that are waiting.
    ///
    /// # Errors
    ///
    /// If the socket fails. A full queue is [`Event::Lost`].
    pub fn receive(&mut self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let (netfilter, ignored) = (self.netfilter, self.ignored);
        loop {
            let received = self.socket.notifications(|kind, port, payload| {
                if ignored != Some(port) {
                    events.extend(if netfilter {
                        nftables(kind, payload)
                    } else {
                        parse(kind, payload)
                    });
                }
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(error) if is(&error, Errno::NOBUFS) => events.push(Event::Lost),
                Err(error) => return Err(Error::io("receive notifications", error)),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns a classic BPF filter that accepts the notifications of all ports but one.
fn of_others(port: u32) -> [SockFilter; 4] {
    let op = SockFilter::new;
    [
        // The port id of the originator.
        op(LOAD_WORD, 0, 0, 12),
        op(JUMP_IF_EQUAL, 0, 1, port.to_be()),
        op(RETURN, 0, 0, 0),
        op(RETURN, 0, 0, u32::MAX),
    ]
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn nftables(kind: u16, payload: &[u8]) -> Vec<Event> {
    // Every transaction ends with a message about the generation of the ruleset.
    let is_change = kind & 0xff != NFT_MSG_NEWGEN;
    let Some(change) = is_change.then(|| nft::Notification::parse(kind, payload)).flatten() else {
        return Vec::new();
    };
    let chain = change.hook.map(Event::Chain);
    let rule = change.comment.map(Event::RuleGone);
    [Event::Nftables(change.table)].into_iter().chain(chain).chain(rule).collect()
}

fn parse(kind: u16, payload: &[u8]) -> Vec<Event> {
    let bridge = payload.first() == Some(&AF_BRIDGE);
    match kind {
        // Ports of bridges have notifications of their own, with the family of bridges.
        RTM_NEWLINK if !bridge => Link::parse(payload).map(Event::Link).into_iter().collect(),
        RTM_DELLINK if !bridge => Link::parse(payload).map(Event::LinkGone).into_iter().collect(),
        RTM_NEWADDR => Address::parse(payload).map(Event::Address).into_iter().collect(),
        RTM_DELADDR => Address::parse(payload).map(Event::AddressGone).into_iter().collect(),
        RTM_NEWROUTE => Route::parse_all(payload).into_iter().map(Event::Route).collect(),
        RTM_DELROUTE => Route::parse_all(payload).into_iter().map(Event::RouteGone).collect(),
        RTM_NEWNEIGH if bridge => {
            Forwarding::parse(payload).map(Event::Forwarding).into_iter().collect()
        }
        RTM_DELNEIGH if bridge => {
            Forwarding::parse(payload).map(Event::ForwardingGone).into_iter().collect()
        }
        RTM_NEWNEIGH => Neighbour::parse(payload).map(Event::Neighbour).into_iter().collect(),
        RTM_DELNEIGH => Neighbour::parse(payload).map(Event::NeighbourGone).into_iter().collect(),
        _ => Vec::new(),
    }
}
