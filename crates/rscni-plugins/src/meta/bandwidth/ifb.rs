//! The ifb that shapes the traffic from the container. The kernel shapes only what leaves a link,
//! and this traffic arrives on the host side of the veth pair.
//!
//! Its name is that of the Go plugin, derived from network and container id. A second interface of
//! a container on the same network gets another name, derived from the interface name too.

use rscni::Error;
use rscni_linux::{
    Ifb, Link, LinkChange, Netlink,
    tc::{Filter, Handle, Qdisc, U32},
};

use super::shaper::{self, Shaper};
use crate::{
    plugin::{Failure, Result, differs},
    state::{Owner, Undo, derived_name, go_hash},
};

const INGRESS: Handle = Handle::new(0xffff, 0);
/// The length of a queue without a limit of its own, in packets.
const QUEUE_LENGTH: u32 = 1000;

fn go_name(owner: Owner<'_>) -> String {
    format!("bwp{}", go_hash(&format!("{}{}", owner.network, owner.container_id), 12))
}

fn own_name(owner: Owner<'_>) -> String {
    derived_name("bwp", &[owner.network, owner.container_id, owner.ifname])
}

/// Creates the ifb, and redirects what arrives on the veth to it.
pub(super) fn add<'o>(
    host: &mut Netlink,
    veth: &Link,
    owner: Owner<'o>,
    shaper: &Shaper<'_>,
    undo: &mut Undo<'o>,
) -> Result<Link> {
    undo.push(move || {
        let mut host = Netlink::open()?;
        let Some(ifb) = find(&mut host, owner)? else { return Ok(()) };
        Ok(host.del_link(ifb.index)?)
    });
    let ifb = undo.unless_exists(make(host, veth, owner)).map_err(|error| {
        if error.is_exists() {
            let text =
                format!("the host has the ifb of this attachment already: DEL it first ({error})");
            return Error::TryAgainLater(text).into();
        }
        Failure::from(error)
    })?;
    let (index, outer) = (ifb.index, veth.index);
    undo.push_removal(move || Netlink::open()?.del_qdisc(outer, Handle::INGRESS));
    undo.unless_exists(host.add_qdisc(outer, Handle::INGRESS, INGRESS, &Qdisc::Ingress))
        .map_err(|error| in_the_way(error, veth, Handle::INGRESS))?;
    // The two removals above remove all of these.
    let (root, rest) = shaper.requests(&ifb);
    let mut batch = host.batch();
    batch.set_link(index, &LinkChange { txqlen: Some(QUEUE_LENGTH), ..LinkChange::default() });
    batch.push(root);
    for request in rest {
        batch.push(request);
    }
    // The redirection comes last, when the ifb is complete.
    batch.add_filter(veth.index, &U32::redirect_all(INGRESS, index));
    batch.commit()?;
    Ok(ifb)
}

fn make(host: &mut Netlink, veth: &Link, owner: Owner<'_>) -> rscni_linux::Result<Link> {
    let new = |name| Ifb {
        mtu: Some(veth.mtu),
        mac: Some(owner.mac("ifb")),
        alias: Some(owner.alias()),
        up: true,
        ..Ifb::new(name)
    };
    let name = go_name(owner);
    match host.add_link(&new(name.clone())) {
        Err(error) if error.is_exists() => match host.find_link(&name)? {
            // Another interface of the container has the name.
            Some(other) if other.alias != Some(owner.alias()) => {
                host.add_link(&new(own_name(owner)))
            }
            _ => Err(error),
        },
        outcome => outcome,
    }
}

/// An error for a queueing discipline in the place of ours.
pub(super) fn in_the_way(error: rscni_linux::Error, link: &Link, place: Handle) -> Failure {
    if error.is_exists() {
        let text = format!(
            "{} has a qdisc at {place} already: DEL the attachment first ({error})",
            link.name
        );
        return Error::TryAgainLater(text).into();
    }
    error.into()
}

/// Finds the ifb of an attachment: ours, or that of the Go plugin, which has no alias.
pub(super) fn find(host: &mut Netlink, owner: Owner<'_>) -> Result<Option<Link>> {
    if let Some(own) = host.find_link(&own_name(owner))?.filter(is_ifb) {
        return Ok(Some(own));
    }
    Ok(host
        .find_link(&go_name(owner))?
        .filter(|link| is_ifb(link) && !owner.is_contradicted_by(link.alias.as_deref())))
}

fn is_ifb(link: &Link) -> bool {
    link.kind.as_deref() == Some("ifb")
}

/// Fails CHECK if what arrives on the veth is not redirected to the ifb and limited.
pub(super) fn check(
    host: &mut Netlink,
    veth: &Link,
    owner: Owner<'_>,
    shaper: &Shaper<'_>,
) -> Result<()> {
    let ifb = find(host, owner)?
        .ok_or_else(|| differs(format!("the ifb {} is missing", go_name(owner))))?;
    if !ifb.up {
        return Err(differs(format!("the ifb {} is down", ifb.name)));
    }
    shaper.check(host, &ifb)?;
    if host.find_qdisc(veth.index, Handle::INGRESS)? != Some(Qdisc::Ingress) {
        return Err(differs(format!("qdisc ingress is missing on {}", veth.name)));
    }
    let filters = host.filters(veth.index, INGRESS)?;
    if !filters
        .iter()
        .any(|filter| matches!(filter, Filter::U32(u32) if u32.redirect == Some(ifb.index)))
    {
        return Err(differs(format!(
            "the filter that redirects from {} to {} is missing",
            veth.name, ifb.name
        )));
    }
    Ok(())
}

/// Removes the redirection of the veth to an ifb, even if that is missing.
pub(super) fn detach(host: &mut Netlink, veth: &Link, ifb: Option<&Link>) -> Result<()> {
    if host.find_qdisc(veth.index, Handle::INGRESS)? != Some(Qdisc::Ingress) {
        return Ok(());
    }
    let is_ours = |target: u32| target == 0 || ifb.is_some_and(|ifb| ifb.index == target);
    let filters = host.filters(veth.index, INGRESS)?;
    if filters
        .iter()
        .all(|filter| matches!(filter, Filter::U32(u32) if u32.redirect.is_some_and(is_ours)))
    {
        shaper::delete(host, veth, Handle::INGRESS)?;
    }
    Ok(())
}
