//! `127.0.0.1` and `::1` as host addresses of mappings.
//!
//! Packets from `127.0.0.1` are martians outside of `lo`, unless the interface to the container has
//! `route_localnet`. That setting also admits packets from the container to the host's own
//! `127.0.0.1`, which a rule drops again ([`skeleton`](super::skeleton)).
//!
//! IPv6 has no such setting. Masqueraded packets from `::1` leave the host. The answers arrive for
//! the address of the interface, which connection tracking replaces with `::1`. The kernel then
//! looks for a route to `::1` by the interface on which they arrived, and its own route is by `lo`.
//! A local route to `::1` by that interface admits them. It admits nothing else, because the kernel
//! first drops packets that arrive from or for `::1`.

use std::net::{IpAddr, Ipv6Addr};

use rscni::Error;
use rscni_linux::{Netlink, Route, RouteFilter, RouteType, sysctl};

use crate::plugin::{Result, differs};

/// The table of the host's own addresses.
const LOCAL: u32 = 255;
/// A lower priority than that of the kernel's own route to `::1`, which packets of the host take.
const METRIC: u32 = 4096;

/// Returns the local route to `::1` by an interface.
fn route(index: u32) -> Route {
    Route {
        oif: Some(index),
        table: Some(LOCAL),
        priority: Some(METRIC),
        kind: RouteType::Local,
        ..Route::new(IpAddr::from(Ipv6Addr::LOCALHOST))
    }
}

/// Calls `step` with the index of the interface to each container that has a route.
fn for_each_interface(
    containers: &[IpAddr],
    mut step: impl FnMut(&mut Netlink, IpAddr, u32) -> Result<()>,
) -> Result<()> {
    if containers.is_empty() {
        return Ok(());
    }
    let mut host = Netlink::open()?;
    for container in containers {
        if let Some(index) = host.route_to(*container)?.and_then(|route| route.oif) {
            step(&mut host, *container, index)?;
        }
    }
    Ok(())
}

fn route_localnet(interface: &str) -> String {
    format!("net/ipv4/conf/{interface}/route_localnet")
}

/// Lets packets from `127.0.0.1` or `::1` out to these addresses, and the answers in. The settings
/// belong to the interface, and stay.
pub(super) fn enable(containers: &[IpAddr]) -> Result<()> {
    for_each_interface(containers, |host, container, index| {
        if container.is_ipv4() {
            let name = host.link_by_index(index)?.name;
            sysctl::set(&route_localnet(&name), "1")?;
            return Ok(());
        }
        // Appended, because every interface has its own route of the same metric.
        match host.append_route(&route(index)) {
            Err(error) if !error.is_exists() => {
                let problem =
                    format!("portmap: let [::1] of the host lead to {container}: {error}");
                Err(Error::IOFailure(problem).into())
            }
            _ => Ok(()),
        }
    })
}

pub(super) fn check(containers: &[IpAddr]) -> Result<()> {
    for_each_interface(containers, |host, container, index| {
        if container.is_ipv4() {
            let name = host.link_by_index(index)?.name;
            if sysctl::get(&route_localnet(&name))? != "1" {
                return Err(differs(format!(
                    "route_localnet of {name} is off: 127.0.0.1 does not reach the container"
                )));
            }
        }
        Ok(())
    })
}

/// CHECK of the route to `::1`, which older versions and the Go plugin do not add.
pub(super) fn check_v6(container: IpAddr) -> Result<()> {
    for_each_interface(&[container], |host, _, index| {
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
        Ok(())
    })
}
