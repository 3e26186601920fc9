//! Links that share the hardware address of a lower link: `ip link add link LOWER name NAME type
//! ipvlan`.

use std::{fmt, str::FromStr};

use super::NewLink;
use crate::{
    Error, Result,
    netlink::{AttributeBuf, Attributes},
};

const IFLA_IPVLAN_MODE: u16 = 1;

/// An ipvlan to be created.
#[derive(Debug, Clone, Default)]
pub struct Ipvlan {
    /// Name.
    pub name: String,
    /// Index of the lower link.
    pub lower: u32,
    /// Mode. All ipvlans of a lower link share the mode of the newest.
    pub mode: IpvlanMode,
    /// MTU; that of the lower link by default.
    pub mtu: Option<u32>,
}

/// The mode of an ipvlan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum IpvlanMode {
    /// Forwards by hardware address, including broadcasts.
    #[default]
    L2,
    /// Routes in the namespace of the lower link.
    L3,
    /// Like `L3`, and packets pass netfilter of that namespace.
    L3s,
    /// Any other mode.
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
        let number = data.value(IFLA_IPVLAN_MODE)?.u16();
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

    /// Parses the names that `ip` uses.
    fn from_str(text: &str) -> Result<Self> {
        let known = Self::NAMED.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode);
        known.ok_or_else(|| {
            Error::invalid(format!("ipvlan mode {text:?}"), "expected l2, l3 or l3s")
        })
    }
}

impl From<&Ipvlan> for NewLink<'_> {
    fn from(ipvlan: &Ipvlan) -> Self {
        let Ipvlan { name, lower, mode, mtu } = ipvlan;
        let action = format!("create ipvlan {name} ({mode}) on ");
        Self {
            data: AttributeBuf::new().with(IFLA_IPVLAN_MODE, mode.number().to_ne_bytes()),
            ..Self::on(*lower, "ipvlan", name, *mtu, action)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_the_names_of_ip() {
        for (name, mode) in IpvlanMode::NAMED {
            assert_eq!(
                (name.parse::<IpvlanMode>().unwrap(), mode.to_string().as_str()),
                (mode, name)
            );
        }
        assert!("L2".parse::<IpvlanMode>().unwrap_err().to_string().contains("l3s"));
    }
}
