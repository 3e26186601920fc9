//! Names of the chains, maps and sets for host ports; [`skeleton`](super::skeleton) shows them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rscni_linux::nft::{Family, Table};
use sha2::{Digest, Sha256};

use super::config::Config;
use crate::{
    netfilter::{AddressFamily, nftable},
    state::Purpose,
};

/// The start of the names of all sets and maps.
pub(super) const SETS: &str = "hostport";
/// Part of the names of the sets of mappings that are reached from `::1`.
pub(super) const FROM_LO: &str = "_from_lo_";
/// The end of the names of maps and sets with waiting mappings.
const STANDBY: &str = "_standby";
/// The base chains that lead to mappings.
pub(super) const ENTRIES: [&str; 2] = ["hostport-prerouting", "hostport-output"];
/// The chain that drops packets from other interfaces to the addresses of `lo`.
pub(super) const LOCALNET: &str = "hostport-localnet";

pub(super) fn table() -> Table {
    nftable::table(Family::Inet)
}

/// Returns the name of the chain that masquerades packets with the mark.
pub(super) fn masquerade_chain(bit: u8) -> String {
    format!("hostport-masquerade-{bit}")
}

/// Returns the map or set for waiting mappings that belongs to one for active mappings.
pub(super) fn standby(set: &str) -> String {
    format!("{set}{STANDBY}")
}

/// Returns the map or set for active mappings that belongs to one for waiting mappings.
pub(crate) fn active(set: &str) -> Option<&str> {
    set.strip_suffix(STANDBY).filter(|set| set.starts_with(SETS))
}

/// Describes an element of the maps and sets for the inventory, by its host port.
pub(super) fn describe(set: &str, key: &[u8]) -> Option<(String, Purpose)> {
    let family = set.strip_prefix(SETS)?;
    // The key begins with the protocol or the source, and ends with the port in a word of four
    // bytes. For a waiting mapping one more word follows.
    let words = if active(set).is_some() { 2 } else { 1 };
    let port = key.len().checked_sub(4 * words).and_then(|at| key[at..].first_chunk());
    let port = port.map_or(0, |port| u16::from_be_bytes(*port));
    Some((format!("port {port}"), Purpose::PublishedPort { v4: family.starts_with('4') }))
}

/// The chains, maps and sets of one family. Each set of conditions has its own group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) v4: bool,
    /// A hash of the conditions, or empty.
    pub(super) suffix: String,
}

impl Group {
    pub(super) fn new(config: &Config, v4: bool) -> Self {
        let conditions = config.conditions(v4).join(" ");
        if conditions.is_empty() {
            return Self { v4, suffix: String::new() };
        }
        let hash = Sha256::digest(conditions);
        let append = |text, byte| format!("{text}{byte:02x}");
        Self { v4, suffix: hash[..4].iter().fold("-".to_owned(), append) }
    }

    /// Adds the family, `_any` unless `specific`, and the conditions to a name.
    fn name(&self, start: &str, specific: bool) -> String {
        let (family, any) = (if self.v4 { '4' } else { '6' }, if specific { "" } else { "_any" });
        format!("{start}{family}{any}{}", self.suffix)
    }

    /// Returns the chain for mappings of one address of the host, which jumps to the chain for
    /// those of all addresses.
    pub(super) fn chain(&self, specific: bool) -> String {
        self.name("hostports", specific)
    }

    /// Returns the map for mappings of one address of the host, or for those of all addresses.
    pub(super) fn map(&self, specific: bool) -> String {
        self.name(SETS, specific)
    }

    /// Returns the set of mappings that are masqueraded for a source subnet with this one's prefix
    /// length.
    pub(super) fn sources(&self, specific: bool, net: IpNet, bit: u8) -> String {
        if net == loopback(false) {
            return format!("{}{FROM_LO}{bit}", self.map(specific));
        }
        format!("{}_from{}_{bit}", self.map(specific), net.prefix_len())
    }

    /// Parses the name of a set of sources of this group: a subnet with its prefix length, and the
    /// bit of the mark.
    pub(super) fn parse_sources(&self, specific: bool, set: &str) -> Option<(IpNet, u8)> {
        let rest = set.strip_prefix(&self.map(specific))?;
        if let Some(bit) = rest.strip_prefix(FROM_LO) {
            return Some((loopback(false), bit.parse().ok()?));
        }
        let (length, bit) = rest.strip_prefix("_from")?.split_once('_')?;
        Some((IpNet::new(self.family().any, length.parse().ok()?).ok()?, bit.parse().ok()?))
    }

    /// Parses the name of a map: whether it is for IPv4, and whether its mappings are for one
    /// address.
    pub(super) fn parse_map(name: &str) -> Option<(bool, bool)> {
        let rest = name.strip_prefix(SETS)?;
        let (v4, rest) = match rest.split_at_checked(1)? {
            ("4", rest) => (true, rest),
            ("6", rest) => (false, rest),
            _ => return None,
        };
        (!is_of_sources(name) && active(name).is_none()).then(|| (v4, !rest.starts_with("_any")))
    }

    pub(super) fn family(&self) -> &'static AddressFamily {
        AddressFamily::new(self.v4)
    }
}

pub(super) fn is_of_sources(name: &str) -> bool {
    name.starts_with(SETS) && name.contains("_from")
}

/// Returns `127.0.0.0/8` or `::1/128`.
pub(super) fn loopback(v4: bool) -> IpNet {
    if v4 {
        IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8).trunc()
    } else {
        IpAddr::from(Ipv6Addr::LOCALHOST).into()
    }
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    if Group::parse_map(&name).is_some() {
        assert!(name.starts_with(SETS) && !is_of_sources(&name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_maps_are_parsed_as_maps() {
        for (suffix, v4) in [("", true), ("", false), ("-12345678", true)] {
            let group = Group { v4, suffix: suffix.to_owned() };
            for specific in [true, false] {
                assert_eq!(Group::parse_map(&group.map(specific)), Some((v4, specific)));
                let sources = group.sources(specific, loopback(true), 13);
                assert_eq!(Group::parse_map(&sources), None);
                for set in [group.map(specific), sources] {
                    assert_eq!(Group::parse_map(&standby(&set)), None);
                    assert_eq!(active(&standby(&set)), Some(&*set));
                    assert_eq!(active(&set), None);
                }
            }
        }
        assert_eq!(Group::parse_map("masquerade4"), None);
    }
}
