//! Reads the traces of attachments: the cache, the inventory, and the namespaces.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rscni::{
    Error,
    runtime::{AttachmentParams, Cache, CacheEntry, ConfDir, NetConfList},
};
use rscni_plugins::inventory::{
    Item, NodeSnapshot, Owned, OwnedBy, Presence, gc_list, is_of_process, namespace,
};
use rustix::time::{ClockId, clock_gettime};

use super::core::{Attachment, Namespace, Owner, Snapshot, boot_time};

/// The traces of one attachment.
#[derive(Clone, Debug, Default)]
pub(super) struct Traces {
    /// Its entry in the cache.
    pub(super) entry: Option<CacheEntry>,
    /// Its items in the inventory.
    pub(super) items: Vec<Item>,
}

/// A node with the traces of attachments.
#[derive(Clone, Debug)]
pub(super) struct Node {
    snapshot: NodeSnapshot,
    pub(super) attachments: BTreeMap<Owner, Traces>,
    /// Files of host-local that no call has completed.
    pub(super) incomplete: Vec<PathBuf>,
    /// The parts that could not be inspected.
    pub(super) failures: Vec<String>,
}

impl Node {
    /// Reads everything.
    pub(super) fn inspect(cache: &Cache, conf_dir: &Path) -> Result<Self, Error> {
        let mut failures = Vec::new();
        // Without lists, only the directories of plugin state that the cache names are known.
        let dir = ConfDir::load(conf_dir).map_err(|error| failures.push(error.to_string())).ok();
        let lists: Vec<&NetConfList> = dir.iter().flatten().map(|(_, list)| list).collect();
        let snapshot = NodeSnapshot::take(cache, &lists)?;
        let broken = snapshot.listing.broken.iter().map(|(_, error)| error.to_string());
        failures.extend(broken);
        failures.extend(snapshot.inventory.failures.iter().chain(&snapshot.failures).cloned());
        let mut node =
            Self { snapshot, attachments: BTreeMap::new(), incomplete: Vec::new(), failures };
        node.group();
        Ok(node)
    }

    /// Groups items by attachment. Items that name only the container belong to its attachments.
    fn group(&mut self) {
        for entry in &self.snapshot.listing.entries {
            let traces = Traces { entry: Some(entry.clone()), items: Vec::new() };
            self.attachments.insert(owner_of(entry), traces);
        }
        let (named, others): (Vec<&Owned>, Vec<&Owned>) =
            self.snapshot.inventory.items.iter().partition(|owned| owned.by.attachment().is_some());
        for Owned { item, by } in named.into_iter().chain(others) {
            if let (OwnedBy::Interrupted { .. }, Item::Reservation { file, .. }) = (by, item) {
                self.incomplete.push(file.clone());
            } else if let Some(owner) = self.owner(by) {
                self.attachments.entry(owner).or_default().items.push(item.clone());
            }
        }
    }

    /// Returns the owner of an item. `None` if a hash names it and nothing else tells its name, or
    /// if it cannot be read: such items are kept.
    fn owner(&self, by: &OwnedBy) -> Option<Owner> {
        let mut known = self.attachments.keys();
        if let OwnedBy::Hashed(_) = by {
            return known.find(|owner| by.is(&owner.network, &attachment_of(owner))).cloned();
        }
        let (network, container_id) = (by.network()?.to_owned(), by.container_id()?.to_owned());
        let ifname = by.attachment().map(|attachment| attachment.ifname);
        let owner = Owner { network, container_id, ifname };
        if owner.ifname.is_some() {
            return Some(owner);
        }
        // Without an interface, an owner is less than all others of its container.
        let next = self.attachments.range(&owner..).next().map(|(next, _)| next);
        let is_same = |next: &&Owner| {
            (&next.network, &next.container_id) == (&owner.network, &owner.container_id)
        };
        Some(next.filter(is_same).unwrap_or(&owner).clone())
    }

    /// Returns the facts for the decision. `socket` is that of the runtime, and `sees_processes`
    /// whether paths of processes mean the same here as for the runtime.
    pub(super) fn facts(&self, socket: &Path, sees_processes: bool) -> Snapshot {
        let existing: HashSet<&str> = self
            .snapshot
            .listing
            .entries
            .iter()
            .filter(|entry| namespace(entry) == Some(Presence::Exists))
            .map(|entry| &*entry.params.container_id)
            .collect();
        let attachments = self.attachments.iter().map(|(owner, traces)| {
            let files = traces.items.iter().filter_map(Item::file);
            let times = files.filter_map(|file| fs::metadata(file).ok()?.modified().ok());
            let entry = traces.entry.as_ref();
            let in_kernel = |item: &Item| !matches!(item, Item::Reservation { .. } | Item::File(_));
            Attachment {
                owner: owner.clone(),
                namespace: self.namespace(owner, traces, &existing, sees_processes),
                modified: times.chain(entry.and_then(|entry| entry.modified)).max(),
                is_in_kernel: traces.items.iter().any(in_kernel),
            }
        });
        let attachments = attachments.collect();
        let (now, uptime) = (SystemTime::now(), uptime());
        let socket = fs::metadata(socket).and_then(|it| it.modified()).ok();
        Snapshot { attachments, boot: boot_time(now, uptime, socket), now, uptime }
    }

    fn namespace(
        &self,
        owner: &Owner,
        traces: &Traces,
        existing: &HashSet<&str>,
        sees_processes: bool,
    ) -> Namespace {
        let named = traces.entry.as_ref().and_then(|it| Some((it, it.params.netns.as_deref()?)));
        let Some((entry, path)) = named else { return self.unnamed(owner, existing) };
        if entry.list().is_ok_and(|list| list.disable_gc) {
            return Namespace::Unknown("its network has disableGC".into());
        }
        if is_of_process(path) && !sees_processes {
            return Namespace::OfProcess;
        }
        match namespace(entry) {
            Some(Presence::Exists) if is_of_process(path) => Namespace::OfProcess,
            Some(Presence::Exists) => Namespace::Exists,
            Some(Presence::Unknown(why)) => Namespace::Unknown(why),
            Some(Presence::Gone) | None => Namespace::Gone(path.into()),
        }
    }

    /// Returns the namespace of an attachment whose path is not known.
    fn unnamed(&self, owner: &Owner, existing: &HashSet<&str>) -> Namespace {
        // Any interface of the container will do.
        let (network, container_id) = (owner.network.clone(), owner.container_id.clone());
        let by = OwnedBy::Container { network, container_id };
        let is_its = |live: &OwnedBy| live.is(&owner.network, &attachment_of(owner));
        if existing.contains(&*owner.container_id)
            || self.snapshot.is_live(&by)
            || self.snapshot.live.iter().any(is_its)
        {
            return Namespace::Exists;
        }
        let start = format!("{}-{}-", owner.network, owner.container_id);
        let is_its = |file: &Path| {
            file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start))
        };
        match self.snapshot.listing.broken.iter().find(|(file, _)| is_its(file)) {
            Some((_, error)) => Namespace::Unknown(error.to_string()),
            None if self.snapshot.failures.is_empty() => Namespace::NotFound,
            None => Namespace::Unknown(self.snapshot.failures.join("; ")),
        }
    }

    /// Returns the list and the parameters for the DEL of an attachment: those of its ADD, or, if
    /// the cache does not have them, a list with every plugin that uses owner tags.
    pub(super) fn del(&self, owner: &Owner) -> Result<(NetConfList, AttachmentParams), Error> {
        let entry = self.attachments.get(owner).and_then(|traces| traces.entry.as_ref());
        let list = entry.and_then(|entry| entry.list().ok());
        let list = list.map_or_else(|| gc_list(&owner.network, &self.snapshot.dirs), Ok)?;
        let attachment = attachment_of(owner);
        let mut params = entry.map(|entry| entry.params.clone()).unwrap_or_default();
        (params.container_id, params.ifname) = (attachment.container_id, attachment.ifname);
        // Another namespace may have its path now.
        params.netns = None;
        Ok((list, params))
    }
}

/// Whether an attachment is still as it was when it was found stale.
pub(super) fn is_unchanged(before: Option<&CacheEntry>, now: Option<&CacheEntry>) -> bool {
    let exists = |entry: &CacheEntry| {
        let path = entry.params.netns.as_deref();
        !path.is_some_and(is_of_process) && namespace(entry) == Some(Presence::Exists)
    };
    before == now && !now.is_some_and(exists)
}

fn owner_of(entry: &CacheEntry) -> Owner {
    Owner {
        network: entry.network.clone(),
        container_id: entry.params.container_id.clone(),
        ifname: Some(entry.params.ifname.clone()),
    }
}

/// Returns the attachment of an owner. If only its container is known, DEL of any interface removes
/// what names only the container.
fn attachment_of(owner: &Owner) -> rscni::Attachment {
    let ifname = owner.ifname.clone().unwrap_or_else(|| "eth0".to_owned());
    rscni::Attachment { container_id: owner.container_id.clone(), ifname }
}

/// Returns the time since the boot, by a clock that cannot be set.
fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}
