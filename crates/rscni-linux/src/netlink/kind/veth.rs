//! A veth pair, with its peer made inside the namespace it is for: `ip link add NAME type veth peer name PEER
//! netns NETNS`.

use libc::{IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES};

use super::{NewLink, end};
use crate::{
    MacAddr, Netns,
    netlink::{AttributeBuf, link::header},
};

const VETH_INFO_PEER: u16 = 1;

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
    /// Whether the near end is switched on. The peer cannot be: the kernel refuses that.
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

/// The kernel makes room for one queue a processor and then uses one; and it waits until every processor has noticed
/// that, for each end.
const QUEUES: u32 = 1;

impl<'a> From<&Veth<'a>> for NewLink<'a> {
    fn from(veth: &Veth<'a>) -> Self {
        let peer = end(&veth.peer_name, veth.peer_mac, veth.peer_mtu.or(veth.mtu), veth.peer_netns)
            .with(IFLA_NUM_TX_QUEUES, QUEUES.to_ne_bytes())
            .with(IFLA_NUM_RX_QUEUES, QUEUES.to_ne_bytes());
        let peer = [&header(0, 0, 0, 0), peer.as_ref()].concat();
        let action = format!("create veth {} with peer {}", veth.name, veth.peer_name);
        Self {
            alias: veth.alias.clone(),
            mtu: veth.mtu,
            mac: veth.mac,
            master: veth.master,
            // Switched on at once, without a carrier, it would have the kernel stop its queues, and wait for that.
            up_when_made: veth.up,
            queues: Some(QUEUES),
            data: AttributeBuf::new().with(VETH_INFO_PEER, peer),
            ..Self::new("veth", &veth.name, action)
        }
    }
}
