//! ARP requests for the hardware address of a neighbour (RFC 826).
//!
//! A reply also proves that packets sent to the link before the request have left the host.

use std::{
    io::{self, Read},
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use socket2::{Socket, Type};

use crate::{
    Error, Link, MacAddr, Netns, Result,
    announce::{ARP_REPLY, ARP_REQUEST, ETHER_ARP, arp},
    closing::DeferredClose,
    kernel_interface::PacketAddress,
    packet::{ethernet_address, open_in, send},
};

/// A socket that sends ARP requests on one link.
#[derive(Debug)]
pub struct Arp {
    socket: DeferredClose<Socket>,
    index: u32,
    mac: MacAddr,
}

impl Arp {
    /// Opens a socket for `link` in `netns`; needs `CAP_NET_RAW` there.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the link is not Ethernet; [`Error::Io`] if the socket cannot be
    /// opened.
    pub fn open_in(netns: &Netns, link: &Link) -> Result<Self> {
        let mac = ethernet_address(link)?;
        let socket = open_in(netns, link, Type::RAW, ETHER_ARP, |_| Ok(()))?;
        Ok(Self { socket: socket.into(), index: link.index, mac })
    }

    /// Sends a request from `source` for `target`, and returns whether a reply arrives within
    /// `limit`.
    pub fn who_has(&self, source: Ipv4Addr, target: Ipv4Addr, limit: Duration) -> Result<bool> {
        let failed =
            |error: io::Error| Error::io(format!("send an ARP request for {target}"), error);
        let question = arp(ARP_REQUEST, self.mac, source, target);
        let link = PacketAddress::of_frame(self.index);
        send(&*self.socket, &question, &link).map_err(failed)?;
        let end = Instant::now() + limit;
        let mut frame = [0; 64];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left)).map_err(failed)?;
            match (&*self.socket).read(&mut frame) {
                Ok(length) if is_answer(&frame[..length], target) => return Ok(true),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }
}

/// Whether an Ethernet frame is an ARP reply from `address`.
pub(crate) fn is_answer(frame: &[u8], address: Ipv4Addr) -> bool {
    frame.get(20..22) == Some(&ARP_REPLY.to_be_bytes())
        && frame.get(28..32) == Some(&address.octets())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_must_come_from_the_requested_address() {
        let [own, asked] = [1, 2].map(|last| Ipv4Addr::new(10, 0, 0, last));
        let mac = MacAddr([2, 0, 0, 0, 0, 2]);
        let answer = arp(ARP_REPLY, mac, asked, own);
        assert!(is_answer(&answer, asked));
        assert!(!is_answer(&answer, own) && !is_answer(&answer[..30], asked));
        assert!(!is_answer(&arp(ARP_REQUEST, mac, asked, own), asked));
    }
}
