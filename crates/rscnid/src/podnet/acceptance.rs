//! Accepts forwarded packets of this node's pods where other rules of the host drop them.
//!
//! To accept a packet in a chain of our own does not help if another chain at the same hook drops
//! it. So the rules are in the chains that drop by policy or with their last rule, of iptables and
//! of others. They come last: whatever other rules drop, such as network policies, stays dropped.
//! Chains of the old kernel tables of iptables (legacy) cannot be changed over netlink.

use std::fs;

use ipnet::IpNet;
use rscni_linux::{
    Family, Result,
    nft::{self, Hook, Nft, Policy, Rule, RuleInfo, Table, Verdict},
};

use super::{
    FAMILIES, Own,
    masquerade::{self, DESTINATION, SOURCE},
};

/// The comments of our rules begin so.
const COMMENT: &str = "rscnid: ";
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
    for (table, chain) in nft.base_chains(Hook::Forward)? {
        let is_own = [masquerade::TABLE, PLUGINS].contains(&&*table.name);
        let nets = nets(own, table.family);
        if is_own || nets.is_empty() {
            continue;
        }
        let rules = nft.rules(&table, &chain.name)?;
        let last = rules.iter().rposition(|rule| !is_one_of_ours(rule));
        let last = last.filter(|last| drops_everything(&rules[*last]));
        let drops = chain.policy == Some(Policy::Drop) || last.is_some();
        let wanted = if drops { wanted(&table, &nets) } else { Vec::new() };
        let ours = || rules.iter().enumerate().filter(|(_, rule)| is_one_of_ours(rule));
        let is_before = |position: usize| last.is_none_or(|last| position < last);
        let is_right = ours().all(|(position, _)| is_before(position))
            && ours()
                .map(|(_, rule)| rule.comment.as_deref())
                .eq(wanted.iter().map(|(comment, _)| Some(&**comment)));
        if is_right {
            continue;
        }
        let mut transaction = nft.transaction();
        for (_, rule) in ours() {
            transaction.destroy_rule(&table, &chain.name, rule.handle);
        }
        let before = last.map(|last| rules[last].handle);
        for (_, rule) in &wanted {
            match before {
                Some(_) => transaction.insert_rule(&table, &chain.name, rule, before),
                None => transaction.add_rule(&table, &chain.name, rule),
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

fn nets(own: &Own, family: nft::Family) -> Vec<IpNet> {
    let is_in = |of: &Family| match family {
        nft::Family::Inet => true,
        nft::Family::Ip => *of == Family::V4,
        nft::Family::Ip6 => *of == Family::V6,
        _ => false,
    };
    FAMILIES.into_iter().filter(is_in).filter_map(|family| *own.pod_cidrs.of(family)).collect()
}

/// Returns the rules with their comments. Everything that this node forwards for pods comes from
/// its own pods or goes to them.
fn wanted(table: &Table, nets: &[IpNet]) -> Vec<(String, Rule)> {
    let mut rules = Vec::new();
    for net in nets {
        let family = Family::of(&net.addr());
        for (what, fields) in [("from", SOURCE), ("to", DESTINATION)] {
            // iptables does not know the match of `inet`.
            let rule = match table.family {
                nft::Family::Inet => Rule::new().family_of(net.addr()),
                _ => Rule::new(),
            };
            let comment = format!("{COMMENT}{what} {net}");
            let rule = rule.in_net(*fields.of(family), *net).counter().accept();
            rules.push((comment.clone(), rule.comment(comment)));
        }
    }
    rules
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
