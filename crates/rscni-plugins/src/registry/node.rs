//! A snapshot of a node: the cache of attachments, the inventory, and the interfaces in other
//! namespaces.

use std::{collections::HashSet, net::IpAddr};

use rscni::{
    Error,
    runtime::{Cache, CacheEntry, CacheListing, NetConfList},
};

use super::inventory::{Inventory, StateDirs};
use crate::state::{
    Owned, OwnedBy,
    namespaces::{Live, live},
};

/// A snapshot of a node.
#[derive(Clone, Debug)]
pub struct NodeSnapshot {
    /// The cache.
    pub listing: CacheListing,
    /// The resources of attachments.
    pub inventory: Inventory,
    /// The directories of plugin state in all configurations.
    pub dirs: StateDirs,
    /// Owners of interfaces in other namespaces.
    pub live: Vec<OwnedBy>,
    /// Addresses of interfaces in other namespaces.
    pub addresses: HashSet<IpAddr>,
    /// The namespaces that could not be inspected, each with the reason.
    pub failures: Vec<String>,
}

impl NodeSnapshot {
    /// Takes a snapshot. The lists name further directories of plugin state.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn take(cache: &Cache, lists: &[&NetConfList]) -> Result<Self, Error> {
        Ok(Self::with(cache.list()?, lists))
    }

    /// Takes a snapshot with a cache that was read before.
    pub fn with(listing: CacheListing, lists: &[&NetConfList]) -> Self {
        let mut dirs = StateDirs::default();
        let cached: Vec<_> = listing.entries.iter().filter_map(|entry| entry.list().ok()).collect();
        for list in lists.iter().copied().chain(&cached) {
            list.plugins.iter().for_each(|plugin| dirs.add(plugin.as_map()));
        }
        let inventory = Inventory::list(&dirs);
        let Live { tagged: mut live, untagged, addresses, failures } = live();
        // An interface without an owner tag belongs to the owner of its address.
        let interface_of = |owned: &Owned| untagged.get(&owned.item.reserved_address()?).cloned();
        live.extend(inventory.items.iter().filter_map(|owned| {
            let (by, ifname) = (owned.by.clone(), interface_of(owned)?);
            match by {
                OwnedBy::Attachment { .. } => Some(by),
                OwnedBy::Container { network, container_id } => {
                    Some(OwnedBy::Attachment { network, container_id, ifname })
                }
                _ => None,
            }
        }));
        Self { listing, inventory, dirs, live, addresses, failures }
    }

    /// Returns the cached attachments that an owner tag matches.
    pub fn cached(&self, by: &OwnedBy) -> impl Iterator<Item = &CacheEntry> {
        self.listing.entries.iter().filter(move |entry| by.is(&entry.network, &entry.attachment()))
    }

    /// Whether another namespace has an interface of the owner.
    pub fn is_live(&self, by: &OwnedBy) -> bool {
        let is_live = |live: &OwnedBy| match (live.network(), live.attachment()) {
            (Some(network), Some(attachment)) => by.is(network, &attachment),
            _ => live == by,
        };
        self.live.iter().any(is_live)
    }
}
