//! Forwarding databases of VXLAN links, as `bridge fdb` lists and changes them.

use std::net::IpAddr;

use libc::{
    NDA_DST, NDA_LLADDR, NTF_SELF, NUD_NOARP, NUD_PERMANENT, RTM_DELNEIGH, RTM_GETNEIGH,
    RTM_NEWNEIGH,
};

use super::{
    AttributeBuf, Message, NLM_F_CREATE, NLM_F_REPLACE, Netlink, Request, action::Action,
    attributes, link::AF_BRIDGE, octets,
};
use crate::{MacAddr, Result};

const HEADER: usize = 12;

/// An entry of the forwarding database of a VXLAN link: the remote endpoint that frames to a
/// hardware address are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Forwarding {
    /// Index of the link.
    pub index: u32,
    /// Hardware address.
    pub mac: MacAddr,
    /// Address of the remote endpoint.
    pub remote: IpAddr,
    /// Whether it is permanent.
    pub permanent: bool,
}

impl Request {
    /// See [`Netlink::add_forwarding`].
    #[must_use]
    pub fn add_forwarding(index: u32, mac: MacAddr, remote: IpAddr) -> Self {
        Self::new(
            message(RTM_NEWNEIGH, index, NUD_PERMANENT | NUD_NOARP, mac, remote),
            NLM_F_CREATE | NLM_F_REPLACE,
            Action::from(format!("forward {mac} to {remote} on ")).link(index),
        )
    }

    /// See [`Netlink::del_forwarding`].
    #[must_use]
    pub fn del_forwarding(index: u32, mac: MacAddr, remote: IpAddr) -> Self {
        Self::new(
            message(RTM_DELNEIGH, index, 0, mac, remote),
            0,
            Action::from(format!("stop forwarding {mac} to {remote} on ")).link(index),
        )
    }
}

fn message(kind: u16, index: u32, state: u16, mac: MacAddr, remote: IpAddr) -> Message {
    let mut header = [0; HEADER];
    header[0] = AF_BRIDGE;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..10].copy_from_slice(&state.to_ne_bytes());
    header[10] = NTF_SELF;
    let attributes = AttributeBuf::new().with(NDA_LLADDR, mac.0).with(NDA_DST, octets(remote));
    Message::new(kind, &header, &attributes)
}

impl Netlink {
    /// Lists the entries of a VXLAN link's forwarding database that have a remote endpoint.
    pub fn forwarding(&mut self, index: u32) -> Result<Vec<Forwarding>> {
        let mut header = [0; HEADER];
        header[0] = AF_BRIDGE;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        let message = Message::new(RTM_GETNEIGH, &header, &AttributeBuf::new());
        let action = format!("list the forwarding database of interface {index}");
        self.socket.dump(&action, &message, |payload| {
            Ok(Forwarding::parse(payload).filter(|entry| entry.index == index))
        })
    }
}

impl Forwarding {
    /// Returns `None` for entries without a remote endpoint.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let [_, _, _, _, i0, i1, i2, i3, s0, s1, _, _] = *payload.first_chunk::<HEADER>()?;
        let (mut mac, mut remote) = (None, None);
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                NDA_LLADDR => mac = MacAddr::from_bytes(value.0),
                NDA_DST => remote = value.ip(),
                _ => {}
            }
        }
        Some(Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            mac: mac?,
            remote: remote?,
            permanent: u16::from_ne_bytes([s0, s1]) & NUD_PERMANENT != 0,
        })
    }
}
