//! The part of dhcp in [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::time::Duration;

use rscni::{CNIResult, SpecVersion};
use rscni_linux::MacAddr;

use super::{
    client::{Client, Identity, Patience, Step, Time},
    lease::{Lease, Terms},
    message::{Kind, Message},
    options::Wishes,
    request::{Answer, DaemonRequest},
    store::Kept,
};

/// The number of every exchange.
const XID: u32 = 0x0102_0304;

/// What a server sends, one datagram after the other: two bytes for the seconds that have gone by, two for the length,
/// the datagram. And a line of a plugin to the daemon or back, and a lease on disk.
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
        wishes: Wishes::default(),
        broadcast: false,
    };
    Client::new(identity, PATIENCE, || XID, Time::ZERO)
}

const PATIENCE: Patience = Patience {
    timeout: Duration::from_secs(10),
    resend_max: Duration::from_secs(62),
    resend_timeout: Duration::from_secs(60),
};

/// A datagram: what is read of it is written and read again, and a lease that it gives can be handed on.
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

/// Datagrams as a client gets them: whatever they are, it asks to be called later, and what it sends can be read.
fn exchange(mut client: Client, mut data: &[u8]) {
    let mut now = Time::ZERO;
    settle(&mut client, now);
    while let Some(([s0, s1, l0, l1], rest)) = data.split_first_chunk() {
        now += Duration::from_secs(u16::from_be_bytes([*s0, *s1]).into());
        settle(&mut client, now);
        let (datagram, rest) = rest.split_at(rest.len().min(u16::from_be_bytes([*l0, *l1]).into()));
        data = rest;
        let Some(message) = message(datagram) else { continue };
        let before = client.held().cloned();
        match client.receive(now, &message) {
            Step::Bound => {
                assert!(message.kind == Kind::Ack && client.is_live(now));
                let held = client.held().expect("it is bound");
                assert_eq!(held.lease.address.addr(), message.yiaddr);
                assert!(
                    before.is_none_or(|before| before.lease == held.lease),
                    "the container has the first one"
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

/// Has the client do what is to be done now.
fn settle(client: &mut Client, now: Time) {
    for _ in 0..8 {
        let step = client.elapse(now);
        sends(&step);
        if step == Step::Wait {
            assert!(client.wake().is_none_or(|wake| wake > now), "it is called again and again");
            return;
        }
    }
    panic!("it has no end");
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
    if let Some(kept) = Kept::read(data) {
        let written = serde_json::to_vec(&kept).expect("a lease is JSON");
        Kept::read(&written).expect("what was written is read");
        let mut client = kept.resume(PATIENCE, false);
        for now in [Time::ZERO, super::now(), Duration::from_secs(1 << 40)] {
            let _ = (client.elapse(now), client.wake(), client.is_live(now));
        }
    }
}
