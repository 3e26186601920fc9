//! The backends, and the sets in `inet rscni` that hold their addresses.

use rscni_linux::nft::{Family, Set, Table};

use crate::netfilter::{FAMILIES, nftable};

/// `backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    /// nftables, over netlink.
    Nftables,
    /// iptables, as the Go plugin uses it.
    Iptables,
    /// firewalld, over D-Bus.
    Firewalld,
}

impl Backend {
    pub(super) const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::Firewalld];

    /// Returns the name of the set for IPv4 or IPv6.
    pub(super) fn set(self, v4: bool) -> &'static str {
        match (self, v4) {
            (Self::Nftables, true) => "firewall4",
            (Self::Nftables, false) => "firewall6",
            (Self::Iptables, true) => "firewall-iptables4",
            (Self::Iptables, false) => "firewall-iptables6",
            (Self::Firewalld, true) => "firewall-firewalld4",
            (Self::Firewalld, false) => "firewall-firewalld6",
        }
    }

    /// Returns the definitions of both sets.
    pub(super) fn sets(self) -> [Set; 2] {
        FAMILIES.map(|family| Set::new(self.set(family.any.is_ipv4()), [family.key]))
    }
}

pub(super) fn table() -> Table {
    nftable::table(Family::Inet)
}
