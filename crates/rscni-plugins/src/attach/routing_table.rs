//! Routing tables: those of the kernel, and unused ones.

use rscni_linux::{Netlink, RouteFilter};

use crate::plugin::Result;

/// `default`, `main` and `local`.
const KERNELS_OWN: std::ops::RangeInclusive<u32> = 253..=255;

pub(crate) const MAIN: u32 = 254;

/// The table of the host's own addresses.
pub(crate) const LOCAL: u32 = 255;

pub(crate) fn is_kernels_own(table: u32) -> bool {
    KERNELS_OWN.contains(&table)
}

/// Returns the tables from `first` on without a VRF, a rule or a route, lowest first.
pub(crate) fn free(netlink: &mut Netlink, first: u32) -> Result<impl Iterator<Item = u32> + use<>> {
    let mut used: Vec<u32> = netlink.rules()?.iter().map(|rule| rule.table).collect();
    used.extend(netlink.routes(RouteFilter::default())?.iter().filter_map(|route| route.table));
    used.extend(netlink.links()?.iter().filter_map(|link| link.vrf_table));
    Ok((first..).filter(move |table| !is_kernels_own(*table) && !used.contains(table)))
}
