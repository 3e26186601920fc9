//! The backend iptables: the rules of the Go plugin in the table `filter`, so that each plugin
//! finds the rules of the other.
//!
//! ```text
//! -A FORWARD -j CNI-ISOLATION-STAGE-1             only with an ingressPolicy
//! -A FORWARD -j CNI-FORWARD
//! -A CNI-FORWARD -j CNI-ADMIN
//! -A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
//! -A CNI-FORWARD -d 10.1.0.5/32 -m conntrack --ctstate DNAT -j ACCEPT
//! -A CNI-FORWARD -s 10.1.0.5/32 -j ACCEPT
//! -A CNI-ISOLATION-STAGE-1 -m conntrack --ctstate DNAT -j RETURN
//! -A CNI-ISOLATION-STAGE-2 -m conntrack --ctstate DNAT -j RETURN
//! ```
//!
//! The Go plugin has no rules with `DNAT`. They accept connections to published ports, which the
//! policy of `FORWARD` or the ingressPolicy of another bridge would drop. Both chains of the
//! policies need one: the Go plugin inserts its rules before them, and packets that these send to
//! the second chain return from there.
//!
//! One `iptables-restore` per family adds the missing rules, under a lock. The Go plugin ignores
//! that lock. Shared chains are created with `-N`, so if the Go plugin is faster, the restore fails
//! as a whole and is retried.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::nft::Nft;

use super::{config::Policy, ingress::HostInterface};
use crate::{
    netfilter::{IpTable, SavedRule, SavedTable, iptables, iptables_save::comment},
    plugin::{Result, best_effort, differs},
};

const FILTER: [IpTable; 2] = IpTable::of_both_families("filter");

const FORWARD: &str = "FORWARD";
const CNI_FORWARD: &str = "CNI-FORWARD";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";

/// The operator's chain, unless the configuration names another.
pub(super) const ADMIN: &str = "CNI-ADMIN";

const ADMIN_COMMENT: &str = "CNI firewall plugin admin overrides";
const FORWARD_COMMENT: &str = "CNI firewall plugin rules";
const POLICY_COMMENT: &str = "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)";

/// How often to retry when another program changes the same chains.
const ATTEMPTS: usize = 4;

/// The rules that an attachment needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantedRules<'a> {
    /// Addresses to accept and the operator's chain before that, if iptables is the backend.
    pub(super) accepted: Option<(&'a [IpAddr], &'a str)>,
    pub(super) policy: Option<(Policy, HostInterface<'a>)>,
    /// The addresses of the attachment. Rules are made for their families.
    pub(super) addresses: &'a [IpAddr],
    /// Whether CHECK requires the rules that the Go plugin and earlier releases do not have.
    pub(super) is_strict: bool,
}

/// A rule, and how it is added.
struct Rule {
    /// The line of `iptables-save` without the comment.
    line: String,
    chain: &'static str,
    comment: Option<String>,
    /// Whether the rule is inserted, not appended.
    is_first: bool,
    /// Whether the Go plugin and earlier releases do not have it.
    is_own: bool,
}

impl Rule {
    fn new(chain: &'static str, rule: &str) -> Self {
        let line = format!("-A {chain} {rule}");
        Self { line, chain, comment: None, is_first: false, is_own: false }
    }

    fn own(self) -> Self {
        Self { is_own: true, ..self }
    }

    fn comment(self, text: impl Into<String>) -> Self {
        Self { comment: Some(text.into()), ..self }
    }

    fn first(self) -> Self {
        Self { is_first: true, ..self }
    }

    /// Returns the line for `iptables-restore`. `position` is where first rules are inserted.
    fn addition(&self, position: usize) -> String {
        let chain = self.chain;
        let rule = &self.line["-A ".len() + chain.len()..];
        let comment = self.comment.as_ref().map(|text| format!(" {}", comment(text)));
        let rule = comment.unwrap_or_default() + rule;
        if self.is_first {
            format!("-I {chain} {position}{rule}")
        } else {
            format!("-A {chain}{rule}")
        }
    }
}

fn rules_of(address: IpAddr) -> [Rule; 3] {
    let address = IpNet::from(address);
    let answer = "-m conntrack --ctstate RELATED,ESTABLISHED";
    [
        Rule::new(CNI_FORWARD, &format!("-d {address} {answer} -j ACCEPT")),
        Rule::new(CNI_FORWARD, &format!("-d {address} {DNATED} -j ACCEPT")).own(),
        Rule::new(CNI_FORWARD, &format!("-s {address} -j ACCEPT")),
    ]
}

/// Returns the rules for the interface of a policy, without those at the end of the chains.
fn rules_of_policy(policy: Policy, interface: HostInterface<'_>) -> Vec<Rule> {
    let (name, is_isolated) = (interface.name(), policy == Policy::Isolated);
    let policy = if is_isolated { "isolated" } else { "same-bridge" };
    let with_name = format!("CNI firewall plugin rules (ingressPolicy: {policy})");
    let out = format!("-i {name} ! -o {name} -j {STAGE_2}");
    let mut rules = vec![Rule::new(STAGE_1, &out).comment(&with_name).first()];
    if is_isolated && matches!(interface, HostInterface::Bridge(_)) {
        let within = format!("-i {name} -o {name} -j DROP");
        rules.push(Rule::new(STAGE_1, &within).comment(with_name).first());
    }
    let into = format!("-o {name} -j DROP");
    rules.push(Rule::new(STAGE_2, &into).comment(POLICY_COMMENT).first());
    rules
}

/// The match for packets of connections to published ports.
const DNATED: &str = "-m conntrack --ctstate DNAT";

/// Returns the line by which such packets leave a chain of the policies.
fn dnat_return(chain: &str) -> String {
    format!("-A {chain} {DNATED} -j RETURN")
}

fn jump_to(chain: &str, comment: &str) -> Rule {
    Rule::new(FORWARD, &format!("-j {chain}")).comment(comment).first()
}

impl WantedRules<'_> {
    /// Returns the tables of the families with wanted rules.
    fn tables(&self) -> impl Iterator<Item = IpTable> {
        let has_rules = self.accepted.is_some() || self.policy.is_some();
        tables_for(self.addresses).filter(move |_| has_rules)
    }

    fn chains(&self) -> Vec<&str> {
        let accepted = self.accepted.into_iter().flat_map(|(_, admin)| [CNI_FORWARD, admin]);
        accepted.chain(self.policy.into_iter().flat_map(|_| [STAGE_1, STAGE_2])).collect()
    }

    /// Returns the rules in the order in which they are added.
    fn rules(&self, table: IpTable) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some((addresses, admin)) = self.accepted {
            rules.push(jump_to(CNI_FORWARD, FORWARD_COMMENT));
            let to_admin = Rule::new(CNI_FORWARD, &format!("-j {admin}"));
            rules.push(to_admin.comment(ADMIN_COMMENT).first());
            rules.extend(rules_in(table, addresses));
        }
        if let Some((policy, interface)) = self.policy {
            rules.push(jump_to(STAGE_1, POLICY_COMMENT));
            rules.extend(rules_of_policy(policy, interface));
            for chain in [STAGE_1, STAGE_2] {
                rules.push(Rule::new(chain, "-j RETURN").comment(POLICY_COMMENT));
                // The rule that is inserted last is the first of its chain.
                let dnated = Rule::new(chain, &format!("{DNATED} -j RETURN"));
                rules.push(dnated.comment(POLICY_COMMENT).first().own());
            }
        }
        rules
    }

    /// Reads the chains from nftables.
    fn saved(&self, nft: &mut Nft, table: IpTable) -> Result<SavedTable> {
        let chains = [&[FORWARD], &self.chains()[..]].concat();
        table.saved(nft, &chains, &chains)
    }

    /// Adds the missing rules.
    pub(super) fn add(&self, nft: &mut Nft) -> Result<()> {
        let tables: Vec<IpTable> = self.tables().collect();
        let _lock = if tables.is_empty() { None } else { Some(iptables::lock()?) };
        for table in tables {
            // The tools of iptables use one of the two kinds of tables, and do not report which.
            let mut in_nftables = table.legacy().is_none() || table.has_chain(nft, FORWARD)?;
            for attempt in 1..=ATTEMPTS {
                let saved = match table.legacy().filter(|_| !in_nftables) {
                    Some(legacy) => legacy.saved()?,
                    None => self.saved(nft, table)?,
                };
                let lines = self.missing_lines(table, &saved);
                match if lines.is_empty() { Ok(()) } else { table.restore(lines) } {
                    Ok(()) => break,
                    Err(error) if attempt == ATTEMPTS => return Err(error),
                    Err(_) => in_nftables = !in_nftables,
                }
            }
        }
        Ok(())
    }

    fn missing_lines(&self, table: IpTable, saved: &SavedTable) -> Vec<String> {
        let chains = self.chains().into_iter().filter(|chain| !saved.has_chain(chain));
        let mut lines: Vec<String> = chains.map(|chain| format!("-N {chain}")).collect();
        for rule in self.rules(table) {
            if is_late(saved, &rule) {
                lines.push(rule.addition(1));
            } else if position(saved, rule.chain, &rule.line).is_none() {
                // After the rule that must stay before it.
                let before = match rule.chain {
                    FORWARD if rule.line == jump(STAGE_1) => None,
                    FORWARD => Some(jump(STAGE_1)),
                    STAGE_1 | STAGE_2 => Some(dnat_return(rule.chain)),
                    _ => None,
                };
                let before = before.and_then(|line| position(saved, rule.chain, &line));
                lines.push(rule.addition(before.map_or(1, |position| position + 1)));
            }
        }
        lines
    }

    /// CHECK: all rules exist, in the necessary order.
    pub(super) fn check(&self, nft: &mut Nft) -> Result<()> {
        for table in self.tables() {
            let mut missing = self.missing(table, &self.saved(nft, table)?);
            if let (Some(_), Some(legacy)) = (&missing, table.legacy()) {
                missing = self.missing(table, &legacy.saved()?);
            }
            if let Some(what) = missing {
                return Err(differs(format!("{}: {what}", table.program())));
            }
        }
        Ok(())
    }

    fn missing(&self, table: IpTable, saved: &SavedTable) -> Option<String> {
        let mut rules = self.rules(table);
        rules.retain(|rule| self.is_strict || !rule.is_own);
        let is_missing = |rule: &&Rule| position(saved, rule.chain, &rule.line).is_none();
        if let Some(rule) = rules.iter().find(is_missing) {
            return Some(format!("the rule `{}` is missing", rule.line));
        }
        rules.iter().find(|rule| is_late(saved, rule)).map(|rule| {
            let other = if rule.chain == FORWARD { CNI_FORWARD } else { "the policies" };
            format!("the rule `{}` is behind that of {other}", rule.line)
        })
    }
}

/// Returns the line of a jump from `FORWARD`.
fn jump(chain: &str) -> String {
    format!("-A {FORWARD} -j {chain}")
}

/// Returns the position of a rule in its chain, from 1.
fn position(saved: &SavedTable, chain: &str, line: &str) -> Option<usize> {
    saved.rules_of(chain).position(|rule| rule.line == line).map(|index| index + 1)
}

/// Whether a rule is behind one that makes it useless: the jump to the policies behind the jump
/// that accepts packets, or the return of published connections behind a policy.
fn is_late(saved: &SavedTable, rule: &Rule) -> bool {
    let limit = if rule.line == jump(STAGE_1) {
        position(saved, FORWARD, &jump(CNI_FORWARD))
    } else {
        (rule.line == dnat_return(rule.chain)).then_some(1)
    };
    let position = position(saved, rule.chain, &rule.line);
    position.zip(limit).is_some_and(|(own, limit)| own > limit)
}

fn tables_for(addresses: &[IpAddr]) -> impl Iterator<Item = IpTable> {
    FILTER.into_iter().filter(|table| addresses.iter().any(|address| table.is_for(*address)))
}

fn rules_in(table: IpTable, addresses: &[IpAddr]) -> impl Iterator<Item = Rule> {
    let addresses = addresses.iter().filter(move |address| table.is_for(**address));
    addresses.flat_map(|address| rules_of(*address))
}

/// Removes the policies of interfaces from nftables and the legacy tables.
pub(super) fn remove_interfaces(nft: &mut Nft, interfaces: &[String]) -> Result<()> {
    let rules_of = |name| rules_of_policy(Policy::Isolated, HostInterface::Bridge(name));
    let rules = interfaces.iter().flat_map(|name| rules_of(name));
    let lines: Vec<String> = rules.map(|rule| rule.line).collect();
    best_effort(FILTER.map(|table| remove_lines(nft, table, &[STAGE_1, STAGE_2], &lines)))
}

/// Removes the rules of addresses from nftables and the legacy tables.
pub(super) fn remove(nft: &mut Nft, addresses: &[IpAddr]) -> Result<()> {
    best_effort(FILTER.map(|table| {
        let lines: Vec<String> = rules_in(table, addresses).map(|rule| rule.line).collect();
        remove_lines(nft, table, &[CNI_FORWARD], &lines)
    }))
}

/// Removes rules by their lines. `chains` are the chains that may have them in nftables.
fn remove_lines(nft: &mut Nft, table: IpTable, chains: &[&str], lines: &[String]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let is_wanted = |rule: &SavedRule| lines.contains(&rule.line);
    let removed = chains.iter().map(|chain| table.remove_rules(nft, chain, is_wanted));
    best_effort(removed.chain(table.legacy().map(|legacy| legacy.remove_rules(is_wanted))))
}

/// Whether the host's forwarding passes a table of iptables.
pub(super) fn is_in_use(nft: &mut Nft) -> Result<bool> {
    for table in FILTER {
        if table.has_chain(nft, FORWARD)? || table.legacy().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the policy of iptables is to drop the packets of one of these addresses.
pub(super) fn drops(nft: &mut Nft, addresses: &[IpAddr]) -> Result<bool> {
    for table in tables_for(addresses) {
        let legacy = table.legacy().map(|legacy| legacy.saved()).transpose()?;
        if table.saved(nft, &[FORWARD], &[])?.drops(FORWARD)
            || legacy.is_some_and(|saved| saved.drops(FORWARD))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn has_policies(nft: &mut Nft) -> Result<bool> {
    for table in FILTER {
        if table.has_chain(nft, STAGE_1)? {
            return Ok(true);
        }
    }
    Ok(false)
}
