//! What containers that are gone have left, in the kernel, on disk and in the cache; and the daemon that keeps leases.

use std::{
    collections::BTreeMap,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use rscni_plugins::inventory::OwnedBy;

use super::{Patient, Report, as_root, quoted};
use crate::{
    container::{is_of_runtime, netns_of},
    list::may_be_of,
    node::{State, ipam_type, is_there, named},
};

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    cache(patient, report);
    holdings(patient, report);
    for what in &patient.node.inventory.failures {
        let why = "what containers that are gone have left there is not told";
        let look = as_root(&patient.command("doctor"));
        report.unknown("not-looked-at", format!("cannot be looked at: {what}"), why, look);
    }
    daemon(patient, report);
}

fn cache(patient: &Patient<'_>, report: &mut Report) {
    let listing = &patient.node.listing;
    let networks = patient.node.networks();
    let mut networks: Vec<&str> = networks.iter().map(String::as_str).collect();
    networks.extend(patient.lists().iter().map(|list| &*list.name));
    for (file, error) in &listing.broken {
        let what = format!("cannot be read: {}", error.details());
        let why = if networks.iter().any(|network| may_be_of(file, network)) {
            "what is attached is not known, so `rscni gc --auto` removes nothing of that network; \
             remove the file once its container has ended"
        } else {
            "it is no attachment to a network that is known, and in the way of none: some other program has left it"
        };
        let is_directory = file.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let rm = if is_directory { "rm -r" } else { "rm" };
        // Without the file, GC may take what a running container holds for left behind.
        let mend = (!patient.node.is_of_running(file)).then(|| format!("{rm} {}", quoted(file)));
        report.warning("cache-unreadable", what, why, mend);
    }
    for entry in &listing.entries {
        let (name, network) = (named(entry), &entry.network);
        let netns = netns_of(entry);
        if !is_there(entry) {
            let what = format!(
                "{name} is attached to {network}, and its namespace {} is gone",
                netns.display()
            );
            let why = "its addresses and host ports stay taken until it is detached";
            let mend = patient.command(&format!("gc {} --auto", quoted(network)));
            report.warning("attachment-gone", what, why, Some(mend));
        } else if patient.networks.find(network).is_err() && !is_of_runtime(entry) {
            let what = format!(
                "{name} is attached to {network}, which no file in {} defines",
                patient.conf_dir.display()
            );
            // The container may be running, so no command is suggested.
            let why = "if its runtime does not define the network elsewhere, it cannot check or \
                       detach the container; restore the file, or use `rscni del` once the \
                       container has ended";
            report.warning("attachment-without-network", what, why, None);
        }
    }
}

/// How many things are named before the others are only counted.
const NAMED: usize = 3;

/// What attachments that are gone hold, by kind and network.
fn holdings(patient: &Patient<'_>, report: &mut Report) {
    let mut orphaned: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for holding in &patient.node.inventory.items {
        let State::Orphaned(_) = patient.node.state(holding) else { continue };
        match (&holding.by, holding.by.network()) {
            // Those of addresses are told with the addresses.
            (OwnedBy::Interrupted { network: None }, _) => report.warning(
                "file-cut-off",
                format!("{} is not what a plugin writes", holding.item),
                "a crash or a power loss has left it, and it tells of nothing that could be restored",
                Some(format!("rm {}", quoted(&holding.item.to_string()))),
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
        let named = all[..all.len().min(NAMED)].join(", ");
        let more = if all.len() > NAMED {
            format!(" and {} more", all.len() - NAMED)
        } else {
            String::new()
        };
        let what = format!("network {network}: {kind} {named}{more}: the attachment is gone");
        let why = match kind {
            "address" => "the address is given to nobody",
            "element" | "chain" => {
                "packets of the next container with the address or the host port may be led astray"
            }
            "link" => "it is in nobody's use, and in the way of its name",
            _ => "it is in nobody's use",
        };
        report.warning(
            id,
            what,
            why,
            Some(patient.command(&format!("gc {} --auto", quoted(network)))),
        );
    }
}

fn daemon(patient: &Patient<'_>, report: &mut Report) {
    if !patient.uses("dhcp") {
        return;
    }
    let mut sockets: Vec<PathBuf> = patient.node.dirs.configured("dhcp").to_vec();
    let dhcp = rscni_plugins::find("dhcp").expect("dhcp is a plugin of this program");
    let default = Path::new(dhcp.default_state_location().unwrap_or_default());
    let uses_default = patient.plugins().any(|(_, plugin)| {
        let name = ipam_type(plugin).unwrap_or_default();
        let ipam = plugin.get("ipam").and_then(serde_json::Value::as_object);
        patient.kind(name) == "dhcp" && ipam.and_then(|it| dhcp.state_location(it)).is_none()
    });
    if uses_default {
        sockets.push(default.to_owned());
    }
    sockets.dedup();
    for socket in sockets {
        if let Err(error) = UnixStream::connect(&socket) {
            // The unit has a socket of its own.
            let mend = if socket == default && Path::new("/run/systemd/system").exists() {
                "systemctl enable --now cni-dhcp.socket".to_owned()
            } else {
                format!("rscni dhcp-daemon --socketpath {}", quoted(&socket))
            };
            let what = format!("nobody answers at {}: {error}", socket.display());
            let why = "no container gets a lease, and those of running containers are not renewed";
            report.error("dhcp-daemon", what, why, Some(mend));
        }
    }
}
