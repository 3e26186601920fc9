//! `rscni gc`: removes what containers that are gone have left behind.

use rscni::runtime::{CacheEntry, CacheListing, ConfDir, NetConfList};
use rscni::{Attachment, Error};

use crate::list::{addresses, may_be_of};
use crate::netns::{Presence, presence};
use crate::network::Watched;
use crate::output;
use crate::places::{Memory, Places};

/// What `gc` takes.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("set").required(true).args(["valid", "auto"]))]
pub(crate) struct Gc {
    /// Name of a network in the configuration directory
    network: String,
    /// The attachments that are still in use; all others are removed
    #[arg(long, value_name = "CONTAINER/IFNAME", num_args = 1.., value_parser = attachment)]
    valid: Vec<Attachment>,
    /// Keep the attachments that are remembered and whose network namespace still exists; all others are removed
    #[arg(long)]
    auto: bool,
    #[command(flatten)]
    places: Places,
    #[command(flatten)]
    memory: Memory,
}

impl Gc {
    /// Removes, and prints what was removed.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let list = &self.list()?;
        if list.disable_gc {
            output::line(&format!("nothing is removed: network {} has disableGC", list.name));
            return Ok(());
        }
        let cache = self.memory.cache();
        let watched = Watched::default();
        let runtime = self.places.runtime(&watched, cache.clone());
        let mut stale = Vec::new();
        // What is in use is asked while nothing is being attached, so that nothing new is taken for left behind.
        let outcome = runtime.gc_by(list, |listing| {
            let valid = if self.auto { in_use(listing, list)? } else { self.valid.clone() };
            let of_network = listing.entries.iter().filter(|entry| entry.network == list.name);
            stale.extend(of_network.filter(|entry| !valid.contains(&entry.attachment())).cloned());
            Ok(valid)
        });

        let after = cache.list()?.entries;
        let is_left = |entry: &CacheEntry| {
            after.iter().any(|other| other.network == list.name && other.attachment() == entry.attachment())
        };
        for entry in stale.iter().filter(|entry| !is_left(entry)) {
            let name = format!("{}/{}", entry.params.container_id, entry.params.ifname);
            output::line(&[vec!["removed".into(), name], addresses(entry)].concat().join(" "));
        }
        outcome.map_err(Error::from)
    }

    /// The network. One whose file is gone may have left attachments behind, which remember what it was.
    fn list(&self) -> Result<NetConfList, Error> {
        match ConfDir::load(self.places.conf_dir())?.find(&self.network) {
            Ok(list) => Ok(list.clone()),
            Err(missing) => remembered(self.memory.cache().list()?.entries, &self.network).ok_or(missing),
        }
    }
}

/// The network as the newest attachment to it remembers it.
fn remembered(entries: Vec<CacheEntry>, network: &str) -> Option<NetConfList> {
    let newest = entries.into_iter().filter(|entry| entry.network == network).max_by_key(|entry| entry.modified)?;
    NetConfList::from_json(&newest.config).or_else(|_| NetConfList::from_plugin_json(&newest.config)).ok()
}

/// The attachments of a network whose namespaces exist, or may exist.
fn in_use(listing: &CacheListing, list: &NetConfList) -> Result<Vec<Attachment>, Error> {
    let unknown: Vec<_> = listing.broken.iter().filter(|(file, _)| may_be_of(file, &list.name)).collect();
    if !unknown.is_empty() {
        // What is not in the set is cut off, and whether these should be in it cannot be known.
        let files: Vec<_> = unknown.iter().map(|(_, error)| error.details()).collect();
        return Err(Error::FailedToDecode(format!(
            "network {} may have attachments that cannot be read, so nothing was removed: delete these files if their \
             containers are gone, or name what is in use with --valid: {}",
            list.name,
            files.join("; ")
        )));
    }
    let is_gone = |netns: &std::path::PathBuf| matches!(presence(netns), Presence::Gone);
    let entries = listing.entries.iter().filter(|entry| entry.network == list.name);
    Ok(entries.filter(|entry| !entry.params.netns.as_ref().is_some_and(is_gone)).map(CacheEntry::attachment).collect())
}

/// An attachment as `CONTAINER/IFNAME`.
fn attachment(text: &str) -> Result<Attachment, String> {
    match text.split_once('/') {
        Some((id, ifname)) if !id.is_empty() && !ifname.is_empty() && !ifname.contains('/') => {
            Ok(Attachment { container_id: id.to_owned(), ifname: ifname.to_owned() })
        }
        _ => Err("an attachment is named by its container's id and its interface, such as box/eth0".to_owned()),
    }
}
