//! `rscni gc`: removes what containers that are gone have left behind.

use std::str::FromStr;

use rscni::{
    Attachment, Error,
    runtime::{AttachmentParams, Cache, CacheEntry, ConfDir, NetConfList, Runtime},
};
use rscni_plugins::inventory::{OwnedBy, StateDirs, gc_entries};
use serde_json::json;

use crate::{
    container::Selector,
    network::Watched,
    node::{Node, Removal, State, configuration},
    output,
    places::{Memory, Places},
    table::printable,
};

/// What `gc` takes.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("set").required(true).args(["valid", "auto"]))]
pub(crate) struct Gc {
    /// Name of a network in the configuration directory [default with --auto: every network that is known]
    #[arg(required_unless_present = "auto")]
    network: Option<String>,
    /// The attachments that are still in use; all others are removed. CONTAINER is an id, twelve
    /// digits of a long id, or a pod as NAMESPACE/NAME
    #[arg(long, value_name = "CONTAINER/IFNAME", num_args = 1..)]
    valid: Vec<Named>,
    /// Keep the attachments whose network namespace still exists; all others are removed
    #[arg(long)]
    auto: bool,
    /// Say what would be removed and why, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    memory: Memory,
}

impl Gc {
    /// Removes, and prints what was removed.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let dir = ConfDir::load(self.places.conf_dir())?;
        let cache = self.memory.cache();
        if let Some(name) = &self.network {
            return self.collect(&self.list(&dir, &cache, name)?, &cache);
        }
        let mut names = Node::look(&cache, &lists(&dir))?.networks();
        names.extend(dir.networks.iter().map(|(_, list)| list.name.clone()));
        let mut errors = Vec::new();
        for name in names {
            errors.extend(
                self.list(&dir, &cache, &name).and_then(|list| self.collect(&list, &cache)).err(),
            );
        }
        combined(errors)
    }

    /// Does it with one network.
    fn collect(&self, list: &NetConfList, cache: &Cache) -> Result<(), Error> {
        if list.disable_gc {
            output::line(&format!("nothing is removed: network {} has disableGC", list.name));
            return Ok(());
        }
        if self.dry_run {
            let node = Node::look(cache, &[list])?;
            let valid = self.valid(&node, list)?;
            for Removal { what, why } in self.removals(&node, list, &valid) {
                output::line(&printable(&format!("would remove {what}: {why}")));
            }
            for what in &node.inventory.failures {
                output::note(&format!("cannot be looked at: {}", printable(what)));
            }
            return Ok(());
        }
        let watched = Watched::default();
        let runtime = self.places.runtime(&watched, cache.clone());
        let (mut removals, mut forgotten) = (Vec::new(), Vec::new());
        // What is in use is asked while nothing is being attached, so that nothing new is taken for left behind.
        let outcome = runtime.gc_by(list, |listing| {
            let node = Node::new(listing.clone(), &[list]);
            let valid = self.valid(&node, list)?;
            removals = self.removals(&node, list, &valid);
            forgotten = only_marked(&node, list, &valid, self.auto);
            Ok(valid)
        });
        let mut errors: Vec<_> = outcome.map_err(Error::from).err().into_iter().collect();
        if !list.cni_version.has_gc_and_status() {
            // No plugin was told to look for more than what the runtime remembers.
            errors.extend(
                forgotten.iter().filter_map(|attachment| detach(&runtime, list, attachment).err()),
            );
        }
        let after = Node::look(cache, &[list])?;
        let left = self.removals(&after, list, &[]);
        for Removal { what, why } in removals {
            if !left.iter().any(|other| other.what == what) {
                output::line(&printable(&format!("removed {what}: {why}")));
            }
        }
        combined(errors)
    }

    /// The attachments that are to be kept.
    fn valid(&self, node: &Node, list: &NetConfList) -> Result<Vec<Attachment>, Error> {
        if !self.auto {
            let named = self.valid.iter().map(|named| named.attachments(node, &list.name));
            return Ok(named.collect::<Result<Vec<_>, _>>()?.concat());
        }
        if node.has_nameless(&list.name) {
            return Err(Error::FailedToDecode(format!(
                "network {} has attachments that nobody remembers and whose names are too long for their marks, so \
                 nothing was removed: name what is in use with --valid",
                list.name
            )));
        }
        let unknown: Vec<_> = node.broken(&list.name).map(Error::details).collect();
        if unknown.is_empty() {
            return Ok(node.in_use(&list.name));
        }
        // What is not in the set is cut off, and whether these should be in it cannot be known.
        Err(Error::FailedToDecode(format!(
            "network {} may have attachments that cannot be read, so nothing was removed: delete these files if their \
             containers are gone, or name what is in use with --valid: {}",
            list.name,
            unknown.join("; ")
        )))
    }

    fn removals(&self, node: &Node, list: &NetConfList, valid: &[Attachment]) -> Vec<Removal> {
        node.removals(list, valid, (!self.auto).then_some("it is not named by --valid"))
    }

    /// The network. One whose file is gone may have left attachments behind, which remember what it was; or things that
    /// have its name in their marks.
    fn list(&self, dir: &ConfDir, cache: &Cache, name: &str) -> Result<NetConfList, Error> {
        let missing = match dir.find(name) {
            Ok(list) => return Ok(list.clone()),
            Err(missing) => missing,
        };
        if let Some(list) = remembered(cache.list()?.entries, name) {
            return Ok(list);
        }
        if !self.auto {
            return Err(missing);
        }
        let node = Node::look(cache, &lists(dir))?;
        if node.networks().contains(name) { of_marks(name, &node.dirs) } else { Err(missing) }
    }
}

/// The networks of a directory.
pub(crate) fn lists(dir: &ConfDir) -> Vec<&NetConfList> {
    dir.networks.iter().map(|(_, list)| list).collect()
}

/// The network as the newest attachment to it remembers it.
fn remembered(entries: Vec<CacheEntry>, network: &str) -> Option<NetConfList> {
    let newest = entries
        .into_iter()
        .filter(|entry| entry.network == network)
        .max_by_key(|entry| entry.modified)?;
    configuration(&newest)
}

/// A network of which nothing is known but its name: every plugin that marks what it makes on the host, to have it
/// removed, from wherever other networks have files.
fn of_marks(name: &str, dirs: &StateDirs) -> Result<NetConfList, Error> {
    let plugins = gc_entries(dirs);
    let list = json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins });
    NetConfList::from_json(list.to_string().as_bytes())
}

/// The attachments that are neither valid nor remembered, but have left something.
fn only_marked(
    node: &Node,
    list: &NetConfList,
    valid: &[Attachment],
    auto: bool,
) -> Vec<Attachment> {
    let mut found: Vec<Attachment> = Vec::new();
    for holding in &node.inventory.items {
        let OwnedBy::Attachment { network, container_id, ifname } = &holding.by else { continue };
        let attachment = Attachment { container_id: container_id.clone(), ifname: ifname.clone() };
        let is_remembered = node
            .listing
            .entries
            .iter()
            .any(|e| e.network == *network && e.attachment() == attachment);
        let is_kept = valid.contains(&attachment) || auto && node.state(holding) == State::InUse;
        if *network == list.name && !is_kept && !is_remembered && !found.contains(&attachment) {
            found.push(attachment);
        }
    }
    found
}

fn detach(
    runtime: &Runtime<&Watched>,
    list: &NetConfList,
    attachment: &Attachment,
) -> Result<(), Error> {
    let mut params = AttachmentParams::default();
    params.container_id.clone_from(&attachment.container_id);
    params.ifname.clone_from(&attachment.ifname);
    runtime.del(list, &params).map_err(Error::from)
}

fn combined(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let all =
        errors.fold(first.details().to_owned(), |all, error| format!("{all}; {}", error.details()));
    Err(Error::Custom(first.code(), first.msg().to_owned(), all))
}

/// An attachment as `CONTAINER/IFNAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    container: Selector,
    ifname: String,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "an attachment is named by its container and its interface, such as box/eth0, or \
             default/web/eth0 for a pod"
                .to_owned()
        };
        let (container, ifname) = text.rsplit_once('/').ok_or_else(wrong)?;
        let container = container.parse().map_err(|_| wrong())?;
        if ifname.is_empty() { Err(wrong()) } else { Ok(Self { container, ifname: ifname.into() }) }
    }
}

impl Named {
    /// The attachments that may be meant: what is in use must not be removed, so all of them count.
    ///
    /// # Errors
    /// [`Error::NotExist`] if nothing is remembered of a pod, which may be in use nevertheless.
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
                "--valid {pod}/{}: no such attachment to network {network} is remembered, so \
                 nothing was removed",
                self.ifname
            ))),
        }
    }
}
