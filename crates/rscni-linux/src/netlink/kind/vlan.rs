//! 802.1Q links: `ip link add link LOWER name NAME type vlan id ID`.

use super::NewLink;
use crate::netlink::{AttributeBuf, Attributes, Value};

const IFLA_VLAN_ID: u16 = 1;

/// An 802.1Q link to be created. (A [`Vlan`](crate::Vlan) belongs to a bridge port.)
#[derive(Debug, Clone, Default)]
pub struct VlanLink {
    /// Name.
    pub name: String,
    /// Index of the lower link.
    pub lower: u32,
    /// VLAN id, from 0 to 4094, unique per lower link.
    pub id: u16,
    /// MTU; that of the lower link by default.
    pub mtu: Option<u32>,
}

pub(in crate::netlink) fn parse_id(data: Attributes<'_>) -> Option<u16> {
    data.value(IFLA_VLAN_ID).map(Value::u16)
}

impl From<&VlanLink> for NewLink<'_> {
    fn from(vlan: &VlanLink) -> Self {
        let VlanLink { name, lower, id, mtu } = vlan;
        let action = format!("create {name} for VLAN {id} of ");
        let data = AttributeBuf::new().with(IFLA_VLAN_ID, id.to_ne_bytes());
        Self { data, ..Self::on(*lower, "vlan", name, *mtu, action) }
    }
}
