//! A VRF: a routing table of its own for the links that belong to it, `ip link add NAME type vrf table TABLE`.

use netlink_packet_route::link::{InfoData, InfoKind, InfoVrf};

use super::NewLink;

/// A VRF to be made. Links are put into it as into a bridge, by their `master`.
#[derive(Debug, Clone)]
pub struct Vrf {
    /// Its name.
    pub name: String,
    /// The number of its table.
    pub table: u32,
    /// Its alias.
    pub alias: Option<String>,
    /// Whether it is switched on at once.
    pub up: bool,
}

impl Vrf {
    /// A VRF with this name and table, switched off.
    pub fn new(name: impl Into<String>, table: u32) -> Self {
        Self { name: name.into(), table, alias: None, up: false }
    }
}

impl From<&Vrf> for NewLink<'_> {
    fn from(vrf: &Vrf) -> Self {
        Self {
            alias: vrf.alias.clone(),
            up: vrf.up,
            data: Some(InfoData::Vrf(vec![InfoVrf::TableId(vrf.table)])),
            ..Self::new(
                InfoKind::Vrf,
                &vrf.name,
                format!("create vrf {} with table {}", vrf.name, vrf.table),
            )
        }
    }
}
