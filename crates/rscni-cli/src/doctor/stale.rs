//! Finds stale resources in the kernel, on disk and in the cache, and checks the dhcp daemon.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use rscni_plugins::inventory::OwnedBy;

use super::{Context, Report, as_root, quoted};
use crate::{
    container::{is_of_runtime, netns_of},
    list::may_be_of,
    node::{State, full_name, ipam_type, may_exist},
};

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    cache(context, report);
    holdings(context, report);
    for what in &context.node.inventory.failures {
        let why = "stale resources there are not reported";
        let mend = as_root(&context.command("doctor"));
        report.unknown("not-looked-at", format!("cannot be inspected: {what}"), why, mend);
    }
    daemon(context, report);
}

fn cache(context: &Context<'_>, report: &mut Report) {
    let listing = &context.node.listing;
    let networks = context.node.networks();
    let mut networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    networks.extend(context.lists().iter().map(|list| &*list.name));
    for (file, error) in &listing.broken {
        let what = format!("cannot be read: {}", error.details());
        let why = if networks.iter().any(|network| may_be_of(file, network)) {
            "its attachment is not known, so `rscni gc --auto` removes nothing of that network; \
             remove the file once its container has ended"
        } else {
            "it belongs to no known network and has no effect; another program has created it"
        };
        let is_directory = file.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let rm = if is_directory { "rm -r" } else { "rm" };
        // Without the file, the resources of a running container may look stale to GC.
        let mend = (!context.node.is_of_running(file)).then(|| format!("{rm} {}", quoted(file)));
        report.warning("cache-unreadable", what, why, mend);
    }
    for entry in &listing.entries {
        let (name, network) = (full_name(entry), &entry.network);
        let netns = netns_of(entry);
        if !may_exist(entry) {
            let what = format!(
                "{name} is attached to {network}, and its namespace {} is gone",
                netns.display()
            );
            let why = "its addresses and host ports stay reserved until it is detached";
            report.warning("attachment-gone", what, why, Some(context.gc(network)));
        } else if context.networks.find(network).is_err() && !is_of_runtime(entry) {
            let what = format!(
                "{name} is attached to {network}, which no file in {} defines",
                context.conf_dir.display()
            );
            // No command: the container may be running.
            let why = "its runtime cannot check or detach the container, unless it defines the \
                       network elsewhere; restore the file, or use `rscni del` once the container \
                       has ended";
            report.warning("attachment-without-network", what, why, None);
        }
    }
}

/// Maximum number of resources in one finding; further ones are counted.
const LISTED: usize = 3;

/// Reports stale resources by kind and network.
fn holdings(context: &Context<'_>, report: &mut Report) {
    let mut orphaned: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for holding in &context.node.inventory.items {
        let State::Stale(_) = context.node.state(holding) else { continue };
        match (&holding.by, holding.by.network()) {
            // The check of reservations reports addresses without an owner.
            (OwnedBy::Interrupted { network: None }, _) => report.warning(
                "file-cut-off",
                format!("{} is incomplete", holding.item),
                "left by a crash or a power loss; it has no data that could be restored",
                Some(format!("rm {}", quoted(holding.item.to_string()))),
            ),
            (OwnedBy::Interrupted { .. }, _) | (_, None) => {}
            (by, Some(network)) => {
                let what = format!("{} of {by}", holding.item);
                orphaned.entry((holding.item.kind(), network)).or_default().push(what);
            }
        }
    }
    for ((kind, network), all) in orphaned {
        let id = match kind {
            "link" => "orphaned-link",
            "element" => "orphaned-element",
            "chain" => "orphaned-chain",
            "address" => "orphaned-address",
            _ => "orphaned-file",
        };
        let listed = all[..all.len().min(LISTED)].join(", ");
        let more = if all.len() > LISTED {
            format!(" and {} more", all.len() - LISTED)
        } else {
            String::new()
        };
        let what =
            format!("network {network}: {kind} {listed}{more}: the attachment no longer exists");
        let why = match kind {
            "address" => "the address is not allocated again",
            "element" | "chain" => {
                "packets of the next container with the address or host port may be misdirected"
            }
            "link" => "it is unused and its name cannot be reused",
            _ => "it is unused",
        };
        report.warning(id, what, why, Some(context.gc(network)));
    }
}

fn daemon(context: &Context<'_>, report: &mut Report) {
    if !context.uses("dhcp") {
        return;
    }
    let mut sockets: Vec<PathBuf> = context.node.dirs.configured("dhcp").to_vec();
    let dhcp = rscni_plugins::find("dhcp").expect("dhcp is a plugin of this program");
    let default = Path::new(dhcp.default_state_location().unwrap_or_default());
    let uses_default = context.plugins().any(|(_, plugin)| {
        let name = ipam_type(plugin).unwrap_or_default();
        let ipam = plugin.get("ipam").and_then(serde_json::Value::as_object);
        context.kind(name) == "dhcp" && ipam.and_then(|it| dhcp.state_location(it)).is_none()
    });
    if uses_default {
        sockets.push(default.to_owned());
    }
    sockets.dedup();
    for socket in sockets {
        if let Err(error) = UnixStream::connect(&socket) {
            // The systemd unit uses the default socket.
            let mend = if socket == default && Path::new("/run/systemd/system").exists() {
                "systemctl enable --now cni-dhcp.socket".to_owned()
            } else {
                format!("rscni dhcp-daemon --socketpath {}", quoted(&socket))
            };
            let what = format!("the dhcp daemon does not answer at {}: {error}", socket.display());
            let why = "no container gets a lease, and leases of running containers are not renewed";
            report.error("dhcp-daemon", what, why, Some(mend));
        }
    }
}
