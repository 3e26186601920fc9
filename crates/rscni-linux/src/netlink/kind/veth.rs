//! A veth pair, with its peer made inside the namespace it is for: `ip link add NAME type veth peer name PEER
//! netns NETNS`.

use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth};

use super::{NewLink, end};
use crate::{MacAddr, Netns};

/// A veth pair to be made.
#[derive(Debug, Clone, Default)]
pub struct Veth<'a> {
    /// The name of the near end.
    pub name: String,
    /// The alias of the near end.
    pub alias: Option<String>,
    /// The MTU of both ends, unless `peer_mtu` says otherwise.
    pub mtu: Option<u32>,
    /// The hardware address of the near end.
    pub mac: Option<MacAddr>,
    /// The index of the bridge to attach the near end to.
    pub master: Option<u32>,
    /// Whether the near end is switched on at once. The peer cannot be: the kernel refuses that.
    pub up: bool,
    /// The name of the peer.
    pub peer_name: String,
    /// The namespace of the peer, if not the same.
    pub peer_netns: Option<&'a Netns>,
    /// The hardware address of the peer.
    pub peer_mac: Option<MacAddr>,
    /// The MTU of the peer.
    pub peer_mtu: Option<u32>,
}

impl Veth<'_> {
    /// A pair with these names and nothing else asked for.
    pub fn new(name: impl Into<String>, peer_name: impl Into<String>) -> Self {
        Self { name: name.into(), peer_name: peer_name.into(), ..Self::default() }
    }
}

impl<'a> From<&Veth<'a>> for NewLink<'a> {
    fn from(veth: &Veth<'a>) -> Self {
        let peer = end(&veth.peer_name, veth.peer_mac, veth.peer_mtu.or(veth.mtu), veth.peer_netns);
        let action = format!("create veth {} with peer {}", veth.name, veth.peer_name);
        Self {
            alias: veth.alias.clone(),
            mtu: veth.mtu,
            mac: veth.mac,
            master: veth.master,
            up: veth.up,
            data: Some(InfoData::Veth(InfoVeth::Peer(peer))),
            ..Self::new(InfoKind::Veth, &veth.name, action)
        }
    }
}
