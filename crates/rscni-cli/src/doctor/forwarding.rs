//! Checks that the host forwards the packets of its containers.

use std::{collections::BTreeSet, path::Path};

use rscni::{
    invoke::find_plugin,
    runtime::{CacheEntry, NetConfList, PluginConf},
};
use rscni_linux::sysctl;
use rscni_plugins::{
    forward_policy::{self, DroppingChain, Packet},
    inventory::Purpose,
};

use super::{Context, Report, as_root, kernel::routes, reservations::addresses};
use crate::{
    network::is_this_program,
    node::{State, full_name, may_exist, plain_kind},
};

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let routing: Vec<_> =
        context.lists().into_iter().filter(|list| list.plugins.iter().any(routes)).collect();
    for (v4, key) in [(true, "net.ipv4.ip_forward"), (false, "net.ipv6.conf.all.forwarding")] {
        let is_routed = |network: &str| routing.iter().any(|list| list.name == network);
        let count = attached(context, v4, is_routed).len();
        // ADD enables forwarding, so something has disabled it since.
        if count > 0 && sysctl::get(&key.replace('.', "/")).is_ok_and(|value| value.trim() == "0") {
            report.error(
                "forwarding-off",
                format!("{key} is 0; attachments whose gateway is this host: {count}"),
                "their packets to other networks are dropped; forwarding was disabled after \
                 they were attached",
                Some(format!("sysctl -w {key}=1")),
            );
        }
    }
    if context.uses("sbr") {
        for key in ["net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"] {
            if sysctl::get(&key.replace('.', "/")).is_ok_and(|value| value.trim() == "1") {
                report.warning(
                    "rp-filter-strict",
                    format!("{key} is 1, and a network uses sbr"),
                    "packets are dropped if the route back leads through another interface",
                    Some(format!("sysctl -w {key}=2")),
                );
            }
        }
    }
    isolation(context, report);
    let outcome = forward_policy::dropping_chains().and_then(|chains| {
        routing.iter().try_for_each(|list| reach(context, list, &chains, report))
    });
    if let Err(why) = outcome {
        report.unknown(
            "forward-policy-unknown",
            format!("the policy of FORWARD cannot be read: {why}"),
            "if it is DROP, packets of containers are dropped unless a rule accepts them",
            format!("{} && {}", as_root("iptables -S FORWARD"), as_root("ip6tables -S FORWARD")),
        );
    }
}

/// Checks that chains with policy drop accept the packets of a network's containers, and
/// connections to their published ports.
fn reach(
    context: &Context<'_>,
    list: &NetConfList,
    chains: &[DroppingChain],
    report: &mut Report,
) -> Result<(), String> {
    let firewall =
        list.plugins.iter().find(|plugin| plain_kind(plugin.plugin_type()) == "firewall");
    let entries = context.node.listing.entries.iter();
    let entries: Vec<_> =
        entries.filter(|entry| entry.network == list.name && may_exist(entry)).collect();
    let mut dropped = Vec::new();
    for entry in &entries {
        for address in entry.result.ips.iter().map(|ip| ip.address.addr()) {
            let published = is_published(context, entry, address.is_ipv4());
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
        let is_dropping = |chain: &&DroppingChain| {
            entries.is_empty() || dropped.iter().any(|(.., by)| by == chain)
        };
        for chain in chains.iter().filter(is_dropping) {
            let name = chain.name();
            report.warning(
                "forward-policy-drop",
                format!(
                    "{} drops forwarded packets, and network {} does not use the firewall plugin",
                    chain.iptables_program().unwrap_or(&name),
                    list.name
                ),
                "packets of its containers and connections to their published ports are dropped \
                 unless a rule accepts them; the firewall plugin adds such rules",
                Some(chain.accept_all_command()),
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
                "{what} of {} in network {} ({container}) are dropped: {} has policy drop, \
                 and no rule accepts them",
                full_name(entry),
                list.name,
                chain.name()
            ),
            "the container cannot reach other networks, or its published ports cannot be reached",
            Some(if is_repaired(context, entry, firewall, chain) {
                context.repair(entry)
            } else {
                chain.accept_command(packet)
            }),
        );
    }
    Ok(())
}

/// Whether `rscni repair` adds rules to the chain, by the firewall plugin of this program.
fn is_repaired(
    context: &Context<'_>,
    entry: &CacheEntry,
    firewall: &PluginConf,
    chain: &DroppingChain,
) -> bool {
    let backend = firewall.get("backend").and_then(serde_json::Value::as_str);
    let makes_rules = if chain.iptables_program().is_some() {
        backend != Some("nftables")
    } else {
        let uses_iptables = context.node.inventory.items.iter().any(|holding| {
            holding.item.purpose() == Some(Purpose::FirewallInIptables)
                && holding.by.is(&entry.network, &entry.attachment())
        });
        chain.is_of_firewall() && !uses_iptables
    };
    is_own_firewall(context) && makes_rules
}

/// Whether the firewall plugin that runtimes execute is that of this program.
fn is_own_firewall(context: &Context<'_>) -> bool {
    find_plugin("firewall", &context.plugin_path).map_or(true, |it| is_this_program(&it))
}

/// Whether the attachment has port mappings of this family.
fn is_published(context: &Context<'_>, entry: &CacheEntry, v4: bool) -> bool {
    context.node.inventory.items.iter().any(|holding| {
        holding.item.purpose() == Some(Purpose::PublishedPort { v4 })
            && holding.by.is(&entry.network, &entry.attachment())
    })
}

/// Returns the running attachments with an address of the family, by cache entry or reservation.
fn attached(context: &Context<'_>, v4: bool, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let node = &context.node;
    let has_family = |entry: &&CacheEntry| {
        entry.result.ips.iter().any(|ip| ip.address.addr().is_ipv4() == v4 && ip.gateway.is_some())
    };
    let entries =
        node.listing.entries.iter().filter(|entry| is_wanted(&entry.network) && may_exist(entry));
    let mut attached: BTreeSet<_> = entries.filter(has_family).map(full_name).collect();
    let of_family = addresses(context).filter(|(address, holding)| {
        address.is_ipv4() == v4
            && holding.by.network().is_some_and(&is_wanted)
            && node.state(holding) == State::InUse
    });
    attached.extend(of_family.map(|(_, holding)| holding.by.to_string()));
    attached
}

/// Checks that iptables sees bridged packets, for `ingressPolicy: isolated` of another firewall
/// plugin.
///
/// The firewall plugin of this program does not depend on `bridge-nf-call-iptables`.
fn isolation(context: &Context<'_>, report: &mut Report) {
    let isolates = |(_, plugin): (_, &PluginConf)| {
        plugin.get("ingressPolicy").is_some_and(|policy| policy == "isolated")
    };
    let key = "net/bridge/bridge-nf-call-iptables";
    if is_own_firewall(context)
        || !context.plugins().any(isolates)
        || sysctl::get(key).is_ok_and(|value| value.trim() == "1")
    {
        return;
    }
    let module =
        if Path::new("/proc/sys").join(key).exists() { "" } else { "modprobe br_netfilter && " };
    report.warning(
        "bridge-not-filtered",
        "net.bridge.bridge-nf-call-iptables is not 1, and a network has ingressPolicy isolated by \
         another firewall plugin"
            .to_owned(),
        "containers on the same bridge reach each other: that plugin's rules do not see bridged \
         packets",
        Some(format!("{module}sysctl -w net.bridge.bridge-nf-call-iptables=1")),
    );
}
