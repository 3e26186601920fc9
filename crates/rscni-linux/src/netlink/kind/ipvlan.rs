//! A link with addresses of its own, and the hardware address of the link below: `ip link add link LOWER name NAME
//! type ipvlan`.

use std::{fmt, str::FromStr};

use super::NewLink;
use crate::{
    Error, Result,
    netlink::{AttributeBuf, Attributes, action::Action},
};

const IFLA_IPVLAN_MODE: u16 = 1;

/// An ipvlan to be made.
#[derive(Debug, Clone, Default)]
pub struct Ipvlan {
    /// Its name.
    pub name: String,
    /// The index of the link it stands on.
    pub lower: u32,
    /// Its mode, which all on one lower link have in common: the newest decides.
    pub mode: IpvlanMode,
    /// Its MTU. Without one it has that of the lower link.
    pub mtu: Option<u32>,
}

/// How an ipvlan passes packets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IpvlanMode {
    /// By hardware address, broadcasts too.
    #[default]
    L2,
    /// By address alone, by the routes of the lower link's namespace.
    L3,
    /// As `L3`, and packets pass the packet filter of that namespace.
    L3s,
    /// Another one, by its number.
    Other(u16),
}

impl IpvlanMode {
    const NAMED: [(&str, Self); 3] = [("l2", Self::L2), ("l3", Self::L3), ("l3s", Self::L3s)];

    fn number(self) -> u16 {
        match self {
            Self::L2 => 0,
            Self::L3 => 1,
            Self::L3s => 2,
            Self::Other(number) => number,
        }
    }

    pub(in crate::netlink) fn parse(data: Attributes<'_>) -> Option<Self> {
        let number = data.into_iter().find(|(kind, _)| *kind == IFLA_IPVLAN_MODE)?.1.u16();
        let known = Self::NAMED.iter().map(|(_, mode)| *mode).find(|mode| mode.number() == number);
        Some(known.unwrap_or(Self::Other(number)))
    }
}

impl fmt::Display for IpvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(_, mode)| mode == self) {
            Some((name, _)) => f.write_str(name),
            None => self.number().fmt(f),
        }
    }
}

impl FromStr for IpvlanMode {
    type Err = Error;

    /// The names that `ip` has for them.
    fn from_str(text: &str) -> Result<Self> {
        let known = Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        known.ok_or_else(|| {
            Error::invalid(format!("ipvlan mode {text:?}"), "expected l2, l3 or l3s")
        })
    }
}

impl From<&Ipvlan> for NewLink<'_> {
    fn from(ipvlan: &Ipvlan) -> Self {
        let mode = ipvlan.mode.number().to_ne_bytes();
        Self {
            lower: Some(ipvlan.lower),
            mtu: ipvlan.mtu,
            data: AttributeBuf::new().with(IFLA_IPVLAN_MODE, mode),
            ..Self::new(
                "ipvlan",
                &ipvlan.name,
                Action::from(format!("create ipvlan {} ({}) on ", ipvlan.name, ipvlan.mode))
                    .link(ipvlan.lower),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_the_names_that_ip_has() {
        for (name, mode) in IpvlanMode::NAMED {
            assert_eq!(
                (name.parse::<IpvlanMode>().unwrap(), mode.to_string().as_str()),
                (mode, name)
            );
        }
        assert!("L2".parse::<IpvlanMode>().unwrap_err().to_string().contains("l3s"));
    }
}
