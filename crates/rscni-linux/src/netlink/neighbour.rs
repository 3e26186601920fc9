//! Neighbours (ARP and NDP entries), as `ip neigh` shows and changes them.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
};

use super::{Family, Netlink, Request, action::Action, attributes};
use crate::{MacAddr, Result};

const HEADER: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;

/// A neighbour: a host on the link, and the hardware address that it is reached by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Neighbour {
    /// The index of the link.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address, when that is known.
    pub mac: Option<MacAddr>,
    /// It was set and does not expire.
    pub permanent: bool,
}

impl Request {
    /// See [`Netlink::add_neighbour`].
    #[must_use]
    pub fn add_neighbour(index: u32, address: IpAddr, mac: MacAddr) -> Self {
        let mut message = message(index, address);
        message.header.state = NeighbourState::Permanent;
        let mac_attribute = NeighbourAttribute::LinkLayerAddress(mac.as_bytes().to_vec());
        message.attributes.push(mac_attribute);
        Self::new(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            Action::from(format!("add neighbour {address} with {mac} to ")).link(index),
        )
    }

    /// See [`Netlink::del_neighbour`].
    #[must_use]
    pub fn del_neighbour(index: u32, address: IpAddr) -> Self {
        Self::new(
            RouteNetlinkMessage::DelNeighbour(message(index, address)),
            0,
            Action::from(format!("remove neighbour {address} from ")).link(index),
        )
    }
}

fn message(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = Family::of(&address).kernel();
    message.header.ifindex = index;
    let address = match address {
        IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
        IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
    };
    message.attributes = vec![NeighbourAttribute::Destination(address)];
    message
}

impl Netlink {
    /// The neighbours on one link, IPv4 and IPv6.
    pub fn neighbours(&mut self, index: u32) -> Result<Vec<Neighbour>> {
        let mut message = NeighbourMessage::default();
        message.attributes = vec![NeighbourAttribute::IfIndex(index)];
        let message = RouteNetlinkMessage::GetNeighbour(message);
        let action = format!("list the neighbours of interface {index}");
        self.socket.dump(&action, NLM_F_DUMP, &message, |_, payload| {
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
