//! Entry points for fuzzers: each takes arbitrary bytes and panics if an invariant is violated.
//!
//! Compiled for fuzzers and tests only. The fuzz targets and their corpora, which the tests replay,
//! are in `fuzz/`.

#![allow(clippy::missing_panics_doc, reason = "a panic is a finding")]

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::{
    MacAddr, arp,
    conntrack::{Flow, Tuple},
    netlink::attributes,
    udp,
};
pub use crate::{netlink::fuzzing::netlink, nft::fuzzing::nft};

/// Parses bytes as a datagram, as an ARP reply, and as a hardware address in text form.
pub fn packets(data: &[u8]) {
    const PORT: u16 = 68;
    if let Some(range) = udp::payload(data, PORT) {
        assert!(range.end <= data.len() && range.start >= 28);
        assert_eq!(data[range.start - 6..range.start - 4], PORT.to_be_bytes());
    }
    let at = |address, port| SocketAddrV4::new(address, port);
    if let Some(packet) =
        udp::wrap(at(Ipv4Addr::UNSPECIFIED, 67), at(Ipv4Addr::BROADCAST, PORT), data)
    {
        assert_eq!(&packet[udp::payload(&packet, PORT).expect("what was wrapped is whole")], data);
    }
    let [asked, other] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
    assert!(!(arp::is_answer(data, asked) && arp::is_answer(data, other)));
    if let Some(mac) = std::str::from_utf8(data).ok().and_then(|text| text.parse::<MacAddr>().ok())
    {
        assert_eq!(mac.to_string().parse::<MacAddr>().expect("what was written is read"), mac);
    }
}

/// Parses a connection and checks that its tuples encode to what was parsed.
pub(crate) fn flow(payload: &[u8]) {
    let Some(flow) = Flow::parse(payload) else { return };
    for tuple in [flow.original, flow.reply] {
        let written = tuple.encode();
        assert_eq!(Tuple::parse(attributes(written.as_ref(), 0)), Some(tuple));
    }
}

#[cfg(test)]
#[path = "../../../fuzz/replay.rs"]
mod replay;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_satisfies_the_invariants() {
        replay::replay("netlink", netlink);
        replay::replay("nft", nft);
        replay::replay("packets", packets);
    }
}
