//! `rscni ls`: what is attached to what, from what is remembered of attachments.

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
use serde_json::{Value, json};

use crate::{
    container::{Pod, Selector, is_loopback, netns_of, shortened},
    netns::Presence,
    node,
    output::{self, Style},
    places::Memory,
    table::{Table, printable},
};

/// What `ls` takes.
#[derive(clap::Args)]
pub(crate) struct List {
    /// Only attachments of this container: its id, twelve digits of a long id, or its pod as
    /// NAMESPACE/NAME
    #[arg(value_name = "CONTAINER", conflicts_with = "container")]
    positional: Option<Selector>,
    /// The same as CONTAINER
    #[arg(long, value_name = "ID")]
    container: Option<Selector>,
    /// Only attachments to this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Show loopback interfaces too, which every container has
    #[arg(long, short)]
    all: bool,
    /// Show all digits of container ids
    #[arg(long)]
    no_trunc: bool,
    /// How to print them
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Shape,
    #[command(flatten)]
    memory: Memory,
}

/// How attachments are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// A table
    Text,
    /// A table with all digits of ids, hardware addresses and interfaces on the host
    Wide,
    /// An object with all attachments in an array
    Json,
    /// A line CONTAINER/IFNAME for each, as `gc --valid` takes it
    Name,
}

impl List {
    /// Prints the attachments, and below them the files that should be some, but cannot be read.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let listing = self.select(self.memory.cache().list()?);
        let style = Style::of_stdout();
        match self.output {
            Shape::Json => output::json(&as_json(&listing)),
            Shape::Text => {
                output::text(&as_text(&listing, SystemTime::now(), self.no_trunc, style));
            }
            Shape::Wide => output::text(&as_wide_text(&listing, SystemTime::now(), style)),
            Shape::Name => {
                for entry in &listing.entries {
                    output::line(&printable(&node::named(entry)));
                }
                for (_, error) in &listing.broken {
                    output::note(&unreadable(error));
                }
            }
        }
        Ok(())
    }

    /// The attachments that are wanted, and the broken files that may be such.
    fn select(&self, mut listing: CacheListing) -> CacheListing {
        if let Some(network) = &self.network {
            listing.entries.retain(|entry| entry.network == *network);
            listing.broken.retain(|(file, _)| may_be_of(file, network));
        }
        if let Some(selector) = self.positional.as_ref().or(self.container.as_ref()) {
            listing.entries = selector.select(&listing.entries).into_iter().cloned().collect();
            let mut infixes: Vec<String> =
                listing.entries.iter().map(|it| format!("-{}-", it.params.container_id)).collect();
            if let Selector::Id(id) = selector {
                infixes.push(format!("-{id}"));
            }
            listing.broken.retain(|(file, _)| {
                let name = file.file_name().unwrap_or_default().to_string_lossy();
                infixes.iter().any(|infix| name.contains(infix.as_str()))
            });
        }
        if !self.all {
            listing.entries.retain(|entry| !is_loopback(entry));
        }
        listing
    }
}

/// Whether a file of the cache is one of this network's, by its name; that of a network whose name begins with this
/// one's may look the same.
pub(crate) fn may_be_of(file: &Path, network: &str) -> bool {
    let name = file.file_name().unwrap_or_default().as_encoded_bytes();
    name.strip_prefix(network.as_bytes()).is_some_and(|rest| rest.starts_with(b"-"))
}

/// The addresses of an attachment.
pub(crate) fn addresses(entry: &CacheEntry) -> Vec<String> {
    entry.result.ips.iter().map(|ip| ip.address.to_string()).collect()
}

fn as_text(listing: &CacheListing, now: SystemTime, no_trunc: bool, style: Style) -> String {
    let mut table =
        Table::new(["NETWORK", "CONTAINER", "POD", "INTERFACE", "ADDRESSES", "AGE", "NAMESPACE"]);
    for entry in &listing.entries {
        let id = &entry.params.container_id;
        table.row([
            entry.network.clone(),
            if no_trunc { id } else { shortened(id) }.to_owned(),
            pod(entry),
            entry.params.ifname.clone(),
            addresses(entry).join(" "),
            age_of(entry, now),
            namespace(entry),
        ]);
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
        let interfaces = &entry.result.interfaces;
        let inner = interfaces
            .iter()
            .find(|it| it.sandbox.is_some() && it.name == entry.params.ifname)
            .and_then(|it| it.mac.clone());
        let outer: Vec<&str> =
            interfaces.iter().filter(|it| it.sandbox.is_none()).map(|it| &*it.name).collect();
        table.row([
            entry.network.clone(),
            entry.params.container_id.clone(),
            pod(entry),
            entry.params.ifname.clone(),
            inner.unwrap_or_else(none),
            addresses(entry).join(" "),
            outer.join(" "),
            age_of(entry, now),
            namespace(entry),
        ]);
    }
    with_broken(table.text(style), listing)
}

/// The table, and below it the files that cannot be read.
fn with_broken(mut text: String, listing: &CacheListing) -> String {
    for (index, (_, error)) in listing.broken.iter().enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{gap}{}", unreadable(error));
    }
    text
}

fn unreadable(error: &Error) -> String {
    format!("cannot be read: {}", printable(error.details()))
}

/// What stands in a column that has nothing to say, so that each line has as many words.
fn none() -> String {
    "-".to_owned()
}

fn pod(entry: &CacheEntry) -> String {
    Pod::of(entry).map_or_else(none, |pod| pod.to_string())
}

fn age_of(entry: &CacheEntry, now: SystemTime) -> String {
    entry
        .modified
        .map_or_else(String::new, |made| age(now.duration_since(made).unwrap_or_default()))
}

fn namespace(entry: &CacheEntry) -> String {
    let path = netns_of(entry).display();
    match node::namespace(entry) {
        Some(Presence::There) => path.to_string(),
        Some(Presence::Gone) => format!("{path} (gone)"),
        Some(Presence::Unknown(why)) => format!("{path} (unknown: {why})"),
        None => "unknown".to_owned(),
    }
}

/// Time in its largest unit: that is enough to tell what was made just now from what was left behind.
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
        let exists = match node::namespace(entry) {
            Some(Presence::There) => Some(true),
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
    fn an_age_is_in_its_largest_unit() {
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
    fn a_file_belongs_to_the_network_that_its_name_begins_with() {
        let of = |name: &str| may_be_of(&Path::new("/var/lib/cni/results").join(name), "net");
        assert!(of("net-box-eth0") && of("net-a-box-eth0"));
        assert!(!of("network-box-eth0") && !of("box-net-eth0") && !of("net"));
    }
}
