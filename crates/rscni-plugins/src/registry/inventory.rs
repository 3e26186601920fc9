//! The inventory of a node, put together from what all plugins tell.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rscni::{Error, runtime::NetConfList};
use rscni_linux::{
    Link,
    nft::{Family, Nft},
};
use serde_json::{Map, Value, json};

use super::{ALL, alias};
use crate::{
    attach::HostLinks,
    netfilter::{Elements, nftable},
    plugin::{GatewayBridge, KernelFeature, Keys, Plugin, Result, StateFiles},
    state::{Item, Owned, OwnedBy, Purpose, Resources},
};

/// Where plugins keep files: at their default locations, and where lists say.
#[derive(Clone, Debug, Default)]
pub struct StateDirs {
    configured: BTreeMap<&'static str, Vec<PathBuf>>,
}

impl StateDirs {
    /// Adds the locations that an entry of a list sets, for its plugin and for its IPAM plugin.
    pub fn add(&mut self, entry: &Map<String, Value>) {
        let keys = Keys(entry);
        for (keys, is_ipam) in [(Some(keys), false), (keys.object("ipam"), true)] {
            let Some(keys) = keys else { continue };
            let Some(plugin) = alias::plugin(keys.text("type"), &[]) else { continue };
            let Some(files) = &plugin.facts.files else { continue };
            if plugin.facts.ipam.is_some() == is_ipam {
                let dirs = self.configured.entry(plugin.name).or_default();
                dirs.extend(files.location(keys).filter(|dir| !dirs.contains(dir)));
            }
        }
    }

    /// The locations that lists set for a plugin.
    pub fn configured(&self, plugin: &str) -> &[PathBuf] {
        self.configured.get(plugin).map_or(&[], Vec::as_slice)
    }

    /// The directories that lists set for all plugins.
    pub fn directories(&self) -> impl Iterator<Item = &Path> {
        let has_dir = |plugin: &&Plugin| {
            plugin.facts.files.as_ref().is_some_and(|files| files.key == Some("dataDir"))
        };
        let dirs = ALL.iter().filter(has_dir).flat_map(|plugin| self.configured(plugin.name));
        dirs.map(PathBuf::as_path)
    }

    /// The default location and those that lists set.
    fn all(&self, plugin: &Plugin, files: &StateFiles) -> Vec<PathBuf> {
        let mut all = vec![PathBuf::from(files.default)];
        let is_other = |dir: &&PathBuf| **dir != Path::new(files.default);
        all.extend(self.configured(plugin.name).iter().filter(is_other).cloned());
        all
    }
}

/// The resources of attachments on a node.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// The items, sorted.
    pub items: Vec<Owned>,
    /// The parts that could not be listed, each with the reason.
    pub failures: Vec<String>,
}

impl Inventory {
    /// Lists the links and rules of the current namespace, and files.
    pub fn list(dirs: &StateDirs) -> Self {
        let mut inventory = Self::default();
        inventory.extend("links: ", links());
        inventory.extend("nftables: ", elements());
        inventory.extend("iptables: ", chains());
        for plugin in ALL {
            let Some(files) = &plugin.facts.files else { continue };
            for dir in dirs.all(plugin, files) {
                inventory.extend("", (files.list)(&dir));
            }
        }
        // Neither the kernel nor a directory has an order.
        inventory.items.sort_by_cached_key(|owned| (owned.item.kind(), owned.item.to_string()));
        inventory
    }

    fn extend(&mut self, what: &str, listed: Result<Vec<Owned>>) {
        match listed {
            Ok(found) => self.items.extend(found),
            Err(failure) => self.failures.push(format!("{what}{}", failure.0.details())),
        }
    }
}

/// Returns a list with which GC and DEL remove all that attachments to a network own on this host,
/// for a network that only owner tags name.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if the name is invalid.
pub fn gc_list(network: &str, dirs: &StateDirs) -> std::result::Result<NetConfList, Error> {
    let list = json!({ "cniVersion": "1.1.0", "name": network, "plugins": gc_entries(dirs) });
    NetConfList::from_json(list.to_string().as_bytes())
}

/// Returns entries with every plugin that uses owner tags, with all known directories of plugin
/// state.
fn gc_entries(dirs: &StateDirs) -> Vec<Value> {
    let mut entries = Vec::new();
    for plugin in ALL.iter().filter(|plugin| plugin.facts.owns_on_host) {
        let mut of_plugin = vec![json!({ "type": plugin.name })];
        if let Some((key, files)) =
            plugin.facts.files.as_ref().and_then(|files| Some((files.key?, files)))
        {
            let dirs = dirs.all(plugin, files);
            let with_dir = dirs.iter().skip(1).map(|dir| json!({ "type": plugin.name, key: dir }));
            of_plugin.extend(with_dir);
        }
        if plugin.facts.ipam.is_some() {
            // bridge removes links and masquerading too.
            let with_bridge = |ipam| json!({ "type": "bridge", "ipMasq": true, "ipam": ipam });
            of_plugin = of_plugin.into_iter().map(with_bridge).collect();
        }
        entries.extend(of_plugin);
    }
    entries
}

impl Plugin {
    /// The kernel features that an entry of a list with this plugin needs.
    pub fn kernel_features(&self, entry: &Map<String, Value>) -> Vec<KernelFeature> {
        (self.facts.kernel)(Keys(entry))
    }

    /// Whether an entry of a list with this plugin makes the host a router for its containers.
    pub fn routes(&self, entry: &Map<String, Value>) -> bool {
        (self.facts.routes)(Keys(entry))
    }

    /// The bridge that an entry of a list with this plugin gives the addresses of gateways.
    pub fn gateway_bridge<'e>(&self, entry: &'e Map<String, Value>) -> Option<GatewayBridge<'e>> {
        (self.facts.gateway_bridge)(Keys(entry))
    }

    /// The plugin that an entry of a list with this plugin delegates to, and the IPAM plugin of
    /// that one.
    pub fn delegates<'e>(&self, entry: &'e Map<String, Value>) -> Option<[&'e str; 2]> {
        (self.facts.delegates)(Keys(entry))
    }

    /// The location of the files that it keeps for attachments, if no key sets another.
    pub fn default_state_location(&self) -> Option<&'static str> {
        self.facts.files.as_ref().map(|files| files.default)
    }

    /// The location of the files that an entry of a list, or its `ipam` for an IPAM plugin, sets.
    pub fn state_location(&self, keys: &Map<String, Value>) -> Option<PathBuf> {
        self.facts.files.as_ref()?.location(Keys(keys))
    }
}

fn links() -> Result<Vec<Owned>> {
    let owned = |(by, link): (OwnedBy, Link)| {
        let kind = link.kind.unwrap_or_else(|| "device".into());
        Owned { item: Item::Link { name: link.name, kind }, by }
    };
    Ok(HostLinks::open(None)?.list()?.into_iter().map(owned).collect())
}

/// The elements of our tables that carry an owner tag.
fn elements() -> Result<Vec<Owned>> {
    let mut nft = Nft::open()?;
    let mut found = Vec::new();
    for family in [Family::Inet, Family::Bridge] {
        let table = nftable::table(family);
        let sets = nft.sets(&table)?;
        let listed = Elements { nft: &mut nft, table: table.clone(), sets: &sets }.list()?;
        found.extend(listed.into_iter().map(|(by, (set, element))| {
            let describe = |plugin: &Plugin| (plugin.facts.describe_element)(&set, &element.key);
            let (key, purpose) = ALL
                .iter()
                .find_map(describe)
                .unwrap_or_else(|| (nftable::text(&element.key), Purpose::Unknown));
            Owned { item: Item::Element { set: format!("{table} {set}"), key, purpose }, by }
        }));
    }
    Ok(found)
}

/// The chains of iptables that plugins create per container.
fn chains() -> Result<Vec<Owned>> {
    let of_plugins = ALL.iter().filter_map(|plugin| plugin.facts.chains);
    // bridge and ptp share theirs.
    let by_parent: BTreeMap<_, _> = of_plugins.map(|chains| (chains.parent, chains)).collect();
    let mut nft = Nft::open()?;
    let mut found = Vec::new();
    for chains in by_parent.into_values() {
        found.extend(chains.list(&mut nft)?);
    }
    Ok(found)
}
