//! The host's side of an attachment: the veth pair, addresses of gateways, forwarding; and what results and
//! configurations say about it.

use ipnet::IpNet;
use rscni::{Args, Attachment, CNIResult, Error, Interface, NetConf};
use rscni_linux::{AddressFlags, Link, LinkChange, MacAddr, Netlink, Netns, Veth, sysctl};

use crate::{
    attach::ipam::Ipam,
    attach::mac::host_wide_mac,
    attach::sandbox::{Sandbox, taken},
    nat::Masquerade,
    plugin::failure::{AsFarAsPossible, Result, differs},
    registry,
    state::owner::{Owner, Stale},
    state::undo::Undo,
};

/// A link as results show it, on the host.
pub(crate) fn interface(link: &Link) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()),
        mtu: Some(link.mtu),
        ..Interface::default()
    }
}

/// Makes a veth pair with its peer in the container, which `inside` is in, and gives the host's end.
pub(crate) fn add_veth(
    host: &mut Netlink,
    veth: &Veth<'_>,
    inside: &mut Netlink,
    sandbox: &str,
    undo: &mut Undo<'_>,
) -> Result<Link> {
    let port = match host.add_veth(veth) {
        Ok(port) => port,
        // Asked only now, since it hardly ever is.
        Err(error) if error.is_exists() && inside.find_link(&veth.peer_name)?.is_some() => {
            return Err(taken(&veth.peer_name, sandbox));
        }
        Err(error) if error.is_exists() => {
            return Err(Error::TryAgainLater(format!(
                "the host has an interface {} of this attachment already: DEL it first",
                veth.name
            ))
            .into());
        }
        // An ADD that failed has just removed the bridge that it had made.
        Err(error) if error.is_not_found() && veth.master.is_some() => {
            return Err(Error::TryAgainLater(error.to_string()).into());
        }
        Err(error) => return Err(error.into()),
    };
    let index = port.index;
    undo.push(move || Ok(Netlink::open()?.del_link(index)?));
    Ok(port)
}

/// Removes the veth pair of an attachment, by whomever it was made.
///
/// Ours is found by its name on the host. One that the Go plugins made has a random name there, so it is removed by
/// its container's end, unless that is visibly another attachment's.
pub(crate) fn del_veth(owner: Owner<'_>, args: &Args) -> Result<()> {
    let is_of_another = |link: &Link| owner.is_contradicted_by(link.alias.as_deref());
    let mut host = Netlink::open()?;
    if let Some(link) = host.find_link(&owner.veth_name())?.filter(|link| !is_of_another(link)) {
        return del_link(&mut host, None, &link);
    }
    let Some(mut sandbox) = Sandbox::open_if_there(args)? else { return Ok(()) };
    let Some(inner) = sandbox.netlink.find_link(&args.ifname)? else { return Ok(()) };
    if inner.kind.as_deref() != Some("veth") {
        return Ok(());
    }
    let peer = inner.peer_index.and_then(|index| host.link_by_index(index).ok());
    if peer.as_ref().is_some_and(is_of_another) {
        return Ok(());
    }
    del_link(&mut sandbox.netlink, Some(&sandbox.netns), &inner)
}

/// Removes a link of the host, or of the namespace given; that it is gone already is as good.
///
/// A program that goes on after the call is not kept until the kernel has freed the link.
pub(crate) fn del_link(netlink: &mut Netlink, netns: Option<&Netns>, link: &Link) -> Result<()> {
    let removed = if registry::process_ends_with_call() {
        netlink.del_link(link.index)
    } else {
        let other = netns.map_or_else(Netlink::open, Netlink::open_in)?;
        netlink.del_link_at_once(other, link.index)
    };
    match removed {
        Err(error) if !error.is_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}

/// GC of a plugin with veth pairs and masquerading, and what else it holds on the host: `others` removes that.
pub(crate) fn gc(args: &Args, others: impl FnOnce(&Stale<'_>) -> Result<()>) -> Result<()> {
    let conf = args.conf()?;
    let stale = Stale::new(conf, valid_attachments(conf));
    let mut all = AsFarAsPossible::default();
    let (before, after) = Ipam::before_and_after_link(conf, args);
    if let Some(ipam) = before {
        all.step(ipam.gc());
    }
    all.step(del_stale_links(&stale));
    all.step(others(&stale));
    all.step(Masquerade::remove_stale(&stale));
    if let Some(ipam) = after {
        all.step(ipam.gc());
    }
    all.finish()
}

/// GC: removes the links of attachments that are no longer valid.
fn del_stale_links(stale: &Stale<'_>) -> Result<()> {
    let mut host = Netlink::open()?;
    let mut all = AsFarAsPossible::default();
    for link in host.links()? {
        if link.alias.as_deref().is_some_and(|alias| stale.has_alias(alias)) {
            all.step(del_link(&mut host, None, &link));
        }
    }
    all.finish()
}

/// The link on the host that a link in the container is joined with, if it is one end of a veth.
pub(crate) fn peer_of(host: &mut Netlink, inner: &Link) -> Result<Option<Link>> {
    let Some(index) = inner.peer_index.filter(|_| inner.kind.as_deref() == Some("veth")) else {
        return Ok(None);
    };
    match host.link_by_index(index) {
        Ok(peer) => Ok(Some(peer)
            .filter(|p| p.kind.as_deref() == Some("veth") && p.peer_index == Some(inner.index))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// CHECK: the host's end of the container's veth, which the result must name.
pub(crate) fn check_peer(host: &mut Netlink, inner: &Link, result: &CNIResult) -> Result<Link> {
    let is_named =
        |peer: &Link| result.interfaces.iter().any(|i| i.name == peer.name && i.sandbox.is_none());
    let peer = peer_of(host, inner)?.filter(is_named);
    let peer =
        peer.ok_or_else(|| differs(format!("the host's end of {} is missing", inner.name)))?;
    if !peer.up {
        return Err(differs(format!("interface {} on the host is down", peer.name)));
    }
    Ok(peer)
}

/// Gives an interface the addresses of a gateway, which it may have already.
///
/// An IPv4 address of another subnet, and an IPv6 address of an overlapping one, is in the way: it is removed if
/// `force`, else the call fails. A call that fails changes nothing. Gives the interface as it is then, if it was changed.
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
                "{} has the address {other}, where the gateway {net} is to be: set forceAddress to replace it",
                link.name
            ))
            .into());
        }
        in_the_way.push(*other);
    }
    let mut undo = Undo::default();
    let index = link.index;
    // An address that follows the ports would change under the containers' feet. Setting it to what it is pins it.
    let link = pin_mac(host, link)?;
    for other in in_the_way {
        host.del_address(index, other)?;
        undo.push(move || Ok(Netlink::open()?.add_address(index, other, NODAD)?));
    }
    for net in missing {
        match host.add_address(index, net, NODAD) {
            Ok(()) => undo.push(move || Ok(Netlink::open()?.del_address(index, net)?)),
            // Another call was faster.
            Err(error) if error.is_exists() => {}
            Err(error) => return Err(error.into()),
        }
    }
    undo.commit();
    Ok(Some(link))
}

/// Sets the hardware address that an interface had in `link`, and gives the interface as it is then. A bridge that has
/// an address set no longer takes that of a port.
///
/// A bridge that has lost its last port has no address: then it gets one.
pub(crate) fn pin_mac(host: &mut Netlink, link: &Link) -> Result<Link> {
    let is_set = |mac: &MacAddr| mac.as_bytes().iter().any(|byte| *byte != 0);
    let mac = link.mac.filter(is_set).unwrap_or_else(|| host_wide_mac(&[&link.name]));
    Ok(host.change_link(link.index, &LinkChange { mac: Some(mac), ..LinkChange::default() })?)
}

const NODAD: AddressFlags = AddressFlags { nodad: true, noprefixroute: false };

/// Whether an interface is not to have both addresses. The kernel gives each one a link-local address, beside which others
/// can be.
fn excludes(net: &IpNet, other: &IpNet) -> bool {
    match (net, other) {
        (IpNet::V4(_), IpNet::V4(_)) => true,
        (_, IpNet::V6(other)) if other.addr().is_unicast_link_local() => false,
        (IpNet::V6(_), IpNet::V6(_)) => other.contains(&net.addr()) || net.contains(&other.addr()),
        _ => false,
    }
}

/// The settings by which the host forwards packets of the families of these addresses.
fn forwarding(addresses: &[IpNet]) -> impl Iterator<Item = &'static str> {
    let families = [(true, "net/ipv4/ip_forward"), (false, "net/ipv6/conf/all/forwarding")];
    families
        .into_iter()
        .filter(|(v4, _)| addresses.iter().any(|net| net.addr().is_ipv4() == *v4))
        .map(|(_, key)| key)
}

/// Has the host forward packets of the families of these addresses.
pub(crate) fn enable_forwarding(addresses: &[IpNet]) -> Result<()> {
    for key in forwarding(addresses) {
        sysctl::set(key, "1")?;
    }
    Ok(())
}

/// What a repair looks for beside what CHECK compares: the host forwards packets of these families.
pub(crate) fn check_forwarding(addresses: &[IpNet]) -> Result<()> {
    for key in forwarding(addresses) {
        if sysctl::get(key)? == "0" {
            return Err(differs(format!("{} is 0", key.replace('/', "."))));
        }
    }
    Ok(())
}

/// Keeps routers on the container's side from giving the host routes. A host without IPv6 has no such setting.
pub(crate) fn refuse_router_advertisements(name: &str) {
    let _ = sysctl::write(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
}

/// DNS settings of the configuration go before those of the IPAM plugin.
pub(crate) fn override_dns(result: &mut CNIResult, conf: &NetConf) {
    if conf.dns.is_some() {
        result.dns.clone_from(&conf.dns);
    }
}

/// The result of the ADD, without which there is nothing to compare with (spec: "CHECK").
pub(crate) fn require_prev_result(conf: &NetConf) -> Result<&CNIResult> {
    conf.prev_result.as_ref().ok_or_else(|| {
        Error::InvalidNetworkConfig(
            "CHECK needs the prevResult that ADD gave: the runtime must pass it".into(),
        )
        .into()
    })
}

/// The attachments that GC spares (spec: "GC"). libcni leaves the key out if its caller passes no list, which means
/// that no attachment is valid.
pub(crate) fn valid_attachments(conf: &NetConf) -> &[Attachment] {
    conf.valid_attachments.as_deref().unwrap_or_default()
}
