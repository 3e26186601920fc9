//! The table of each address, and the routes in it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use rscni::IpConfig;
use rscni_linux::{Netlink, Route, RouteFilter, Rule};

use super::config::{Tables, is_ours};
use crate::{
    attach::routing_table::MAIN,
    plugin::{BestEffort, Result, best_effort, unless_absent},
};

/// The kernel's default metric of IPv6 routes.
const DEFAULT_METRIC_V6: u32 = 1024;

const SCOPE_LINK: u8 = 253;

/// The subnet of link-local addresses.
const LINK_LOCAL: IpNet =
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 64));

/// Returns the rule for packets from this address.
pub(super) fn rule(ip: &IpConfig, table: u32) -> Rule {
    Rule::new(IpNet::from(ip.address.addr()), table)
}

/// Whether a rule is for an address that no interface has, and its table is one of ours and empty.
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

/// Returns the routes of an interface in one table. Routes without a gateway come first, since
/// others depend on them.
pub(super) fn routes(netlink: &mut Netlink, table: u32, index: u32) -> Result<Vec<Route>> {
    let filter = RouteFilter { table: Some(table), oif: Some(index), ..RouteFilter::default() };
    let mut routes = netlink.routes(filter)?;
    routes.sort_by_key(|route| route.gateway.is_some());
    Ok(routes)
}

/// Returns the routes for the table of `ip`: those of the interface that do not belong to another
/// address, and a default route.
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
    // The kernel adds it to the main table only when the link has a carrier.
    if ip.address.addr().is_ipv6() && !wanted.iter().any(|route| route.dst == LINK_LOCAL) {
        wanted.insert(0, Route { oif: Some(index), ..Route::new(LINK_LOCAL) });
    }
    wanted
}

/// Whether packets from `ip` may use this route: its source and gateway are in the subnet of this
/// address, or in none.
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

/// Whether the main table keeps a route, because packets from a link-local address have no rule.
pub(super) fn is_link_local(route: &Route) -> bool {
    matches!(route.dst, IpNet::V6(dst) if dst.addr().is_unicast_link_local())
}

/// Returns the route in the main table to an address's subnet, for packets without a source yet.
pub(super) fn source_hint(ip: &IpConfig) -> Option<Route> {
    (ip.address.prefix_len() < ip.address.max_prefix_len()).then(|| Route {
        src: Some(ip.address.addr()),
        table: Some(MAIN),
        scope: Some(SCOPE_LINK),
        ..Route::new(ip.address.trunc())
    })
}

/// Returns the routes to remove from the main table, those first that others do not depend on.
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
    let routes = routes(netlink, table, index)?;
    best_effort(routes.iter().rev().map(|route| remove(netlink, route)))
}

/// Removes a route. A missing one is not an error.
pub(super) fn remove(netlink: &mut Netlink, route: &Route) -> Result<()> {
    unless_absent(netlink.del_route(route))
}

/// Restores the interface's routes in the main table.
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
