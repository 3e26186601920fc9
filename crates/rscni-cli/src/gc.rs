//! `rscni gc`: removes stale resources of containers that no longer exist.

use std::str::FromStr;

use rscni::{
    Attachment, Error,
    runtime::{AttachmentParams, Cache, CacheEntry, ConfDir, NetConfList, Runtime},
};
use rscni_plugins::inventory::gc_list;

use crate::{
    container::Selector,
    network::TimedExec,
    node::{Node, State},
    options::RuntimeOptions,
    output,
    table::printable,
};

/// Arguments of `gc`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("set").required(true).args(["valid", "auto"]))]
pub(crate) struct Gc {
    /// Name of a network in the configuration directory [default with --auto: all known networks]
    #[arg(required_unless_present = "auto")]
    network: Option<String>,
    /// The valid attachments; all others are removed. CONTAINER is an id, the first twelve digits
    /// of a long id, or a pod as NAMESPACE/NAME
    #[arg(long, value_name = "CONTAINER/IFNAME", num_args = 1..)]
    valid: Vec<AttachmentSelector>,
    /// Keep the attachments that still exist; all others are removed
    #[arg(long)]
    auto: bool,
    /// Print what would be removed and why, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    options: RuntimeOptions,
}

impl Gc {
    /// Removes stale resources and prints them.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let dir = ConfDir::load(self.options.plugins.conf_dir())?;
        let cache = self.options.cache.cache();
        if let Some(name) = &self.network {
            return self.collect(&self.list(&dir, &cache, name)?, &cache);
        }
        let mut names = Node::inspect(&cache, &lists(&dir))?.networks();
        names.extend(dir.networks.iter().map(|(_, list)| list.name.clone()));
        let collect =
            |name| self.list(&dir, &cache, name).and_then(|list| self.collect(&list, &cache));
        combined(names.iter().filter_map(|name| collect(name).err()))
    }

    /// Collects one network.
    fn collect(&self, list: &NetConfList, cache: &Cache) -> Result<(), Error> {
        if list.disable_gc {
            output::line(&format!("network {} has disableGC: nothing is removed", list.name));
            return Ok(());
        }
        if self.dry_run {
            let node = Node::inspect(cache, &[list])?;
            let valid = self.valid(&node, list)?;
            for removal in node.removals(list, &valid, self.auto) {
                output::line(&printable(&format!("would remove {removal}")));
            }
            for what in &node.inventory.failures {
                output::note(&format!("cannot be inspected: {}", printable(what)));
            }
            return Ok(());
        }
        let exec = TimedExec::default();
        let runtime = self.options.plugins.runtime(&exec, cache.clone());
        let (mut removals, mut uncached) = (Vec::new(), Vec::new());
        // Operations of rscni wait meanwhile, so the snapshot has no unfinished ADD of theirs.
        let outcome = runtime.gc_by(list, |listing| {
            let node = Node::new(listing.clone(), &[list]);
            let valid = self.valid(&node, list)?;
            removals = node.removals(list, &valid, self.auto);
            uncached = self.uncached(&node, list, &valid);
            Ok(valid)
        });
        let mut errors: Vec<_> = outcome.map_err(Error::from).err().into_iter().collect();
        if !list.cni_version.has_gc_and_status() {
            // The plugins have no GC, so attachments that are not in the cache are detached.
            let detach = |attachment| detach(&runtime, list, attachment);
            errors.extend(uncached.into_iter().filter_map(|attachment| detach(attachment).err()));
        }
        let left = Node::inspect(cache, &[list])?.removals(list, &[], self.auto);
        for removal in removals {
            if !left.iter().any(|other| other.object == removal.object) {
                output::line(&printable(&format!("removed {removal}")));
            }
        }
        combined(errors)
    }

    /// Returns the attachments to keep.
    fn valid(&self, node: &Node, list: &NetConfList) -> Result<Vec<Attachment>, Error> {
        if !self.auto {
            let named = self.valid.iter().map(|named| named.attachments(node, &list.name));
            return Ok(named.collect::<Result<Vec<_>, _>>()?.concat());
        }
        if node.has_unnamed(&list.name) {
            return Err(Error::FailedToDecode(format!(
                "network {} has attachments that are not in the cache and whose owner tags are \
                 hashes of long names, so nothing was removed: list the valid attachments with \
                 --valid",
                list.name
            )));
        }
        let broken: Vec<_> = node.broken(&list.name).map(Error::details).collect();
        if broken.is_empty() {
            return Ok(node.in_use(&list.name));
        }
        // An unreadable entry may be that of a running container, which GC would cut off.
        Err(Error::FailedToDecode(format!(
            "the cache may have attachments of network {} in unreadable files, so nothing was \
             removed: delete these files if their containers no longer exist, or list the valid \
             attachments with --valid: {}",
            list.name,
            broken.join("; ")
        )))
    }

    /// Returns the configuration of a network.
    ///
    /// If no file defines the network, its newest attachment in the cache does. With `--auto`,
    /// owner tags with its name suffice.
    fn list(&self, dir: &ConfDir, cache: &Cache, name: &str) -> Result<NetConfList, Error> {
        let missing = match dir.find(name) {
            Ok(list) => return Ok(list.clone()),
            Err(missing) => missing,
        };
        let cached = cache.list()?.entries.into_iter().filter(|entry| entry.network == name);
        let newest = cached.max_by_key(|entry| entry.modified);
        if let Some(list) = newest.and_then(|entry| entry.list().ok()) {
            return Ok(list);
        }
        if !self.auto {
            return Err(missing);
        }
        let node = Node::inspect(cache, &lists(dir))?;
        if node.networks().contains(name) { gc_list(name, &node.dirs) } else { Err(missing) }
    }

    /// Returns the owners of resources that are neither valid nor in the cache.
    fn uncached(&self, node: &Node, list: &NetConfList, valid: &[Attachment]) -> Vec<Attachment> {
        let mut found: Vec<Attachment> = Vec::new();
        for holding in &node.inventory.items {
            let Some(attachment) = holding.by.attachment() else { continue };
            let is_kept =
                valid.contains(&attachment) || self.auto && node.state(holding) == State::InUse;
            let is_cached = || node.cached(&holding.by).next().is_some();
            if holding.by.network() == Some(&list.name)
                && !is_kept
                && !is_cached()
                && !found.contains(&attachment)
            {
                found.push(attachment);
            }
        }
        found
    }
}

/// Returns the networks of a directory.
pub(crate) fn lists(dir: &ConfDir) -> Vec<&NetConfList> {
    dir.networks.iter().map(|(_, list)| list).collect()
}

fn detach(
    runtime: &Runtime<&TimedExec>,
    list: &NetConfList,
    attachment: Attachment,
) -> Result<(), Error> {
    let mut params = AttachmentParams::default();
    params.container_id = attachment.container_id;
    params.ifname = attachment.ifname;
    runtime.del(list, &params).map_err(Error::from)
}

/// Combines errors into one with the code of the first.
fn combined(errors: impl IntoIterator<Item = Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let all =
        errors.fold(first.details().to_owned(), |all, error| format!("{all}; {}", error.details()));
    Err(Error::Custom(first.code(), first.msg().to_owned(), all))
}

/// An attachment on the command line, as `CONTAINER/IFNAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AttachmentSelector {
    container: Selector,
    ifname: String,
}

impl FromStr for AttachmentSelector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let invalid = || {
            "an attachment is CONTAINER/IFNAME, such as box/eth0, or default/web/eth0 for a pod"
                .to_owned()
        };
        let (container, ifname) = text.rsplit_once('/').ok_or_else(invalid)?;
        let container = container.parse().map_err(|_| invalid())?;
        if ifname.is_empty() {
            Err(invalid())
        } else {
            Ok(Self { container, ifname: ifname.into() })
        }
    }
}

impl AttachmentSelector {
    /// Returns all attachments that may be meant, so that GC keeps each of them.
    ///
    /// # Errors
    /// [`Error::NotExist`] if the cache does not have the pod, which may exist nevertheless.
    fn attachments(&self, node: &Node, network: &str) -> Result<Vec<Attachment>, Error> {
        let entries = node
            .listing
            .entries
            .iter()
            .filter(|entry| entry.network == network && entry.params.ifname == self.ifname);
        let found: Vec<_> =
            self.container.select(entries).into_iter().map(CacheEntry::attachment).collect();
        match &self.container {
            _ if !found.is_empty() => Ok(found),
            Selector::Id(id) => {
                Ok(vec![Attachment { container_id: id.clone(), ifname: self.ifname.clone() }])
            }
            Selector::Pod(pod) => Err(Error::NotExist(format!(
                "--valid {pod}/{}: the cache has no such attachment to network {network}, so \
                 nothing was removed",
                self.ifname
            ))),
        }
    }
}
