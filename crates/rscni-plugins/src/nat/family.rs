//! The sets of each address family in the table `inet rscni`.

use ipnet::IpNet;
use rscni_linux::nft::{Family, Table};

use crate::netfilter::{AddressFamily, FAMILIES, nftable};

pub(super) fn table() -> Table {
    nftable::table(Family::Inet)
}

pub(super) fn of(net: IpNet) -> &'static AddressFamily {
    AddressFamily::new(net.addr().is_ipv4())
}

/// Returns the set of the containers' addresses. The names of the other sets begin with it.
pub(super) fn set(family: &AddressFamily) -> &'static str {
    if family.any.is_ipv4() { "masquerade4" } else { "masquerade6" }
}

/// Returns the multicast addresses, which are not masqueraded.
pub(super) fn multicast(v4: bool) -> &'static str {
    if v4 { "224.0.0.0/4" } else { "ff00::/8" }
}

/// Returns a subnet for each family and prefix length for which the set `name` exists.
pub(super) fn subnets_in(
    sets: &[String],
    name: impl Fn(IpNet) -> String,
) -> impl Iterator<Item = IpNet> {
    let lengths = |family: &AddressFamily| {
        let any = family.any;
        (0..=if any.is_ipv4() { 32 } else { 128 }).map(move |length| IpNet::new_assert(any, length))
    };
    FAMILIES.into_iter().flat_map(lengths).filter(move |subnet| sets.contains(&name(*subnet)))
}
