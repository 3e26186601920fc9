//! The part of dhcp in [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::time::Duration;

use rscni::{CNIResult, SpecVersion};
use rscni_linux::MacAddr;

use super::{
    client::{Client, Identity, Step, Time, Timeouts},
    lease::{Lease, Terms},
    message::{Kind, Message},
    options::ClientOptions,
    request::{Answer, DaemonRequest},
    store::SavedLease,
    system::now,
};

/// ID of all transactions.
const XID: u32 = 0x0102_0304;

/// Fuzzes datagrams of a server, lines between plugin and daemon, and leases on disk. A datagram
/// follows two bytes with the seconds that have passed and two with its length.
pub fn dhcp(data: &[u8]) {
    message(data);
    exchange(client(), data);
    json(data);
}

fn client() -> Client {
    let identity = Identity {
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        largest: 1500,
        client_id: b"\0id/net/eth0".to_vec(),
        client_options: ClientOptions::default(),
        broadcast: false,
    };
    Client::new(identity, TIMEOUTS, || XID, Time::ZERO)
}

const TIMEOUTS: Timeouts = Timeouts {
    timeout: Duration::from_secs(10),
    resend_max: Duration::from_secs(62),
    resend_timeout: Duration::from_secs(60),
};

/// Decodes a datagram. What was decoded can be encoded again, and its lease becomes a result.
fn message(data: &[u8]) -> Option<Message> {
    let message = Message::decode(data)?;
    assert_eq!(Message::decode(&message.encode()).as_ref(), Some(&message));
    if let Ok(lease) = Lease::of(&message) {
        let json = serde_json::to_vec(&lease).expect("a lease is JSON");
        assert_eq!(
            serde_json::from_slice::<Lease>(&json).expect("what was written is read"),
            lease
        );
        let result = lease.result(Some(7));
        assert_eq!(result.ips.len(), 1);
        let text = result.to_json(SpecVersion::LATEST).to_string();
        assert_eq!(CNIResult::from_json(text.as_bytes()), Ok(result));
    }
    if let Ok(Some(terms)) = Terms::of(&message) {
        assert!(terms.renew <= terms.rebind && terms.rebind < terms.expire, "{terms:?}");
    }
    Some(message)
}

/// Passes datagrams to a client. It always returns to waiting, and sends only valid messages.
fn exchange(mut client: Client, mut data: &[u8]) {
    let mut now = Time::ZERO;
    settle(&mut client, now);
    while let Some(([s0, s1, l0, l1], rest)) = data.split_first_chunk() {
        now += Duration::from_secs(u16::from_be_bytes([*s0, *s1]).into());
        settle(&mut client, now);
        let (datagram, rest) = rest.split_at(rest.len().min(u16::from_be_bytes([*l0, *l1]).into()));
        data = rest;
        let Some(message) = message(datagram) else { continue };
        let before = client.binding().cloned();
        match client.receive(now, &message) {
            Step::Bound => {
                assert!(message.kind == Kind::Ack && client.is_live(now));
                let binding = client.binding().expect("it is bound");
                assert_eq!(binding.lease.address.addr(), message.yiaddr);
                assert!(
                    before.is_none_or(|before| before.lease == binding.lease),
                    "the container keeps the first lease"
                );
            }
            step => sends(&step),
        }
        settle(&mut client, now);
    }
    if let Some(release) = client.release() {
        assert_eq!(
            Message::decode(&release.message).map(|message| message.kind),
            Some(Kind::Release)
        );
    }
}

/// Calls the client until it waits.
fn settle(client: &mut Client, now: Time) {
    for _ in 0..8 {
        let step = client.elapse(now);
        sends(&step);
        if step == Step::Wait {
            assert!(client.wake().is_none_or(|wake| wake > now), "the client never waits");
            return;
        }
    }
    panic!("the client never waits");
}

fn sends(step: &Step) {
    if let Step::Send(bytes, _) = step {
        let message = Message::decode(bytes).expect("what is sent can be read");
        assert!(matches!(message.kind, Kind::Discover | Kind::Request) && message.xid == XID);
    }
}

fn json(data: &[u8]) {
    if let Ok(call) = serde_json::from_slice::<DaemonRequest>(data) {
        let written = serde_json::to_vec(&call).expect("a call is JSON");
        assert!(!written.contains(&b'\n'), "it is one line");
        serde_json::from_slice::<DaemonRequest>(&written).expect("what was written is read");
    }
    if let Ok(answer) = serde_json::from_slice::<Answer>(data) {
        let written = serde_json::to_vec(&answer).expect("an answer is JSON");
        assert!(!written.contains(&b'\n'), "it is one line");
        serde_json::from_slice::<Answer>(&written).expect("what was written is read");
    }
    if let Some(saved) = SavedLease::read(data) {
        let written = serde_json::to_vec(&saved).expect("a lease is JSON");
        SavedLease::read(&written).expect("what was written is read");
        let mut client = saved.resume(TIMEOUTS, false);
        for now in [Time::ZERO, now(), Duration::from_secs(1 << 40)] {
            let _ = (client.elapse(now), client.wake(), client.is_live(now));
        }
    }
}
