//! VRFs: `ip link add NAME type vrf table TABLE`.

use super::NewLink;
use crate::netlink::AttributeBuf;

pub(in crate::netlink) const IFLA_VRF_TABLE: u16 = 1;

/// A VRF to be created. Links join it by their `master`.
#[derive(Debug, Clone)]
pub struct Vrf {
    /// Name.
    pub name: String,
    /// Routing table.
    pub table: u32,
    /// Alias.
    pub alias: Option<String>,
    /// Whether it is brought up at once.
    pub up: bool,
}

impl Vrf {
    /// Creates a VRF with this name and table that stays down.
    pub fn new(name: impl Into<String>, table: u32) -> Self {
        Self { name: name.into(), table, alias: None, up: false }
    }
}

impl From<&Vrf> for NewLink<'_> {
    fn from(vrf: &Vrf) -> Self {
        Self {
            alias: vrf.alias.clone(),
            up: vrf.up,
            data: AttributeBuf::new().with(IFLA_VRF_TABLE, vrf.table.to_ne_bytes()),
            ..Self::new(
                "vrf",
                &vrf.name,
                format!("create vrf {} with table {}", vrf.name, vrf.table),
            )
        }
    }
}
