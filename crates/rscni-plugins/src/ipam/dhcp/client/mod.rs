//! The client side of the protocol (RFC 2131, section 4.4) as a state machine without sockets and
//! clocks. The caller passes the time and the messages that arrive; the client returns the message
//! to send and the time of its next call.
//!
//! ADD passes the address to the container once. So a server that later gives another address ends
//! the lease.

mod binding;
mod timers;

#[cfg(test)]
mod tests;

use std::{net::Ipv4Addr, time::Duration};

use rscni_linux::MacAddr;

use self::timers::{Backoff, next_extension};
pub(crate) use self::{
    binding::Binding,
    timers::{Time, Timeouts},
};
use super::{
    lease::{Lease, Terms},
    message::{Kind, Message, Options, code},
    options::ClientOptions,
};

/// The identity of a client in its messages.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) mac: MacAddr,
    /// Size of the longest message that the client accepts.
    pub(crate) largest: u16,
    /// Option 61, which is unique.
    pub(crate) client_id: Vec<u8>,
    pub(crate) client_options: ClientOptions,
    /// Whether servers shall broadcast their answers.
    pub(crate) broadcast: bool,
}

/// The next action of the caller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Wait until [`Client::wake`].
    Wait,
    Send(Vec<u8>, Transport),
    /// The lease is obtained or extended.
    Bound,
    /// No lease was obtained, for this reason.
    Failed(String),
    /// The address must not be used any more, for this reason.
    Lost(String),
}

/// How a message is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Broadcast {
        from: Ipv4Addr,
    },
    /// Routed like any packet of the container.
    Unicast {
        from: Ipv4Addr,
        to: Ipv4Addr,
    },
}

/// A message that releases a lease.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) message: Vec<u8>,
    /// The leased address.
    pub(crate) from: Ipv4Addr,
    /// The server.
    pub(crate) to: Ipv4Addr,
}

/// A client for one address.
#[derive(Debug)]
pub(crate) struct Client {
    identity: Identity,
    timeouts: Timeouts,
    random: fn() -> u32,
    /// ID of the transaction. A retransmission has the same, since a server may answer late.
    xid: u32,
    binding: Option<Binding>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Discovers servers.
    Selecting(Search),
    /// Requests an offered address.
    Requesting {
        search: Search,
        server: Ipv4Addr,
        address: Ipv4Addr,
        since: Time,
        backoff: Backoff,
    },
    Bound,
    /// Renews the lease with its server, or rebinds it with any server.
    Extending {
        rebinding: bool,
        sent: Time,
        next: Time,
        is_listening: bool,
    },
    /// Final state.
    Over,
}

#[derive(Clone, Debug)]
struct Search {
    since: Time,
    give_up: Time,
    backoff: Backoff,
    /// The last problem, for the error message.
    remark: Option<String>,
}

impl Client {
    /// Creates a client that discovers a lease.
    pub(crate) fn new(
        identity: Identity,
        timeouts: Timeouts,
        random: fn() -> u32,
        now: Time,
    ) -> Self {
        let state = Self::search(now, now.saturating_add(timeouts.resend_timeout), None);
        Self { identity, timeouts, random, xid: random(), binding: None, state }
    }

    /// Creates a client with a lease of an earlier daemon. An expired lease is discovered again:
    /// its address may still be free.
    pub(crate) fn resume(
        identity: Identity,
        timeouts: Timeouts,
        random: fn() -> u32,
        now: Time,
        binding: Binding,
    ) -> Self {
        let is_expired = binding.is_expired(now);
        let mut client =
            Self { binding: Some(binding), ..Self::new(identity, timeouts, random, now) };
        if !is_expired {
            client.state = State::Bound;
        }
        client
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the lease, also after it has expired.
    pub(crate) fn binding(&self) -> Option<&Binding> {
        self.binding.as_ref()
    }

    /// Whether the address is leased now.
    pub(crate) fn is_live(&self, now: Time) -> bool {
        !matches!(self.state, State::Over)
            && self.binding.as_ref().is_some_and(|binding| !binding.is_expired(now))
    }

    /// Whether the client waits for an answer.
    pub(crate) fn is_listening(&self) -> bool {
        match self.state {
            State::Selecting(_) | State::Requesting { .. } => true,
            State::Extending { is_listening, .. } => is_listening,
            State::Bound | State::Over => false,
        }
    }

    /// Returns the time at which to call [`elapse`](Self::elapse) next.
    pub(crate) fn wake(&self) -> Option<Time> {
        let after = |time: Time| time.saturating_add(self.timeouts.timeout);
        let binding = self.binding.as_ref();
        let end = |of: fn(&Terms) -> Duration| {
            binding.and_then(|binding| Some(binding.since + of(binding.terms.as_ref()?)))
        };
        match &self.state {
            State::Selecting(search) => Some(search.backoff.next.min(search.give_up)),
            State::Requesting { search, since, backoff, .. } => {
                Some(backoff.next.min(after(*since)).min(search.give_up))
            }
            State::Bound => end(|terms| terms.renew),
            State::Extending { rebinding, sent, next, is_listening } => {
                let end = end(if *rebinding { |terms| terms.expire } else { |terms| terms.rebind });
                let heard = is_listening.then(|| after(*sent));
                [Some(*next), end, heard].into_iter().flatten().min()
            }
            State::Over => None,
        }
    }

    /// Returns what is due `now`. To be called until it returns [`Step::Wait`].
    pub(crate) fn elapse(&mut self, now: Time) -> Step {
        match &mut self.state {
            State::Selecting(search) | State::Requesting { search, .. }
                if search.give_up <= now =>
            {
                let seconds = now.saturating_sub(search.since).as_secs();
                let remark =
                    search.remark.take().map(|remark| format!("; {remark}")).unwrap_or_default();
                self.end(format!("no DHCP server gave an address within {seconds} s{remark}"))
            }
            State::Selecting(search) if search.backoff.next <= now => {
                search.backoff.sent(now, self.timeouts.resend_max, (self.random)());
                let secs = now.saturating_sub(search.since);
                let leased = self.binding.as_ref().map(Binding::address);
                let mut message = self.message(Kind::Discover, secs);
                if let Some(address) = leased {
                    message.options.set(code::REQUESTED_ADDRESS, address.octets());
                }
                Step::Send(message.encode(), Transport::Broadcast { from: Ipv4Addr::UNSPECIFIED })
            }
            State::Requesting { search, since, .. }
                if since.saturating_add(self.timeouts.timeout) <= now =>
            {
                let mut search = search.clone();
                search.backoff.next = now;
                self.state = State::Selecting(search);
                self.xid = (self.random)();
                self.elapse(now)
            }
            State::Requesting { search, server, address, backoff, .. } if backoff.next <= now => {
                backoff.sent(now, self.timeouts.resend_max, (self.random)());
                let (server, address, secs) = (*server, *address, now.saturating_sub(search.since));
                let mut message = self.message(Kind::Request, secs);
                message.options.set(code::REQUESTED_ADDRESS, address.octets());
                message.options.set(code::SERVER_IDENTIFIER, server.octets());
                Step::Send(message.encode(), Transport::Broadcast { from: Ipv4Addr::UNSPECIFIED })
            }
            State::Bound | State::Extending { .. } => self.extend(now),
            State::Selecting(_) | State::Requesting { .. } | State::Over => Step::Wait,
        }
    }

    /// Renews or rebinds the lease.
    fn extend(&mut self, now: Time) -> Step {
        let Some((binding, terms)) =
            self.binding.as_ref().and_then(|binding| Some((binding, binding.terms?)))
        else {
            return Step::Wait;
        };
        let (renew, rebind) = (binding.since + terms.renew, binding.since + terms.rebind);
        let expire = binding.since + terms.expire;
        let (address, server) = (binding.address(), binding.server);
        if expire <= now {
            return self
                .end(format!("the lease of {address} is over, and no server gave more time"));
        }
        let rebinding = rebind <= now;
        match &mut self.state {
            State::Extending { rebinding: was, sent, next, is_listening }
                if *was == rebinding && now < *next =>
            {
                *is_listening &= now < sent.saturating_add(self.timeouts.timeout);
                return Step::Wait;
            }
            State::Bound if now < renew => return Step::Wait,
            _ => {}
        }
        let (begin, end) = if rebinding { (rebind, expire) } else { (renew, rebind) };
        let next = next_extension(now, begin, end);
        self.state = State::Extending { rebinding, sent: now, next, is_listening: true };
        self.xid = (self.random)();
        let mut message = self.message(Kind::Request, now.saturating_sub(renew));
        message.ciaddr = address;
        let transport = if rebinding {
            Transport::Broadcast { from: address }
        } else {
            Transport::Unicast { from: address, to: server }
        };
        Step::Send(message.encode(), transport)
    }

    pub(crate) fn receive(&mut self, now: Time, message: &Message) -> Step {
        let is_ours = message.xid == self.xid
            && message.chaddr == self.identity.mac
            && message
                .options
                .get(code::CLIENT_IDENTIFIER)
                .is_none_or(|id| id == self.identity.client_id);
        let Some(server) = message.options.address(code::SERVER_IDENTIFIER).filter(|_| is_ours)
        else {
            return Step::Wait;
        };
        match (&mut self.state, message.kind) {
            (State::Selecting(search), Kind::Offer) => {
                let offer = match &self.binding {
                    Some(binding) if binding.address() != message.yiaddr => {
                        Err(format!("gives {} instead of {}", message.yiaddr, binding.address()))
                    }
                    _ => Lease::of(message).and_then(|_| Terms::of(message)),
                };
                if let Err(problem) = offer {
                    // Another server may make a better one.
                    search.remark = Some(format!("an offer of {server} is unusable: it {problem}"));
                    return Step::Wait;
                }
                // True until the server acknowledges.
                let remark = Some(format!(
                    "{server} offered an address and did not answer the request for it"
                ));
                let (search, address) = (Search { remark, ..search.clone() }, message.yiaddr);
                self.state = State::Requesting {
                    search,
                    server,
                    address,
                    since: now,
                    backoff: Backoff::at(now),
                };
                self.elapse(now)
            }
            (State::Requesting { server: asked, address, since, search, .. }, Kind::Ack)
                if *asked == server && *address == message.yiaddr =>
            {
                match Binding::of(message, server, *since, now) {
                    Ok(given) => {
                        // The container keeps the configuration that it was given.
                        self.binding = Some(match self.binding.take() {
                            Some(Binding { lease, .. }) => Binding { lease, ..given },
                            None => given,
                        });
                        self.state = State::Bound;
                        Step::Bound
                    }
                    Err(problem) => {
                        search.remark =
                            Some(format!("the answer of {server} is unusable: it {problem}"));
                        Step::Wait
                    }
                }
            }
            (State::Requesting { server: asked, search, .. }, Kind::Nak) if *asked == server => {
                let mut search = search.clone();
                search.remark = Some(format!("{server} refused the address that it had offered"));
                self.state = State::Selecting(search);
                self.xid = (self.random)();
                Step::Wait
            }
            (State::Extending { sent, .. }, Kind::Ack) => {
                match (&mut self.binding, Terms::of(message)) {
                    (Some(binding), Ok(terms)) if binding.address() == message.yiaddr => {
                        *binding = Binding { server, since: *sent, terms, ..binding.clone() };
                        self.state = State::Bound;
                        // The new end may be in the past.
                        if self.is_live(now) { Step::Bound } else { self.elapse(now) }
                    }
                    _ => Step::Wait,
                }
            }
            (State::Extending { rebinding, .. }, Kind::Nak) => match &self.binding {
                Some(binding) if *rebinding || binding.server == server => {
                    // A server that has forgotten the lease may give the same address again.
                    let end = binding.end().unwrap_or(Time::MAX);
                    let give_up = end.min(now.saturating_add(self.timeouts.resend_timeout));
                    self.state =
                        Self::search(now, give_up, Some(format!("{server} refused more time")));
                    self.xid = (self.random)();
                    self.elapse(now)
                }
                _ => Step::Wait,
            },
            _ => Step::Wait,
        }
    }

    /// Returns the message that releases the lease. A server that got a request may have given a
    /// lease already.
    pub(crate) fn release(&self) -> Option<Release> {
        let (address, server) = match (&self.binding, &self.state) {
            (Some(binding), _) => (binding.address(), binding.server),
            (None, State::Requesting { server, address, .. }) => (*address, *server),
            _ => return None,
        };
        let mut message =
            Message { ciaddr: address, ..self.message(Kind::Release, Duration::ZERO) };
        message.xid = (self.random)();
        message.options.set(code::SERVER_IDENTIFIER, server.octets());
        Some(Release { message: message.encode(), from: address, to: server })
    }

    fn search(now: Time, give_up: Time, remark: Option<String>) -> State {
        State::Selecting(Search { since: now, give_up, backoff: Backoff::at(now), remark })
    }

    fn end(&mut self, why: String) -> Step {
        self.state = State::Over;
        if self.binding.is_some() { Step::Lost(why) } else { Step::Failed(why) }
    }

    /// Returns a message with the fields that all messages have.
    fn message(&self, kind: Kind, since: Duration) -> Message {
        let Identity { mac, largest, client_id, client_options, broadcast } = &self.identity;
        let mut options = Options::default();
        options.set(code::CLIENT_IDENTIFIER, client_id.as_slice());
        if kind != Kind::Release {
            options.set(code::MAXIMUM_SIZE, largest.to_be_bytes());
            if !client_options.request.is_empty() {
                options.set(code::PARAMETER_REQUEST_LIST, client_options.request.as_slice());
            }
            client_options
                .provide
                .iter()
                .for_each(|(code, value)| options.set(*code, value.as_slice()));
        }
        Message {
            kind,
            xid: self.xid,
            secs: u16::try_from(since.as_secs()).unwrap_or(u16::MAX),
            broadcast: *broadcast && kind != Kind::Release,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            chaddr: *mac,
            options,
        }
    }
}
