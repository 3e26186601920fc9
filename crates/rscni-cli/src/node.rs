//! What attachments hold on this node, and whether each of them is still there: what `gc` removes and `doctor` tells.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use rscni::{
    Attachment, Error, any_case,
    runtime::{Cache, CacheEntry, CacheListing, NetConfList, PluginConf},
};
use rscni_linux::Netlink;
use rscni_plugins::inventory::{Inventory, Live, Owned, OwnedBy, StateDirs, live};
use serde_json::{Map, Value};

use crate::{
    container::Selector,
    list::{addresses, may_be_of},
    netns::{Presence, is_own_by_process, presence},
};

/// A node as it is at one time.
pub(crate) struct Node {
    pub(crate) listing: CacheListing,
    pub(crate) inventory: Inventory,
    /// Where plugins keep files, as all configurations together say.
    pub(crate) dirs: StateDirs,
    live: Vec<OwnedBy>,
    /// The addresses of interfaces in other namespaces.
    addresses: HashSet<IpAddr>,
}

/// Whether what somebody holds is still of use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is, or may be.
    InUse,
    /// It is not, and why.
    Orphaned(String),
}

/// Something that GC removes, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Removal {
    /// What it is, as its line says it.
    pub(crate) what: String,
    pub(crate) why: String,
}

impl Node {
    /// Looks at everything. The lists say where plugins keep files.
    ///
    /// # Errors
    /// If what is remembered cannot be read.
    pub(crate) fn look(cache: &Cache, lists: &[&NetConfList]) -> Result<Self, Error> {
        let listing = cache.list()?;
        Ok(Self::new(listing, lists))
    }

    /// The same with what is remembered read before.
    pub(crate) fn new(listing: CacheListing, lists: &[&NetConfList]) -> Self {
        let mut dirs = StateDirs::default();
        for list in lists {
            list.plugins.iter().for_each(|plugin| dirs.add(plugin.as_map()));
        }
        for list in listing.entries.iter().filter_map(configuration) {
            list.plugins.iter().for_each(|plugin| dirs.add(plugin.as_map()));
        }
        let inventory = Inventory::list(&dirs);
        let Live { tagged: mut live, untagged, addresses } = live();
        // Whose interface has no mark has a reservation of the address that it has.
        let interface_of =
            |holding: &Owned| untagged.get(&holding.item.reserved_address()?).cloned();
        live.extend(inventory.items.iter().filter_map(|holding| {
            let (by, ifname) = (holding.by.clone(), interface_of(holding)?);
            match by {
                OwnedBy::Attachment { .. } => Some(by),
                OwnedBy::Container { network, container_id } => {
                    Some(OwnedBy::Attachment { network, container_id, ifname })
                }
                _ => None,
            }
        }));
        Self { listing, inventory, dirs, live, addresses }
    }

    /// The containers that a selector means, by what is remembered and by what they hold.
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

    /// Leaves only what is about these containers.
    pub(crate) fn keep(&mut self, ids: &BTreeSet<String>) {
        self.listing.entries.retain(|entry| ids.contains(&entry.params.container_id));
        self.listing.broken.retain(|(file, _)| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            ids.iter().any(|id| name.contains(&format!("-{id}-")))
        });
        let entries = &self.listing.entries;
        let is_kept = |by: &OwnedBy| match by.container_id() {
            Some(id) => ids.contains(id),
            None => entries.iter().any(|entry| by.is(&entry.network, &entry.attachment())),
        };
        self.inventory.items.retain(|holding| is_kept(&holding.by));
        self.live.retain(is_kept);
    }

    /// The names of the networks that something is left of.
    pub(crate) fn networks(&self) -> BTreeSet<String> {
        let held = self.inventory.items.iter().filter_map(|holding| holding.by.network());
        self.listing
            .entries
            .iter()
            .map(|entry| &*entry.network)
            .chain(held)
            .map(ToOwned::to_owned)
            .collect()
    }

    /// The files of the cache that may be of the network, and cannot be read.
    pub(crate) fn broken(&self, network: &str) -> impl Iterator<Item = &Error> {
        self.listing
            .broken
            .iter()
            .filter(move |(file, _)| may_be_of(file, network))
            .map(|(_, error)| error)
    }

    /// Whether a container may have the address: an attachment that is there, or an interface in
    /// some namespace.
    pub(crate) fn has_address(&self, address: IpAddr) -> bool {
        let has_it =
            |entry: &&CacheEntry| entry.result.ips.iter().any(|ip| ip.address.addr() == address);
        self.addresses.contains(&address)
            || self.listing.entries.iter().filter(has_it).any(is_there)
    }

    /// Whether a file of the cache that cannot be read is of a container that is there, as far as
    /// its name tells.
    pub(crate) fn is_of_running(&self, file: &Path) -> bool {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let is_named = |id: &str| name.contains(&format!("-{id}-"));
        self.listing.entries.iter().any(|it| is_named(&it.params.container_id) && is_there(it))
            || self.live.iter().filter_map(OwnedBy::container_id).any(is_named)
    }

    /// The attachments of a network that are in use: those that are remembered and have their namespace, or may have it,
    /// and those that nobody remembers, but whose interface is in a namespace, by its mark or by its address.
    pub(crate) fn in_use(&self, network: &str) -> Vec<Attachment> {
        let of_network = self.listing.entries.iter().filter(|entry| entry.network == network);
        let mut valid: Vec<_> =
            of_network.filter(|entry| is_there(entry)).map(CacheEntry::attachment).collect();
        for by in &self.live {
            if let OwnedBy::Attachment { network: of, container_id, ifname } = by
                && of == network
                && !self
                    .listing
                    .entries
                    .iter()
                    .any(|entry| by.is(&entry.network, &entry.attachment()))
            {
                valid.push(Attachment {
                    container_id: container_id.clone(),
                    ifname: ifname.clone(),
                });
            }
        }
        valid
    }

    /// Whether a network has attachments with an interface in some namespace that nobody remembers, and whose names
    /// their marks do not tell.
    pub(crate) fn has_nameless(&self, network: &str) -> bool {
        let is_remembered = |by: &OwnedBy| {
            self.listing.entries.iter().any(|entry| by.is(&entry.network, &entry.attachment()))
        };
        let mut nameless =
            self.live.iter().filter(|by| matches!(by, OwnedBy::Hashed(_)) && by.is_of(network));
        nameless.any(|by| !is_remembered(by))
    }

    /// Whether something is of use for whoever holds it.
    pub(crate) fn state(&self, holding: &Owned) -> State {
        let by = &holding.by;
        match by {
            OwnedBy::Interrupted { .. } => {
                return State::Orphaned("it is what a call that was cut off has left".into());
            }
            OwnedBy::Unreadable { .. } => return State::InUse,
            _ => {}
        }
        let remembered = || {
            self.listing.entries.iter().filter(|entry| by.is(&entry.network, &entry.attachment()))
        };
        if remembered().any(is_there) {
            return State::InUse;
        }
        if let Some(entry) = remembered().next() {
            return State::Orphaned(gone(entry));
        }
        let is_live = |live: &OwnedBy| match live {
            OwnedBy::Attachment { network, container_id, ifname } => by.is(
                network,
                &Attachment { container_id: container_id.clone(), ifname: ifname.clone() },
            ),
            other => other == by,
        };
        let may_be_remembered = match by.network() {
            Some(network) => self.broken(network).next().is_some(),
            None => !self.listing.broken.is_empty(),
        };
        if may_be_remembered || self.live.iter().any(is_live) {
            return State::InUse;
        }
        State::Orphaned("no runtime remembers it, and its interface is in no namespace".into())
    }

    /// What GC of a network with these valid attachments removes. `why` says it of those that the node itself does not.
    pub(crate) fn removals(
        &self,
        list: &NetConfList,
        valid: &[Attachment],
        why: Option<&str>,
    ) -> Vec<Removal> {
        let mut removals = Vec::new();
        for entry in &self.listing.entries {
            if entry.network == list.name && !valid.contains(&entry.attachment()) {
                let what = [vec![named(entry)], addresses(entry)].concat().join(" ");
                removals.push(Removal {
                    what,
                    why: why.map_or_else(|| gone(entry), ToOwned::to_owned),
                });
            }
        }
        for holding in &self.inventory.items {
            let by = &holding.by;
            let is_valid = valid.iter().any(|attachment| by.is(&list.name, attachment));
            let is_removed = by.is_of(&list.name) && !is_valid && is_reached(by, list);
            let why = match (self.state(holding), why) {
                (State::Orphaned(why), _) => why,
                (State::InUse, Some(why)) if !matches!(by, OwnedBy::Unreadable { .. }) => {
                    why.to_owned()
                }
                (State::InUse, _) => continue,
            };
            if is_removed {
                removals.push(Removal { what: holding.to_string(), why });
            }
        }
        removals
    }
}

/// Whether GC of a network gets at what somebody holds: before version 1.1.0 plugins have none, and it has to be
/// detached by its full name.
fn is_reached(by: &OwnedBy, list: &NetConfList) -> bool {
    list.cni_version.has_gc_and_status() || matches!(by, OwnedBy::Attachment { .. })
}

/// Whether the namespace of an attachment exists, or may exist.
pub(crate) fn is_there(entry: &CacheEntry) -> bool {
    namespace(entry) != Some(Presence::Gone)
}

/// Whether the namespace of an attachment exists, if it is known which that is.
///
/// The number in `/proc/PID/ns/net` is given again, to a process of the host too: what leads into the own namespace and not
/// to the attachment's interface leads to no container.
pub(crate) fn namespace(entry: &CacheEntry) -> Option<Presence> {
    let path = entry.params.netns.as_deref()?;
    let presence = presence(path);
    let is_given_again = presence == Presence::There
        && is_own_by_process(path)
        && has_its_interface(entry).is_ok_and(|has_it| !has_it);
    Some(if is_given_again { Presence::Gone } else { presence })
}

/// Whether one of the interfaces that the attachment made in its container is in the namespace that this is called in.
fn has_its_interface(entry: &CacheEntry) -> Result<bool, rscni_linux::Error> {
    let links = Netlink::open()?.links()?;
    let inside = entry.result.interfaces.iter().filter(|interface| interface.sandbox.is_some());
    let mut known = inside.filter_map(|interface| Some((&interface.name, interface.mac.as_ref()?)));
    Ok(known.any(|(name, mac)| {
        links.iter().any(|link| {
            link.name == *name
                && link.mac.is_some_and(|it| it.to_string().eq_ignore_ascii_case(mac))
        })
    }))
}

/// What has become of an attachment that is not there any more.
fn gone(entry: &CacheEntry) -> String {
    let path = entry.params.netns.as_deref().unwrap_or(Path::new("?"));
    format!("its namespace {} is gone", path.display())
}

/// An attachment as people name it.
pub(crate) fn named(entry: &CacheEntry) -> String {
    format!("{}/{}", entry.params.container_id, entry.params.ifname)
}

/// The network as an attachment remembers it.
pub(crate) fn configuration(entry: &CacheEntry) -> Option<NetConfList> {
    NetConfList::from_json(&entry.config)
        .or_else(|_| NetConfList::from_plugin_json(&entry.config))
        .ok()
}

/// The name that a plugin has by itself, as far as the `type` of a configuration tells it alone.
pub(crate) fn plain_kind(plugin: &str) -> &str {
    rscni_plugins::kind(plugin, &[])
}

/// The plugins that one plugin of a list leads to, itself first. `path` is that of the plugins.
pub(crate) fn types<'p>(plugin: &'p PluginConf, path: &[PathBuf]) -> Vec<&'p str> {
    let called = calls(plugin, path).into_iter().map(|(_, called)| called);
    std::iter::once(plugin.plugin_type()).chain(called).collect()
}

/// The plugins that are called for one plugin of a list, each with the one that calls it: IPAM
/// plugins, the `delegate` of flannel, and the `delegates` of plugins such as multus.
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
    // With `binDir` they are looked for elsewhere.
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

/// The value of a key of `ipam`, however it is spelled.
pub(crate) fn ipam_key<'a>(plugin: &'a PluginConf, key: &str) -> Option<&'a Value> {
    any_case::get(plugin.get("ipam")?.as_object()?, key)
}

/// The IPAM plugin that a plugin asks.
pub(crate) fn ipam_type(plugin: &PluginConf) -> Option<&str> {
    text(ipam_key(plugin, "type"))
}
