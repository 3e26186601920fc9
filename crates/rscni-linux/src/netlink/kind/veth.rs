//! Veth pairs whose peer is created in its final namespace: `ip link add NAME type veth peer name
//! PEER netns NETNS`.

use libc::{IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES};

use super::{NewLink, end};
use crate::{
    MacAddr, Netns,
    netlink::{AttributeBuf, link::header},
};

const VETH_INFO_PEER: u16 = 1;

/// A veth pair to be created.
#[derive(Debug, Clone, Default)]
pub struct Veth<'a> {
    /// Name of the near end.
    pub name: String,
    /// Alias of the near end.
    pub alias: Option<String>,
    /// MTU of both ends, unless `peer_mtu` is set.
    pub mtu: Option<u32>,
    /// Hardware address of the near end.
    pub mac: Option<MacAddr>,
    /// Index of the bridge to attach the near end to.
    pub master: Option<u32>,
    /// Whether the near end is brought up. The kernel refuses to create the peer up.
    pub up: bool,
    /// Name of the peer.
    pub peer_name: String,
    /// Namespace of the peer, if it is another one.
    pub peer_netns: Option<&'a Netns>,
    /// Hardware address of the peer.
    pub peer_mac: Option<MacAddr>,
    /// MTU of the peer.
    pub peer_mtu: Option<u32>,
}

impl Veth<'_> {
    /// Creates a pair with these names and default settings.
    pub fn new(name: impl Into<String>, peer_name: impl Into<String>) -> Self {
        Self { name: name.into(), peer_name: peer_name.into(), ..Self::default() }
    }
}

/// By default the kernel allocates a queue per processor and then uses one. Reducing them waits for
/// an RCU grace period at each end.
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
            // Bringing up a link without a carrier would stop its queues and wait.
            up_after_creation: veth.up,
            queues: Some(QUEUES),
            data: AttributeBuf::new().with(VETH_INFO_PEER, peer),
            ..Self::new("veth", &veth.name, action)
        }
    }
}
