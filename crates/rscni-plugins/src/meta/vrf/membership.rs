//! Moves an interface into a VRF and out of it, and restores what the kernel drops on the way.
//!
//! The kernel sets the interface down and up, so that the routes to its subnets are added to the
//! other table. It drops all other routes of the interface, and IPv6 addresses unless
//! `keep_addr_on_down` is set.

use rscni::Error;
use rscni_linux::{Address, Link, LinkChange, Netlink, NewAddress, Route, RouteFilter};

use crate::{
    attach::{
        routing_table::{LOCAL, MAIN},
        sandbox::settle_addresses,
    },
    plugin::{BestEffort, Result, unless_exists},
};

/// `RTPROT_KERNEL` and `RTPROT_RA`: the kernel adds these routes again, or learns them.
const BY_THE_KERNEL: [u8; 2] = [2, 9];

/// The addresses and routes of an interface that the kernel may drop.
#[derive(Clone)]
pub(super) struct Belongings {
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

impl Belongings {
    /// Reads those of an interface without a VRF.
    pub(super) fn of(netlink: &mut Netlink, link: &Link) -> Result<Self> {
        let filter = RouteFilter { oif: Some(link.index), ..RouteFilter::default() };
        let is_kept = |route: &Route| {
            let is_kernels =
                route.protocol.is_some_and(|protocol| BY_THE_KERNEL.contains(&protocol));
            route.table != Some(LOCAL) && !(is_kernels && route.table == Some(MAIN))
        };
        let mut routes: Vec<Route> = netlink.routes(filter)?.into_iter().filter(is_kept).collect();
        // Routes to routers come before routes through them.
        routes.sort_by_key(|route| route.gateway.is_some());
        Ok(Self { addresses: global_v6(netlink, link.index)?, routes })
    }

    /// Sets the VRF of the interface (0: none), and restores its addresses and routes, those of the
    /// main table in the table `main`. Continues after a failure and reports it at the end.
    pub(super) fn move_to(
        &self,
        netlink: &mut Netlink,
        index: u32,
        master: u32,
        main: u32,
    ) -> Result<()> {
        netlink.set_link(index, &LinkChange { master: Some(master), ..LinkChange::default() })?;
        let mut all = BestEffort::default();
        let left = global_v6(netlink, index)?;
        for address in self
            .addresses
            .iter()
            .filter(|address| !left.iter().any(|other| other.net == address.net))
        {
            all.step(unless_exists(netlink.add_new_address(index, &NewAddress::from(address))));
        }
        if self.addresses.iter().any(|address| !address.nodad)
            && netlink.link_by_index(index)?.running
        {
            all.step(settle(netlink, index));
        }
        for route in &self.routes {
            let table = route.table.map(|table| if table == MAIN { main } else { table });
            all.step(unless_exists(netlink.append_route(&Route { table, ..route.clone() })));
        }
        all.finish()
    }
}

fn global_v6(netlink: &mut Netlink, index: u32) -> Result<Vec<Address>> {
    let mut addresses = netlink.addresses(index)?;
    addresses.retain(|address| address.net.addr().is_ipv6() && address.scope == 0);
    Ok(addresses)
}

/// Waits for duplicate address detection, which IPv6 addresses repeat: a route can use an address
/// as its source only afterwards.
fn settle(netlink: &mut Netlink, index: u32) -> Result<()> {
    match settle_addresses(netlink, index) {
        Err(rscni_linux::Error::Timeout { .. }) => Ok(()),
        // Another host has the address.
        Err(duplicate @ rscni_linux::Error::Invalid { .. }) => {
            Err(Error::TryAgainLater(duplicate.to_string()).into())
        }
        outcome => Ok(outcome?),
    }
}
