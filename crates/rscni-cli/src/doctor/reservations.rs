//! The addresses of host-local: remains of reservations, ranges that are full, and what does not fit together.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use rscni::NetConf;
use rscni_plugins::inventory::{Owned, OwnedBy, usage};
use serde_json::Value;

use super::{
    Patient, Report,
    neighbours::{self, Neighbour},
    quoted,
};
use crate::node::{State, ipam_type};

/// From how much of a range on it is worth to be told: nine tenths.
const NEARLY_FULL: (u128, u128) = (9, 10);

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    let mut all = Vec::new();
    let is_host_local = |plugin| ipam_type(plugin).map(|it| patient.kind(it)) == Some("host-local");
    for (list, plugin) in patient.plugins().filter(|(_, plugin)| is_host_local(plugin)) {
        let mut conf = plugin.as_map().clone();
        conf.retain(|key, _| !["name", "cniversion"].contains(&&*key.to_ascii_lowercase()));
        conf.insert("name".into(), list.name.clone().into());
        conf.insert("cniVersion".into(), list.cni_version.as_str().into());
        let conf = serde_json::from_value::<NetConf>(Value::Object(conf));
        let looked = conf.map_err(rscni::Error::from).and_then(|conf| usage(&conf));
        match looked {
            Ok(found) => {
                ranges(patient, &list.name, &found, report);
                all.extend(Neighbour::of(list, plugin, &found));
                outside(patient, &found, report);
                if found.index_differs {
                    let what = format!(
                        "{} says something else than the directory that it describes",
                        found.index.display()
                    );
                    let why =
                        "addresses may be taken for free; it is made anew when it is not there";
                    report.error(
                        "index-differs",
                        what,
                        why,
                        Some(format!("rm {}", quoted(&found.index))),
                    );
                }
            }
            Err(error) => {
                let what = format!("network {}: {}", list.name, error.details());
                let why = "every ADD to the network fails until its ranges are right; without it others have their turn";
                report.error("range-invalid", what, why, patient.disabling(list));
            }
        }
    }
    neighbours::check(patient, &all, report);
    remains(patient, report);
    duplicates(patient, report);
}

fn ranges(
    patient: &Patient<'_>,
    network: &str,
    found: &rscni_plugins::inventory::Reservations,
    report: &mut Report,
) {
    for set in &found.sets {
        let percent = set.taken.saturating_mul(100) / set.size.max(1);
        let what = || {
            let (taken, size, range) = (set.taken, set.size, &set.range);
            format!(
                "network {network}: {taken} of {size} addresses of {range} are reserved ({percent}%)"
            )
        };
        let why = "no more containers can be attached when all are; `rscni ls` says who has them, a larger range has more";
        let mend = Some(patient.command(&format!("gc {} --auto", quoted(network))));
        if set.taken >= set.size {
            report.error("range-full", what(), why, mend);
        } else if set.taken.saturating_mul(NEARLY_FULL.1) >= set.size.saturating_mul(NEARLY_FULL.0)
        {
            report.warning("range-nearly-full", what(), why, mend);
        }
    }
}

/// Reservations that no range has. Those of containers that are gone are told as such.
fn outside(
    patient: &Patient<'_>,
    found: &rscni_plugins::inventory::Reservations,
    report: &mut Report,
) {
    for address in &found.outside {
        let file = found.directory.join(address.to_string());
        let in_use = addresses(patient).find(|(at, holding)| {
            *at == *address
                && holding.item.file() == Some(&file)
                && patient.node.state(holding) == State::InUse
        });
        if let Some((_, holding)) = in_use {
            let what = format!("{} is in no range of its network", file.display());
            // The container is running: to attach it anew would cut its connections.
            let why = "the ranges were changed since it was given, and its container may not \
                       reach the gateway; a new container gets an address of the new ranges";
            report.warning("address-outside", format!("{what}: {} has it", holding.by), why, None);
        }
    }
}

/// The reservations, with their addresses.
pub(super) fn addresses<'a>(patient: &'a Patient<'_>) -> impl Iterator<Item = (IpAddr, &'a Owned)> {
    patient
        .node
        .inventory
        .items
        .iter()
        .filter_map(|holding| Some((holding.item.reserved_address()?, holding)))
}

fn remains(patient: &Patient<'_>, report: &mut Report) {
    for (address, holding) in addresses(patient) {
        let Some(file) = holding.item.file() else { continue };
        let shown = file.display();
        match &holding.by {
            OwnedBy::Interrupted { .. } => report.warning(
                "address-remains",
                format!("{shown} says of no container that it has the address"),
                "a crash or a power loss has left it; this program gives the address again, the Go plugin never",
                Some(removal(patient, file)),
            ),
            OwnedBy::Unreadable { why, .. } => report.warning(
                "address-unreadable",
                format!("{shown} cannot be read: {why}"),
                "the address is given to nobody, and GC cannot tell whose it is",
                (!patient.node.has_address(address)).then(|| format!("rm {}", quoted(file))),
            ),
            _ => {}
        }
    }
}

/// What removes the remains of a reservation. GC does it under the lock, so nothing that has become a reservation since
/// is lost; where there is no GC, an empty file is looked at once more.
fn removal(patient: &Patient<'_>, file: &Path) -> String {
    let network = file.parent().and_then(Path::file_name).unwrap_or_default();
    let network = network.to_string_lossy();
    if patient.networks.find(&network).map_or(true, |list| list.cni_version.has_gc_and_status()) {
        return patient.command(&format!("gc {} --auto", quoted(&*network)));
    }
    let is_empty =
        std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0 || metadata.is_dir());
    if is_empty {
        format!("find {} -maxdepth 0 -empty -delete", quoted(file))
    } else {
        format!("rm {}", quoted(file))
    }
}

/// Addresses that several containers have at the same time.
fn duplicates(patient: &Patient<'_>, report: &mut Report) {
    let mut all: BTreeMap<IpAddr, Vec<&Owned>> = BTreeMap::new();
    for (address, holding) in
        addresses(patient).filter(|(_, holding)| patient.node.state(holding) == State::InUse)
    {
        all.entry(address).or_default().push(holding);
    }
    for (address, holdings) in all.iter().filter(|(_, holdings)| holdings.len() > 1) {
        let files: Vec<_> = holdings.iter().map(|holding| holding.item.to_string()).collect();
        let what = format!("{address} is reserved {} times: {}", files.len(), files.join(", "));
        // The containers are running: which of them is to lose its connections is for people to
        // say.
        let why = "the host reaches only one of the containers; replace the others, and give each \
                   network ranges of its own";
        report.warning("address-duplicate", what, why, None);
    }
}
