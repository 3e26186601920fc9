//! Bridges: `ip link add NAME type bridge`. Ports are in [`bridge`](crate::netlink::BridgePort).

use super::NewLink;
use crate::{
    MacAddr,
    netlink::{
        AttributeBuf,
        bridge::{IFLA_BR_VLAN_DEFAULT_PVID, IFLA_BR_VLAN_FILTERING},
    },
};

/// A bridge to be created.
#[derive(Debug, Clone, Default)]
pub struct Bridge {
    /// Name.
    pub name: String,
    /// MTU; the smallest of the ports by default.
    pub mtu: Option<u32>,
    /// Hardware address. By default it changes with the ports.
    pub mac: Option<MacAddr>,
    /// Whether it is brought up at once.
    pub up: bool,
    /// Alias.
    pub alias: Option<String>,
    /// Whether it filters by VLAN.
    pub vlan_filtering: Option<bool>,
    /// The VLAN of new ports; 0 for none.
    pub vlan_default_pvid: Option<u16>,
}

impl Bridge {
    /// Creates a bridge with this name and default settings.
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
