//! Host ports that two attachments of one container map. A runtime may pass the same mappings to
//! all networks of a container, as nerdctl does.
//!
//! The first attachment gets the port. The elements of the others wait in separate maps and sets,
//! whose keys end with a hash of the owner tag. The transaction that removes the active mapping
//! also activates a waiting one. Both kinds of calls hold a lock, so that neither misses a change
//! of the other.

use std::collections::HashSet;

use rscni_linux::nft::{Element, ElementInfo, Nft, Transaction, Value};
use sha2::{Digest, Sha256};

use super::names::{self, active, is_of_sources, table};
use crate::{
    attach::Sandbox,
    netfilter::{Found, nftable},
    plugin::{Call, Result},
    state::owner,
};

/// Returns the waiting form of an element.
pub(super) fn element(active: &Element, tag: &str) -> Element {
    let hash: [u8; 4] = Sha256::digest(tag)[..4].try_into().expect("a hash has four bytes");
    let key = [active.key.as_bytes(), &hash].concat();
    Element { key: Value::bytes(key), ..active.clone() }
}

/// Returns the active form of a waiting element.
fn activated(waiting: &ElementInfo) -> Element {
    let key = &waiting.key[..waiting.key.len() - 4];
    Element {
        key: Value::bytes(key),
        last: None,
        data: waiting.data.clone(),
        comment: waiting.comment.clone(),
    }
}

/// Whether an owner tag is that of an attachment of the container that the call is for.
pub(super) fn is_sibling(tag: &str, call: &Call<'_>) -> bool {
    owner::is_of_container(tag, &call.args.container_id, || {
        let links = Sandbox::open(call).ok().and_then(|mut inside| inside.netlink.links().ok());
        links.unwrap_or_default().into_iter().map(|link| link.name).collect()
    })
}

/// All waiting elements of the host. There are none unless containers share ports.
pub(super) struct Waiting(Vec<Found>);

impl Waiting {
    /// Reads the waiting elements. `sets` are all sets of the table.
    pub(super) fn read(nft: &mut Nft, sets: &[String]) -> Result<Self> {
        let mut all = Vec::new();
        for set in sets.iter().filter(|set| active(set).is_some()) {
            all.extend(nft.elements(&table(), set)?.into_iter().map(|found| (set.clone(), found)));
        }
        Ok(Self(all))
    }

    /// Returns all elements of the mapping that takes over the port of `removed`, an element of the
    /// map `map`. Mappings with these tags are removed too, so they are no candidates.
    pub(super) fn successor(
        &self,
        map: &str,
        removed: &ElementInfo,
        tags: &HashSet<&str>,
    ) -> Vec<&Found> {
        let waits = |(set, element): &&Found| {
            *set == names::standby(map)
                && element.key.len() == removed.key.len() + 4
                && element.key.starts_with(&removed.key)
                && element.comment.as_deref().is_some_and(|tag| !tags.contains(tag))
        };
        // Ordered by hash, so that the same attachment takes over all ports of another.
        let hash = |(_, element): &&Found| element.key[removed.key.len()..].to_vec();
        let Some(forward) = self.0.iter().filter(waits).min_by_key(hash) else {
            return Vec::new();
        };
        let of_forward = |(set, element): &&Found| {
            is_of_sources(set)
                && set.starts_with(&format!("{map}_from"))
                && element.key.ends_with(&forward.1.key)
                && element.comment == forward.1.comment
        };
        std::iter::once(forward).chain(self.0.iter().filter(of_forward)).collect()
    }
}

/// Changes that belong into one transaction: elements to remove, and elements to activate instead.
#[derive(Default)]
pub(super) struct Step<'a> {
    pub(super) remove: Vec<&'a Found>,
    pub(super) activate: Vec<&'a Found>,
}

impl Step<'_> {
    pub(super) fn len(&self) -> usize {
        self.remove.len() + 3 * self.activate.len()
    }

    pub(super) fn add_to(&self, transaction: &mut Transaction<'_>) {
        let table = table();
        let key = |element: &ElementInfo| Element::new(Value::bytes(element.key.clone()));
        for (set, element) in &self.remove {
            transaction.destroy_element(&table, set, &key(element));
        }
        for (set, element) in &self.activate {
            let Some(target) = active(set) else { continue };
            nftable::put(transaction, &table, target, &activated(element));
            transaction.destroy_element(&table, set, &key(element));
        }
    }
}
