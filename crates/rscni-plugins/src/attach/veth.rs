//! The veth pair between a container and the host.

use rscni::{CNIResult, Error};
use rscni_linux::{Link, Netlink, Nft, Veth};

use crate::{
    attach::{HostLinks, Ipam, Sandbox, link::del_links, sandbox::taken},
    nat::{Backend, Masquerade},
    plugin::{BestEffort, Call, Result, differs},
    state::{AttachmentResult, Stale, Undo},
};

/// Creates a veth pair whose peer is in the namespace of `inside`. Returns the host side.
pub(crate) fn add_veth(
    host: &mut Netlink,
    veth: &Veth<'_>,
    inside: &mut Netlink,
    sandbox: &str,
    undo: &mut Undo<'_>,
) -> Result<Link> {
    let name = veth.name.clone();
    undo.push_removal(move || {
        let mut host = Netlink::open()?;
        let link = host.link_by_name(&name)?;
        host.del_link(link.index)
    });
    match undo.unless_exists(host.add_veth(veth)) {
        Ok(port) => Ok(port),
        // Only looked up after the failure, because it is rare.
        Err(error) if error.is_exists() && inside.find_link(&veth.peer_name)?.is_some() => {
            Err(taken(&veth.peer_name, sandbox))
        }
        Err(error) if error.is_exists() => Err(Error::TryAgainLater(format!(
            "the host has an interface {} of this attachment already: DEL it first",
            veth.name
        ))
        .into()),
        // A failed ADD has just removed the bridge that it had created.
        Err(error) if error.is_not_found() && veth.master.is_some() => {
            Err(Error::TryAgainLater(error.to_string()).into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes the veth pair of an attachment, whichever implementation created it.
///
/// Ours has a derived name on the host. That of the Go plugins has a random one, so its container
/// side is removed, unless an alias names another owner.
fn del_veth(call: &Call<'_>) -> Result<()> {
    let owner = call.owner();
    let is_of_another = |link: &Link| owner.is_contradicted_by(link.alias.as_deref());
    let mut host = Netlink::open()?;
    if let Some(link) = host.find_link(&owner.veth_name())?.filter(|link| !is_of_another(link)) {
        return del_links(call, host, [&link]);
    }
    let Some(mut sandbox) = Sandbox::open_if_there(call)? else { return Ok(()) };
    let Some(inner) = sandbox.netlink.find_link(&call.args.ifname)? else { return Ok(()) };
    if inner.kind.as_deref() != Some("veth") {
        return Ok(());
    }
    let peer = inner.peer_index.and_then(|index| host.link_by_index(index).ok());
    if peer.as_ref().is_some_and(is_of_another) {
        return Ok(());
    }
    del_links(call, sandbox.netlink, [&inner])
}

/// Returns the host side of a veth pair, given the container side.
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

/// Returns the host side of the container's veth for CHECK. The result must list it.
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

/// DEL of a plugin with veth pairs and masquerading. `others` removes its other rules, if it
/// `has_others`.
pub(crate) fn del(
    call: &Call<'_>,
    has_others: bool,
    others: impl FnOnce(&mut Nft) -> Result<()>,
) -> Result<()> {
    let mut all = BestEffort::default();
    let (before, after) = Ipam::before_and_after_link(call);
    if let Some(ipam) = before {
        all.step(ipam.del());
    }
    // Rules are removed first: the kernel frees them while it removes the link.
    let masquerade = call.conf.ip_masq.unwrap_or_default();
    let mut nft = None;
    if has_others || masquerade {
        all.step(Nft::open().map(|socket| nft = Some(socket)));
    }
    if let Some(nft) = nft.as_mut().filter(|_| has_others) {
        all.step(others(nft));
    }
    if let Some(nft) = nft.as_mut().filter(|_| masquerade) {
        let known = call.prev_result().map(AttachmentResult::addresses);
        let masquerade = Masquerade::new(call.owner(), Backend::default());
        all.step(masquerade.remove(nft, known.as_deref()));
    }
    all.step(del_veth(call));
    if let Some(ipam) = after {
        all.step(ipam.del());
    }
    all.finish()
}

/// GC of a plugin with veth pairs and masquerading. `others` removes what else it owns on the host.
pub(crate) fn gc(call: &Call<'_>, others: impl FnOnce(&Stale<'_>) -> Result<()>) -> Result<()> {
    let stale = call.stale();
    let mut all = BestEffort::default();
    let (before, after) = Ipam::before_and_after_link(call);
    if let Some(ipam) = before {
        all.step(ipam.gc());
    }
    all.step(HostLinks::remove_stale(call, None));
    all.step(others(&stale));
    all.step(Masquerade::remove_stale(&stale));
    if let Some(ipam) = after {
        all.step(ipam.gc());
    }
    all.finish()
}
