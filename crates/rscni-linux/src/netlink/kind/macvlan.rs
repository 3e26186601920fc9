//! Links with their own hardware address on a lower link: `ip link add link LOWER name NAME type
//! macvlan`.

use std::{fmt, str::FromStr};

use super::NewLink;
use crate::{
    Error, MacAddr, Result,
    netlink::{AttributeBuf, Attributes},
};

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;

/// A macvlan to be created.
#[derive(Debug, Clone, Default)]
pub struct Macvlan {
    /// Name.
    pub name: String,
    /// Index of the lower link.
    pub lower: u32,
    /// Mode.
    pub mode: MacvlanMode,
    /// Length of the broadcast queue; the largest of one lower link applies.
    pub bcqueuelen: Option<u32>,
    /// MTU; that of the lower link by default.
    pub mtu: Option<u32>,
    /// Hardware address.
    pub mac: Option<MacAddr>,
}

/// The mode of a macvlan: how it reaches others on the same lower link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MacvlanMode {
    /// Not at all.
    Private,
    /// Through an external switch that reflects packets.
    Vepa,
    /// Directly.
    #[default]
    Bridge,
    /// The only macvlan of the lower link, with its hardware address.
    Passthru,
    /// Any other mode.
    Other(u32),
}

impl MacvlanMode {
    const NAMED: [(&str, Self, u32); 4] = [
        ("private", Self::Private, 1),
        ("vepa", Self::Vepa, 2),
        ("bridge", Self::Bridge, 4),
        ("passthru", Self::Passthru, 8),
    ];

    fn number(self) -> u32 {
        if let Self::Other(number) = self {
            return number;
        }
        Self::NAMED.iter().find(|(_, mode, _)| *mode == self).map_or(0, |(.., number)| *number)
    }

    fn from_number(number: u32) -> Self {
        Self::NAMED
            .iter()
            .find(|(.., n)| *n == number)
            .map_or(Self::Other(number), |(_, mode, _)| *mode)
    }
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMED.iter().find(|(_, mode, _)| mode == self) {
            Some((name, ..)) => f.write_str(name),
            None => self.number().fmt(f),
        }
    }
}

impl FromStr for MacvlanMode {
    type Err = Error;

    /// Parses the names that `ip` uses.
    fn from_str(text: &str) -> Result<Self> {
        Self::NAMED.iter().find(|(name, ..)| *name == text).map(|(_, mode, _)| *mode).ok_or_else(
            || {
                Error::invalid(
                    format!("macvlan mode {text:?}"),
                    "expected bridge, private, vepa or passthru",
                )
            },
        )
    }
}

/// Settings of a macvlan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MacvlanInfo {
    /// Mode.
    pub mode: MacvlanMode,
    /// Requested length of the broadcast queue.
    pub bcqueuelen: u32,
}

impl MacvlanInfo {
    pub(in crate::netlink) fn parse(data: Attributes<'_>) -> Self {
        data.read(|info: &mut Self, kind, value| match kind {
            IFLA_MACVLAN_MODE => info.mode = MacvlanMode::from_number(value.u32()),
            IFLA_MACVLAN_BC_QUEUE_LEN => info.bcqueuelen = value.u32(),
            _ => {}
        })
    }
}

impl From<&Macvlan> for NewLink<'_> {
    fn from(macvlan: &Macvlan) -> Self {
        let Macvlan { name, lower, mode, bcqueuelen, mtu, mac } = macvlan;
        let data = AttributeBuf::new()
            .with(IFLA_MACVLAN_MODE, mode.number().to_ne_bytes())
            .with_some(IFLA_MACVLAN_BC_QUEUE_LEN, bcqueuelen.map(u32::to_ne_bytes));
        let action = format!("create macvlan {name} ({mode}) on ");
        Self { mac: *mac, data, ..Self::on(*lower, "macvlan", name, *mtu, action) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_match_the_names_of_ip_and_the_numbers_of_the_kernel() {
        for (name, mode, number) in MacvlanMode::NAMED {
            assert_eq!(name.parse::<MacvlanMode>().unwrap(), mode);
            assert_eq!((mode.to_string().as_str(), mode.number()), (name, number));
            assert_eq!(MacvlanMode::from_number(number), mode);
        }
        assert_eq!(MacvlanMode::from_number(16), MacvlanMode::Other(16));
        assert!("Bridge".parse::<MacvlanMode>().unwrap_err().to_string().contains("passthru"));
    }
}
