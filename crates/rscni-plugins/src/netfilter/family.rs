//! The types and fields of IPv4 and IPv6 in nftables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rscni_linux::nft::{Field, Rule, ValueType};

pub(crate) struct AddressFamily {
    /// The unspecified address, as [`Rule::family_of`] takes it.
    pub(crate) any: IpAddr,
    pub(crate) key: ValueType,
    pub(crate) source: Field,
    pub(crate) destination: Field,
}

pub(crate) const FAMILIES: [&AddressFamily; 2] = [
    &AddressFamily {
        any: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        key: ValueType::Ipv4Addr,
        source: Field::IpSaddr,
        destination: Field::IpDaddr,
    },
    &AddressFamily {
        any: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        key: ValueType::Ipv6Addr,
        source: Field::Ip6Saddr,
        destination: Field::Ip6Daddr,
    },
];

impl AddressFamily {
    pub(crate) fn new(v4: bool) -> &'static Self {
        FAMILIES[usize::from(!v4)]
    }

    /// Starts a rule for packets of the family, in a table of both families.
    pub(crate) fn rule(&self) -> Rule {
        Rule::new().family_of(self.any)
    }
}
