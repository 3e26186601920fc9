//! The inventory of a node: the resources of attachments, and whether the attachments still exist.

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    ops::Deref,
    path::{Path, PathBuf},
};

use rscni::{
    Attachment, Error, any_case,
    runtime::{Cache, CacheEntry, CacheListing, NetConfList, PluginConf},
};
use rscni_plugins::inventory::{NodeSnapshot, Owned, OwnedBy, Presence, namespace};
use serde_json::{Map, Value};

use crate::{
    container::{Selector, netns_of},
    list::{addresses, may_be_of, may_be_of_container},
};

/// A snapshot of a node, and which of it is stale.
pub(crate) struct Node(NodeSnapshot);

impl Deref for Node {
    type Target = NodeSnapshot;

    fn deref(&self) -> &NodeSnapshot {
        &self.0
    }
}

/// Whether the owner of a resource still exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It exists, or may exist.
    InUse,
    /// It does not exist.
    Stale(Reason),
}

/// Why a resource can be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Interrupted,
    NamespaceGone(PathBuf),
    NotFound,
    NotValid,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("left by an interrupted call"),
            Self::NamespaceGone(path) => write!(f, "its namespace {} is gone", path.display()),
            Self::NotFound => f.write_str("not in the cache, and no namespace has its interface"),
            Self::NotValid => f.write_str("not listed in --valid"),
        }
    }
}

/// A resource that GC removes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Object {
    Attachment(Box<CacheEntry>),
    Owned(Owned),
}

/// A resource that GC removes, and why.
pub(crate) struct Removal {
    pub(crate) object: Object,
    reason: Reason,
}

impl fmt::Display for Removal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.object {
            Object::Attachment(entry) => {
                let words = [vec![full_name(entry)], addresses(entry)].concat();
                write!(f, "{}: {}", words.join(" "), self.reason)
            }
            Object::Owned(holding) => write!(f, "{holding}: {}", self.reason),
        }
    }
}

impl Node {
    /// Takes a snapshot. The lists name further directories of plugin state.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub(crate) fn inspect(cache: &Cache, lists: &[&NetConfList]) -> Result<Self, Error> {
        NodeSnapshot::take(cache, lists).map(Self)
    }

    /// Takes a snapshot with a cache that was read before.
    pub(crate) fn new(listing: CacheListing, lists: &[&NetConfList]) -> Self {
        Self(NodeSnapshot::with(listing, lists))
    }

    /// Returns the ids of the selected containers, from the cache and from owner tags.
    pub(crate) fn containers(&self, selector: &Selector) -> BTreeSet<String> {
        let entries = selector.select(&self.listing.entries);
        let mut ids: BTreeSet<String> =
            entries.into_iter().map(|entry| entry.params.container_id.clone()).collect();
        if let Selector::Id(id) = selector
            && self.inventory.items.iter().any(|holding| holding.by.container_id() == Some(id))
        {
            ids.insert(id.clone());
        }
        ids
    }

    /// Removes everything that does not concern these containers from the snapshot.
    pub(crate) fn retain_containers(&mut self, ids: &BTreeSet<String>) {
        let NodeSnapshot { listing, inventory, live, .. } = &mut self.0;
        listing.entries.retain(|entry| ids.contains(&entry.params.container_id));
        listing.broken.retain(|(file, _)| ids.iter().any(|id| may_be_of_container(file, id)));
        let entries = &listing.entries;
        let is_kept = |by: &OwnedBy| match by.container_id() {
            Some(id) => ids.contains(id),
            None => entries.iter().any(|entry| by.is(&entry.network, &entry.attachment())),
        };
        inventory.items.retain(|holding| is_kept(&holding.by));
        live.retain(is_kept);
    }

    /// Returns the names of the networks with attachments or stale resources.
    pub(crate) fn networks(&self) -> BTreeSet<String> {
        let held = self.inventory.items.iter().filter_map(|holding| holding.by.network());
        let cached = self.listing.entries.iter().map(|entry| &*entry.network);
        cached.chain(held).map(ToOwned::to_owned).collect()
    }

    /// Returns the errors of unreadable cache files that may belong to the network.
    pub(crate) fn broken(&self, network: &str) -> impl Iterator<Item = &Error> {
        let broken = self.listing.broken.iter();
        broken.filter(move |(file, _)| may_be_of(file, network)).map(|(_, error)| error)
    }

    /// Whether a container may have the address: an existing attachment, or an interface in some
    /// namespace.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let has_it =
            |entry: &&CacheEntry| entry.result.ips.iter().any(|ip| ip.address.addr() == address);
        self.addresses.contains(&address)
            || self.listing.entries.iter().filter(has_it).any(may_exist)
    }

    /// Whether an unreadable cache file has the name of a container that exists.
    pub(crate) fn is_of_running(&self, file: &Path) -> bool {
        let is_named = |id: &str| may_be_of_container(file, id);
        self.listing.entries.iter().any(|it| is_named(&it.params.container_id) && may_exist(it))
            || self.live.iter().filter_map(OwnedBy::container_id).any(is_named)
    }

    /// Returns the attachments of the network that are in use.
    ///
    /// These are the cached ones whose namespace may exist, and others whose interface is found in
    /// a namespace by owner tag or address.
    pub(crate) fn in_use(&self, network: &str) -> Vec<Attachment> {
        let of_network = self.listing.entries.iter().filter(|entry| entry.network == network);
        let cached = of_network.filter(|entry| may_exist(entry)).map(CacheEntry::attachment);
        let of_network = self.live.iter().filter(|by| by.network() == Some(network));
        let others = of_network.filter(|by| self.cached(by).next().is_none());
        cached.chain(others.filter_map(OwnedBy::attachment)).collect()
    }

    /// Whether an interface exists whose attachment to the network is not cached and whose owner
    /// tag is a hash.
    pub(crate) fn has_unnamed(&self, network: &str) -> bool {
        let mut hashed =
            self.live.iter().filter(|by| matches!(by, OwnedBy::Hashed(_)) && by.is_of(network));
        hashed.any(|by| self.cached(by).next().is_none())
    }

    /// Returns whether the owner of a resource still exists.
    pub(crate) fn state(&self, holding: &Owned) -> State {
        let by = &holding.by;
        match by {
            OwnedBy::Interrupted { .. } => return State::Stale(Reason::Interrupted),
            OwnedBy::Unreadable { .. } => return State::InUse,
            _ => {}
        }
        if self.cached(by).any(may_exist) {
            return State::InUse;
        }
        if let Some(entry) = self.cached(by).next() {
            return State::Stale(namespace_gone(entry));
        }
        let may_be_cached = match by.network() {
            Some(network) => self.broken(network).next().is_some(),
            None => !self.listing.broken.is_empty(),
        };
        if may_be_cached || self.is_live(by) {
            return State::InUse;
        }
        State::Stale(Reason::NotFound)
    }

    /// Returns what GC of the network removes. With `auto`, resources in use are kept.
    pub(crate) fn removals(
        &self,
        list: &NetConfList,
        valid: &[Attachment],
        auto: bool,
    ) -> Vec<Removal> {
        let is_invalid = |entry: &&CacheEntry| {
            entry.network == list.name && !valid.contains(&entry.attachment())
        };
        let cached = self.listing.entries.iter().filter(is_invalid).map(|entry| {
            let reason = if auto { namespace_gone(entry) } else { Reason::NotValid };
            Removal { object: Object::Attachment(entry.clone().into()), reason }
        });
        let held = self.inventory.items.iter().filter_map(|holding| {
            let by = &holding.by;
            let is_valid = valid.iter().any(|attachment| by.is(&list.name, attachment));
            if !by.is_of(&list.name) || is_valid || !is_collected(by, list) {
                return None;
            }
            let reason = match self.state(holding) {
                State::Stale(reason) => reason,
                State::InUse if auto || matches!(by, OwnedBy::Unreadable { .. }) => return None,
                State::InUse => Reason::NotValid,
            };
            Some(Removal { object: Object::Owned(holding.clone()), reason })
        });
        cached.chain(held).collect()
    }
}

/// Whether GC of the network can remove what the owner has.
///
/// Before version 1.1.0 plugins have no GC, so the attachment is detached, which takes its full
/// name.
fn is_collected(by: &OwnedBy, list: &NetConfList) -> bool {
    list.cni_version.has_gc_and_status() || matches!(by, OwnedBy::Attachment { .. })
}

/// Whether the namespace of the attachment exists or may exist.
pub(crate) fn may_exist(entry: &CacheEntry) -> bool {
    namespace(entry) != Some(Presence::Gone)
}

fn namespace_gone(entry: &CacheEntry) -> Reason {
    Reason::NamespaceGone(netns_of(entry).to_owned())
}

/// Returns `CONTAINER/IFNAME`.
pub(crate) fn full_name(entry: &CacheEntry) -> String {
    format!("{}/{}", entry.params.container_id, entry.params.ifname)
}

/// Returns the plugin behind a `type`, judged by the name alone.
pub(crate) fn plain_kind(plugin: &str) -> &str {
    rscni_plugins::kind(plugin, &[])
}

/// Returns the plugin of a list and the plugins that it calls. `path` is `CNI_PATH`.
pub(crate) fn types<'p>(plugin: &'p PluginConf, path: &[PathBuf]) -> Vec<&'p str> {
    let called = calls(plugin, path).into_iter().map(|(_, called)| called);
    std::iter::once(plugin.plugin_type()).chain(called).collect()
}

/// Returns the plugins that a plugin of a list calls, as pairs of caller and callee.
///
/// These are IPAM plugins, the `delegate` of flannel, and the `delegates` of plugins such as
/// multus.
pub(crate) fn calls<'p>(plugin: &'p PluginConf, path: &[PathBuf]) -> Vec<(&'p str, &'p str)> {
    let mut calls = Vec::new();
    calls_of(plugin.as_map(), path, &mut calls);
    calls
}

fn calls_of<'p>(
    keys: &'p Map<String, Value>,
    path: &[PathBuf],
    calls: &mut Vec<(&'p str, &'p str)>,
) {
    let object = |key: &str| any_case::get(keys, key).and_then(Value::as_object);
    let type_in = |key: &str| object(key).and_then(|keys| text(any_case::get(keys, "type")));
    let Some(name) = text(any_case::get(keys, "type")) else { return };
    let ipam = type_in("ipam");
    let plugin = rscni_plugins::find(rscni_plugins::kind(name, path));
    if let Some([delegate, ipam]) = plugin.and_then(|plugin| plugin.delegates(keys)) {
        calls.extend([(name, delegate), (delegate, ipam)]);
        return;
    }
    calls.extend(ipam.map(|ipam| (name, ipam)));
    // With `binDir`, the plugin searches another directory.
    if any_case::get(keys, "binDir").is_some() {
        return;
    }
    let delegates = any_case::get(keys, "delegates").and_then(Value::as_array);
    for delegate in delegates.into_iter().flatten().filter_map(Value::as_object) {
        let list = any_case::get(delegate, "plugins").and_then(Value::as_array);
        let plugins = list.into_iter().flatten().filter_map(Value::as_object);
        for plugin in std::iter::once(delegate).chain(plugins) {
            calls.extend(text(any_case::get(plugin, "type")).map(|called| (name, called)));
            calls_of(plugin, path, calls);
        }
    }
}

fn text(value: Option<&Value>) -> Option<&str> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// Returns a key of `ipam`, ignoring case.
pub(crate) fn ipam_key<'a>(plugin: &'a PluginConf, key: &str) -> Option<&'a Value> {
    any_case::get(plugin.get("ipam")?.as_object()?, key)
}

/// Returns the IPAM plugin of a plugin.
pub(crate) fn ipam_type(plugin: &PluginConf) -> Option<&str> {
    text(ipam_key(plugin, "type"))
}
