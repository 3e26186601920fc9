//! The host as the gateway of its containers: addresses and forwarding.

use ipnet::IpNet;
use rscni::Error;
use rscni_linux::{AddressFlags, Link, LinkChange, MacAddr, Netlink, sysctl};

use crate::{
    attach::mac::host_wide_mac,
    plugin::{Result, differs, unless_exists},
    state::Undo,
};

/// Adds the addresses of a gateway to an interface, unless they are there.
///
/// An IPv4 address of another subnet, or an IPv6 address of an overlapping one, conflicts: `force`
/// removes it, otherwise the call fails. A call that fails changes nothing. Returns the interface
/// if it was changed.
pub(crate) fn ensure_addresses(
    host: &mut Netlink,
    link: &Link,
    wanted: &[IpNet],
    force: bool,
) -> Result<Option<Link>> {
    let present: Vec<IpNet> =
        host.addresses(link.index)?.into_iter().map(|address| address.net).collect();
    let missing: Vec<IpNet> = wanted.iter().copied().filter(|net| !present.contains(net)).collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let mut in_the_way = Vec::new();
    for other in present.iter().filter(|other| !wanted.contains(other)) {
        let Some(net) = missing.iter().find(|net| excludes(net, other)) else { continue };
        if !force {
            return Err(Error::InvalidNetworkConfig(format!(
                "{} already has {other}, which conflicts with gateway {net}: set forceAddress to \
                 replace it",
                link.name
            ))
            .into());
        }
        in_the_way.push(*other);
    }
    let mut undo = Undo::default();
    let index = link.index;
    // A MAC address that follows the ports would change while containers use it. Setting it to its
    // current value pins it.
    let link = pin_mac(host, link)?;
    for other in in_the_way {
        undo.push(move || unless_exists(Netlink::open()?.add_address(index, other, NODAD)));
        host.del_address(index, other)?;
    }
    for net in missing {
        undo.push_removal(move || Netlink::open()?.del_address(index, net));
        // Another call may have been faster.
        unless_exists(undo.unless_exists(host.add_address(index, net, NODAD)))?;
    }
    undo.commit();
    Ok(Some(link))
}

/// Sets the MAC address that the interface has in `link`, and returns the interface. A bridge with
/// an explicit address does not take that of a port.
///
/// A bridge that has lost its last port has no address and gets a derived one.
pub(crate) fn pin_mac(host: &mut Netlink, link: &Link) -> Result<Link> {
    let is_set = |mac: &MacAddr| mac.as_bytes().iter().any(|byte| *byte != 0);
    let mac = link.mac.filter(is_set).unwrap_or_else(|| host_wide_mac(&[&link.name]));
    Ok(host.change_link(link.index, &LinkChange { mac: Some(mac), ..LinkChange::default() })?)
}

const NODAD: AddressFlags = AddressFlags { nodad: true, noprefixroute: false };

/// Whether an interface must not have both addresses. The link-local address of the kernel does not
/// conflict.
fn excludes(net: &IpNet, other: &IpNet) -> bool {
    match (net, other) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (_, IpNet::V6(other)) if other.addr().is_unicast_link_local() => false,
        (IpNet::V6(_), IpNet::V6(_)) => other.contains(&net.addr()) || net.contains(&other.addr()),
        _ => false,
    }
}

/// The sysctls that enable forwarding for the families of these addresses.
fn forwarding(addresses: &[IpNet]) -> impl Iterator<Item = &'static str> {
    let families = [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")];
    families
        .into_iter()
        .filter(|(v4, _)| addresses.iter().any(|net| net.addr().is_ipv4() == *v4))
        .map(|(_, key)| key)
}

/// Enables forwarding for the families of these addresses.
pub(crate) fn enable_forwarding(addresses: &[IpNet]) -> Result<()> {
    for key in forwarding(addresses) {
        sysctl::set(key, "1")?;
    }
    Ok(())
}

/// Fails if forwarding is off for a family of these addresses. A repair looks at this, CHECK does
/// not.
pub(crate) fn check_forwarding(addresses: &[IpNet]) -> Result<()> {
    for key in forwarding(addresses) {
        if sysctl::get(key)? == "0" {
            return Err(differs(format!("{} is 0", key.replace('/', "."))));
        }
    }
    Ok(())
}

/// Ignores router advertisements from the container side. A host without IPv6 has no such sysctl.
pub(crate) fn refuse_router_advertisements(name: &str) {
    let _ = sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
}
