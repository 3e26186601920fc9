//! Chains of iptables in the table `nat`, one per container, as the Go plugins have them for
//! masquerading and for host ports.

use rscni::Attachment;
use rscni_linux::nft::Nft;

use super::{iptables::IpTable, iptables_save::SavedRule};
use crate::{
    error::{BestEffort, Result},
    state::{Item, Owned, OwnedBy, Owner, Purpose, Stale, go_hash},
};

pub(crate) const NAT: [IpTable; 2] = IpTable::of_both_families("nat");

/// The chains of one purpose.
pub(crate) struct ContainerChains {
    /// The chain whose rules jump to them.
    pub(crate) parent: &'static str,
    /// The start of their names. A hash of the network and the container follows.
    pub(crate) prefix: &'static str,
    /// The start of the comments of the jumps. The names of network and container follow.
    pub(crate) comment: &'static str,
    /// Their purpose, by whether they are of IPv4.
    pub(crate) purpose: fn(bool) -> Purpose,
}

impl ContainerChains {
    /// Returns the name of a container's chain. As in the Go plugins, it does not depend on the
    /// interface.
    pub(crate) fn name(&self, network: &str, container_id: &str) -> String {
        let hash = go_hash(&format!("{network}{container_id}"), 28 - self.prefix.len());
        format!("{}{hash}", self.prefix)
    }

    /// Returns the comment of the jumps to a container's chain.
    pub(crate) fn comment(&self, owner: Owner<'_>) -> String {
        format!("{}{}\"", self.comment_start(owner.network), owner.container_id)
    }

    fn comment_start(&self, network: &str) -> String {
        format!("{}name: \"{network}\" id: \"", self.comment)
    }

    /// Lists the chains, with the owners in the comments.
    pub(crate) fn list(&self, nft: &mut Nft) -> Result<Vec<Owned>> {
        let mut found: Vec<Owned> = Vec::new();
        for table in NAT {
            let mut jumps = table.saved(nft, &[], &[self.parent])?.rules;
            if let Some(legacy) = table.legacy() {
                jumps.extend(legacy.saved()?.rules);
            }
            for jump in jumps {
                let Some(name) = self.target(&jump) else { continue };
                let Some(by) = owner(&jump.data) else { continue };
                let (program, purpose) = (table.program(), (self.purpose)(table.v4));
                let chain = Item::Chain { program, name: name.to_owned(), purpose };
                let owned = Owned { item: chain, by };
                if !found.contains(&owned) {
                    found.push(owned);
                }
            }
        }
        Ok(found)
    }

    /// Returns the chain of a container that a rule of the parent jumps to.
    fn target<'j>(&self, jump: &'j SavedRule) -> Option<&'j str> {
        let target = jump.jump_target.as_deref().filter(|_| jump.chain == self.parent);
        target.filter(|name| name.starts_with(self.prefix))
    }

    /// Removes the chain of a container and the jumps to it.
    pub(crate) fn remove(&self, nft: &mut Nft, owner: Owner<'_>) -> Result<()> {
        let name = self.name(owner.network, owner.container_id);
        let mut all = BestEffort::default();
        for table in NAT {
            all.step(table.remove_chain(nft, self.parent, &name));
            if let Some(legacy) = table.legacy() {
                all.step(legacy.remove_chains(self.parent, |jump| jump.jumps_to(&name)));
            }
        }
        all.finish()
    }

    /// Removes the chains of stale attachments, for GC. The name of a chain is a hash, so only the
    /// comment names the owner.
    pub(crate) fn remove_stale(&self, nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
        let name = |valid: &Attachment| self.name(stale.network, &valid.container_id);
        let valid: Vec<String> = stale.valid.iter().map(name).collect();
        let comment = self.comment_start(stale.network);
        let is_stale = |jump: &SavedRule| {
            self.target(jump).is_some_and(|name| valid.iter().all(|valid| valid != name))
                && jump.has_comment(&comment)
        };
        let mut all = BestEffort::default();
        for table in NAT {
            let found = table.saved(nft, &[], &[self.parent])?.rules.into_iter().filter(is_stale);
            for chain in found.filter_map(|rule| rule.jump_target) {
                all.step(table.remove_chain(nft, self.parent, &chain));
            }
            if let Some(legacy) = table.legacy() {
                all.step(legacy.remove_chains(self.parent, is_stale));
            }
        }
        all.finish()
    }
}

/// The owner in a comment of the form `name: "NETWORK" id: "CONTAINER"`, with anything around it.
/// `iptables-save` escapes the quotes.
fn owner(bytes: &[u8]) -> Option<OwnedBy> {
    let text = String::from_utf8_lossy(bytes).replace('\\', "");
    let (_, rest) = text.split_once("name: \"")?;
    let (network, rest) = rest.split_once("\" id: \"")?;
    let (container_id, _) = rest.split_once('"')?;
    Some(OwnedBy::Container { network: network.to_owned(), container_id: container_id.to_owned() })
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(OwnedBy::Container { network, container_id }) = owner(data) {
        let comment = format!("name: \"{network}\" id: \"{container_id}\"");
        assert_eq!(owner(comment.as_bytes()), owner(data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_in_the_bytes_of_a_comment() {
        let by = Some(OwnedBy::Container { network: "net".into(), container_id: "box".into() });
        assert_eq!(owner(b"\0\x08comment\0dnat name: \"net\" id: \"box\"\0\0"), by);
        assert_eq!(owner(br#"-A X --comment "dnat name: \"net\" id: \"box\"" -j Y"#), by);
        assert_eq!(owner(b"CNI portfwd requiring masquerade"), None);
        assert_eq!(owner(b"name: \"net\" id: \"cut off"), None);
    }
}
