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
    nft::{
        self, BaseChain, CtState, Field, Hook, Nft, Policy, Rule, RuleInfo, Table, Transaction,
        Verdict,
    },
};

use super::{
    FAMILIES, Own,
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

/// A chain of another program at the hook.
struct Chain {
    table: Table,
    name: String,
    rules: Vec<RuleInfo>,
    /// The position of its last rule, if that drops everything.
    last: Option<usize>,
    drops: bool,
}

/// Adds the missing rules to all chains that drop, and removes outdated ones.
pub(super) fn accept(nft: &mut Nft, own: &Own) -> Result<Accepted> {
    let chains = chains(nft, own)?;
    let is_needed = chains.iter().any(|chain| chain.drops);
    if is_needed {
        // Before any rule depends on the mark.
        mark(nft, own)?;
    }
    let mut accepted = Accepted::default();
    for chain in chains.iter().filter(|chain| !chain.is_right()) {
        match chain.mend(nft) {
            Ok(()) => accepted.changed += 1,
            Err(error) => accepted.failures.push(format!(
                "chain {} of nftables table {} drops packets of pods, and cannot be changed: \
                 {error}",
                chain.name, chain.table
            )),
        }
    }
    if !is_needed {
        let mut transaction = nft.transaction();
        remove_marks(&mut transaction);
        transaction.commit()?;
    }
    Ok(accepted)
}

/// Returns the chains that packets of pods may pass.
fn chains(nft: &mut Nft, own: &Own) -> Result<Vec<Chain>> {
    let [v4, v6] = FAMILIES.map(|family| own.pod_cidrs.of(family).is_some());
    let mut chains = Vec::new();
    for (table, chain) in nft.base_chains(Hook::Forward)? {
        let has_pods = match table.family {
            nft::Family::Inet => v4 || v6,
            nft::Family::Ip => v4,
            nft::Family::Ip6 => v6,
            _ => false,
        };
        if !has_pods || [masquerade::TABLE, PLUGINS].contains(&&*table.name) {
            continue;
        }
        let rules = nft.rules(&table, &chain.name)?;
        let last = rules.iter().rposition(|rule| !is_one_of_ours(rule));
        let last = last.filter(|last| drops_everything(&rules[*last]));
        let drops = chain.policy == Some(Policy::Drop) || last.is_some();
        chains.push(Chain { table, name: chain.name, rules, last, drops });
    }
    Ok(chains)
}

impl Chain {
    /// The rules that are ours, with their positions.
    fn ours(&self) -> impl Iterator<Item = (usize, &RuleInfo)> {
        self.rules.iter().enumerate().filter(|(_, rule)| is_one_of_ours(rule))
    }

    fn is_right(&self) -> bool {
        let is_before = |position: usize| self.last.is_none_or(|last| position < last);
        let comments = self.ours().map(|(_, rule)| rule.comment.as_deref());
        self.ours().all(|(position, _)| is_before(position))
            && comments.eq(self.drops.then_some(Some(ACCEPTED)))
    }

    fn mend(&self, nft: &mut Nft) -> Result<()> {
        let mut transaction = nft.transaction();
        for (_, rule) in self.ours() {
            transaction.destroy_rule(&self.table, &self.name, rule.handle);
        }
        if self.drops {
            let rule = Rule::new().masked(Field::Mark, MARK, MARK).counter().accept();
            let rule = rule.comment(ACCEPTED);
            match self.last.map(|last| self.rules[last].handle) {
                Some(before) => {
                    transaction.insert_rule(&self.table, &self.name, &rule, Some(before))
                }
                None => transaction.add_rule(&self.table, &self.name, &rule),
            };
        }
        transaction.commit()
    }
}

/// Whether this namespace uses the old kernel tables of iptables, which may drop packets of pods.
pub(super) fn has_legacy_tables() -> bool {
    ["ip_tables_names", "ip6_tables_names"].into_iter().any(|list| {
        // Of this thread, which may be in another namespace than the process.
        let names = fs::read_to_string(format!("/proc/thread-self/net/{list}"));
        names.unwrap_or_default().lines().any(|name| name == "filter")
    })
}

fn remove_marks(transaction: &mut Transaction<'_>) {
    let table = masquerade::table();
    transaction.destroy_chain(&table, MARKING).destroy_chain(&table, CLEANING);
}

/// Replaces the chains that mark packets.
fn mark(nft: &mut Nft, own: &Own) -> Result<()> {
    let table = masquerade::table();
    let mut transaction = nft.transaction();
    remove_marks(&mut transaction);
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
