//! SCTP. Many kernels translate it but have no sockets for it, so the test sends and receives raw
//! packets.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rscni_test::Namespace;
use rstest::rstest;
use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, recvfrom, sendto, socket,
        sockopt,
    },
};
use serde_json::json;

use crate::{
    published::{IPTABLES, NFTABLES, bridge, mapping, publish},
    support::outside::{HOST, OUTSIDE, outside},
};

const SCTP: u32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const TAG: u32 = 0x1234_5678;

/// The checksum of SCTP: CRC-32C, least significant byte first.
fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let step = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    let crc = bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step));
    (!crc).to_le_bytes()
}

/// A packet with one chunk: INIT or INIT ACK.
fn packet(sport: u16, dport: u16, tag: u32, chunk: u8) -> Vec<u8> {
    let mut packet = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    // Length, tag, window, number of streams out and in, first number.
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(TAG.to_be_bytes());
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// A raw socket for SCTP in a namespace.
struct Raw {
    socket: OwnedFd,
    v4: bool,
}

impl Raw {
    fn new(namespace: &Namespace, v4: bool) -> Self {
        let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
        let protocol = Protocol::from_raw(SCTP.try_into().unwrap());
        let socket = namespace.run(|| socket(family, SocketType::RAW, Some(protocol)).unwrap());
        let limit = Some(Duration::from_millis(100));
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, limit).unwrap();
        Self { socket, v4 }
    }

    fn send(&self, to: IpAddr, packet: &[u8]) {
        sendto(&self.socket, packet, SendFlags::empty(), &SocketAddr::new(to, 0)).unwrap();
    }

    /// Receives the next packet with this chunk, and its source.
    fn receive(&self, chunk: u8) -> Option<(IpAddr, Vec<u8>)> {
        let mut buffer = [0; 1500];
        let (_, length, from) = recvfrom(&self.socket, &mut buffer, RecvFlags::empty()).ok()?;
        let header = if self.v4 { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
        let packet = buffer[header..length].to_vec();
        let from = SocketAddr::try_from(from?).unwrap().ip();
        (packet.get(12) == Some(&chunk)).then_some((from, packet))
    }
}

fn ports(packet: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([packet[0], packet[1]]), u16::from_be_bytes([packet[2], packet[3]]))
}

#[track_caller]
fn assert_intact(packet: &[u8]) {
    let mut blank = packet.to_vec();
    blank[8..12].fill(0);
    assert_eq!(packet[8..12], crc32c(&blank), "the check sum");
}

#[rstest]
fn an_association_begins_with_the_container(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values(0, 1)] family: usize,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let keys = json!({ "backend": backend });
        let a = publish(lab, &bridge(lab), "a", &keys, &json!([mapping(9899, "SCTP")]));
        let host: IpAddr = HOST[family].parse().unwrap();
        let (client, server) = (Raw::new(&outside, host.is_ipv4()), Raw::new(&a, host.is_ipv4()));
        let exchange = || {
            client.send(host, &packet(4000, 9899, 0, INIT));
            let (from, init) = server.receive(INIT)?;
            server.send(from, &packet(80, ports(&init).0, TAG, INIT_ACK));
            Some((from, init, client.receive(INIT_ACK)?))
        };
        let (from, init, (answered_by, answer)) = rscni_test::eventually("an answer", exchange);
        assert_eq!((from.to_string().as_str(), ports(&init)), (OUTSIDE[family], (4000, 80)));
        assert_eq!((answered_by, ports(&answer)), (host, (9899, 4000)));
        assert_intact(&init);
        assert_intact(&answer);
        a.check().success();
        a.del_all();
    });
}

#[test]
fn the_checksum_is_that_of_the_standard() {
    // RFC 3720, appendix B.4: 32 bytes of zeroes.
    assert_eq!(crc32c(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
}
