//! Recognizes a device although the container has changed its name, alias and MAC address.

use rscni_linux::{Link, Netlink};
use serde::{Deserialize, Serialize};

use crate::plugin::Result;

/// The properties that the container cannot change. Those that the kernel does not report are
/// `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Identity {
    /// The cookie of the container's network namespace, unique until the next boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    netns: Option<u64>,
    /// The index in that namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    /// The kind, such as `veth`. A physical device has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    /// The permanent MAC address. Virtual devices have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    permanent_address: Option<String>,
    /// The device on a bus, such as `pci/0000:3b:00.1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    bus_address: Option<String>,
    /// The index of the other end of a veth pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<u32>,
    /// The host's id of the namespace of that end, unless it is on the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_netns: Option<i32>,
}

impl Identity {
    /// The identity of a host device that is about to move into the container.
    ///
    /// It keeps its index if no interface of the container has the same.
    pub(super) fn new(container: &mut Netlink, device: &Link) -> Result<Self> {
        let index = match container.link_by_index(device.index) {
            Err(error) if error.is_not_found() => Some(device.index),
            other => other.map(|_| None)?,
        };
        let is_veth = device.kind.as_deref() == Some("veth");
        Ok(Self {
            netns: container.netns_cookie()?,
            index,
            kind: device.kind.clone(),
            permanent_address: permanent_address(device),
            bus_address: device.parent_device.clone(),
            peer: device.peer_index.filter(|_| is_veth),
            peer_netns: device.peer_netnsid.filter(|_| is_veth),
        })
    }

    /// Sets the index in the container. Returns whether it differs from the one on the host.
    pub(super) fn set_index(&mut self, inner: &Link) -> bool {
        self.index.replace(inner.index) != Some(inner.index)
    }

    /// The cookie of the namespace of the device.
    pub(super) fn netns(&self) -> Option<u64> {
        self.netns
    }

    /// Whether the socket is in the namespace of the device, if that is known.
    pub(super) fn is_in(&self, container: &Netlink) -> Result<Option<bool>> {
        let cookie = container.netns_cookie()?;
        Ok(self.netns.zip(cookie).map(|(own, other)| own == other))
    }

    /// Finds the device in the namespace of the socket.
    pub(super) fn find_in(&self, container: &mut Netlink) -> Result<Option<Link>> {
        if let (Some(index), Some(true)) = (self.index, self.is_in(container)?) {
            match container.link_by_index(index) {
                Ok(link) if link.kind == self.kind => return Ok(Some(link)),
                Err(error) if !error.is_not_found() => return Err(error.into()),
                _ => {}
            }
        }
        if self.permanent_address.is_none() && self.bus_address.is_none() {
            return Ok(None);
        }
        Ok(self.pick(container.links()?))
    }

    /// Finds the device among the links of any namespace.
    pub(super) fn pick(&self, links: Vec<Link>) -> Option<Link> {
        let mut links = links;
        // A link on the device can have the same address.
        links.retain(|link| link.kind == self.kind);
        let address = |link: &Link| {
            self.permanent_address.is_some() && permanent_address(link) == self.permanent_address
        };
        if let Some(at) = links.iter().position(address) {
            return Some(links.swap_remove(at));
        }
        // One device on a bus can have several interfaces.
        links.retain(|link| self.bus_address.is_some() && link.parent_device == self.bus_address);
        links.pop().filter(|_| links.is_empty())
    }

    /// Whether the index in the container is known, which identifies the device there.
    pub(super) fn has_index(&self) -> bool {
        self.index.is_some() && self.netns.is_some()
    }

    /// Whether the device was destroyed, as far as that is known.
    ///
    /// The two ends of a veth pair are destroyed together. Any other virtual device counts as
    /// destroyed if no namespace that can be reached has it. A physical one cannot be destroyed.
    pub(super) fn is_destroyed(&self, host: &mut Netlink, alias: &str, mac: Option<&str>) -> bool {
        if self.kind.is_none() {
            return false;
        }
        if let Some(peer) = self.peer {
            let peer = match self.peer_netns {
                None => host.link_by_index(peer),
                Some(nsid) => host.link_in(nsid, peer),
            };
            return matches!(peer, Err(error) if error.is_not_found());
        }
        let looks_like_it = |link: &Link| {
            let is_its = |own: Option<&str>, other: Option<&str>| own.is_some() && own == other;
            let link_mac = link.mac.map(|mac| mac.to_string());
            link.kind == self.kind
                && (is_its(Some(alias), link.alias.as_deref())
                    || is_its(mac, link_mac.as_deref())
                    || is_its(
                        self.permanent_address.as_deref(),
                        permanent_address(link).as_deref(),
                    ))
        };
        let mut elsewhere = crate::state::namespaces::sockets();
        !elsewhere.any(|mut socket| socket.links().unwrap_or_default().iter().any(looks_like_it))
    }
}

fn permanent_address(link: &Link) -> Option<String> {
    let bytes: Vec<_> = link.permanent_address.iter().map(|byte| format!("{byte:02x}")).collect();
    (!bytes.is_empty()).then(|| bytes.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: Option<&str>, address: &[u8], parent: Option<&str>) -> Link {
        let mut link = Link::default();
        link.index = index;
        link.kind = kind.map(Into::into);
        link.permanent_address = address.to_vec();
        link.parent_device = parent.map(Into::into);
        link
    }

    fn picked(identity: &Identity, links: &[Link]) -> Option<u32> {
        identity.pick(links.to_vec()).map(|link| link.index)
    }

    const PCI: &str = "pci/0000:3b:00.1";

    #[test]
    fn a_physical_device_is_recognized_by_its_permanent_address_or_its_bus_address() {
        let other = link(2, None, &[2, 0, 0, 0, 0, 9], Some("pci/0000:3b:00.0"));
        let device = link(3, None, &[2, 0, 0, 0, 0, 1], Some(PCI));
        let by_address =
            Identity { permanent_address: Some("02:00:00:00:00:01".into()), ..Identity::default() };
        let by_bus = Identity { bus_address: Some(PCI.into()), ..Identity::default() };
        for identity in [by_address, by_bus] {
            assert_eq!(picked(&identity, &[other.clone(), device.clone()]), Some(3));
            assert_eq!(picked(&identity, std::slice::from_ref(&other)), None);
        }
    }

    #[test]
    fn a_link_on_the_device_is_not_mistaken_for_it() {
        let identity =
            Identity { permanent_address: Some("02:00:00:00:00:01".into()), ..Identity::default() };
        let ipvlan = link(4, Some("ipvlan"), &[2, 0, 0, 0, 0, 1], None);
        assert_eq!(picked(&identity, &[ipvlan]), None);
    }

    #[test]
    fn a_bus_address_of_two_interfaces_is_ambiguous() {
        let identity = Identity { bus_address: Some(PCI.into()), ..Identity::default() };
        let ports = [link(3, None, &[], Some(PCI)), link(4, None, &[], Some(PCI))];
        assert_eq!(picked(&identity, &ports), None);
        assert_eq!(picked(&identity, &ports[..1]), Some(3));
        assert_eq!(picked(&Identity::default(), &[link(3, None, &[], None)]), None);
    }
}
