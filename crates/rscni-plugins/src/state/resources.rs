//! Removal of resources by their owners, as GC and a DEL without `prevResult` do it.

use std::collections::HashMap;

use rscni::{Attachment, Error};

use super::inventory::OwnedBy;
use crate::error::{BestEffort, Result};

/// The resources of one kind in one place, such as the elements of some sets.
///
/// GC of a plugin removes those in its own places. The [inventory](super::inventory) lists all.
pub(crate) trait Resources: Sized {
    type Resource;

    /// Lists the resources that have an owner.
    fn list(&mut self) -> Result<Vec<(OwnedBy, Self::Resource)>>;

    /// Removes resources, as far as they exist.
    fn remove(self, resources: Vec<Self::Resource>) -> Result<()>;

    /// Lists the resources of wanted owners.
    fn find(&mut self, is_wanted: &dyn Fn(&OwnedBy) -> bool) -> Result<Vec<Self::Resource>> {
        let mut found = self.list()?;
        found.retain(|(by, _)| is_wanted(by));
        Ok(found.into_iter().map(|(_, resource)| resource).collect())
    }

    /// Removes the resources of wanted owners. Reports owners that cannot be read.
    fn remove_of(mut self, is_wanted: &dyn Fn(&OwnedBy) -> bool) -> Result<()> {
        let (mut all, mut found) = (BestEffort::default(), Vec::new());
        for (by, resource) in self.list()? {
            match by {
                OwnedBy::Unreadable { why, .. } => all.step(Err(Error::IOFailure(why))),
                by => found.extend(is_wanted(&by).then_some(resource)),
            }
        }
        all.step(self.remove(found));
        all.finish()
    }
}

/// The owners of a network whose resources GC removes: those that are not valid.
pub(crate) struct Stale<'a> {
    pub(crate) network: &'a str,
    pub(crate) valid: &'a [Attachment],
    /// The interfaces of the valid attachments by container.
    interfaces: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Stale<'a> {
    /// Takes the attachments that the runtime lists as valid.
    pub(crate) fn new(network: &'a str, valid: &'a [Attachment]) -> Self {
        let mut interfaces: HashMap<&str, Vec<&str>> = HashMap::new();
        for Attachment { container_id, ifname } in valid {
            interfaces.entry(container_id).or_default().push(ifname);
        }
        Self { network, valid, interfaces }
    }

    /// Whether the owner belongs to this network and is not valid.
    pub(crate) fn has(&self, by: &OwnedBy) -> bool {
        let is_valid = || match by {
            OwnedBy::Attachment { container_id, ifname, .. } => self
                .interfaces
                .get(container_id.as_str())
                .is_some_and(|interfaces| interfaces.contains(&ifname.as_str())),
            OwnedBy::Container { container_id, .. } => {
                self.interfaces.contains_key(container_id.as_str())
            }
            OwnedBy::Hashed(_) => self.valid.iter().any(|valid| by.is(self.network, valid)),
            OwnedBy::Interrupted { .. } => false,
            OwnedBy::Unreadable { .. } => true,
        };
        by.is_of(self.network) && !is_valid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::owner::Owner;

    #[test]
    fn gc_removes_only_invalid_attachments_of_its_network() {
        let long = "x".repeat(200);
        let valid = |id: &str| Attachment { container_id: id.into(), ifname: "eth0".into() };
        let valid = [valid("kept"), valid(&long)];
        let stale = Stale::new("net", &valid);
        let has = |network, container_id: &str, ifname| {
            stale.has(&OwnedBy::of_tag(&Owner { network, container_id, ifname }.tag()))
        };
        assert!(has("net", "gone", "eth0") && has("net", "kept", "eth1"));
        assert!(has("net", &"y".repeat(200), "eth0"));
        assert!(!has("net", "kept", "eth0") && !has("net", &long, "eth0"));
        assert!(!has("net2", "gone", "eth0"));
        let of_container = |id: &str| {
            stale.has(&OwnedBy::Container { network: "net".into(), container_id: id.into() })
        };
        assert!(of_container("gone") && !of_container("kept"));
    }
}
