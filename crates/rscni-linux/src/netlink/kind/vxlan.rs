//! VXLAN links, as `ip link add NAME type vxlan id VNI local ADDRESS dev LOWER dstport PORT
//! nolearning` creates them.

use std::net::IpAddr;

use super::NewLink;
use crate::{
    MacAddr,
    netlink::{AttributeBuf, Attributes, octets},
};

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// A VXLAN link to be created. It does not learn: its peers are entries of its forwarding database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Name.
    pub name: String,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Source address of the encapsulated packets.
    pub local: IpAddr,
    /// Index of the link that encapsulated packets leave by.
    pub lower: u32,
    /// UDP port of the peers.
    pub port: u16,
    /// Hardware address; random by default.
    pub mac: Option<MacAddr>,
    /// MTU; derived from the lower link by default.
    pub mtu: Option<u32>,
}

/// Settings of a VXLAN link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct VxlanInfo {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Source address of the encapsulated packets.
    pub local: Option<IpAddr>,
    /// Index of the link that encapsulated packets leave by.
    pub lower: Option<u32>,
    /// UDP port of the peers.
    pub port: u16,
    /// Whether it learns peers from received packets.
    pub learning: bool,
}

impl VxlanInfo {
    pub(in crate::netlink) fn parse(data: Attributes<'_>) -> Self {
        data.read(|info: &mut Self, kind, value| match kind {
            IFLA_VXLAN_ID => info.vni = value.u32(),
            IFLA_VXLAN_LINK => info.lower = Some(value.u32()).filter(|index| *index != 0),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => info.local = value.ip(),
            IFLA_VXLAN_LEARNING => info.learning = value.bool(),
            IFLA_VXLAN_PORT => info.port = value.u16_be(),
            _ => {}
        })
    }
}

impl From<&Vxlan> for NewLink<'_> {
    fn from(vxlan: &Vxlan) -> Self {
        let Vxlan { name, vni, local, lower, port, mac, mtu } = vxlan;
        let local_kind = if local.is_ipv4() { IFLA_VXLAN_LOCAL } else { IFLA_VXLAN_LOCAL6 };
        let data = AttributeBuf::new()
            .with(IFLA_VXLAN_ID, vni.to_ne_bytes())
            .with(local_kind, octets(*local))
            .with(IFLA_VXLAN_LINK, lower.to_ne_bytes())
            .with(IFLA_VXLAN_LEARNING, [0])
            .with(IFLA_VXLAN_PORT, port.to_be_bytes());
        let action = format!("create {name} for VXLAN {vni}");
        Self { data, mac: *mac, mtu: *mtu, up: true, ..Self::new("vxlan", name, action) }
    }
}
