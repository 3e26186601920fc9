//! Whether the host passes on the packets of its containers.

use std::{collections::BTreeSet, path::Path};

use rscni::runtime::CacheEntry;
use rscni_linux::sysctl;
use rscni_plugins::holdings;

use super::{Patient, Report, as_root, kernel::routes, reservations::addresses};
use crate::node::{State, is_there, named};

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
    match holdings::drops_forwarded() {
        Err(why) => report.unknown(
            "forward-policy-unknown",
            format!("the policy of FORWARD is not known: {why}"),
            "if it is DROP, packets of containers are dropped unless a rule lets them through",
            format!("{} && {}", as_root("iptables -S FORWARD"), as_root("ip6tables -S FORWARD")),
        ),
        Ok(programs) => {
            let unprotected = routing
                .iter()
                .filter(|list| !list.plugins.iter().any(|p| p.plugin_type() == "firewall"));
            let names: Vec<_> = unprotected.map(|list| &*list.name).collect();
            for program in programs.into_iter().filter(|_| !names.is_empty()) {
                report.warning(
                    "forward-policy-drop",
                    format!("{program} drops what is forwarded, and {} has no plugin firewall", names.join(", ")),
                    "packets of these containers are dropped unless a rule lets them through; the plugin firewall in the \
                     list makes such rules",
                    Some(format!("{program} -P FORWARD ACCEPT")),
                );
            }
        }
    }
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
