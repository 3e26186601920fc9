//! Packet sockets and the checksum of packets.

use std::{
    io,
    os::fd::AsFd,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{SendFlags, bind, sendto},
};
use socket2::{Domain, Socket, Type};

use crate::{Error, Link, MacAddr, Netns, Result, kernel_interface::PacketAddress};

/// Opens a packet socket in `netns`, bound to `link` and an Ethernet type.
///
/// It receives nothing before it is bound, so `prepare` can attach a filter.
pub(crate) fn open_in(
    netns: &Netns,
    link: &Link,
    kind: Type,
    ethernet_type: u16,
    prepare: impl FnOnce(&Socket) -> io::Result<()> + Send,
) -> Result<Socket> {
    netns
        .enter(|| {
            let socket = Socket::new(Domain::PACKET, kind.cloexec(), None)?;
            prepare(&socket)?;
            bind(&socket, &PacketAddress::of_protocol(link.index, ethernet_type))?;
            Ok(socket)
        })?
        .map_err(|error: io::Error| {
            let action = format!("open a packet socket on {}", link.name);
            Error::io_with("CAP_NET_RAW", action, error)
        })
}

/// The time for which a dropped packet is sent again.
const SEND_LIMIT: Duration = Duration::from_secs(1);

/// Sends a packet on a packet socket.
///
/// On a busy machine the queue of a CPU or of the link can be full. The kernel then drops the
/// packet and returns `ENOBUFS`, so it is sent again for up to a second.
pub(crate) fn send(socket: impl AsFd, packet: &[u8], to: &PacketAddress) -> io::Result<()> {
    let end = Instant::now() + SEND_LIMIT;
    let mut pause = Duration::from_millis(1);
    loop {
        match sendto(&socket, packet, SendFlags::empty(), to) {
            Err(Errno::NOBUFS) if Instant::now() + pause < end => thread::sleep(pause),
            result => return Ok(result.map(drop)?),
        }
        pause *= 2;
    }
}

/// Returns the Ethernet address of a link.
///
/// # Errors
///
/// [`Error::Invalid`] if the link is not Ethernet.
pub(crate) fn ethernet_address(link: &Link) -> Result<MacAddr> {
    let invalid = || Error::invalid(format!("interface {}", link.name), "has no Ethernet address");
    link.mac.ok_or_else(invalid)
}

/// Returns the Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_matches_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[1]), !0x0100);
    }
}
