//! CHECK of host ports that are elements ([`elements`](super::elements)).

use crate::plugin::Call;
use ipnet::IpNet;
use rscni_linux::nft::{Data, Element, ElementInfo, Nft};

use super::{
    config::Config,
    elements::{Entry, entries, groups, parts, target},
    localnet,
    names::{self, ENTRIES, LOCALNET, Part, leads_to, loopback, masquerade_chain, table},
    standby::{self, is_sibling},
};
use crate::plugin::error::{Result, differs};

/// CHECK: all elements are there and lead to the container, and so are the rules that look them up. A mapping may wait
/// for a port that another attachment of the container has.
pub(super) fn check(nft: &mut Nft, call: &Call<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let owner = call.owner();
    let (table, tag) = (table(), owner.tag());
    let entries = entries(config, owner, nets);
    for entry in &entries {
        let (mapping, (map, forward)) = (entry.mapping, &entry.forward);
        let to = format!("{}, port {}", entry.target, mapping.container_port);
        let wrong = |what: &str| differs(format!("{mapping} does not lead to {to}: {what}"));
        let mut found = nft.get_element(&table, map, &forward.key)?;
        let holder = found.as_ref().and_then(|found| found.comment.clone()).unwrap_or_default();
        let waits = found.is_some() && holder != tag && is_sibling(&holder, call);
        if waits {
            let waiting = standby::element(forward, &tag);
            found = nft.get_element(&table, &names::standby(map), &waiting.key)?;
        }
        match found {
            None if waits => {
                return Err(wrong(&format!("\"{holder}\" has it, and it does not wait for that")));
            }
            None => return Err(wrong(&format!("it is missing in {map}"))),
            Some(found) if found.comment.as_deref() != Some(&tag) => {
                return Err(wrong(&format!("\"{holder}\" has it")));
            }
            Some(found) if !same_data(&found, forward) => {
                let other = target(&found).map(|ip| ip.to_string()).unwrap_or_default();
                return Err(wrong(&format!("another port or address ({other}) has it")));
            }
            Some(_) => {}
        }
        let nets = entry.sources.iter().map(|(net, ..)| net);
        for (net, (set, source)) in nets.zip(entry.elements(waits, &tag).skip(1)) {
            let found = nft.get_element(&table, &set, &source.key)?;
            if *net == loopback(false) {
                // An older version did not make it.
                if found.is_some() && !waits {
                    check_localhost_v6(nft, entry, &set)?;
                }
            } else if found.is_none() {
                let what =
                    format!("{mapping} is not masqueraded for {net}: it is missing in {set}");
                return Err(differs(what));
            }
        }
    }
    check_rules(nft, config, &entries)
}

/// `::1` leads to the mapping by rules of its own, and the answers come back.
fn check_localhost_v6(nft: &mut Nft, entry: &Entry<'_>, set: &str) -> Result<()> {
    let specific = entry.mapping.address().is_some();
    for chain in [ENTRIES[1].to_owned(), entry.group.chain(specific)] {
        if !nft.rules(&table(), &chain)?.iter().any(|rule| rule.looks_up(set)) {
            return Err(differs(format!(
                "host ports: the rule of {chain} that looks up {set} is missing"
            )));
        }
    }
    localnet::check_v6(&[entry.target])
}

pub(super) fn check_rules(nft: &mut Nft, config: &Config, entries: &[Entry<'_>]) -> Result<()> {
    let table = table();
    let leads = |nft: &mut Nft, from: &str, to: &str| -> Result<()> {
        if nft.rules(&table, from)?.iter().any(|rule| leads_to(rule, to)) {
            return Ok(());
        }
        Err(differs(format!("host ports: the rule of {from} that leads to {to} is missing")))
    };
    for group in groups(entries) {
        let chain = group.chain(true);
        for from in ENTRIES {
            leads(nft, from, &chain)?;
        }
        leads(nft, &chain, &group.chain(false))?;
        for specific in [true, false] {
            let chain = group.chain(specific);
            let rules = nft.rules(&table, &chain)?;
            let of_chain = entries
                .iter()
                .filter(|e| e.group == *group && e.mapping.address().is_some() == specific);
            for set in of_chain.flat_map(|e| {
                let sources = e.sources.iter().filter(|(net, ..)| *net != loopback(false));
                sources.map(|(_, set, _)| set).chain([&e.forward.0])
            }) {
                if !rules.iter().any(|rule| rule.looks_up(set)) {
                    return Err(differs(format!(
                        "host ports: the rule of {chain} that looks up {set} is missing"
                    )));
                }
            }
        }
    }
    for part in parts(config, entries) {
        let chain = match part {
            Part::Masquerade(bit) => masquerade_chain(bit),
            Part::Localnet => LOCALNET.to_owned(),
            Part::Maps(_) | Part::Sources(..) | Part::Standby(..) => continue,
        };
        if nft.rules(&table, &chain)?.is_empty() {
            return Err(differs(format!("host ports: the rule of {chain} is missing")));
        }
    }
    Ok(())
}

/// Whether both lead to the same address and port.
fn same_data(found: &ElementInfo, wanted: &Element) -> bool {
    matches!((&found.data, &wanted.data), (Some(Data::Value(a)), Some(Data::Value(b))) if a.as_bytes() == b.as_bytes())
}
