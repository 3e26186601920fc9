//! A dummy link, which drops what it is given: `ip link add NAME type dummy`.

use super::NewLink;
use crate::MacAddr;

/// A dummy link to be made.
#[derive(Debug, Clone, Default)]
pub struct Dummy {
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

impl Dummy {
    /// A dummy with this name and nothing else asked for.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

impl From<&Dummy> for NewLink<'_> {
    fn from(dummy: &Dummy) -> Self {
        Self {
            mtu: dummy.mtu,
            mac: dummy.mac,
            alias: dummy.alias.clone(),
            up: dummy.up,
            ..Self::new("dummy", &dummy.name, format!("create dummy {}", dummy.name))
        }
    }
}
