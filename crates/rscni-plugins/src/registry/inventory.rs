//! The inventory of a node, put together from what all plugins tell.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rscni_linux::{
    Netlink,
    nft::{Family, Nft},
};
use serde_json::{Map, Value, json};

use super::{ALL, alias};
use crate::{
    netfilter::{iptables::IpTable, iptables_save::jump_target, nftable},
    plugin::{
        Plugin,
        error::Result,
        facts::{GatewayBridge, KernelFeature, Keys, StateFiles},
    },
    state::{
        inventory::{Item, Owned, OwnedBy, Purpose},
        owner::Owner,
    },
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

/// Returns entries of a list with which GC removes all that a network owns on this host, wherever
/// the lists of other networks have files.
pub fn gc_entries(dirs: &StateDirs) -> Vec<Value> {
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

/// The links with an owner tag.
fn links() -> Result<Vec<Owned>> {
    let owned = |link: rscni_linux::Link| {
        let by = OwnedBy::of_tag(Owner::tag_of_alias(link.alias.as_deref()?)?);
        let kind = link.kind.unwrap_or_else(|| "device".into());
        Some(Owned { item: Item::Link { name: link.name, kind }, by })
    };
    Ok(Netlink::open()?.links()?.into_iter().filter_map(owned).collect())
}

/// The elements of our tables that carry an owner tag.
fn elements() -> Result<Vec<Owned>> {
    let mut nft = Nft::open()?;
    let mut found = Vec::new();
    for family in [Family::Inet, Family::Bridge] {
        let table = nftable::table(family);
        for set in nft.sets(&table)? {
            for element in nft.elements(&table, &set)? {
                let Some(tag) = &element.comment else { continue };
                let describe =
                    |plugin: &Plugin| (plugin.facts.describe_element)(&set, &element.key);
                let (key, purpose) = ALL
                    .iter()
                    .find_map(describe)
                    .unwrap_or_else(|| (nftable::text(&element.key), Purpose::Unknown));
                let item = Item::Element { set: format!("{table} {set}"), key, purpose };
                found.push(Owned { item, by: OwnedBy::of_tag(tag) });
            }
        }
    }
    Ok(found)
}

/// The chains of containers in the table `nat` of iptables: for masquerading and for host ports.
fn chains() -> Result<Vec<Owned>> {
    let mut nft = Nft::open()?;
    let mut found: Vec<Owned> = Vec::new();
    for table in IpTable::of_both_families("nat") {
        let mut jumps: Vec<(String, Vec<u8>)> = Vec::new();
        for from in ["POSTROUTING", "CNI-HOSTPORT-DNAT"] {
            for rule in table.rules(&mut nft, from, |_| true)? {
                let text = rule.comment.clone().map(String::into_bytes);
                let texts = rule.expressions.iter().map(|expression| expression.attributes.clone());
                jumps.extend(
                    rule.jump_target
                        .map(|to| (to, text.into_iter().chain(texts).flatten().collect())),
                );
            }
        }
        if let Some(legacy) = table.legacy() {
            let saved = legacy.save()?;
            let to = |line: &str| {
                jump_target(line).map(|to| (to.to_owned(), line.replace('\\', "").into_bytes()))
            };
            jumps.extend(saved.lines().filter_map(to));
        }
        let program = table.program();
        for (name, text) in jumps.into_iter().filter(|(name, _)| name.starts_with("CNI-")) {
            let Some(by) = owner(&text) else { continue };
            let purpose = if name.starts_with("CNI-DN-") {
                Purpose::PublishedPort { v4: table.v4 }
            } else {
                Purpose::Masquerade
            };
            let owned = Owned { item: Item::Chain { program, name, purpose }, by };
            if !found.contains(&owned) {
                found.push(owned);
            }
        }
    }
    Ok(found)
}

/// The owner in a comment of the form `name: "NETWORK" id: "CONTAINER"`, with anything around it.
fn owner(bytes: &[u8]) -> Option<OwnedBy> {
    let text = String::from_utf8_lossy(bytes);
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
        let by = OwnedBy::Container { network: "net".into(), container_id: "box".into() };
        assert_eq!(owner(b"\0\x08comment\0dnat name: \"net\" id: \"box\"\0\0"), Some(by));
        assert_eq!(owner(b"CNI portfwd requiring masquerade"), None);
        assert_eq!(owner(b"name: \"net\" id: \"cut off"), None);
    }
}
