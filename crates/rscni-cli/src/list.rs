//! `rscni ls`: lists the attachments in the cache.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::ValueEnum;
use rscni::{
    Error,
    runtime::{CacheEntry, CacheListing},
};
use rscni_plugins::inventory::{self, Presence};
use serde_json::{Value, json};

use crate::{
    container::{Pod, Selector, is_loopback, netns_of, shortened},
    node,
    options::CacheOptions,
    output::{self, Style},
    table::{Table, printable},
};

/// Arguments of `ls`.
#[derive(clap::Args)]
pub(crate) struct List {
    /// Only attachments of this container: its id, the first twelve digits of a long id, or its pod
    /// as NAMESPACE/NAME
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    positional: Option<Selector>,
    /// Same as CONTAINER
    #[arg(long, value_name = "ID")]
    container: Option<Selector>,
    /// Only attachments to this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Also show loopback interfaces, which every container has
    #[arg(long, short)]
    all: bool,
    /// Do not shorten container ids
    #[arg(long)]
    no_trunc: bool,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: ListFormat,
    #[command(flatten)]
    cache: CacheOptions,
}

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ListFormat {
    /// A table
    Text,
    /// A table with full ids, MAC addresses and host interfaces
    Wide,
    /// An object with an array of all attachments
    Json,
    /// A line CONTAINER/IFNAME for each, the format of `gc --valid`
    Name,
}

impl List {
    /// Prints the attachments, and below them the unreadable files of the cache.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let listing = self.select(self.cache.cache().list()?);
        let style = Style::of_stdout();
        match self.output {
            ListFormat::Json => output::json(&as_json(&listing)),
            ListFormat::Text => {
                output::text(&as_text(&listing, SystemTime::now(), self.no_trunc, style));
            }
            ListFormat::Wide => output::text(&as_wide_text(&listing, SystemTime::now(), style)),
            ListFormat::Name => {
                for entry in &listing.entries {
                    output::line(&printable(&node::full_name(entry)));
                }
                for (_, error) in &listing.broken {
                    output::note(&unreadable(error));
                }
            }
        }
        Ok(())
    }

    /// Returns the selected attachments and the unreadable files that may belong to them.
    fn select(&self, mut listing: CacheListing) -> CacheListing {
        if let Some(network) = &self.network {
            listing.entries.retain(|entry| entry.network == *network);
            listing.broken.retain(|(file, _)| may_be_of(file, network));
        }
        if let Some(selector) = self.positional.as_ref().or(self.container.as_ref()) {
            listing.entries = selector.select(&listing.entries).into_iter().cloned().collect();
            listing.broken.retain(|(file, _)| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                matches!(selector, Selector::Id(id) if name.contains(&format!("-{id}")))
                    || listing
                        .entries
                        .iter()
                        .any(|entry| may_be_of_container(file, &entry.params.container_id))
            });
        }
        if !self.all {
            listing.entries.retain(|entry| !is_loopback(entry));
        }
        listing
    }
}

/// Whether the name of a cache file may be that of an attachment to the network.
///
/// The files of networks `net` and `net-a` cannot be told apart.
pub(crate) fn may_be_of(file: &Path, network: &str) -> bool {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    name.strip_prefix(network.as_bytes()).is_some_and(|rest| rest.starts_with(b"-"))
}

/// Whether the name of a cache file may be that of an attachment of the container.
pub(crate) fn may_be_of_container(file: &Path, id: &str) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.contains(&format!("-{id}-"))
}

/// Returns the addresses of an attachment.
pub(crate) fn addresses(entry: &CacheEntry) -> Vec<String> {
    entry.result.ips.iter().map(|ip| ip.address.to_string()).collect()
}

fn as_text(listing: &CacheListing, now: SystemTime, no_trunc: bool, style: Style) -> String {
    let mut table =
        Table::new(["NETWORK", "CONTAINER", "POD", "INTERFACE", "ADDRESSES", "AGE", "NAMESPACE"]);
    for entry in &listing.entries {
        let [network, id, pod, ifname, _, addresses, _, age, netns] = cells(entry, now);
        let id = if no_trunc { id } else { shortened(&id).to_owned() };
        table.row([network, id, pod, ifname, addresses, age, netns]);
    }
    with_broken(table.text(style), listing)
}

fn as_wide_text(listing: &CacheListing, now: SystemTime, style: Style) -> String {
    let mut table = Table::new([
        "NETWORK",
        "CONTAINER",
        "POD",
        "INTERFACE",
        "MAC",
        "ADDRESSES",
        "HOST",
        "AGE",
        "NAMESPACE",
    ]);
    for entry in &listing.entries {
        table.row(cells(entry, now));
    }
    with_broken(table.text(style), listing)
}

/// Returns the cells of a wide row.
fn cells(entry: &CacheEntry, now: SystemTime) -> [String; 9] {
    let interfaces = &entry.result.interfaces;
    let mac = interfaces
        .iter()
        .find(|it| it.sandbox.is_some() && it.name == entry.params.ifname)
        .and_then(|it| it.mac.clone());
    let host: Vec<&str> =
        interfaces.iter().filter(|it| it.sandbox.is_none()).map(|it| &*it.name).collect();
    let age = |made| age(now.duration_since(made).unwrap_or_default());
    [
        entry.network.clone(),
        entry.params.container_id.clone(),
        Pod::of(entry).map_or_else(none, |pod| pod.to_string()),
        entry.params.ifname.clone(),
        mac.unwrap_or_else(none),
        addresses(entry).join(" "),
        host.join(" "),
        entry.modified.map(age).unwrap_or_default(),
        namespace(entry),
    ]
}

/// Appends the unreadable files to the table.
fn with_broken(mut text: String, listing: &CacheListing) -> String {
    for (index, (_, error)) in listing.broken.iter().enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{gap}{}", unreadable(error));
    }
    text
}

/// Formats the error of an unreadable cache file.
pub(crate) fn unreadable(error: &Error) -> String {
    format!("cannot be read: {}", printable(error.details()))
}

/// Returns the text of an empty cell, so that every line has the same number of words.
fn none() -> String {
    "-".to_owned()
}

fn namespace(entry: &CacheEntry) -> String {
    let path = netns_of(entry).display();
    match inventory::namespace(entry) {
        Some(Presence::Exists) => path.to_string(),
        Some(Presence::Gone) => format!("{path} (gone)"),
        Some(Presence::Unknown(why)) => format!("{path} (unknown: {why})"),
        None => "unknown".to_owned(),
    }
}

/// Formats an age in its largest unit.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

fn as_json(listing: &CacheListing) -> Value {
    let entry = |entry: &CacheEntry| {
        let since = |time: SystemTime| {
            time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
        };
        let exists = match inventory::namespace(entry) {
            Some(Presence::Exists) => Some(true),
            Some(Presence::Gone) => Some(false),
            Some(Presence::Unknown(_)) | None => None,
        };
        json!({
            "network": entry.network,
            "containerID": entry.params.container_id,
            "pod": Pod::of(entry),
            "ifname": entry.params.ifname,
            "addresses": addresses(entry),
            "modified": entry.modified.and_then(since),
            "netns": entry.params.netns,
            "netnsExists": exists,
        })
    };
    let broken =
        |(file, error): &(PathBuf, Error)| json!({ "file": file, "error": error.details() });
    json!({
        "attachments": listing.entries.iter().map(entry).collect::<Vec<_>>(),
        "broken": listing.broken.iter().map(broken).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_in_its_largest_unit() {
        let ages = [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (3600, "1h"),
            (86_399, "23h"),
            (864_000, "10d"),
        ];
        for (seconds, text) in ages {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn cache_file_names_begin_with_the_network() {
        let of = |name: &str| may_be_of(&Path::new("/var/lib/cni/results").join(name), "net");
        assert!(of("net-box-eth0") && of("net-a-box-eth0"));
        assert!(!of("network-box-eth0") && !of("box-net-eth0") && !of("net"));
    }
}
