use rstest::rstest;

use super::*;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Returns a different number each time.
fn random() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn at(seconds: u64) -> Time {
    Time::from_secs(1_000_000 + seconds)
}

fn identity() -> Identity {
    let client_options =
        ClientOptions { provide: vec![(12, b"web".to_vec())], request: vec![3, 1] };
    Identity {
        mac: MAC,
        largest: 1500,
        client_id: b"\0id/net/eth0".to_vec(),
        client_options,
        broadcast: false,
    }
}

fn timeouts() -> Timeouts {
    let seconds = Duration::from_secs;
    Timeouts { timeout: seconds(10), resend_max: seconds(62), resend_timeout: seconds(208) }
}

fn discovering() -> Client {
    Client::new(identity(), timeouts(), random, at(0))
}

fn requesting() -> (Client, Message) {
    let mut client = discovering();
    let discover = sent(client.elapse(at(0))).0;
    let request = sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER))).0;
    (client, request)
}

/// Returns a client with a lease of 100 s, T1 after 40 s and T2 after 80 s.
fn bound() -> Client {
    let (mut client, request) = requesting();
    assert_eq!(client.receive(at(0), &answer(&request, Kind::Ack, SERVER)), Step::Bound);
    assert_eq!(client.elapse(at(0)), Step::Wait);
    client
}

#[track_caller]
fn sent(step: Step) -> (Message, Transport) {
    let Step::Send(bytes, transport) = step else { panic!("{step:?}") };
    (Message::decode(&bytes).expect("a message"), transport)
}

/// Returns kind and transport of the message that is sent at this time.
#[track_caller]
fn sends(client: &mut Client, now: u64) -> (Kind, Transport) {
    let (message, transport) = sent(client.elapse(at(now)));
    (message.kind, transport)
}

/// Calls a client until its lease fails or is lost. Returns the time and the reason.
#[track_caller]
fn until_end(client: &mut Client) -> (Time, String) {
    loop {
        let now = client.wake().unwrap();
        match client.elapse(now) {
            Step::Failed(why) | Step::Lost(why) => return (now, why),
            step => assert!(matches!(step, Step::Wait | Step::Send(..)), "{step:?}"),
        }
    }
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
fn a_lease_is_obtained_with_the_configured_options() {
    let mut client = discovering();
    let (first, _) = sent(client.elapse(at(0)));
    // The first message was lost, or its answer is late.
    let (discover, transport) = sent(client.elapse(at(1)));
    assert_eq!(first.xid, discover.xid);
    assert_eq!(
        (discover.kind, discover.chaddr, transport),
        (Kind::Discover, MAC, Transport::Broadcast { from: Ipv4Addr::UNSPECIFIED })
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
    let binding = client.binding().unwrap();
    assert_eq!((binding.lease.address.to_string(), binding.server), ("10.0.0.7/24".into(), SERVER));
    // Times start with the request, not with its answer.
    assert_eq!(client.wake(), Some(at(42)));
    assert!(client.is_live(at(101)) && !client.is_live(at(102)) && !client.is_listening());
}

#[test]
fn pauses_get_longer_until_the_client_gives_up() {
    let mut client = discovering();
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
fn a_server_without_acknowledgement_is_abandoned() {
    let (mut client, request) = requesting();
    // The pauses start again with the request.
    assert_eq!(client.elapse(at(0)), Step::Wait);
    assert_eq!(sends(&mut client, 2).0, Kind::Request);
    let (again, _) = sent(client.elapse(at(10)));
    assert_eq!(again.kind, Kind::Discover);
    assert_ne!(again.xid, request.xid);
    // A late answer is ignored.
    assert_eq!(client.receive(at(11), &answer(&request, Kind::Ack, SERVER)), Step::Wait);
    let (_, why) = until_end(&mut client);
    assert!(why.contains("10.0.0.1 offered"), "{why}");
}

#[test]
fn after_a_nak_the_client_discovers_again_after_a_pause() {
    let (mut client, request) = requesting();
    assert_eq!(client.receive(at(0), &answer(&request, Kind::Nak, SERVER)), Step::Wait);
    assert_eq!(client.elapse(at(0)), Step::Wait);
    assert_eq!(sends(&mut client, 2).0, Kind::Discover);
}

/// Makes an answer unusable or one for another client.
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
fn unusable_answers_are_ignored(
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
    let mut client = discovering();
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
        "not the requested server"
    );
    assert_eq!(client.receive(at(0), &answer(&request, Kind::Ack, SERVER)), Step::Bound);
}

#[test]
fn an_acknowledgement_of_an_expired_lease_is_ignored() {
    let (mut client, request) = requesting();
    let mut ack = answer(&request, Kind::Ack, SERVER);
    ack.options.set(code::LEASE_TIME, 5_u32.to_be_bytes());
    assert_eq!(client.receive(at(5), &ack), Step::Wait);
    assert!(client.binding().is_none() && !client.is_live(at(5)));
    // The client tries again, and finally reports the reason.
    let (_, why) = until_end(&mut client);
    assert!(
        why.ends_with("the answer of 10.0.0.1 is unusable: it comes after the lease's end"),
        "{why}"
    );
}

#[test]
fn a_lease_that_has_expired_at_its_renewal_is_lost() {
    let mut client = bound();
    let renewal = sent(client.elapse(at(40))).0;
    let mut ack = answer(&renewal, Kind::Ack, SERVER);
    ack.options.set(code::LEASE_TIME, 5_u32.to_be_bytes());
    let Step::Lost(why) = client.receive(at(45), &ack) else { panic!("it is binding") };
    assert!(why.contains("10.0.0.7") && !client.is_live(at(45)), "{why}");
}

#[test]
fn the_client_renews_with_its_server_and_rebinds_with_any() {
    let mut client = bound();
    assert_eq!(client.elapse(at(39)), Step::Wait);
    let (renewal, transport) = sent(client.elapse(at(40)));
    assert_eq!((renewal.kind, renewal.ciaddr), (Kind::Request, ADDRESS));
    assert_eq!((renewal.options.address(50), renewal.options.address(54)), (None, None));
    assert_eq!(transport, Transport::Unicast { from: ADDRESS, to: SERVER });
    assert!(client.is_listening());
    // Without an answer the socket closes; the next renewal is after half of the remaining time.
    assert_eq!(client.wake(), Some(at(50)));
    assert_eq!(client.elapse(at(50)), Step::Wait);
    assert!(!client.is_listening());
    assert_eq!(client.wake(), Some(at(60)));
    assert_eq!(sends(&mut client, 60).1, Transport::Unicast { from: ADDRESS, to: SERVER });
    assert_eq!(sends(&mut client, 70).1, Transport::Unicast { from: ADDRESS, to: SERVER });
    // From T2 on any server can extend the lease.
    assert_eq!(client.wake(), Some(at(80)));
    let (rebinding, transport) = sent(client.elapse(at(80)));
    assert_eq!(transport, Transport::Broadcast { from: ADDRESS });
    assert_eq!(client.receive(at(81), &answer(&rebinding, Kind::Ack, OTHER)), Step::Bound);
    assert_eq!(client.binding().unwrap().server, OTHER);
    assert_eq!(client.wake(), Some(at(120)));
}

#[test]
fn a_renewal_does_not_change_the_configuration() {
    let mut client = bound();
    let renewal = sent(client.elapse(at(40))).0;
    let before = client.binding().unwrap().lease.clone();
    let mut ack = answer(&renewal, Kind::Ack, SERVER);
    ack.options.set(code::ROUTERS, [10, 0, 0, 99]);
    assert_eq!(client.receive(at(40), &Message { yiaddr: OTHER, ..ack.clone() }), Step::Wait);
    assert_eq!(client.receive(at(40), &ack), Step::Bound);
    assert_eq!(
        (&client.binding().unwrap().lease, client.binding().unwrap().since),
        (&before, at(40))
    );
}

#[test]
fn a_lease_without_renewal_is_lost() {
    let mut client = bound();
    let lost = until_end(&mut client);
    assert_eq!(lost.0, at(100));
    assert!(lost.1.contains("10.0.0.7"), "{}", lost.1);
    assert!(!client.is_live(at(100)));
}

#[test]
fn after_a_nak_of_a_renewal_the_same_address_is_requested() {
    let mut client = bound();
    let renewal = sent(client.elapse(at(40))).0;
    assert_eq!(
        client.receive(at(40), &answer(&renewal, Kind::Nak, OTHER)),
        Step::Wait,
        "not the server of the lease"
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
fn a_lease_that_is_refused_is_lost_when_it_expires() {
    let mut client = bound();
    let renewal = sent(client.elapse(at(40))).0;
    sent(client.receive(at(40), &answer(&renewal, Kind::Nak, SERVER)));
    let lost = until_end(&mut client);
    assert_eq!(lost.0, at(100));
    assert!(lost.1.contains("refused"), "{}", lost.1);
}

#[test]
fn the_next_daemon_continues_a_lease() {
    let binding = bound().binding().unwrap().clone();
    let resume = |now| Client::resume(identity(), timeouts(), random, at(now), binding.clone());
    assert_eq!(resume(10).wake(), Some(at(40)));
    assert!(resume(10).is_live(at(10)));
    assert_eq!(sends(&mut resume(50), 50).1, Transport::Unicast { from: ADDRESS, to: SERVER });
    assert_eq!(sends(&mut resume(90), 90).1, Transport::Broadcast { from: ADDRESS });
    // The lease has expired, but the address may still be free.
    let mut late = resume(100);
    assert!(!late.is_live(at(100)));
    let discover = sent(late.elapse(at(100))).0;
    assert_eq!((discover.kind, discover.options.address(50)), (Kind::Discover, Some(ADDRESS)));
    let request = sent(late.receive(at(101), &answer(&discover, Kind::Offer, SERVER))).0;
    assert_eq!(late.receive(at(101), &answer(&request, Kind::Ack, SERVER)), Step::Bound);
    assert!(late.is_live(at(101)));
}

#[test]
fn an_infinite_lease_is_not_renewed() {
    let (mut client, request) = requesting();
    let mut ack = answer(&request, Kind::Ack, SERVER);
    ack.options.set(code::LEASE_TIME, [255; 4]);
    assert_eq!(client.receive(at(0), &ack), Step::Bound);
    assert_eq!((client.wake(), client.elapse(at(9_999_999))), (None, Step::Wait));
    assert!(client.is_live(at(9_999_999)));
}

#[test]
fn a_release_has_the_identity_of_the_request() {
    let mut client = discovering();
    assert_eq!(client.release(), None);
    let discover = sent(client.elapse(at(0))).0;
    sent(client.receive(at(0), &answer(&discover, Kind::Offer, SERVER)));
    // The server may have given the lease already.
    assert_eq!(client.release().map(|release| (release.from, release.to)), Some((ADDRESS, SERVER)));
    let Release { message, from, to } = bound().release().unwrap();
    let release = Message::decode(&message).unwrap();
    assert_eq!((release.kind, release.ciaddr, from, to), (Kind::Release, ADDRESS, ADDRESS, SERVER));
    assert_eq!(release.options.get(61), Some(&b"\0id/net/eth0"[..]));
    assert_eq!(release.options.address(54), Some(SERVER));
    assert_eq!(release.options.get(12), None);
}
