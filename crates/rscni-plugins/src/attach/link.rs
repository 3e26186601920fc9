//! Links of the host and of containers.

use rscni::Interface;
use rscni_linux::{Background, Link, Netlink};

use crate::{
    plugin::{Call, Result},
    state::{OwnedBy, Owner, Resources},
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

/// The links of the host with an owner tag.
pub(crate) struct HostLinks {
    host: Netlink,
    /// Their kind, if not all kinds are meant.
    kind: Option<&'static str>,
    background: Option<Background>,
}

impl HostLinks {
    pub(crate) fn open(kind: Option<&'static str>) -> Result<Self> {
        Ok(Self { host: Netlink::open()?, kind, background: None })
    }

    /// Removes those of attachments that are no longer valid.
    pub(crate) fn remove_stale(call: &Call<'_>, kind: Option<&'static str>) -> Result<()> {
        let stale = call.stale();
        let links = Self { background: call.exec.background(), ..Self::open(kind)? };
        links.remove_of(&|by| stale.has(by))
    }
}

impl Resources for HostLinks {
    type Resource = Link;

    fn list(&mut self) -> Result<Vec<(OwnedBy, Link)>> {
        let mut links = self.host.links()?;
        links.retain(|link| self.kind.is_none() || link.kind.as_deref() == self.kind);
        let owned = |link: Link| {
            let by = OwnedBy::of_tag(Owner::tag_of_alias(link.alias.as_deref()?)?);
            Some((by, link))
        };
        Ok(links.into_iter().filter_map(owned).collect())
    }

    fn remove(self, links: Vec<Link>) -> Result<()> {
        let indexes: Vec<_> = links.iter().map(|link| link.index).collect();
        Ok(self.host.del_links(&indexes, self.background)?)
    }
}
