//! A request to change something, and batches of them.
//!
//! Every operation is written once, as a function that makes a [`Request`]. [`Netlink`] runs one at a time,
//! a [`Batch`] collects several and sends them together.

use std::ops::ControlFlow;

use super::{
    Netlink,
    action::Action,
    message::{Message, NLM_F_ACK},
    socket::Answer,
};
use crate::{Error, Result};

/// One change, ready to be sent: the message, and in words what it does.
#[derive(Debug, Clone)]
pub struct Request {
    pub(super) message: Message,
    pub(super) flags: u16,
    pub(super) action: Action,
}

impl Request {
    pub(super) fn new(message: Message, flags: u16, action: impl Into<Action>) -> Self {
        Self { message, flags, action: action.into() }
    }
}

impl Netlink {
    /// Sends one request and waits until the kernel has carried it out.
    pub fn run(&mut self, request: &Request) -> Result<()> {
        self.run_all(std::slice::from_ref(request))
    }

    /// Sends all requests at once and waits until the kernel has been through them, in their order.
    ///
    /// It is no transaction: when one is refused, the kernel still carries out those that follow.
    ///
    /// # Errors
    ///
    /// The first refusal. It names the request that was refused.
    pub fn run_all(&mut self, requests: &[Request]) -> Result<()> {
        let Some(end) = requests.len().checked_sub(1) else {
            return Ok(());
        };
        let mut first = None;
        let mut last = 0;
        for (position, request) in requests.iter().enumerate() {
            // Refusals are always told; success only of the last one. So a batch that succeeds has one answer.
            let ack = if position == end { NLM_F_ACK } else { 0 };
            last = self.socket.queue(request.flags | ack, &request.message);
            first.get_or_insert(last);
        }
        let first = first.unwrap_or(last);
        let mut refused = None;
        let outcome = self.socket.send().and_then(|()| {
            self.socket.receive(first, last, |sequence, _, answer| {
                if let Answer::Refused(refusal) = answer {
                    refused.get_or_insert((sequence, refusal));
                }
                if sequence == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        if let Err(error) = outcome {
            return Err(Error::io(self.name_links(&requests[0].action), error));
        }
        match refused {
            None => Ok(()),
            Some((sequence, refusal)) => {
                let request = &requests[sequence.wrapping_sub(first) as usize];
                Err(refusal.during(self.name_links(&request.action)))
            }
        }
    }

    /// Collects several changes to send them together.
    ///
    /// ```no_run
    /// # fn main() -> rscni_linux::Result<()> {
    /// # use rscni_linux::{Netlink, LinkChange, AddressFlags, Route};
    /// let mut nl = Netlink::open()?;
    /// let eth0 = nl.link_by_name("eth0")?.index;
    /// let mut batch = nl.batch();
    /// batch.set_link(eth0, &LinkChange { up: Some(true), ..LinkChange::default() });
    /// batch.add_address(eth0, "10.1.0.2/24".parse().unwrap(), AddressFlags::default());
    /// batch.add_route(&Route { gateway: Some("10.1.0.1".parse().unwrap()), ..Route::default() });
    /// batch.commit()
    /// # }
    /// ```
    pub fn batch(&mut self) -> Batch<'_> {
        Batch { netlink: self, requests: Vec::new() }
    }
}

/// Changes that are sent together: made by [`Netlink::batch`], carried out by [`Batch::commit`].
///
/// Dropped without a commit, none of them happens.
#[derive(Debug)]
#[must_use = "nothing happens until commit()"]
pub struct Batch<'a> {
    netlink: &'a mut Netlink,
    requests: Vec<Request>,
}

impl Batch<'_> {
    /// Adds a request.
    pub fn push(&mut self, request: Request) -> &mut Self {
        self.requests.push(request);
        self
    }

    /// Sends them all, see [`Netlink::run_all`].
    pub fn commit(self) -> Result<()> {
        self.netlink.run_all(&self.requests)
    }
}

/// From functions that make requests, methods of [`Netlink`] that run them and of [`Batch`] that collect them.
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*);)*) => {
        /// Changes, one at a time.
        impl Netlink {
            $($(#[$doc])* pub fn $name(&mut self, $($argument: $type),*) -> Result<()> {
                self.run(&Request::$name($($argument),*))
            })*
        }

        /// The same changes, to be sent together.
        impl Batch<'_> {
            $($(#[$doc])* pub fn $name(&mut self, $($argument: $type),*) -> &mut Self {
                self.push(Request::$name($($argument),*))
            })*
        }
    };
}

operations! {
    /// Changes a link, as `ip link set`: all that `change` says, in one message.
    fn set_link(index: u32, change: &super::LinkChange<'_>);
    /// Deletes a link (and with it its veth peer, its addresses and its routes), as `ip link del`.
    fn del_link(index: u32);
    /// Sets flags of a bridge port, as `bridge link set`.
    fn set_bridge_port(index: u32, port: &super::BridgePort);
    /// Adds VLANs to a bridge port or, for the bridge's own, to a bridge; as `bridge vlan add`.
    fn add_vlans(index: u32, vlans: &[super::Vlan], owner: super::VlanOwner);
    /// Removes VLANs, as `bridge vlan del`.
    fn del_vlans(index: u32, vlans: &[super::Vlan], owner: super::VlanOwner);
    /// Adds an address with its prefix, as `ip addr add`. Fails with `EEXIST` if the link has it already.
    fn add_address(index: u32, net: ipnet::IpNet, flags: super::AddressFlags);
    /// Adds an address as [`add_address`](Netlink::add_address) does, with its peer and its scope.
    fn add_new_address(index: u32, address: &super::NewAddress);
    /// Removes an address, as `ip addr del`.
    fn del_address(index: u32, net: ipnet::IpNet);
    /// Adds a route, as `ip route add`. Fails with `EEXIST` if there is one to the same destination.
    fn add_route(route: &super::Route);
    /// Adds a route beside one to the same destination, as `ip route append`. Fails with `EEXIST` only if there is
    /// one like it in all respects.
    fn append_route(route: &super::Route);
    /// Adds a route in place of one to the same destination, as `ip route replace`.
    fn replace_route(route: &super::Route);
    /// Removes a route, as `ip route del`: the first that is like `route` in all that `route` says.
    fn del_route(route: &super::Route);
    /// Adds a routing rule, as `ip rule add`. Fails with `EEXIST` if there is one like it of the same priority.
    fn add_rule(rule: &super::Rule);
    /// Removes a routing rule, as `ip rule del`; the first that is like `rule` if it has no priority.
    fn del_rule(rule: &super::Rule);
    /// Adds a queueing discipline, as `tc qdisc add`. Fails with `EEXIST` if there is one that somebody has put there.
    fn add_qdisc(index: u32, parent: super::tc::Handle, handle: super::tc::Handle, qdisc: &super::tc::Qdisc);
    /// Deletes a queueing discipline with its classes and filters, as `tc qdisc del`.
    fn del_qdisc(index: u32, parent: super::tc::Handle);
    /// Adds a class to `htb`, as `tc class add`.
    fn add_htb_class(index: u32, class: &super::tc::HtbClass);
    /// Adds a filter, as `tc filter add`.
    fn add_filter(index: u32, filter: &super::tc::U32);
    /// Adds or replaces a permanent neighbour entry, as `ip neigh replace ... nud permanent`.
    fn add_neighbour(index: u32, address: std::net::IpAddr, mac: crate::MacAddr);
    /// Removes a neighbour entry, as `ip neigh del`.
    fn del_neighbour(index: u32, address: std::net::IpAddr);
}
