//! A link whose packets have an 802.1Q tag on the link below: `ip link add link LOWER name NAME type vlan id ID`.

use super::NewLink;
use crate::netlink::{AttributeBuf, Attributes, action::Action};

const IFLA_VLAN_ID: u16 = 1;

/// An 802.1Q link to be made. (A [`Vlan`](crate::Vlan) is one that a port of a bridge is in.)
#[derive(Debug, Clone, Default)]
pub struct VlanLink {
    /// Its name.
    pub name: String,
    /// The index of the link it stands on.
    pub lower: u32,
    /// The number in its tag, from 0 to 4094. A lower link has one link of each.
    pub id: u16,
    /// Its MTU. Without one it has that of the lower link.
    pub mtu: Option<u32>,
}

pub(in crate::netlink) fn parse_id(mut data: Attributes<'_>) -> Option<u16> {
    data.find(|(kind, _)| *kind == IFLA_VLAN_ID).map(|(_, value)| value.u16())
}

impl From<&VlanLink> for NewLink<'_> {
    fn from(vlan: &VlanLink) -> Self {
        Self {
            lower: Some(vlan.lower),
            mtu: vlan.mtu,
            data: AttributeBuf::new().with(IFLA_VLAN_ID, vlan.id.to_ne_bytes()),
            ..Self::new(
                "vlan",
                &vlan.name,
                Action::from(format!("create {} for VLAN {} of ", vlan.name, vlan.id))
                    .link(vlan.lower),
            )
        }
    }
}
