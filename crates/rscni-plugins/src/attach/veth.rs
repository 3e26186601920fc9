//! The veth pair between a container and the host.

use rscni::{CNIResult, Error};
use rscni_linux::{Link, Netlink, Veth};

use crate::{
    attach::{
        ipam::Ipam,
        link::del_link,
        sandbox::{Sandbox, taken},
    },
    nat::Masquerade,
    plugin::{
        Call,
        error::{BestEffort, Result, differs},
    },
    state::{owner::Stale, undo::Undo},
};

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
pub(crate) fn del_veth(call: &Call<'_>) -> Result<()> {
    let owner = call.owner();
    let is_of_another = |link: &Link| owner.is_contradicted_by(link.alias.as_deref());
    let mut host = Netlink::open()?;
    if let Some(link) = host.find_link(&owner.veth_name())?.filter(|link| !is_of_another(link)) {
        return del_link(call, &mut host, None, &link);
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
    del_link(call, &mut sandbox.netlink, Some(&sandbox.netns), &inner)
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

/// GC of a plugin with veth pairs and masquerading, and what else it holds on the host: `others` removes that.
pub(crate) fn gc(call: &Call<'_>, others: impl FnOnce(&Stale<'_>) -> Result<()>) -> Result<()> {
    let _conf = call.conf;
    let stale = call.stale();
    let mut all = BestEffort::default();
    let (before, after) = Ipam::before_and_after_link(call);
    if let Some(ipam) = before {
        all.step(ipam.gc());
    }
    all.step(del_stale_links(call, &stale));
    all.step(others(&stale));
    all.step(Masquerade::remove_stale(&stale));
    if let Some(ipam) = after {
        all.step(ipam.gc());
    }
    all.finish()
}

/// GC: removes the links of attachments that are no longer valid.
fn del_stale_links(call: &Call<'_>, stale: &Stale<'_>) -> Result<()> {
    let mut host = Netlink::open()?;
    let mut all = BestEffort::default();
    for link in host.links()? {
        if link.alias.as_deref().is_some_and(|alias| stale.has_alias(alias)) {
            all.step(del_link(call, &mut host, None, &link));
        }
    }
    all.finish()
}
