//! Removes what the interface learned from router advertisements before tuning disabled them.
//!
//! The interface plugin has already brought up the interface, so an advertisement can arrive first.
//! The kernel keeps what it learned when a sysctl forbids to learn more.

use std::net::Ipv6Addr;

use ipnet::IpNet;
use rscni_linux::{Address, Family, Link, Netlink, Netns, Request, Route, RouteFilter, RouteType};

use super::config::Sysctl;
use crate::{
    attach::routing_table::LOCAL,
    plugin::{Result, best_effort, unless_absent},
};

/// The sysctls, of an interface or of all, that control what it learns.
const KEYS: [&str; 6] =
    ["accept_ra", "forwarding", "autoconf", "accept_ra_pinfo", "accept_ra_defrtr", "use_tempaddr"];

/// The origin of a route: the kernel itself, or an advertisement.
const RTPROT_KERNEL: u8 = 2;
const RTPROT_RA: u8 = 9;

/// The number of passes: another processor can be processing an advertisement.
const PASSES: usize = 5;

/// The kinds of things that the interface must not have learned.
#[expect(clippy::struct_excessive_bools, reason = "each is a kind of its own")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unwanted {
    /// Everything from advertisements.
    all: bool,
    addresses: bool,
    temporary: bool,
    prefixes: bool,
    default_routes: bool,
}

impl Unwanted {
    /// Takes the values of [`KEYS`]. A sysctl that the kernel lacks restricts nothing.
    fn new(values: [Option<i32>; KEYS.len()]) -> Self {
        let [accept_ra, forwarding, autoconf, pinfo, defrtr, use_tempaddr] = values;
        let is_off = |value: Option<i32>| value == Some(0);
        // A router accepts advertisements only with 2.
        let is_router = forwarding.is_some_and(|value| value != 0);
        let all = is_off(accept_ra) || is_router && accept_ra.is_some_and(|value| value != 2);
        let prefixes = all || is_off(pinfo);
        let addresses = prefixes || is_off(autoconf);
        Self {
            all,
            addresses,
            temporary: addresses || use_tempaddr.is_some_and(|value| value <= 0),
            prefixes,
            default_routes: all || is_off(defrtr),
        }
    }

    fn has(self, address: &Address) -> bool {
        address.is_advertised() && if address.temporary { self.temporary } else { self.addresses }
    }
}

/// Removes what the interface learned and its sysctls now forbid, if one of `set` controls that.
pub(super) fn forget(
    netns: &Netns,
    netlink: &mut Netlink,
    ifname: &str,
    set: &[Sysctl],
) -> Result<()> {
    let is_about_it = |sysctl: &Sysctl| {
        let mut of = [ifname, "all"].into_iter().map(|name| format!("net/ipv6/conf/{name}/"));
        let key = of.find_map(|prefix| sysctl.path.strip_prefix(&prefix));
        key.is_some_and(|key| KEYS.contains(&key))
    };
    if !set.iter().any(is_about_it) {
        return Ok(());
    }
    let number = |key| get(&format!("net/ipv6/conf/{ifname}/{key}"))?.parse().ok();
    let unwanted = Unwanted::new(netns.enter(|| KEYS.map(number))?);
    let Some(link) = netlink.find_link(ifname)?.filter(|_| unwanted != Unwanted::default()) else {
        return Ok(());
    };
    let mut found = false;
    for _ in 0..PASSES {
        let requests = removals(netlink, link.index, unwanted)?;
        if requests.is_empty() {
            break;
        }
        found = true;
        // It may have expired, or another removal included it.
        best_effort(requests.iter().map(|request| unless_absent(netlink.run(request))))?;
    }
    if found && unwanted.all {
        netns.enter(|| reset_parameters(&link, set))?;
    }
    Ok(())
}

/// Returns the requests that remove what is unwanted.
fn removals(netlink: &mut Netlink, index: u32, unwanted: Unwanted) -> Result<Vec<Request>> {
    let (mut gone, kept): (Vec<_>, Vec<_>) =
        netlink.addresses(index)?.into_iter().partition(|address| unwanted.has(address));
    // Temporary addresses first: they are removed with the one they derive from.
    gone.sort_by_key(|address| !address.temporary);
    let filter =
        RouteFilter { family: Some(Family::V6), oif: Some(index), ..RouteFilter::default() };
    let routes = netlink.routes(filter)?;
    let is_unwanted = |route: &&Route| match route.protocol {
        Some(RTPROT_RA) if route.dst.prefix_len() == 0 => unwanted.default_routes,
        Some(RTPROT_RA) => unwanted.all,
        Some(RTPROT_KERNEL) => unwanted.prefixes && is_prefix_without_address(route, &kept),
        _ => false,
    };
    let addresses = gone.iter().map(|address| Request::del_address(index, address.net));
    Ok(addresses.chain(routes.iter().filter(is_unwanted).map(Request::del_route)).collect())
}

/// Whether a route leads to an advertised prefix. The kernel adds such a route for an address too.
fn is_prefix_without_address(route: &Route, kept: &[Address]) -> bool {
    const MULTICAST: Ipv6Addr = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);
    let IpNet::V6(dst) = route.dst else { return false };
    let is_of = |address: &Address| {
        let peer = address.peer.is_some_and(|peer| IpNet::from(peer) == route.dst);
        address.net.trunc() == route.dst || peer
    };
    route.kind == RouteType::Unicast
        && route.gateway.is_none()
        && route.table != Some(LOCAL)
        && !dst.addr().is_unicast_link_local()
        && dst.addr() != MULTICAST
        && !kept.iter().any(is_of)
}

/// Resets the other parameters of advertisements, except those that tuning sets.
fn reset_parameters(link: &Link, set: &[Sysctl]) {
    let name = &link.name;
    let copy = |tree: &str, from: &str, key: &str| {
        let value = get(&format!("net/ipv6/{tree}/{from}/{key}"))?;
        Some((format!("net/ipv6/{tree}/{name}/{key}"), value))
    };
    let settings = [
        Some((format!("net/ipv6/conf/{name}/mtu"), link.mtu.to_string())),
        copy("conf", "default", "hop_limit"),
        // Containers have no `default` of these. `lo` receives no advertisements.
        copy("neigh", "lo", "base_reachable_time_ms"),
        copy("neigh", "lo", "retrans_time_ms"),
    ];
    for (path, value) in settings.into_iter().flatten() {
        if !set.iter().any(|sysctl| sysctl.path == path) {
            // Best effort: a container may have these read-only.
            let _ = rscni_linux::sysctl::set(&path, &value);
        }
    }
}

fn get(path: &str) -> Option<String> {
    rscni_linux::sysctl::get(path).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const ALL: Unwanted = Unwanted {
        all: true,
        addresses: true,
        temporary: true,
        prefixes: true,
        default_routes: true,
    };

    #[rstest]
    #[case::defaults([1, 0, 1, 1, 1, 1], Unwanted::default())]
    #[case::accept_ra([0, 0, 1, 1, 1, 1], ALL)]
    #[case::router([1, 1, 1, 1, 1, 1], ALL)]
    #[case::router_that_accepts([2, 1, 1, 1, 1, 1], Unwanted::default())]
    #[case::autoconf(
        [1, 0, 0, 1, 1, 1],
        Unwanted { addresses: true, temporary: true, ..Unwanted::default() }
    )]
    #[case::prefixes(
        [1, 0, 1, 0, 1, 1],
        Unwanted { addresses: true, temporary: true, prefixes: true, ..Unwanted::default() }
    )]
    #[case::default_router(
        [1, 0, 1, 1, 0, 1],
        Unwanted { default_routes: true, ..Unwanted::default() }
    )]
    #[case::temporary([1, 0, 1, 1, 1, -1], Unwanted { temporary: true, ..Unwanted::default() })]
    fn sysctls_decide_what_is_removed(#[case] values: [i32; 6], #[case] expected: Unwanted) {
        assert_eq!(Unwanted::new(values.map(Some)), expected);
    }

    #[test]
    fn a_missing_sysctl_restricts_nothing() {
        assert_eq!(Unwanted::new([None; 6]), Unwanted::default());
    }
}
