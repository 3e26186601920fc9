//! Links of the host and of containers.

use rscni::Interface;
use rscni_linux::{Link, Netlink, Netns};

use crate::{
    plugin::{
        Call,
        error::{BestEffort, Result},
    },
    state::owner::Stale,
};

/// Describes a link of the host for a result.
pub(crate) fn interface(link: &Link) -> Interface {
    Interface {
        name: link.name.clone(),
        mac: link.mac.map(|mac| mac.to_string()),
        mtu: Some(link.mtu),
        ..Interface::default()
    }
}

/// Removes a link of the host, or of `netns`. A missing link is not an error.
///
/// A process that continues after the call does not wait until the kernel has freed the link.
pub(crate) fn del_link(
    call: &Call<'_>,
    netlink: &mut Netlink,
    netns: Option<&Netns>,
    link: &Link,
) -> Result<()> {
    let removed = if call.exec.ends_with_call() {
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

/// Removes the links of the host that belong to attachments that are no longer valid.
pub(crate) fn del_stale_links(
    call: &Call<'_>,
    stale: &Stale<'_>,
    is_wanted: impl Fn(&Link) -> bool,
) -> Result<()> {
    let mut host = Netlink::open()?;
    let mut all = BestEffort::default();
    let is_stale = |link: &Link| link.alias.as_deref().is_some_and(|alias| stale.has_alias(alias));
    for link in host.links()?.iter().filter(|link| is_stale(link) && is_wanted(link)) {
        all.step(del_link(call, &mut host, None, link));
    }
    all.finish()
}
