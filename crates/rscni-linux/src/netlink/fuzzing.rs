//! Fuzzing entry points of rtnetlink, see [`fuzzing`](crate::fuzzing).

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use super::{
    Address, Answer, Link, Neighbour, Route, Rule,
    socket::first_answer,
    tc::{Handle, HtbClass, Qdisc, U32},
    vlan,
};
use crate::fuzzing::flow;

/// Parses each message of a datagram as every kind of object.
pub fn netlink(data: &[u8]) {
    let mut rest = data;
    while !rest.is_empty() {
        let Ok((_, _, answer, others)) = first_answer(rest) else { return };
        assert!(others.len() < rest.len(), "it comes to an end");
        rest = others;
        match answer {
            Answer::Object(payload) => object(payload),
            Answer::Refused(refusal) => assert!(!refusal.into_error("look").to_string().is_empty()),
            Answer::Ack | Answer::Done => {}
        }
    }
}

fn object(payload: &[u8]) {
    let _ = Link::parse(payload);
    let _ = Neighbour::parse(payload);
    let _ = Rule::parse(payload);
    let _ = Qdisc::parse(payload);
    let _ = HtbClass::parse(payload);
    let _ = U32::parse(Handle::ROOT, payload);
    if let Some(address) = Address::parse(payload) {
        assert_ne!(address.peer, Some(address.net.addr()));
    }
    for route in Route::parse_all(payload) {
        assert!(!format!("{route:?}").is_empty());
    }
    let index =
        payload.get(4..8).and_then(|index| index.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let _ = vlan::parse(payload, index);
    assert_eq!(vlan::parse(payload, index.wrapping_add(1)), None, "VLANs of another link");
    flow(payload);
}
