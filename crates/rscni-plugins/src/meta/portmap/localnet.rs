//! `127.0.0.1` and `::1` as host addresses of mappings.
//!
//! Packets from `127.0.0.1` are martians outside of `lo`, unless `route_localnet` of the interface to the container is on.
//! What that lets in besides, packets from the container to the host's own `127.0.0.1`, is dropped again
//! ([`elements`](super::elements)).
//!
//! IPv6 has no such setting. Packets from `::1` do get out once they are masqueraded. The answers come in for the address
//! of the interface, and connection tracking turns that into `::1`: the kernel then looks for a route to `::1` by the
//! interface that they came in by, and the only one is by `lo`. A local route to `::1` by that interface lets them in.
//! It opens nothing else: the kernel drops packets that arrive from or for `::1` before it looks at anything.

use std::net::{IpAddr, Ipv6Addr};

use rscni::Error;
use rscni_linux::{Netlink, Route, RouteFilter, RouteType, sysctl};

use crate::plugin::error::{Result, differs};

/// The table of the host's own addresses.
const LOCAL: u32 = 255;
/// After the kernel's own route to `::1`, which is for packets that the host sends.
const METRIC: u32 = 4096;

/// The local route to `::1` by an interface.
fn route(index: u32) -> Route {
    Route {
        oif: Some(index),
        table: Some(LOCAL),
        priority: Some(METRIC),
        kind: RouteType::Local,
        ..Route::new(IpAddr::from(Ipv6Addr::LOCALHOST))
    }
}

/// The interface by which the container is reached; none if it is not reached by any.
fn interface_to(host: &mut Netlink, container: IpAddr) -> Result<Option<u32>> {
    Ok(host.route_to(container)?.and_then(|route| route.oif))
}

/// The setting of an interface for `127.0.0.1`, and the name of the interface.
fn key(host: &mut Netlink, index: u32) -> Result<(String, String)> {
    let name = host.link_by_index(index)?.name;
    Ok((format!("net/ipv4/conf/{name}/route_localnet"), name))
}

/// Lets packets from `127.0.0.1` or `::1` out to these addresses, and the answers in. It belongs to the interface, and
/// stays.
pub(super) fn enable(containers: &[IpAddr]) -> Result<()> {
    if containers.is_empty() {
        return Ok(());
    }
    let mut host = Netlink::open()?;
    for container in containers {
        let Some(index) = interface_to(&mut host, *container)? else { continue };
        if container.is_ipv4() {
            sysctl::set(&key(&mut host, index)?.0, "1")?;
            continue;
        }
        // Each interface has one of its own, of the same metric.
        match host.append_route(&route(index)) {
            Err(error) if !error.is_exists() => {
                let problem =
                    format!("portmap: let [::1] of the host lead to {container}: {error}");
                return Err(Error::IOFailure(problem).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// CHECK.
pub(super) fn check(containers: &[IpAddr]) -> Result<()> {
    if containers.is_empty() {
        return Ok(());
    }
    let mut host = Netlink::open()?;
    for container in containers {
        let Some(index) = interface_to(&mut host, *container)? else { continue };
        if container.is_ipv4() {
            let (key, name) = key(&mut host, index)?;
            if sysctl::get(&key)? != "1" {
                return Err(differs(format!(
                    "route_localnet of {name} is off: 127.0.0.1 does not reach the container"
                )));
            }
        }
    }
    Ok(())
}

/// CHECK of what `::1` needs, which an older version and the Go plugin do not make.
pub(super) fn check_v6(containers: &[IpAddr]) -> Result<()> {
    let mut host = Netlink::open()?;
    for container in containers.iter().filter(|address| address.is_ipv6()) {
        let Some(index) = interface_to(&mut host, *container)? else { continue };
        let wanted = route(index);
        let filter = RouteFilter {
            dst: Some(wanted.dst),
            table: wanted.table,
            oif: wanted.oif,
            ..RouteFilter::default()
        };
        if host.routes(filter)?.is_empty() {
            let name = host.link_by_index(index)?.name;
            return Err(differs(format!(
                "the local route to ::1 by {name} is missing: [::1] does not reach the container"
            )));
        }
    }
    Ok(())
}
