//! Requests that change something, and batches of them.
//!
//! Every operation is one function that returns a [`Request`]. [`Netlink`] runs one at a time, a
//! [`Batch`] collects several and sends them together.

use std::{net::IpAddr, ops::ControlFlow};

use ipnet::IpNet;

use super::{
    AddressFlags, BridgePort, LinkChange, Netlink, NewAddress, Route, Rule, Vlan, VlanOwner,
    action::Action,
    message::{Message, NLM_F_ACK},
    socket::{Answer, Refusal},
    tc::{Handle, HtbClass, Qdisc, U32},
};
use crate::{Error, MacAddr, Result};

/// One change, ready to be sent, with its description.
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
    /// Sends one request and waits for the result.
    pub fn run(&mut self, request: &Request) -> Result<()> {
        self.run_all(std::slice::from_ref(request))
    }

    /// Sends all requests at once and waits until the kernel has processed them in order.
    ///
    /// This is not a transaction: after a refusal the kernel still carries out later requests.
    ///
    /// # Errors
    ///
    /// The first refusal, naming its request.
    pub fn run_all(&mut self, requests: &[Request]) -> Result<()> {
        match self.run_each(requests)?.into_iter().next() {
            Some((_, refusal)) => Err(refusal),
            None => Ok(()),
        }
    }

    /// As [`run_all`](Self::run_all), but returns the positions of all refused requests.
    ///
    /// # Errors
    ///
    /// If it is not known which requests were refused: the kernel drops answers if the receive
    /// buffer has no room for them.
    pub fn run_each(&mut self, requests: &[Request]) -> Result<Vec<(usize, Error)>> {
        let Some(end) = requests.len().checked_sub(1) else {
            return Ok(Vec::new());
        };
        let mut first = None;
        let mut last = 0;
        for (position, request) in requests.iter().enumerate() {
            // Refusals are always reported, success only for the last request. A successful batch
            // has one answer.
            let ack = if position == end { NLM_F_ACK } else { 0 };
            last = self.socket.queue(request.flags | ack, &request.message);
            first.get_or_insert(last);
        }
        let first = first.unwrap_or(last);
        let mut refused = Vec::new();
        let outcome = self.socket.send().and_then(|()| {
            self.socket.receive(first, last, |sequence, _, answer| {
                if let Answer::Refused(refusal) = answer {
                    refused.push((sequence.wrapping_sub(first) as usize, refusal));
                }
                if sequence == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        });
        let mut refused = refused.into_iter().map(|(position, refusal): (usize, Refusal)| {
            (position, refusal.into_error(self.render(&requests[position].action)))
        });
        match outcome {
            Ok(()) => Ok(refused.collect()),
            Err(error) => Err(match refused.next() {
                Some((_, refusal)) => refusal,
                None => Error::io(self.render(&requests[0].action), error),
            }),
        }
    }

    /// Starts a batch of changes.
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

/// Changes that are sent together by [`Batch::commit`]; made by [`Netlink::batch`].
///
/// Dropping it without a commit changes nothing.
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

    /// Sends all requests, see [`Netlink::run_all`].
    pub fn commit(self) -> Result<()> {
        self.netlink.run_all(&self.requests)
    }
}

/// Generates, for each function that makes a request, a method of [`Netlink`] that runs it and one
/// of [`Batch`] that collects it.
macro_rules! operations {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*);)*) => {
        /// Single changes.
        impl Netlink {
            $($(#[$doc])* pub fn $name(&mut self, $($argument: $type),*) -> Result<()> {
                self.run(&Request::$name($($argument),*))
            })*
        }

        /// Batched changes.
        impl Batch<'_> {
            $($(#[$doc])* pub fn $name(&mut self, $($argument: $type),*) -> &mut Self {
                self.push(Request::$name($($argument),*))
            })*
        }
    };
}

operations! {
    /// Changes a link, as `ip link set`, in one message.
    fn set_link(index: u32, change: &LinkChange<'_>);
    /// Deletes a link with its veth peer, addresses and routes, as `ip link del`.
    fn del_link(index: u32);
    /// Sets flags of a bridge port, as `bridge link set`.
    fn set_bridge_port(index: u32, port: &BridgePort);
    /// Adds VLANs to a bridge port or to the bridge itself, as `bridge vlan add`.
    fn add_vlans(index: u32, vlans: &[Vlan], owner: VlanOwner);
    /// Removes VLANs, as `bridge vlan del`.
    fn del_vlans(index: u32, vlans: &[Vlan], owner: VlanOwner);
    /// Adds an address, as `ip addr add`. Fails with `EEXIST` if the link already has it.
    fn add_address(index: u32, net: IpNet, flags: AddressFlags);
    /// Adds an address like [`add_address`](Netlink::add_address), with peer and scope.
    fn add_new_address(index: u32, address: &NewAddress);
    /// Removes an address, as `ip addr del`.
    fn del_address(index: u32, net: IpNet);
    /// Adds a route, as `ip route add`. Fails with `EEXIST` if there is one to the same
    /// destination.
    fn add_route(route: &Route);
    /// Adds a route, as `ip route append`. Fails with `EEXIST` only if an equal one exists.
    fn append_route(route: &Route);
    /// Adds or replaces a route, as `ip route replace`.
    fn replace_route(route: &Route);
    /// Removes the first route that matches all fields of `route`, as `ip route del`.
    fn del_route(route: &Route);
    /// Adds a routing rule, as `ip rule add`. Fails with `EEXIST` if an equal one of the same
    /// priority exists.
    fn add_rule(rule: &Rule);
    /// Removes a routing rule, as `ip rule del`; without a priority, the first match.
    fn del_rule(rule: &Rule);
    /// Adds a queueing discipline, as `tc qdisc add`. Fails with `EEXIST` unless the present one is
    /// the kernel's default.
    fn add_qdisc(index: u32, parent: Handle, handle: Handle, qdisc: &Qdisc);
    /// Deletes a queueing discipline with its classes and filters, as `tc qdisc del`.
    fn del_qdisc(index: u32, parent: Handle);
    /// Adds a class to `htb`, as `tc class add`.
    fn add_htb_class(index: u32, class: &HtbClass);
    /// Adds a filter, as `tc filter add`.
    fn add_filter(index: u32, filter: &U32);
    /// Adds or replaces a permanent neighbour entry, as `ip neigh replace ... nud permanent`.
    fn add_neighbour(index: u32, address: IpAddr, mac: MacAddr);
    /// Removes a neighbour entry, as `ip neigh del`.
    fn del_neighbour(index: u32, address: IpAddr);
    /// Adds or replaces a permanent entry of a VXLAN link, as `bridge fdb replace ... dst REMOTE`.
    fn add_forwarding(index: u32, mac: MacAddr, remote: IpAddr);
    /// Removes an entry of a VXLAN link, as `bridge fdb del ... dst REMOTE`.
    fn del_forwarding(index: u32, mac: MacAddr, remote: IpAddr);
}
