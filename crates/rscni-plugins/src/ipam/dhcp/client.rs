//! The client's side of the protocol (RFC 2131, section 4.4), without sockets and clocks: it is told the time and what
//! arrived, and says what is to be sent and when it wants to be called again.
//!
//! A container gets its address once, from the ADD that asked. So a lease can only be kept or lost: a server that gives
//! another address later has lost it.

use std::{net::Ipv4Addr, time::Duration};

use rscni_linux::MacAddr;
use serde::{Deserialize, Serialize};

use super::{
    lease::{Lease, Terms},
    message::{Kind, Message, Options, code},
    options::Wishes,
};

/// Time since the machine was booted.
pub(crate) type Time = Duration;

/// How patient clients are; the same for all of a daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// How long an answer to a request is waited for, before all begins anew.
    pub(crate) timeout: Duration,
    /// The longest pause between two attempts to get a lease.
    pub(crate) resend_max: Duration,
    /// When to give up getting one.
    pub(crate) resend_timeout: Duration,
}

/// What a client says of itself in every message.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) mac: MacAddr,
    /// The longest message that it takes.
    pub(crate) largest: u16,
    /// Option 61, which tells it from all other clients.
    pub(crate) client_id: Vec<u8>,
    pub(crate) wishes: Wishes,
    /// Whether servers are to answer to all stations.
    pub(crate) broadcast: bool,
}

/// A lease that has been given, and its server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) lease: Lease,
    pub(crate) server: Ipv4Addr,
    /// When it was asked for.
    pub(crate) since: Time,
    /// None if it is for ever.
    pub(crate) terms: Option<Terms>,
}

impl Held {
    /// What an acknowledgement gives that comes `now`.
    ///
    /// # Errors
    /// Why it cannot be used, in words that go on after "it".
    fn of(message: &Message, server: Ipv4Addr, since: Time, now: Time) -> Result<Self, String> {
        let held = Self { lease: Lease::of(message)?, server, since, terms: Terms::of(message)? };
        if held.is_over(now) { Err("comes after the lease's end".into()) } else { Ok(held) }
    }

    fn is_over(&self, now: Time) -> bool {
        self.terms.is_some_and(|terms| self.since + terms.expire <= now)
    }

    /// Whether its times can be reckoned with: what is read from a file may be any number.
    pub(super) fn has_end_in_sight(&self) -> bool {
        let can_come = |time: Duration| self.since.checked_add(time).is_some();
        self.terms.is_none_or(|Terms { renew, rebind, expire }| {
            [renew, rebind, expire].into_iter().all(can_come)
        })
    }
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing until the time of [`Client::wake`].
    Wait,
    /// Send this message.
    Send(Vec<u8>, Way),
    /// The lease is there, or there for longer.
    Bound,
    /// There will be none; why.
    Failed(String),
    /// The address must not be used any more; why.
    Lost(String),
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// To all stations, from this address.
    Broadcast { from: Ipv4Addr },
    /// As any packet of the container.
    Routed { from: Ipv4Addr, to: Ipv4Addr },
}

/// A message that gives a lease back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) message: Vec<u8>,
    /// The address that was leased.
    pub(crate) from: Ipv4Addr,
    /// Its server.
    pub(crate) to: Ipv4Addr,
}

/// A client for one address.
#[derive(Debug)]
pub(crate) struct Client {
    identity: Identity,
    patience: Patience,
    /// Gives a number that nobody can foresee.
    random: fn() -> u32,
    /// Of the exchange with the servers. A message that is sent again is of the same one, since a server may take long
    /// to answer the first.
    xid: u32,
    held: Option<Held>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Looking for servers.
    Selecting(Search),
    /// One has offered an address, and was asked for it.
    Requesting {
        search: Search,
        server: Ipv4Addr,
        address: Ipv4Addr,
        since: Time,
        resend: Resend,
    },
    Bound,
    /// More time is asked for, of the lease's server or of any.
    Extending {
        rebinding: bool,
        sent: Time,
        next: Time,
        is_listening: bool,
    },
    /// Nothing more will happen.
    Over,
}

#[derive(Clone, Debug)]
struct Search {
    since: Time,
    give_up: Time,
    resend: Resend,
    /// What went wrong so far, for whoever has to look into it.
    remark: Option<String>,
}

/// When to send again: pauses get longer.
#[derive(Clone, Copy, Debug)]
struct Resend {
    next: Time,
    pause: Duration,
}

/// The first pause. A link that was just switched on may still lose the first message.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The shortest pause while more time is asked for (RFC 2131, section 4.4.5), of leases that are long enough for it.
const EXTENDING_PAUSE: Duration = Duration::from_secs(60);

impl Resend {
    fn at(now: Time) -> Self {
        Self { next: now, pause: FIRST_PAUSE }
    }

    /// To be called when something was sent. No pause is more than a quarter off, so that clients do not fall into step.
    fn sent(&mut self, now: Time, longest: Duration, random: u32) {
        self.next = now + self.pause * 3 / 4 + self.pause * (random % 512) / 1024;
        self.pause = (self.pause * 2).min(longest.max(FIRST_PAUSE));
    }
}

impl Client {
    /// A client that looks for a lease.
    pub(crate) fn new(
        identity: Identity,
        patience: Patience,
        random: fn() -> u32,
        now: Time,
    ) -> Self {
        let state = Self::search(now, now.saturating_add(patience.resend_timeout), None);
        Self { identity, patience, random, xid: random(), held: None, state }
    }

    /// A client that had a lease when its daemon ended. One whose time is over by now is looked for once more, since
    /// its server may not have given the address to anyone else.
    pub(crate) fn resume(
        identity: Identity,
        patience: Patience,
        random: fn() -> u32,
        now: Time,
        held: Held,
    ) -> Self {
        let is_over = held.is_over(now);
        let mut client = Self { held: Some(held), ..Self::new(identity, patience, random, now) };
        if !is_over {
            client.state = State::Bound;
        }
        client
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The lease, while there is one.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Whether the address can be used now.
    pub(crate) fn is_live(&self, now: Time) -> bool {
        !matches!(self.state, State::Over)
            && self.held.as_ref().is_some_and(|held| !held.is_over(now))
    }

    /// Whether an answer may arrive.
    pub(crate) fn is_listening(&self) -> bool {
        match self.state {
            State::Selecting(_) | State::Requesting { .. } => true,
            State::Extending { is_listening, .. } => is_listening,
            State::Bound | State::Over => false,
        }
    }

    /// When [`elapse`](Self::elapse) is to be called next.
    pub(crate) fn wake(&self) -> Option<Time> {
        let after = |time: Time| time.saturating_add(self.patience.timeout);
        let held = self.held.as_ref();
        let end = |of: fn(&Terms) -> Duration| {
            held.and_then(|held| Some(held.since + of(held.terms.as_ref()?)))
        };
        match &self.state {
            State::Selecting(search) => Some(search.resend.next.min(search.give_up)),
            State::Requesting { search, since, resend, .. } => {
                Some(resend.next.min(after(*since)).min(search.give_up))
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

    /// What is to be done now that it is `now`. It is to be called until it says [`Step::Wait`].
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
            State::Selecting(search) if search.resend.next <= now => {
                search.resend.sent(now, self.patience.resend_max, (self.random)());
                let secs = now.saturating_sub(search.since);
                let kept = self.held.as_ref().map(|held| held.lease.address.addr());
                let mut message = self.message(Kind::Discover, secs);
                if let Some(address) = kept {
                    message.options.set(code::REQUESTED_ADDRESS, address.octets());
                }
                Step::Send(message.encode(), Way::Broadcast { from: Ipv4Addr::UNSPECIFIED })
            }
            State::Requesting { search, since, .. }
                if since.saturating_add(self.patience.timeout) <= now =>
            {
                let mut search = search.clone();
                search.resend.next = now;
                self.state = State::Selecting(search);
                self.xid = (self.random)();
                self.elapse(now)
            }
            State::Requesting { search, server, address, resend, .. } if resend.next <= now => {
                resend.sent(now, self.patience.resend_max, (self.random)());
                let (server, address, secs) = (*server, *address, now.saturating_sub(search.since));
                let mut message = self.message(Kind::Request, secs);
                message.options.set(code::REQUESTED_ADDRESS, address.octets());
                message.options.set(code::SERVER_IDENTIFIER, server.octets());
                Step::Send(message.encode(), Way::Broadcast { from: Ipv4Addr::UNSPECIFIED })
            }
            State::Bound | State::Extending { .. } => self.extend(now),
            State::Selecting(_) | State::Requesting { .. } | State::Over => Step::Wait,
        }
    }

    /// Renewing and rebinding.
    fn extend(&mut self, now: Time) -> Step {
        let Some((held, terms)) = self.held.as_ref().and_then(|held| Some((held, held.terms?)))
        else {
            return Step::Wait;
        };
        let (renew, rebind) = (held.since + terms.renew, held.since + terms.rebind);
        let expire = held.since + terms.expire;
        let (address, server) = (held.lease.address.addr(), held.server);
        if expire <= now {
            return self
                .end(format!("the lease of {address} is over, and no server gave more time"));
        }
        let rebinding = rebind <= now;
        match &mut self.state {
            State::Extending { rebinding: was, sent, next, is_listening }
                if *was == rebinding && now < *next =>
            {
                *is_listening &= now < sent.saturating_add(self.patience.timeout);
                return Step::Wait;
            }
            State::Bound if now < renew => return Step::Wait,
            _ => {}
        }
        // Half of what is left, but not too often.
        let (begin, end) = if rebinding { (rebind, expire) } else { (renew, rebind) };
        let shortest = EXTENDING_PAUSE.min(end.saturating_sub(begin) / 4).max(FIRST_PAUSE);
        let next = now + (end.saturating_sub(now) / 2).max(shortest);
        self.state = State::Extending { rebinding, sent: now, next, is_listening: true };
        self.xid = (self.random)();
        let mut message = self.message(Kind::Request, now.saturating_sub(renew));
        message.ciaddr = address;
        let way = if rebinding {
            Way::Broadcast { from: address }
        } else {
            Way::Routed { from: address, to: server }
        };
        Step::Send(message.encode(), way)
    }

    /// What is to be done about an answer.
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
                let offer = match &self.held {
                    Some(held) if held.lease.address.addr() != message.yiaddr => Err(format!(
                        "gives {} instead of {}",
                        message.yiaddr,
                        held.lease.address.addr()
                    )),
                    _ => Lease::of(message).and_then(|_| Terms::of(message)),
                };
                if let Err(problem) = offer {
                    // Another server may give a better one.
                    search.remark =
                        Some(format!("an offer of {server} is of no use: it {problem}"));
                    return Step::Wait;
                }
                // Until it does.
                let remark = Some(format!(
                    "{server} offered an address and did not answer the request for it"
                ));
                let (search, address) = (Search { remark, ..search.clone() }, message.yiaddr);
                self.state = State::Requesting {
                    search,
                    server,
                    address,
                    since: now,
                    resend: Resend::at(now),
                };
                self.elapse(now)
            }
            (State::Requesting { server: asked, address, since, search, .. }, Kind::Ack)
                if *asked == server && *address == message.yiaddr =>
            {
                match Held::of(message, server, *since, now) {
                    Ok(given) => {
                        // What the container was told stays as it is.
                        self.held = Some(match self.held.take() {
                            Some(Held { lease, .. }) => Held { lease, ..given },
                            None => given,
                        });
                        self.state = State::Bound;
                        Step::Bound
                    }
                    Err(problem) => {
                        search.remark =
                            Some(format!("the answer of {server} is of no use: it {problem}"));
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
                match (&mut self.held, Terms::of(message)) {
                    (Some(held), Ok(terms)) if held.lease.address.addr() == message.yiaddr => {
                        *held = Held { server, since: *sent, terms, ..held.clone() };
                        self.state = State::Bound;
                        // It may say that the lease is over by now.
                        if self.is_live(now) { Step::Bound } else { self.elapse(now) }
                    }
                    _ => Step::Wait,
                }
            }
            (State::Extending { rebinding, .. }, Kind::Nak) => match &self.held {
                Some(held) if *rebinding || held.server == server => {
                    // A server that has forgotten the lease may give the same address again, if it is asked soon.
                    let end = held.terms.map_or(Time::MAX, |terms| held.since + terms.expire);
                    let give_up = end.min(now.saturating_add(self.patience.resend_timeout));
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

    /// The message that gives the lease back. A server that was asked for one may have given it, though nobody has heard
    /// of it yet.
    pub(crate) fn release(&self) -> Option<Release> {
        let (address, server) = match (&self.held, &self.state) {
            (Some(held), _) => (held.lease.address.addr(), held.server),
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
        State::Selecting(Search { since: now, give_up, resend: Resend::at(now), remark })
    }

    fn end(&mut self, why: String) -> Step {
        self.state = State::Over;
        if self.held.is_some() { Step::Lost(why) } else { Step::Failed(why) }
    }

    /// A message with what is in all of them.
    fn message(&self, kind: Kind, since: Duration) -> Message {
        let Identity { mac, largest, client_id, wishes, broadcast } = &self.identity;
        let mut options = Options::default();
        options.set(code::CLIENT_IDENTIFIER, client_id.as_slice());
        if kind != Kind::Release {
            options.set(code::MAXIMUM_SIZE, largest.to_be_bytes());
            if !wishes.request.is_empty() {
                options.set(code::PARAMETER_REQUEST_LIST, wishes.request.as_slice());
            }
            wishes.provide.iter().for_each(|(code, value)| options.set(*code, value.as_slice()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    /// Numbers that differ are enough.
    fn random() -> u32 {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    fn at(seconds: u64) -> Time {
        Time::from_secs(1_000_000 + seconds)
    }

    fn identity() -> Identity {
        let wishes = Wishes { provide: vec![(12, b"web".to_vec())], request: vec![3, 1] };
        Identity {
            mac: MAC,
            largest: 1500,
            client_id: b"\0id/net/eth0".to_vec(),
            wishes,
            broadcast: false,
        }
    }

    fn patience() -> Patience {
        let seconds = Duration::from_secs;
        Patience { timeout: seconds(10), resend_max: seconds(62), resend_timeout: seconds(208) }
    }

    fn searching() -> Client {
        Client::new(identity(), patience(), random, at(0))
    }

    /// A client with a lease of 100 s, T1 after 40 s and T2 after 80 s.
    fn bound() -> Client {
        let mut client = searching();
        let discover = sent(client.elapse(at(0))).0;
        let request = sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER))).0;
        assert_eq!(client.receive(at(0), &answer(&request, Kind::Ack, SERVER)), Step::Bound);
        assert_eq!(client.elapse(at(0)), Step::Wait);
        client
    }

    #[track_caller]
    fn sent(step: Step) -> (Message, Way) {
        let Step::Send(bytes, way) = step else { panic!("{step:?}") };
        (Message::decode(&bytes).expect("a message"), way)
    }

    /// The kind of a message that is sent at this time.
    #[track_caller]
    fn sends(client: &mut Client, now: u64) -> (Kind, Way) {
        let (message, way) = sent(client.elapse(at(now)));
        (message.kind, way)
    }

    fn answer(to: &Message, kind: Kind, server: Ipv4Addr) -> Message {
        let mut options = Options::default();
        options.set(code::SERVER_IDENTIFIER, server.octets());
        options.set(code::SUBNET_MASK, [255, 255, 255, 0]);
        for (code, seconds) in
            [(code::LEASE_TIME, 100), (code::RENEWAL_TIME, 40), (code::REBINDING_TIME, 80_u32)]
        {
            options.set(code, seconds.to_be_bytes());
        }
        let yiaddr = if kind == Kind::Nak { Ipv4Addr::UNSPECIFIED } else { ADDRESS };
        Message { kind, yiaddr, options, ..to.clone() }
    }

    #[test]
    fn a_lease_is_got_with_what_was_wished_for() {
        let mut client = searching();
        let (first, _) = sent(client.elapse(at(0)));
        // It was lost, or its answer comes later than this one is sent.
        let (discover, way) = sent(client.elapse(at(1)));
        assert_eq!(first.xid, discover.xid);
        assert_eq!(
            (discover.kind, discover.chaddr, way),
            (Kind::Discover, MAC, Way::Broadcast { from: Ipv4Addr::UNSPECIFIED })
        );
        assert_eq!(discover.options.get(61), Some(&b"\0id/net/eth0"[..]));
        assert_eq!(discover.options.get(55), Some(&[3, 1][..]));
        assert_eq!(discover.options.get(12), Some(&b"web"[..]));
        let (request, _) = sent(client.receive(at(2), &answer(&discover, Kind::Offer, SERVER)));
        assert_eq!((request.kind, request.secs, request.xid), (Kind::Request, 2, discover.xid));
        assert_eq!(
            (request.options.address(50), request.options.address(54)),
            (Some(ADDRESS), Some(SERVER))
        );
        assert_eq!(client.receive(at(3), &answer(&request, Kind::Ack, SERVER)), Step::Bound);
        let held = client.held().unwrap();
        assert_eq!((held.lease.address.to_string(), held.server), ("10.0.0.7/24".into(), SERVER));
        // From the request on, not from its answer.
        assert_eq!(client.wake(), Some(at(42)));
        assert!(client.is_live(at(101)) && !client.is_live(at(102)) && !client.is_listening());
    }

    #[test]
    fn pauses_get_longer_and_it_gives_up_in_the_end() {
        let mut client = searching();
        let mut times = Vec::new();
        let last = loop {
            let now = client.wake().unwrap();
            match client.elapse(now) {
                Step::Send(..) => times.push(now),
                Step::Wait => {}
                step => break (step, now),
            }
        };
        let (Step::Failed(why), end) = last else { panic!("{last:?}") };
        assert!(why.contains("208 s"), "{why}");
        assert_eq!(end, at(208));
        let pauses: Vec<_> =
            times.windows(2).map(|pair| pair[1].as_secs_f64() - pair[0].as_secs_f64()).collect();
        for (pause, expected) in
            pauses.iter().zip([0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 62.0, 62.0])
        {
            assert!((expected * 0.75..expected * 1.25).contains(pause), "{pauses:?}");
        }
        assert!((10..=12).contains(&times.len()), "{times:?}");
        assert_eq!(
            (client.wake(), client.elapse(at(999)), client.is_listening()),
            (None, Step::Wait, false)
        );
    }

    #[test]
    fn a_server_that_does_not_keep_its_offer_is_given_up() {
        let mut client = searching();
        let discover = sent(client.elapse(at(0))).0;
        let request = sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER))).0;
        // The pauses of the request begin anew.
        assert_eq!(client.elapse(at(0)), Step::Wait);
        assert_eq!(sends(&mut client, 2).0, Kind::Request);
        let (again, _) = sent(client.elapse(at(10)));
        assert_eq!(again.kind, Kind::Discover);
        assert_ne!(again.xid, request.xid);
        // An answer that is this late is none.
        assert_eq!(client.receive(at(11), &answer(&request, Kind::Ack, SERVER)), Step::Wait);
        let why = loop {
            let now = client.wake().unwrap();
            if let Step::Failed(why) = client.elapse(now) {
                break why;
            }
        };
        assert!(why.contains("10.0.0.1 offered"), "{why}");
    }

    #[test]
    fn a_refusal_makes_it_look_again_but_not_at_once() {
        let mut client = searching();
        let discover = sent(client.elapse(at(0))).0;
        let request = sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER))).0;
        assert_eq!(client.receive(at(0), &answer(&request, Kind::Nak, SERVER)), Step::Wait);
        assert_eq!(client.elapse(at(0)), Step::Wait);
        assert_eq!(sends(&mut client, 2).0, Kind::Discover);
    }

    /// What answers that are not for this client, or of no use, are like.
    fn spoil(message: &mut Message, how: &str) {
        let options = &mut message.options;
        match how {
            "of another exchange" => message.xid ^= 1,
            "for another station" => message.chaddr = MacAddr([2, 0, 0, 0, 0, 2]),
            "for another client" => options.set(code::CLIENT_IDENTIFIER, *b"\0other"),
            "of no server" => options.set(code::SERVER_IDENTIFIER, []),
            "without a mask" => options.set(code::SUBNET_MASK, []),
            "of no time" => options.set(code::LEASE_TIME, [0; 4]),
            "of no address" => message.yiaddr = Ipv4Addr::UNSPECIFIED,
            _ => panic!("{how}"),
        }
    }

    #[rstest]
    fn answers_that_are_of_no_use_change_nothing(
        #[values(
            "of another exchange",
            "for another station",
            "for another client",
            "of no server",
            "without a mask",
            "of no time",
            "of no address"
        )]
        how: &str,
    ) {
        let mut client = searching();
        let discover = sent(client.elapse(at(0))).0;
        let mut offer = answer(&discover, Kind::Offer, SERVER);
        spoil(&mut offer, how);
        assert_eq!(client.receive(at(0), &offer), Step::Wait);
        let request = sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER))).0;
        let mut ack = answer(&request, Kind::Ack, SERVER);
        spoil(&mut ack, how);
        assert_eq!(client.receive(at(0), &ack), Step::Wait);
        assert_eq!(
            client.receive(at(0), &answer(&request, Kind::Ack, OTHER)),
            Step::Wait,
            "not the one asked"
        );
        assert_eq!(client.receive(at(0), &answer(&request, Kind::Ack, SERVER)), Step::Bound);
    }

    #[test]
    fn an_acknowledgement_that_comes_after_the_end_of_its_lease_is_of_no_use() {
        let mut client = searching();
        let discover = sent(client.elapse(at(0))).0;
        let request = sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER))).0;
        let mut ack = answer(&request, Kind::Ack, SERVER);
        ack.options.set(code::LEASE_TIME, 5_u32.to_be_bytes());
        assert_eq!(client.receive(at(5), &ack), Step::Wait);
        assert!(client.held().is_none() && !client.is_live(at(5)));
        // It is asked once more, and in the end somebody learns why.
        let why = loop {
            let now = client.wake().unwrap();
            if let Step::Failed(why) = client.elapse(now) {
                break why;
            }
        };
        assert!(
            why.ends_with("the answer of 10.0.0.1 is of no use: it comes after the lease's end"),
            "{why}"
        );
    }

    #[test]
    fn a_lease_whose_renewal_says_that_it_is_over_is_lost() {
        let mut client = bound();
        let renewal = sent(client.elapse(at(40))).0;
        let mut ack = answer(&renewal, Kind::Ack, SERVER);
        ack.options.set(code::LEASE_TIME, 5_u32.to_be_bytes());
        let Step::Lost(why) = client.receive(at(45), &ack) else { panic!("it is held") };
        assert!(why.contains("10.0.0.7") && !client.is_live(at(45)), "{why}");
    }

    #[test]
    fn it_renews_with_its_server_and_then_with_any() {
        let mut client = bound();
        assert_eq!(client.elapse(at(39)), Step::Wait);
        let (renewal, way) = sent(client.elapse(at(40)));
        assert_eq!((renewal.kind, renewal.ciaddr), (Kind::Request, ADDRESS));
        assert_eq!((renewal.options.address(50), renewal.options.address(54)), (None, None));
        assert_eq!(way, Way::Routed { from: ADDRESS, to: SERVER });
        assert!(client.is_listening());
        // Nobody answers: the socket goes, and half of the time that is left later it asks again.
        assert_eq!(client.wake(), Some(at(50)));
        assert_eq!(client.elapse(at(50)), Step::Wait);
        assert!(!client.is_listening());
        assert_eq!(client.wake(), Some(at(60)));
        assert_eq!(sends(&mut client, 60).1, Way::Routed { from: ADDRESS, to: SERVER });
        assert_eq!(sends(&mut client, 70).1, Way::Routed { from: ADDRESS, to: SERVER });
        // From T2 on it is everyone's business.
        assert_eq!(client.wake(), Some(at(80)));
        let (rebinding, way) = sent(client.elapse(at(80)));
        assert_eq!(way, Way::Broadcast { from: ADDRESS });
        assert_eq!(client.receive(at(81), &answer(&rebinding, Kind::Ack, OTHER)), Step::Bound);
        assert_eq!(client.held().unwrap().server, OTHER);
        assert_eq!(client.wake(), Some(at(120)));
    }

    #[test]
    fn what_the_container_was_told_stays_when_it_is_renewed() {
        let mut client = bound();
        let renewal = sent(client.elapse(at(40))).0;
        let before = client.held().unwrap().lease.clone();
        let mut ack = answer(&renewal, Kind::Ack, SERVER);
        ack.options.set(code::ROUTERS, [10, 0, 0, 99]);
        assert_eq!(client.receive(at(40), &Message { yiaddr: OTHER, ..ack.clone() }), Step::Wait);
        assert_eq!(client.receive(at(40), &ack), Step::Bound);
        assert_eq!(
            (&client.held().unwrap().lease, client.held().unwrap().since),
            (&before, at(40))
        );
    }

    #[test]
    fn a_lease_that_nobody_renews_is_lost() {
        let mut client = bound();
        let lost = loop {
            let now = client.wake().unwrap();
            match client.elapse(now) {
                Step::Lost(why) => break (now, why),
                step => assert!(matches!(step, Step::Wait | Step::Send(..)), "{step:?}"),
            }
        };
        assert_eq!(lost.0, at(100));
        assert!(lost.1.contains("10.0.0.7"), "{}", lost.1);
        assert!(!client.is_live(at(100)));
    }

    #[test]
    fn a_server_that_has_forgotten_the_lease_is_asked_for_the_same_address() {
        let mut client = bound();
        let renewal = sent(client.elapse(at(40))).0;
        assert_eq!(
            client.receive(at(40), &answer(&renewal, Kind::Nak, OTHER)),
            Step::Wait,
            "none of its business"
        );
        let (discover, _) = sent(client.receive(at(40), &answer(&renewal, Kind::Nak, SERVER)));
        assert_eq!((discover.kind, discover.options.address(50)), (Kind::Discover, Some(ADDRESS)));
        let offer = answer(&discover, Kind::Offer, OTHER);
        assert_eq!(client.receive(at(40), &Message { yiaddr: OTHER, ..offer.clone() }), Step::Wait);
        let request = sent(client.receive(at(40), &offer)).0;
        assert_eq!(client.receive(at(40), &answer(&request, Kind::Ack, OTHER)), Step::Bound);
        assert_eq!(client.wake(), Some(at(80)));
    }

    #[test]
    fn a_lease_that_was_refused_and_not_given_again_is_lost_with_its_time() {
        let mut client = bound();
        let renewal = sent(client.elapse(at(40))).0;
        sent(client.receive(at(40), &answer(&renewal, Kind::Nak, SERVER)));
        let lost = loop {
            let now = client.wake().unwrap();
            if let Step::Lost(why) = client.elapse(now) {
                break (now, why);
            }
        };
        assert_eq!(lost.0, at(100));
        assert!(lost.1.contains("refused"), "{}", lost.1);
    }

    #[test]
    fn a_lease_goes_on_where_the_last_daemon_left_it() {
        let held = bound().held().unwrap().clone();
        let resume = |now| Client::resume(identity(), patience(), random, at(now), held.clone());
        assert_eq!(resume(10).wake(), Some(at(40)));
        assert!(resume(10).is_live(at(10)));
        assert_eq!(sends(&mut resume(50), 50).1, Way::Routed { from: ADDRESS, to: SERVER });
        assert_eq!(sends(&mut resume(90), 90).1, Way::Broadcast { from: ADDRESS });
        // It was over before anyone could renew it: perhaps the address is still free.
        let mut late = resume(100);
        assert!(!late.is_live(at(100)));
        let discover = sent(late.elapse(at(100))).0;
        assert_eq!((discover.kind, discover.options.address(50)), (Kind::Discover, Some(ADDRESS)));
        let request = sent(late.receive(at(101), &answer(&discover, Kind::Offer, SERVER))).0;
        assert_eq!(late.receive(at(101), &answer(&request, Kind::Ack, SERVER)), Step::Bound);
        assert!(late.is_live(at(101)));
    }

    #[test]
    fn a_lease_without_end_is_left_alone() {
        let mut client = searching();
        let discover = sent(client.elapse(at(0))).0;
        let request = sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER))).0;
        let mut ack = answer(&request, Kind::Ack, SERVER);
        ack.options.set(code::LEASE_TIME, [255; 4]);
        assert_eq!(client.receive(at(0), &ack), Step::Bound);
        assert_eq!((client.wake(), client.elapse(at(9_999_999))), (None, Step::Wait));
        assert!(client.is_live(at(9_999_999)));
    }

    #[test]
    fn a_release_names_the_lease_as_the_request_did() {
        let mut client = searching();
        assert_eq!(client.release(), None);
        let discover = sent(client.elapse(at(0))).0;
        sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER)));
        // It may have been given by now.
        assert_eq!(
            client.release().map(|release| (release.from, release.to)),
            Some((ADDRESS, SERVER))
        );
        let Release { message, from, to } = bound().release().unwrap();
        let release = Message::decode(&message).unwrap();
        assert_eq!(
            (release.kind, release.ciaddr, from, to),
            (Kind::Release, ADDRESS, ADDRESS, SERVER)
        );
        assert_eq!(release.options.get(61), Some(&b"\0id/net/eth0"[..]));
        assert_eq!(release.options.address(54), Some(SERVER));
        assert_eq!(release.options.get(12), None);
    }
}
