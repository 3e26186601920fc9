//! The other end of a veth pair, whose MTU is changed with that of the interface.
//!
//! The kernel silently drops a packet that is larger than the MTU of the receiving end.

use rscni::CNIResult;
use rscni_linux::{Link, LinkChange, Netlink, Netns};

use crate::plugin::{Result, differs};

/// The other end of a veth pair, with a socket in its namespace.
pub(super) struct Peer {
    netlink: Netlink,
    pub(super) link: Link,
    is_on_host: bool,
}

impl Peer {
    /// Finds the other end of `inner`, which is in `netns`. The other end may be there too, or on
    /// the host.
    ///
    /// Returns `None` if `inner` is not a veth, or if its other end is in a third namespace.
    pub(super) fn find(netns: &Netns, inner: &Link) -> Result<Option<Self>> {
        let Some(index) = inner.peer_index.filter(|_| is_veth(inner)) else { return Ok(None) };
        let is_on_host = inner.peer_netnsid.is_some();
        let mut netlink = if is_on_host { Netlink::open()? } else { Netlink::open_in(netns)? };
        let link = match netlink.link_by_index(index) {
            Err(error) if error.is_not_found() => return Ok(None),
            link => link?,
        };
        // Indices are local to a namespace, so the same pair of indices can exist on the host by
        // chance.
        let is_peer = is_veth(&link)
            && link.peer_index == Some(inner.index)
            && (!is_on_host
                || (link.peer_netnsid.is_some() && link.peer_netnsid == netlink.nsid(netns)?));
        Ok(is_peer.then_some(Self { netlink, link, is_on_host }))
    }

    /// Finds the other end for ADD, if it has the same MTU as `inner` and should be changed too.
    ///
    /// Warns if packets will be lost because the two ends differ.
    pub(super) fn find_to_change(netns: &Netns, inner: &Link, mtu: u32) -> Result<Option<Self>> {
        if !is_veth(inner) || inner.mtu == mtu {
            return Ok(None);
        }
        let name = &inner.name;
        match Self::find(netns, inner)? {
            Some(peer) if peer.link.mtu == inner.mtu => Ok(Some(peer)),
            Some(Self { link, .. }) => {
                if link.mtu != mtu {
                    eprintln!(
                        "tuning: {}, the other end of {name}, keeps its own MTU {}, {name} now has \
                         {mtu}: packets between both sizes are lost",
                        link.name, link.mtu
                    );
                }
                Ok(None)
            }
            None => {
                eprintln!(
                    "tuning: the other end of {name} is in another network namespace: set its MTU \
                     to {mtu} there, or packets between both sizes are lost"
                );
                Ok(None)
            }
        }
    }

    pub(super) fn set_mtu(&mut self, mtu: u32) -> Result<()> {
        let change = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
        Ok(self.netlink.set_link(self.link.index, &change)?)
    }

    /// Updates the MTU of this end in the result, and that of the bridge if it is a port.
    ///
    /// A bridge whose MTU was never set has the smallest one of its ports. Otherwise packets
    /// between both sizes are lost, and a warning says so.
    pub(super) fn show(&mut self, result: &mut CNIResult, ifname: &str, mtu: u32) -> Result<()> {
        show(result, &self.link.name, self.is_on_host, mtu);
        let Some(master) = self.link.master else { return Ok(()) };
        let bridge = self.netlink.link_by_index(master)?;
        if bridge.kind.as_deref() != Some("bridge") {
            return Ok(());
        }
        show(result, &bridge.name, self.is_on_host, bridge.mtu);
        let name = &bridge.name;
        if bridge.mtu > mtu {
            eprintln!(
                "tuning: bridge {name} has the MTU {}, its port {} now has {mtu}: larger packets \
                 to {ifname} are lost; set the MTU of {name} to {mtu}",
                bridge.mtu, self.link.name
            );
        } else if bridge.mtu < mtu {
            eprintln!(
                "tuning: bridge {name} has the MTU {}, {ifname} now has {mtu}: larger packets from \
                 {ifname} to other ports are lost; set mtu to at most {}",
                bridge.mtu, bridge.mtu
            );
        }
        Ok(())
    }

    /// Fails CHECK if the other end has another MTU than ADD set.
    pub(super) fn check(&self, mtu: u32) -> Result<()> {
        if self.link.mtu == mtu {
            return Ok(());
        }
        Err(differs(format!(
            "{}, the other end of the veth pair, has mtu {}, ADD left mtu {mtu}",
            self.link.name, self.link.mtu
        )))
    }
}

fn is_veth(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
}

/// Sets the MTU of an interface in the result, if the result shows one.
fn show(result: &mut CNIResult, name: &str, is_on_host: bool, mtu: u32) {
    for interface in &mut result.interfaces {
        if let Some(shown) = interface
            .mtu
            .as_mut()
            .filter(|_| interface.name == name && interface.sandbox.is_none() == is_on_host)
        {
            *shown = mtu;
        }
    }
}
