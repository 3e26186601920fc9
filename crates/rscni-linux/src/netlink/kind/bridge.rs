//! A bridge: `ip link add NAME type bridge`. What its ports are set to is in [`bridge`](crate::netlink::BridgePort).

use super::NewLink;
use crate::{
    MacAddr,
    netlink::{
        AttributeBuf,
        bridge::{IFLA_BR_VLAN_DEFAULT_PVID, IFLA_BR_VLAN_FILTERING},
    },
};

/// A bridge to be made.
#[derive(Debug, Clone, Default)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Its MTU. Without one, the kernel takes the smallest of its ports.
    pub mtu: Option<u32>,
    /// Its hardware address. Without one, it changes with the ports.
    pub mac: Option<MacAddr>,
    /// Whether it is switched on at once.
    pub up: bool,
    /// Its alias.
    pub alias: Option<String>,
    /// Whether it keeps VLANs apart.
    pub vlan_filtering: Option<bool>,
    /// The VLAN that ports are put into by themselves; 0 for none.
    pub vlan_default_pvid: Option<u16>,
}

impl Bridge {
    /// A bridge with this name and nothing else asked for.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl From<&Bridge> for NewLink<'_> {
    fn from(bridge: &Bridge) -> Self {
        let filtering = bridge.vlan_filtering.map(|filtering| [filtering.into()]);
        let pvid = bridge.vlan_default_pvid.map(u16::to_ne_bytes);
        Self {
            alias: bridge.alias.clone(),
            mtu: bridge.mtu,
            mac: bridge.mac,
            up: bridge.up,
            data: AttributeBuf::new()
                .with_some(IFLA_BR_VLAN_FILTERING, filtering)
                .with_some(IFLA_BR_VLAN_DEFAULT_PVID, pvid),
            ..Self::new("bridge", &bridge.name, format!("create bridge {}", bridge.name))
        }
    }
}
