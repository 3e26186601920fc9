//! `127.0.0.1` as a host address of mappings.
//!
//! Packets from there are martians outside of `lo`, unless `route_localnet` of the interface to the container is on.
//! What that lets in besides, packets from the container to the host's own `127.0.0.1`, is dropped again
//! ([`elements`](super::elements)). The kernel has nothing like it for `::1`.

use std::net::IpAddr;

use rscni_linux::{Netlink, sysctl};

use crate::failure::{Result, differs};

/// The setting of the interface by which the container is reached; none if it is not reached by any.
fn key(container: IpAddr) -> Result<Option<(String, String)>> {
    let mut host = Netlink::open()?;
    let Some(index) = host.route_to(container)?.and_then(|route| route.oif) else {
        return Ok(None);
    };
    let name = host.link_by_index(index)?.name;
    Ok(Some((format!("net/ipv4/conf/{name}/route_localnet"), name)))
}

/// Lets packets from `127.0.0.1` out to the container. It belongs to the interface, and stays.
pub(super) fn enable(container: IpAddr) -> Result<()> {
    if let Some((key, _)) = key(container)? {
        sysctl::set(&key, "1")?;
    }
    Ok(())
}

/// CHECK.
pub(super) fn check(container: IpAddr) -> Result<()> {
    match key(container)? {
        Some((key, name)) if sysctl::get(&key)? != "1" => Err(differs(format!(
            "route_localnet of {name} is off: 127.0.0.1 does not reach the container"
        ))),
        _ => Ok(()),
    }
}
