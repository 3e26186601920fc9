//! Which table an address gets, and which of the interface's routes go into it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use rscni::IpConfig;
use rscni_linux::{Netlink, Route, RouteFilter, Rule};

use super::config::Tables;
use crate::{
    attach::routing_table::{MAIN, is_kernels_own},
    plugin::error::{BestEffort, Result},
};

/// The first table that an address can get, as the Go plugin has it.
pub(super) const FIRST: u32 = 100;

/// The metric that the kernel gives an IPv6 route which names none.
const DEFAULT_METRIC_V6: u32 = 1024;

const SCOPE_LINK: u8 = 253;

/// The subnet of link-local addresses.
const LINK_LOCAL: IpNet =
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64));

/// Whether an address can get this table.
pub(super) fn is_ours(table: u32) -> bool {
    table >= FIRST && !is_kernels_own(table)
}

/// The rule for packets from this address.
pub(super) fn rule(ip: &IpConfig, table: u32) -> Rule {
    Rule::new(IpNet::from(ip.address.addr()), table)
}

/// Whether a rule is for an address that no interface has, and leads to one of our tables, with nothing in it: so that
/// it does nothing.
pub(super) fn leads_nowhere(netlink: &mut Netlink, rule: &Rule) -> Result<bool> {
    if rule.has_more || !is_ours(rule.table) || rule.src.prefix_len() != rule.src.max_prefix_len() {
        return Ok(false);
    }
    let in_table = RouteFilter { table: Some(rule.table), ..RouteFilter::default() };
    if !netlink.routes(in_table)?.is_empty() {
        return Ok(false);
    }
    for link in netlink.links()? {
        if netlink
            .addresses(link.index)?
            .iter()
            .any(|address| address.net.addr() == rule.src.addr())
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The routes of an interface in one table; those without a gateway, which others may need to reach theirs, first.
pub(super) fn routes(netlink: &mut Netlink, table: u32, index: u32) -> Result<Vec<Route>> {
    let filter = RouteFilter { table: Some(table), oif: Some(index), ..RouteFilter::default() };
    let mut routes = netlink.routes(filter)?;
    routes.sort_by_key(|route| route.gateway.is_some());
    Ok(routes)
}

/// What goes into the table of `ip`: the interface's routes that are not another address's, and a default route.
pub(super) fn wanted(
    ip: &IpConfig,
    all: &[&IpConfig],
    tables: &Tables,
    present: &[Route],
    index: u32,
) -> Vec<Route> {
    let is_default = |route: &Route| route.dst.prefix_len() == 0;
    let configured = tables.configured_gateway(ip);
    let mut wanted: Vec<Route> = present
        .iter()
        .filter(|route| is_route_of(route, ip, all))
        .filter(|route| configured.is_none() || !is_default(route))
        .cloned()
        .collect();
    if let Some(gateway) = tables.gateway(ip) {
        let metric = if gateway.is_ipv4() { 0 } else { DEFAULT_METRIC_V6 };
        let is_there = wanted
            .iter()
            .any(|route| is_default(route) && route.priority.unwrap_or_default() == metric);
        if !is_there && gateway.is_ipv4() == ip.address.addr().is_ipv4() {
            wanted.push(Route { oif: Some(index), ..Route::default_via(gateway) });
        }
    }
    // The kernel adds it to the main table as soon as the link has a carrier, which may be later than this.
    if ip.address.addr().is_ipv6() && !wanted.iter().any(|route| route.dst == LINK_LOCAL) {
        wanted.insert(0, Route { oif: Some(index), ..Route::new(LINK_LOCAL) });
    }
    wanted
}

/// Whether packets from `ip` may take this route: its source and its gateway are of this address's subnet, or of none.
pub(super) fn is_route_of(route: &Route, ip: &IpConfig, all: &[&IpConfig]) -> bool {
    let near = |ip: &IpConfig, address: &IpAddr| {
        ip.address.contains(address) || ip.gateway == Some(*address)
    };
    let is_of = |ip: &IpConfig| {
        [route.src, route.gateway].iter().flatten().any(|address| near(ip, address))
    };
    route.dst.addr().is_ipv4() == ip.address.addr().is_ipv4()
        && (is_of(ip) || !all.iter().any(|other| is_of(other)))
}

/// Whether the main table keeps a route: packets from a link-local address have no rule.
pub(super) fn is_link_local(route: &Route) -> bool {
    matches!(route.dst, IpNet::V6(dst) if dst.addr().is_unicast_link_local())
}

/// The route to an address's subnet in the main table, for packets whose source is still open.
pub(super) fn source_hint(ip: &IpConfig) -> Option<Route> {
    (ip.address.prefix_len() < ip.address.max_prefix_len()).then(|| Route {
        src: Some(ip.address.addr()),
        table: Some(MAIN),
        scope: Some(SCOPE_LINK),
        ..Route::new(ip.address.trunc())
    })
}

/// The routes of `present` that the main table is to lose, those that others do not need first.
pub(super) fn surplus<'a>(
    present: &'a [Route],
    tables: &Tables,
) -> impl Iterator<Item = &'a Route> {
    let keeps_direct = tables.source_hints;
    present.iter().rev().filter(move |route| {
        !(is_link_local(route) || keeps_direct && route.scope == Some(SCOPE_LINK))
    })
}

/// Removes the routes of an interface from a table.
pub(super) fn clear(netlink: &mut Netlink, table: u32, index: u32) -> Result<()> {
    let mut all = BestEffort::default();
    for route in routes(netlink, table, index)?.iter().rev() {
        all.step(remove(netlink, route));
    }
    all.finish()
}

/// Removes a route; that it is gone already is as good.
pub(super) fn remove(netlink: &mut Netlink, route: &Route) -> Result<()> {
    match netlink.del_route(route) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// Puts the interface's routes in the main table back to what they were.
pub(super) fn restore(netlink: &mut Netlink, present: &[Route], index: u32) -> Result<()> {
    let mut all = BestEffort::default();
    let now = routes(netlink, MAIN, index)?;
    for route in now.iter().filter(|route| !present.contains(route)) {
        all.step(remove(netlink, route));
    }
    for route in present.iter().filter(|route| !now.contains(route)) {
        all.step(netlink.append_route(route));
    }
    all.finish()
}
