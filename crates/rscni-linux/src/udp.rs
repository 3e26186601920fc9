//! UDP over IPv4 on one interface of a namespace, for DHCP: [`RawUdp`] while the interface has no
//! address, [`udp_socket_in`] when it has one.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::{
    Error, Link, MacAddr, Netns, Result,
    bpf::{
        JUMP_IF_EQUAL, JUMP_IF_SET, LOAD_BYTE, LOAD_HALF, LOAD_HALF_AT_X, RETURN, X_IS_IP_HEADER,
    },
    kernel_interface::PacketAddress,
    packet::{checksum, open_in, send},
};

const ETHER_IPV4: u16 = 0x0800;
const UDP: u8 = 17;
const IP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

/// A packet socket that receives datagrams to one UDP port, whatever their destination address, and
/// sends to all stations.
///
/// Checksums of received datagrams are not verified: between interfaces of one machine they are not
/// filled in.
#[derive(Debug)]
pub struct RawUdp {
    socket: Socket,
    index: u32,
    port: u16,
}

impl RawUdp {
    /// Opens a non-blocking socket for `port` on `link` in `netns`; needs `CAP_NET_RAW` there.
    pub fn open_in(netns: &Netns, link: &Link, port: u16) -> Result<Self> {
        let attach_filter = |socket: &Socket| socket.attach_filter(&filter(port));
        let socket = open_in(netns, link, Type::DGRAM.nonblocking(), ETHER_IPV4, attach_filter)?;
        Ok(Self { socket, index: link.index, port })
    }

    /// Broadcasts `payload` from `source` to a port.
    pub fn broadcast(&self, source: Ipv4Addr, port: u16, payload: &[u8]) -> Result<()> {
        let from = SocketAddrV4::new(source, self.port);
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, port);
        let station = PacketAddress::of_station(self.index, ETHER_IPV4, MacAddr::BROADCAST);
        wrap(from, to, payload)
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
            .and_then(|packet| send(&self.socket, &packet, &station))
            .map_err(|error: io::Error| Error::io(format!("broadcast to UDP port {port}"), error))
    }

    /// Returns the payload of the next datagram in `buffer`, or `None` if none is waiting.
    /// Incomplete datagrams, and those longer than `buffer`, are skipped.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        loop {
            match (&self.socket).read(buffer) {
                Ok(length) => {
                    if let Some(range) = payload(&buffer[..length], self.port) {
                        return Ok(Some(&buffer[range]));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read from a packet socket", error)),
            }
        }
    }
}

impl AsFd for RawUdp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Opens a non-blocking UDP socket in `netns`, bound to the interface `link` and to `local`.
pub fn udp_socket_in(netns: &Netns, link: &str, local: SocketAddrV4) -> Result<UdpSocket> {
    netns
        .enter(|| {
            let socket = Socket::new(
                Domain::IPV4,
                Type::DGRAM.nonblocking().cloexec(),
                Some(Protocol::UDP),
            )?;
            socket.set_reuse_address(true)?;
            socket.bind_device(Some(link.as_bytes()))?;
            socket.bind(&local.into())?;
            Ok(socket.into())
        })?
        .map_err(|error: io::Error| {
            Error::io(format!("open a UDP socket for {local} on {link}"), error)
        })
}

/// Returns a classic BPF filter that accepts unfragmented UDP datagrams to `port`. Packets begin
/// with the IP header.
fn filter(port: u16) -> [SockFilter; 9] {
    let op = SockFilter::new;
    [
        op(LOAD_BYTE, 0, 0, 9),
        op(JUMP_IF_EQUAL, 0, 5, UDP.into()),
        op(LOAD_HALF, 0, 0, 6),
        // Flag "more fragments", or a fragment offset.
        op(JUMP_IF_SET, 3, 0, 0x3fff),
        op(X_IS_IP_HEADER, 0, 0, 0),
        op(LOAD_HALF_AT_X, 0, 0, 2),
        op(JUMP_IF_EQUAL, 1, 0, port.into()),
        op(RETURN, 0, 0, 0),
        op(RETURN, 0, 0, u32::MAX),
    ]
}

/// Wraps `payload` in UDP and IP headers; returns `None` if it is too long.
pub(crate) fn wrap(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    let udp_length = u16::try_from(UDP_HEADER + payload.len()).ok()?;
    let length = u16::try_from(IP_HEADER + UDP_HEADER + payload.len()).ok()?;
    let mut packet = Vec::with_capacity(length.into());
    packet.extend([0x45, 0]);
    packet.extend(length.to_be_bytes());
    // No identification, don't fragment, 64 hops.
    packet.extend([0, 0, 0x40, 0, 64, UDP, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());

    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, UDP]);
    pseudo.extend(udp_length.to_be_bytes());
    let udp = packet.len();
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    pseudo.extend(&packet[udp..]);
    // Zero would mean that there is no checksum.
    let sum = match checksum(&pseudo) {
        0 => u16::MAX,
        sum => sum,
    };
    packet[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}

/// Returns the range of the payload of a datagram to `port`, or `None` if it is not a complete one.
pub(crate) fn payload(packet: &[u8], port: u16) -> Option<std::ops::Range<usize>> {
    let half = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let first = *packet.first()?;
    let udp = usize::from(first & 0x0f) * 4;
    let end = usize::from(half(2)?);
    let is_fragment = half(6)? & 0x3fff != 0;
    if first >> 4 != 4
        || udp < IP_HEADER
        || end > packet.len()
        || is_fragment
        || *packet.get(9)? != UDP
    {
        return None;
    }
    let udp_end = udp + usize::from(half(udp + 4)?);
    let is_whole = udp_end >= udp + UDP_HEADER && udp_end <= end;
    (is_whole && half(udp + 2)? == port).then_some(udp + UDP_HEADER..udp_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let at = |address: [u8; 4], port| SocketAddrV4::new(address.into(), port);
        wrap(at([10, 0, 0, 1], 67), at([255, 255, 255, 255], 68), payload).unwrap()
    }

    #[test]
    fn wrapped_payload_round_trips_with_valid_checksums() {
        let packet = packet(b"odd");
        assert_eq!(&packet[payload(&packet, 68).unwrap()], b"odd");
        assert_eq!(payload(&packet, 67), None);
        assert_eq!(checksum(&packet[..20]), 0);
        let mut pseudo = packet[12..20].to_vec();
        pseudo.extend([0, UDP, 0, 11]);
        pseudo.extend(&packet[20..]);
        assert_eq!(checksum(&pseudo), 0);
    }

    #[test]
    fn incomplete_datagrams_are_skipped() {
        let whole = packet(b"payload");
        for length in 0..whole.len() {
            assert_eq!(payload(&whole[..length], 68), None, "{length}");
        }
        for (at, value) in [
            (0, 0x46),
            (0, 0x44),
            (0, 0x65),
            (3, 255),
            (6, 0x20),
            (7, 1),
            (9, 6),
            (24, 1),
            (25, 7),
            (25, 16),
        ] {
            let mut bad = whole.clone();
            bad[at] = value;
            assert_eq!(payload(&bad, 68), None, "byte {at} is {value}");
        }
        // Padding by the link is ignored.
        let mut padded = whole.clone();
        padded.extend([0; 20]);
        assert_eq!(payload(&padded, 68), payload(&whole, 68));
    }
}
