//! Whether the host passes on the packets of its containers.

use std::{collections::BTreeSet, path::Path};

use rscni::runtime::{CacheEntry, NetConfList, PluginConf};
use rscni_linux::sysctl;
use rscni_plugins::{
    forward_policy::{self, Dropping, Packet},
    inventory::Purpose,
};

use super::{Patient, Report, as_root, kernel::routes, quoted, reservations::addresses};
use crate::node::{State, is_there, named, plain_kind};

pub(super) fn check(patient: &Patient<'_>, report: &mut Report) {
    let routing: Vec<_> =
        patient.lists().into_iter().filter(|list| list.plugins.iter().any(routes)).collect();
    for (v4, key) in [(true, "net.ipv4.ip_forward"), (false, "net.ipv6.conf.all.forwarding")] {
        let is_routed = |network: &str| routing.iter().any(|list| list.name == network);
        let count = attached(patient, v4, is_routed).len();
        // ADD switches it on; what has switched it off since has cut off those that are attached.
        if count > 0 && sysctl::get(&key.replace('.', "/")).is_ok_and(|value| value.trim() == "0") {
            report.error(
                "forwarding-off",
                format!("{key} is 0; attachments whose gateway is this host: {count}"),
                "their packets to other networks are dropped; something has switched it off since they were attached",
                Some(format!("sysctl -w {key}=1")),
            );
        }
    }
    if patient.uses("sbr") {
        for key in ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"] {
            if sysctl::get(&key.replace('.', "/")).is_ok_and(|value| value.trim() == "1") {
                report.warning(
                    "rp-filter-strict",
                    format!("{key} is 1, and a network uses sbr"),
                    "packets that come in by one interface while the way back is another are dropped",
                    Some(format!("sysctl -w {key}=2")),
                );
            }
        }
    }
    isolation(patient, report);
    let outcome = forward_policy::dropping().and_then(|chains| {
        routing.iter().try_for_each(|list| reach(patient, list, &chains, report))
    });
    if let Err(why) = outcome {
        report.unknown(
            "forward-policy-unknown",
            format!("the policy of FORWARD is not known: {why}"),
            "if it is DROP, packets of containers are dropped unless a rule lets them through",
            format!("{} && {}", as_root("iptables -S FORWARD"), as_root("ip6tables -S FORWARD")),
        );
    }
}

/// Whether chains that drop by policy let the packets of a network's containers through, and
/// connections to their published ports.
fn reach(
    patient: &Patient<'_>,
    list: &NetConfList,
    chains: &[Dropping],
    report: &mut Report,
) -> Result<(), String> {
    let firewall =
        list.plugins.iter().find(|plugin| plain_kind(plugin.plugin_type()) == "firewall");
    let entries = patient.node.listing.entries.iter();
    let entries: Vec<_> =
        entries.filter(|entry| entry.network == list.name && is_there(entry)).collect();
    let mut dropped = Vec::new();
    for entry in &entries {
        for address in entry.result.ips.iter().map(|ip| ip.address.addr()) {
            let published = is_published(patient, entry, address.is_ipv4());
            let packets = [
                Some(Packet::FromContainer(address)),
                published.then_some(Packet::ToPublishedPort(address)),
            ];
            for packet in packets.into_iter().flatten() {
                let chain = forward_policy::dropped_by(chains, packet)?;
                dropped.extend(chain.map(|chain| (*entry, packet, chain)));
            }
        }
    }
    let Some(firewall) = firewall else {
        let named: Vec<&Dropping> = if entries.is_empty() {
            chains.iter().collect()
        } else {
            let is_dropping = |chain: &&Dropping| dropped.iter().any(|(.., by)| by == chain);
            chains.iter().filter(is_dropping).collect()
        };
        for chain in named {
            let name = chain.name();
            report.warning(
                "forward-policy-drop",
                format!(
                    "{} drops what is forwarded, and {} has no plugin firewall",
                    chain.iptables().unwrap_or(&name),
                    list.name
                ),
                "packets of its containers and connections to their published ports are dropped unless a rule lets \
                 them through; the plugin firewall in the list makes such rules",
                Some(chain.accept_all()),
            );
        }
        return Ok(());
    };
    for (entry, packet, chain) in dropped {
        let (what, container) = match packet {
            Packet::FromContainer(address) => ("packets", address),
            Packet::ToPublishedPort(address) => ("connections to published ports", address),
        };
        report.error(
            "forward-policy-drop",
            format!(
                "{what} of {} in network {} ({container}) are dropped: {} drops by policy, and no rule accepts them",
                named(entry),
                list.name,
                chain.name()
            ),
            "the container is cut off from other networks, or its published ports from other machines",
            Some(if is_repaired(patient, entry, firewall, chain) {
                let (network, id) = (quoted(&entry.network), quoted(&entry.params.container_id));
                patient.command(&format!("repair {network} {id}"))
            } else {
                chain.accept(packet)
            }),
        );
    }
    Ok(())
}

/// Whether the plugin firewall of this program makes rules for the chain.
fn is_repaired(
    patient: &Patient<'_>,
    entry: &CacheEntry,
    firewall: &PluginConf,
    chain: &Dropping,
) -> bool {
    let is_ours = rscni::invoke::find_plugin("firewall", &patient.plugin_path)
        .map_or(true, |it| super::plugins::is_this(&it));
    let backend = firewall.get("backend").and_then(serde_json::Value::as_str);
    let makes_rules = if chain.iptables().is_some() {
        backend != Some("nftables")
    } else {
        let uses_iptables = patient.node.inventory.items.iter().any(|holding| {
            holding.item.purpose() == Some(Purpose::FirewallInIptables)
                && holding.by.is(&entry.network, &entry.attachment())
        });
        chain.is_of_firewall() && !uses_iptables
    };
    is_ours && makes_rules
}

/// Whether portmap has made something for the attachment in this family.
fn is_published(patient: &Patient<'_>, entry: &CacheEntry, v4: bool) -> bool {
    patient.node.inventory.items.iter().any(|holding| {
        holding.item.purpose() == Some(Purpose::PublishedPort { v4 })
            && holding.by.is(&entry.network, &entry.attachment())
    })
}

/// The attachments that are there and have an address of the family, by their caches' entries and by their reservations.
fn attached(patient: &Patient<'_>, v4: bool, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let node = &patient.node;
    let has_family = |entry: &&CacheEntry| {
        entry.result.ips.iter().any(|ip| ip.address.addr().is_ipv4() == v4 && ip.gateway.is_some())
    };
    let entries =
        node.listing.entries.iter().filter(|entry| is_wanted(&entry.network) && is_there(entry));
    let mut attached: BTreeSet<_> = entries.filter(has_family).map(named).collect();
    let of_family = addresses(patient).filter(|(address, holding)| {
        address.is_ipv4() == v4
            && holding.by.network().is_some_and(&is_wanted)
            && node.state(holding) == State::InUse
    });
    attached.extend(of_family.map(|(_, holding)| holding.by.to_string()));
    attached
}

/// Rules of iptables see what a bridge passes on itself only with `bridge-nf-call-iptables`. This project's firewall does
/// not depend on it.
fn isolation(patient: &Patient<'_>, report: &mut Report) {
    let isolates = |(_, plugin): (_, &rscni::runtime::PluginConf)| {
        plugin.get("ingressPolicy").is_some_and(|policy| policy == "isolated")
    };
    let is_ours = rscni::invoke::find_plugin("firewall", &patient.plugin_path)
        .map_or(true, |it| super::plugins::is_this(&it));
    let key = "net/bridge/bridge-nf-call-iptables";
    if is_ours
        || !patient.plugins().any(isolates)
        || sysctl::get(key).is_ok_and(|value| value.trim() == "1")
    {
        return;
    }
    let module =
        if Path::new("/proc/sys").join(key).exists() { "" } else { "modprobe br_netfilter && " };
    report.warning(
        "bridge-not-filtered",
        "net.bridge.bridge-nf-call-iptables is not 1, and a network has ingressPolicy isolated by another firewall plugin"
            .to_owned(),
        "containers on the same bridge reach each other: that plugin's rules do not see what a bridge passes on",
        Some(format!("{module}sysctl -w net.bridge.bridge-nf-call-iptables=1")),
    );
}
