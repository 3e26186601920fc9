//! Links of the host and of containers.

use rscni::Interface;
use rscni_linux::{Link, Netlink};

use crate::{
    plugin::{Call, Result},
    state::Stale,
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

/// Removes links, if possible without waiting until the kernel has freed them. A missing link is
/// not an error.
pub(crate) fn del_links<'l>(
    call: &Call<'_>,
    netlink: Netlink,
    links: impl IntoIterator<Item = &'l Link>,
) -> Result<()> {
    let indexes: Vec<_> = links.into_iter().map(|link| link.index).collect();
    Ok(netlink.del_links(&indexes, call.exec.background())?)
}

/// Removes the links of the host that belong to attachments that are no longer valid.
pub(crate) fn del_stale_links(
    call: &Call<'_>,
    stale: &Stale<'_>,
    is_wanted: impl Fn(&Link) -> bool,
) -> Result<()> {
    let mut host = Netlink::open()?;
    let is_stale = |link: &Link| link.alias.as_deref().is_some_and(|alias| stale.has_alias(alias));
    let links = host.links()?;
    del_links(call, host, links.iter().filter(|link| is_stale(link) && is_wanted(link)))
}
