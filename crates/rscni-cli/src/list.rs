//! `rscni ls`: what is attached to what, from what is remembered of attachments.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rscni::{
    Error,
    runtime::{CacheEntry, CacheListing},
};
use serde_json::{Value, json};

use crate::{
    netns::Presence,
    node,
    output::{self, Format, Style},
    places::Memory,
    table::{Table, printable},
};

/// What `ls` takes.
#[derive(clap::Args)]
pub(crate) struct List {
    /// Only attachments to this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only attachments of this container
    #[arg(long, value_name = "ID")]
    container: Option<String>,
    /// How to print them
    #[arg(long, short, value_name = "FORMAT", default_value = "text")]
    output: Format,
    #[command(flatten)]
    memory: Memory,
}

impl List {
    /// Prints the attachments, and below them the files that should be some, but cannot be read.
    pub(crate) fn run(&self) -> Result<(), Error> {
        let cache = self.memory.cache();
        let mut listing = match &self.container {
            Some(id) => cache.list_of(id)?,
            None => cache.list()?,
        };
        if let Some(network) = &self.network {
            listing.entries.retain(|entry| entry.network == *network);
            listing.broken.retain(|(file, _)| may_be_of(file, network));
        }
        match self.output {
            Format::Json => output::json(&as_json(&listing)),
            Format::Text => output::text(&as_text(&listing, SystemTime::now(), Style::of_stdout())),
        }
        Ok(())
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

fn as_text(listing: &CacheListing, now: SystemTime, style: Style) -> String {
    let mut table =
        Table::new(["NETWORK", "CONTAINER", "INTERFACE", "ADDRESSES", "AGE", "NAMESPACE"]);
    for entry in &listing.entries {
        table.row([
            entry.network.clone(),
            entry.params.container_id.clone(),
            entry.params.ifname.clone(),
            addresses(entry).join(" "),
            entry
                .modified
                .map_or_else(String::new, |made| age(now.duration_since(made).unwrap_or_default())),
            namespace(entry),
        ]);
    }
    let mut text = table.text(style);
    for (index, (_, error)) in listing.broken.iter().enumerate() {
        let gap = if index == 0 { "\n" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{gap}cannot be read: {}", printable(error.details()));
    }
    text
}

fn namespace(entry: &CacheEntry) -> String {
    let path = entry.params.netns.as_deref().unwrap_or(Path::new("")).display();
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
