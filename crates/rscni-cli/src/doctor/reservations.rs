//! Checks host-local's reservations: invalid files, full ranges, and inconsistencies.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use rscni::{
    NetConf,
    runtime::{NetConfList, PluginConf},
};
use rscni_plugins::inventory::{Owned, OwnedBy, Reservations, usage};
use serde_json::Value;

use super::{
    Context, Report,
    conflicts::{self, RoutedNetwork},
    quoted,
};
use crate::node::{State, ipam_type};

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let mut all = Vec::new();
    let is_host_local = |plugin| ipam_type(plugin).map(|it| context.kind(it)) == Some("host-local");
    for (list, plugin) in context.plugins().filter(|(_, plugin)| is_host_local(plugin)) {
        let looked = parsed(list, plugin).and_then(|conf| usage(&conf));
        match looked {
            Ok(found) => {
                ranges(context, &list.name, &found, report);
                all.extend(RoutedNetwork::new(list, plugin, &found));
                outside(context, &found, report);
                if found.index_differs {
                    let what = format!("{} does not match its directory", found.index.display());
                    let why = "reserved addresses may count as free; the index is recreated when \
                               it is missing";
                    let mend = format!("rm {}", quoted(&found.index));
                    report.error("index-differs", what, why, Some(mend));
                }
            }
            Err(error) => {
                let what = format!("network {}: {}", list.name, error.details());
                let why = "every ADD to the network fails until its ranges are fixed; without its \
                           file, runtimes use the next network";
                report.error("range-invalid", what, why, context.disabling(list));
            }
        }
    }
    conflicts::check(context, &all, report);
    invalid(context, report);
    duplicates(context, report);
}

/// Returns the configuration that a runtime would call the plugin with.
fn parsed(list: &NetConfList, plugin: &PluginConf) -> Result<NetConf, rscni::Error> {
    let mut conf = plugin.as_map().clone();
    conf.retain(|key, _| !["name", "cniversion"].contains(&&*key.to_ascii_lowercase()));
    conf.insert("name".into(), list.name.clone().into());
    conf.insert("cniVersion".into(), list.cni_version.as_str().into());
    Ok(serde_json::from_value(Value::Object(conf))?)
}

/// Reports ranges of which at least nine tenths are reserved.
fn ranges(context: &Context<'_>, network: &str, found: &Reservations, report: &mut Report) {
    for set in &found.sets {
        let (taken, size, range) = (set.taken, set.size, &set.range);
        let percent = taken.saturating_mul(100) / size.max(1);
        if taken.saturating_mul(10) < size.saturating_mul(9) {
            continue;
        }
        let what = format!(
            "network {network}: {taken} of {size} addresses of {range} are reserved ({percent}%)"
        );
        let why = "no container can be attached once all are reserved; `rscni ls` lists the \
                   containers, and a larger range has more addresses";
        if taken >= size {
            report.error("range-full", what, why, Some(context.gc(network)));
        } else {
            report.warning("range-nearly-full", what, why, Some(context.gc(network)));
        }
    }
}

/// Reports reservations of running containers outside the ranges. Others are reported as stale.
fn outside(context: &Context<'_>, found: &Reservations, report: &mut Report) {
    for address in &found.outside {
        let file = found.directory.join(address.to_string());
        let in_use = addresses(context).find(|(at, holding)| {
            *at == *address
                && holding.item.file() == Some(&file)
                && context.node.state(holding) == State::InUse
        });
        if let Some((_, holding)) = in_use {
            let what = format!(
                "{} is in no range of its network; it is reserved for {}",
                file.display(),
                holding.by
            );
            // No command: a new attachment would break the connections of the running container.
            let why = "the ranges have changed since, and the container may not reach the gateway; \
                       new containers get addresses from the new ranges";
            report.warning("address-outside", what, why, None);
        }
    }
}

/// Returns the reservations with their addresses.
pub(super) fn addresses<'a>(context: &'a Context<'_>) -> impl Iterator<Item = (IpAddr, &'a Owned)> {
    context
        .node
        .inventory
        .items
        .iter()
        .filter_map(|holding| Some((holding.item.reserved_address()?, holding)))
}

/// Reports reservations without a readable owner.
fn invalid(context: &Context<'_>, report: &mut Report) {
    for (address, holding) in addresses(context) {
        let Some(file) = holding.item.file() else { continue };
        let shown = file.display();
        match &holding.by {
            OwnedBy::Interrupted { .. } => report.warning(
                "address-remains",
                format!("{shown} names no container"),
                "left by a crash or a power loss; this program treats the address as free, the Go \
                 plugin never allocates it again",
                Some(removal(context, file)),
            ),
            OwnedBy::Unreadable { why, .. } => report.warning(
                "address-unreadable",
                format!("{shown} cannot be read: {why}"),
                "the address is not allocated again, and GC does not know its owner",
                (!context.node.has_address(address)).then(|| format!("rm {}", quoted(file))),
            ),
            _ => {}
        }
    }
}

/// Returns the command that removes a reservation without an owner.
///
/// GC takes host-local's lock, so it does not remove a new reservation. Without GC, an empty file
/// is checked again before it is removed.
fn removal(context: &Context<'_>, file: &Path) -> String {
    let network = file.parent().and_then(Path::file_name).unwrap_or_default();
    let network = network.to_string_lossy();
    if context.networks.find(&network).map_or(true, |list| list.cni_version.has_gc_and_status()) {
        return context.gc(&network);
    }
    let is_empty =
        std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0 || metadata.is_dir());
    if is_empty {
        format!("find {} -maxdepth 0 -empty -delete", quoted(file))
    } else {
        format!("rm {}", quoted(file))
    }
}

/// Reports addresses that several running containers have reserved.
fn duplicates(context: &Context<'_>, report: &mut Report) {
    let mut all: BTreeMap<IpAddr, Vec<&Owned>> = BTreeMap::new();
    for (address, holding) in
        addresses(context).filter(|(_, holding)| context.node.state(holding) == State::InUse)
    {
        all.entry(address).or_default().push(holding);
    }
    for (address, holdings) in all.iter().filter(|(_, holdings)| holdings.len() > 1) {
        let files: Vec<_> = holdings.iter().map(|holding| holding.item.to_string()).collect();
        let what = format!("{address} is reserved {} times: {}", files.len(), files.join(", "));
        // No command: the operator decides which running container to replace.
        let why = "the host reaches only one of the containers; replace the others, and give each \
                   network ranges of its own";
        report.warning("address-duplicate", what, why, None);
    }
}
