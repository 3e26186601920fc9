//! Announcements of addresses to the neighbours: gratuitous ARP for IPv4 (RFC 5227, section 3, and
//! RFC 2002, section 4.6), unsolicited neighbour advertisements for IPv6 (RFC 4861, section 7.2.6).
//!
//! A neighbour may have cached the hardware address of an earlier container with the same address;
//! the announcement replaces it. The frames are sent on a packet socket, which works even while an
//! IPv6 address is tentative.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::{
    Error, Link, MacAddr, Netns, Result,
    closing::DeferredClose,
    kernel_interface::PacketAddress,
    packet::{checksum, ethernet_address, send},
};

const ETHER_IPV6: u16 = 0x86dd;
pub(crate) const ETHER_ARP: u16 = 0x0806;
pub(crate) const ARP_REQUEST: u16 = 1;
pub(crate) const ARP_REPLY: u16 = 2;
const ICMPV6: u8 = 58;
/// The all-nodes group `ff02::1`, and its Ethernet group.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Announces that `link`, in `netns`, has these addresses.
///
/// # Errors
///
/// As [`Announcer::open`] and [`Announcer::announce`].
pub fn announce(netns: &Netns, link: &Link, addresses: &[IpAddr]) -> Result<()> {
    netns.enter(Announcer::open)??.announce(link, addresses)
}

/// A packet socket for announcements, bound to the namespace it was opened in.
#[derive(Debug)]
pub struct Announcer {
    socket: DeferredClose<OwnedFd>,
}

impl Announcer {
    /// Opens the socket in the calling thread's namespace; needs `CAP_NET_RAW` there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the socket cannot be opened.
    pub fn open() -> Result<Self> {
        // Without a protocol it receives nothing.
        let socket =
            socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
                .map_err(|errno| Error::io_with("CAP_NET_RAW", "open a packet socket", errno))?;
        Ok(Self { socket: socket.into() })
    }

    /// Announces that `link` has these addresses.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the link is not Ethernet; [`Error::Io`] if a frame cannot be sent, for
    /// example because the link is down.
    pub fn announce(&self, link: &Link, addresses: &[IpAddr]) -> Result<()> {
        let mac = ethernet_address(link)?;
        for address in addresses {
            let frames = match address {
                // Some hosts update their cache from requests, others from replies.
                IpAddr::V4(v4) => {
                    vec![arp(ARP_REQUEST, mac, *v4, *v4), arp(ARP_REPLY, mac, *v4, *v4)]
                }
                IpAddr::V6(v6) => vec![neighbour_advertisement(mac, *v6)],
            };
            for frame in frames {
                let target = PacketAddress::of_frame(link.index);
                send(&*self.socket, &frame, &target).map_err(|error| {
                    Error::io(format!("announce {address} on {}", link.name), error)
                })?;
            }
        }
        Ok(())
    }
}

fn ethernet(to: MacAddr, from: MacAddr, kind: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    frame.extend(to.as_bytes());
    frame.extend(from.as_bytes());
    frame.extend(kind.to_be_bytes());
    frame
}

pub(crate) fn arp(
    operation: u16,
    mac: MacAddr,
    address: Ipv4Addr,
    target_address: Ipv4Addr,
) -> Vec<u8> {
    let mut frame = ethernet(MacAddr::BROADCAST, mac, ETHER_ARP);
    // Hardware type Ethernet, protocol IPv4, and the lengths of their addresses.
    frame.extend([0, 1, 0x08, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(mac.as_bytes());
    frame.extend(address.octets());
    // The target of a gratuitous reply is the sender.
    let target = if operation == ARP_REPLY { mac } else { MacAddr::default() };
    frame.extend(target.as_bytes());
    frame.extend(target_address.octets());
    frame
}

fn neighbour_advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    // Type 136, code 0, checksum to be filled in, flag Override.
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    // Option 2, target link-layer address, one unit of eight bytes.
    message.extend([2, 1]);
    message.extend(mac.as_bytes());
    let length = u16::try_from(message.len()).unwrap_or(u16::MAX);

    let mut pseudo = Vec::new();
    pseudo.extend(address.octets());
    pseudo.extend(ALL_NODES.octets());
    pseudo.extend(u32::from(length).to_be_bytes());
    pseudo.extend([0, 0, 0, ICMPV6]);
    pseudo.extend(&message);
    message[2..4].copy_from_slice(&checksum(&pseudo).to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHER_IPV6);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(length.to_be_bytes());
    // Receivers require a hop limit of 255, which no router could have forwarded.
    frame.extend([ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gratuitous_arp_contains_the_address_twice() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let address = Ipv4Addr::new(10, 0, 0, 1);
        let frame = arp(ARP_REQUEST, mac, address, address);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[28..32], [10, 0, 0, 1]);
        assert_eq!(frame[38..42], [10, 0, 0, 1]);
    }
}
