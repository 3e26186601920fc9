//! Neighbours (ARP and NDP entries), as `ip neigh` lists and changes them.

use std::net::IpAddr;

use libc::{
    NDA_DST, NDA_IFINDEX, NDA_LLADDR, NUD_PERMANENT, RTM_DELNEIGH, RTM_GETNEIGH, RTM_NEWNEIGH,
};

use super::{
    AttributeBuf, Family, Message, NLM_F_CREATE, NLM_F_REPLACE, Netlink, Request, action::Action,
    attributes, octets,
};
use crate::{MacAddr, Result};

const HEADER: usize = 12;

/// A neighbour: the address of a host on a link, and its hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// Index of the link.
    pub index: u32,
    /// Address.
    pub address: IpAddr,
    /// Hardware address, if known.
    pub mac: Option<MacAddr>,
    /// Whether it is permanent.
    pub permanent: bool,
}

impl Request {
    /// See [`Netlink::add_neighbour`].
    #[must_use]
    pub fn add_neighbour(index: u32, address: IpAddr, mac: MacAddr) -> Self {
        Self::new(
            message(RTM_NEWNEIGH, index, address, NUD_PERMANENT, Some(mac)),
            NLM_F_CREATE | NLM_F_REPLACE,
            Action::from(format!("add neighbour {address} with {mac} to ")).link(index),
        )
    }

    /// See [`Netlink::del_neighbour`].
    #[must_use]
    pub fn del_neighbour(index: u32, address: IpAddr) -> Self {
        Self::new(
            message(RTM_DELNEIGH, index, address, 0, None),
            0,
            Action::from(format!("remove neighbour {address} from ")).link(index),
        )
    }
}

fn message(kind: u16, index: u32, address: IpAddr, state: u16, mac: Option<MacAddr>) -> Message {
    let mut header = [0; HEADER];
    header[0] = Family::of(&address).number();
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    let attributes = AttributeBuf::new()
        .with(NDA_DST, octets(address))
        .with_some(NDA_LLADDR, mac.map(|mac| mac.0));
    Message::new(kind, &header, &attributes)
}

impl Netlink {
    /// Lists the IPv4 and IPv6 neighbours of one link.
    pub fn neighbours(&mut self, index: u32) -> Result<Vec<Neighbour>> {
        let of_link = AttributeBuf::new().with(NDA_IFINDEX, index.to_ne_bytes());
        let message = Message::new(RTM_GETNEIGH, &[0; HEADER], &of_link);
        let action = format!("list the neighbours of interface {index}");
        self.socket.dump(&action, &message, |payload| {
            Ok(Neighbour::parse(payload).filter(|neighbour| neighbour.index == index))
        })
    }
}

impl Neighbour {
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let [_, _, _, _, i0, i1, i2, i3, s0, s1, _, _] = *payload.first_chunk::<HEADER>()?;
        let mut address = None;
        let mut mac = None;
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                NDA_DST => address = value.ip(),
                NDA_LLADDR => mac = MacAddr::from_bytes(value.0),
                _ => {}
            }
        }
        Some(Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            address: address?,
            mac,
            permanent: u16::from_ne_bytes([s0, s1]) & NUD_PERMANENT != 0,
        })
    }
}
