//! An intermediate functional block, which shapes what other links redirect to it: `ip link add NAME type ifb`.

use super::NewLink;
use crate::MacAddr;

/// An ifb to be made.
#[derive(Debug, Clone, Default)]
pub struct Ifb {
    /// Its name.
    pub name: String,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
    /// Its alias.
    pub alias: Option<String>,
    /// Whether it is switched on at once.
    pub up: bool,
}

impl Ifb {
    /// An ifb with this name and nothing else asked for.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl From<&Ifb> for NewLink<'_> {
    fn from(ifb: &Ifb) -> Self {
        Self {
            mtu: ifb.mtu,
            mac: ifb.mac,
            alias: ifb.alias.clone(),
            up: ifb.up,
            ..Self::new("ifb", &ifb.name, format!("create ifb {}", ifb.name))
        }
    }
}
