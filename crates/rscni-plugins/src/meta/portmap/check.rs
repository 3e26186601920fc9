//! CHECK of host ports in nftables.

use ipnet::IpNet;
use rscni_linux::nft::{Data, Element, ElementInfo, Nft};

use super::{
    config::Config,
    entry::{Entry, entries, groups, parts, target},
    localnet,
    names::{self, ENTRIES, LOCALNET, loopback, masquerade_chain, table},
    skeleton::{Part, leads_to},
    standby::{self, is_sibling},
};
use crate::{
    netfilter::nftable::has_tag,
    plugin::{Call, Result, differs},
};

/// Checks that all elements exist and lead to the container, and that rules look them up. A mapping
/// may wait for a port that another attachment of the container has.
pub(super) fn check(nft: &mut Nft, call: &Call<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let owner = call.owner();
    let (table, tag) = (table(), owner.tag());
    let entries = entries(config, owner, nets);
    for entry in &entries {
        let (mapping, (map, forward)) = (entry.mapping, &entry.forward);
        let mut found = nft.get_element(&table, map, &forward.key)?;
        let holder = found.as_ref().and_then(|found| found.comment.clone()).unwrap_or_default();
        let waits = found.is_some() && holder != tag && is_sibling(&holder, call);
        if waits {
            let waiting = standby::element(forward, &tag);
            found = nft.get_element(&table, &names::standby(map), &waiting.key)?;
        }
        let problem = match found {
            None if waits => Some(format!("\"{holder}\" has it, and it does not wait for that")),
            None => Some(format!("it is missing in {map}")),
            Some(found) if !has_tag(&found, &tag) => Some(format!("\"{holder}\" has it")),
            Some(found) if !has_data(&found, forward) => {
                let other = target(&found).map(|ip| ip.to_string()).unwrap_or_default();
                Some(format!("another port or address ({other}) has it"))
            }
            Some(_) => None,
        };
        if let Some(problem) = problem {
            let to = format!("{}, port {}", entry.target, mapping.container_port);
            return Err(differs(format!("{mapping} does not lead to {to}: {problem}")));
        }
        let nets = entry.sources.iter().map(|(net, ..)| net);
        for (net, (set, source)) in nets.zip(entry.elements(waits, &tag).skip(1)) {
            let found = nft.get_element(&table, &set, &source.key)?;
            if *net == loopback(false) {
                // Older versions did not add this element.
                if found.is_some() && !waits {
                    check_localhost_v6(nft, entry, &set)?;
                }
            } else if found.is_none() {
                return Err(differs(format!(
                    "{mapping} is not masqueraded for {net}: it is missing in {set}"
                )));
            }
        }
    }
    check_rules(nft, config, &entries)
}

/// Checks that `::1` leads to the mapping by its own rules, and that the answers return.
fn check_localhost_v6(nft: &mut Nft, entry: &Entry<'_>, set: &str) -> Result<()> {
    let specific = entry.mapping.address().is_some();
    for chain in [ENTRIES[1], &entry.group.chain(specific)] {
        check_lookups(nft, chain, &[set])?;
    }
    localnet::check_v6(entry.target)
}

/// Checks that the rules of a chain look up these sets.
fn check_lookups(nft: &mut Nft, chain: &str, sets: &[&str]) -> Result<()> {
    let rules = nft.rules(&table(), chain)?;
    match sets.iter().find(|set| !rules.iter().any(|rule| rule.looks_up(set))) {
        None => Ok(()),
        Some(set) => {
            Err(differs(format!("host ports: the rule of {chain} that looks up {set} is missing")))
        }
    }
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
            let of_chain = entries
                .iter()
                .filter(|e| e.group == *group && e.mapping.address().is_some() == specific);
            let sets = of_chain.flat_map(|e| {
                let sources = e.sources.iter().filter(|(net, ..)| *net != loopback(false));
                sources.map(|(_, set, _)| set.as_str()).chain([e.forward.0.as_str()])
            });
            check_lookups(nft, &group.chain(specific), &sets.collect::<Vec<_>>())?;
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

/// Whether both elements lead to the same address and port.
fn has_data(found: &ElementInfo, wanted: &Element) -> bool {
    match (&found.data, &wanted.data) {
        (Some(Data::Value(a)), Some(Data::Value(b))) => a.as_bytes() == b.as_bytes(),
        _ => false,
    }
}
