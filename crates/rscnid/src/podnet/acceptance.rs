//! Accepts forwarded packets of pods where other rules of the host drop them.
//!
//! To accept a packet in a chain of our own does not help if another chain at the same hook drops
//! it. So there is a rule in each chain that drops by policy or with its last rule, of iptables and
//! of others. It comes last: whatever other rules drop, such as network policies, stays dropped.
//! Chains of the old kernel tables of iptables (legacy) cannot be changed over netlink.
//!
//! These rules cannot use our sets, and iptables refuses to list what it does not know. They accept
//! a mark, which a chain of ours has set before and another removes after the hook.

use std::fs;

use rscni_linux::{
    Result,
    nft::{BaseChain, CtState, Field, Hook, Nft, Policy, Rule, RuleInfo, Verdict},
};

use super::{
    Both, FAMILIES, Own,
    masquerade::{self, DESTINATION, PODS, SOURCE},
};

/// The bit of the packet mark that accepts a packet. Kubernetes uses 0x4000 and 0x8000, the plugin
/// portmap 0x2000.
const MARK: u32 = 0x1000;
/// The chains that set and remove it.
const MARKING: &str = "mark_forwarded";
const CLEANING: &str = "unmark_forwarded";
/// Before all other chains at the hook (`raw`).
const FIRST: i32 = -300;
/// The comments of our rules begin so.
const COMMENT: &str = "rscnid: ";
/// The comment of the rule in other chains.
const ACCEPTED: &str = "rscnid: pods";
/// The table of the plugins. Its chain `forward` drops by rules that are configured.
const PLUGINS: &str = "rscni";

/// The outcome.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    /// Chains that were changed.
    pub(super) changed: usize,
    /// Chains that drop and could not be changed, as messages.
    pub(super) failures: Vec<String>,
}

/// Whether a comment is that of one of our rules.
pub(super) fn is_ours(comment: &str) -> bool {
    comment.starts_with(COMMENT)
}

/// Adds the missing rules to all chains that drop, and removes outdated ones.
pub(super) fn accept(nft: &mut Nft, own: &Own) -> Result<Accepted> {
    let mut accepted = Accepted::default();
    if own.pod_cidrs == Both::default() {
        return Ok(accepted);
    }
    let mut any_drops = false;
    for (table, chain) in nft.base_chains(Hook::Forward)? {
        if [masquerade::TABLE, PLUGINS].contains(&&*table.name) {
            continue;
        }
        let rules = nft.rules(&table, &chain.name)?;
        let last = rules.iter().rposition(|rule| !is_one_of_ours(rule));
        let last = last.filter(|last| drops_everything(&rules[*last]));
        let drops = chain.policy == Some(Policy::Drop) || last.is_some();
        any_drops |= drops;
        let ours = || rules.iter().enumerate().filter(|(_, rule)| is_one_of_ours(rule));
        let is_before = |position: usize| last.is_none_or(|last| position < last);
        let is_right = ours().all(|(position, _)| is_before(position))
            && ours().map(|(_, rule)| rule.comment.as_deref()).eq(drops.then_some(Some(ACCEPTED)));
        if is_right {
            continue;
        }
        let mut transaction = nft.transaction();
        for (_, rule) in ours() {
            transaction.destroy_rule(&table, &chain.name, rule.handle);
        }
        let before = last.map(|last| rules[last].handle);
        if drops {
            let rule = Rule::new().masked(Field::Mark, MARK, MARK).counter().accept();
            let rule = rule.comment(ACCEPTED);
            match before {
                Some(_) => transaction.insert_rule(&table, &chain.name, &rule, before),
                None => transaction.add_rule(&table, &chain.name, &rule),
            };
        }
        match transaction.commit() {
            Ok(()) => accepted.changed += 1,
            Err(error) => accepted.failures.push(format!(
                "chain {} of nftables table {table} drops packets of pods, and cannot be changed: \
                 {error}",
                chain.name
            )),
        }
    }
    mark(nft, own, any_drops)?;
    Ok(accepted)
}

/// Whether this namespace uses the old kernel tables of iptables, which may drop packets of pods.
pub(super) fn has_legacy_tables() -> bool {
    ["ip_tables_names", "ip6_tables_names"].into_iter().any(|list| {
        // Of this thread, which may be in another namespace than the process.
        let names = fs::read_to_string(format!("/proc/thread-self/net/{list}"));
        names.unwrap_or_default().lines().any(|name| name == "filter")
    })
}

/// Replaces the chains that mark packets, or removes them.
fn mark(nft: &mut Nft, own: &Own, is_needed: bool) -> Result<()> {
    let table = masquerade::table();
    let mut transaction = nft.transaction();
    transaction.destroy_chain(&table, MARKING).destroy_chain(&table, CLEANING);
    if !is_needed {
        return transaction.commit();
    }
    transaction.add_chain(&table, MARKING, Some(&BaseChain::filter(Hook::Forward, FIRST)));
    for family in FAMILIES {
        let Some(net) = *own.pod_cidrs.of(family) else { continue };
        let (source, destination) = (*SOURCE.of(family), *DESTINATION.of(family));
        let pods = *PODS.of(family);
        let rule = || Rule::new().family_of(net.addr());
        let answer = CtState::ESTABLISHED | CtState::RELATED;
        for rule in [
            rule().in_net(source, net),
            // Pods of other nodes too: this node forwards packets to its node ports.
            rule().in_set(&[destination], pods),
            rule().in_set(&[source], pods).ct_state(answer),
        ] {
            transaction.add_rule(&table, MARKING, &rule.set_mark(MARK, MARK).accept());
        }
    }
    let unmark = Rule::new().masked(Field::Mark, MARK, MARK).set_mark(MARK, 0);
    transaction
        .add_chain(&table, CLEANING, Some(&BaseChain::filter(Hook::Postrouting, FIRST)))
        .add_rule(&table, CLEANING, &unmark);
    transaction.commit()
}

fn is_one_of_ours(rule: &RuleInfo) -> bool {
    rule.comment.as_deref().is_some_and(is_ours)
}

/// Whether a rule has no condition and drops or rejects.
fn drops_everything(rule: &RuleInfo) -> bool {
    /// `NFTA_TARGET_NAME`
    const NAME: u16 = 1;
    let mut drops = false;
    for expression in &rule.expressions {
        match &*expression.name {
            "counter" | "log" => {}
            "immediate" if rule.verdict == Some(Verdict::Drop) => drops = true,
            "reject" => drops = true,
            // A target of iptables.
            "target" if expression.text(&[NAME]).as_deref() == Some("REJECT") => drops = true,
            _ => return false,
        }
    }
    drops
}
