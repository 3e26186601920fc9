//! A link with a hardware address of its own on top of another: `ip link add link LOWER name NAME type macvlan`.

use std::{fmt, str::FromStr};

use super::NewLink;
use crate::{
    Error, MacAddr, Result,
    netlink::{AttributeBuf, Attributes, action::Action},
};

const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_MACVLAN_BC_QUEUE_LEN: u16 = 7;

/// A macvlan to be made.
#[derive(Debug, Clone, Default)]
pub struct Macvlan {
    /// Its name.
    pub name: String,
    /// The index of the link it stands on.
    pub lower: u32,
    /// Its mode.
    pub mode: MacvlanMode,
    /// How many broadcasts may wait to be delivered; the largest of those on one lower link counts.
    pub bcqueuelen: Option<u32>,
    /// Its MTU. Without one it has that of the lower link.
    pub mtu: Option<u32>,
    /// Its hardware address.
    pub mac: Option<MacAddr>,
}

/// Whom a macvlan reaches among those on the same lower link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MacvlanMode {
    /// Nobody.
    Private,
    /// All, by way of a switch that sends packets back by the port they came from.
    Vepa,
    /// All, directly.
    #[default]
    Bridge,
    /// It has the lower link, and its hardware address, for itself.
    Passthru,
    /// Another one, by its number.
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

    /// The names that `ip` has for them.
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

/// What a macvlan is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MacvlanInfo {
    /// Its mode.
    pub mode: MacvlanMode,
    /// How many broadcasts it asks the lower link to let wait.
    pub bcqueuelen: u32,
}

impl MacvlanInfo {
    pub(in crate::netlink) fn parse(data: Attributes<'_>) -> Self {
        let mut info = Self::default();
        for (kind, value) in data {
            match kind {
                IFLA_MACVLAN_MODE => info.mode = MacvlanMode::from_number(value.u32()),
                IFLA_MACVLAN_BC_QUEUE_LEN => info.bcqueuelen = value.u32(),
                _ => {}
            }
        }
        info
    }
}

impl From<&Macvlan> for NewLink<'_> {
    fn from(macvlan: &Macvlan) -> Self {
        let mode = macvlan.mode.number().to_ne_bytes();
        let bcqueuelen = macvlan.bcqueuelen.map(u32::to_ne_bytes);
        Self {
            lower: Some(macvlan.lower),
            mtu: macvlan.mtu,
            mac: macvlan.mac,
            data: AttributeBuf::new()
                .with(IFLA_MACVLAN_MODE, mode)
                .with_some(IFLA_MACVLAN_BC_QUEUE_LEN, bcqueuelen),
            ..Self::new(
                "macvlan",
                &macvlan.name,
                Action::from(format!("create macvlan {} ({}) on ", macvlan.name, macvlan.mode))
                    .link(macvlan.lower),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_the_names_and_numbers_that_ip_and_the_kernel_have() {
        for (name, mode, number) in MacvlanMode::NAMED {
            assert_eq!(name.parse::<MacvlanMode>().unwrap(), mode);
            assert_eq!((mode.to_string().as_str(), mode.number()), (name, number));
            assert_eq!(MacvlanMode::from_number(number), mode);
        }
        assert_eq!(MacvlanMode::from_number(16), MacvlanMode::Other(16));
        assert!("Bridge".parse::<MacvlanMode>().unwrap_err().to_string().contains("passthru"));
    }
}
