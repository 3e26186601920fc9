//! The backend iptables: the rules that the Go plugin makes in the table `filter`, so that either finds the other's.
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
//! The rules with `DNAT` are not the Go plugin's. They let connections to published ports through,
//! which the policy of `FORWARD` or another bridge's ingressPolicy would drop. Both chains of the
//! policies need one: the Go plugin inserts its own rules before them, and what these send to the
//! second chain returns from there.
//!
//! What is missing is added by one `iptables-restore` per family, while a lock keeps other calls away. The Go plugin
//! does not know that lock. Shared chains are made with `-N`, so a call that it overtakes fails as a whole and is tried
//! again.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::nft::Nft;

use super::{
    config::{On, Policy},
    saved,
};
use crate::{
    netfilter::iptables::{self, IpTable, Legacy, comment},
    plugin::error::{BestEffort, Result, differs},
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

/// How often to look again when somebody else changes the same chains.
const ATTEMPTS: usize = 4;

/// What is wanted in the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Addresses to let through, and the operator's chain that is asked before; none if another backend does that.
    pub(super) open: Option<(&'a [IpAddr], &'a str)>,
    /// A policy, and the bridge or link that it is for.
    pub(super) policy: Option<(Policy, On<'a>)>,
    /// The addresses of the attachment: what is made is made for their families.
    pub(super) addresses: &'a [IpAddr],
    /// Whether the rules that neither the Go plugin nor an earlier release makes must be there.
    pub(super) is_strict: bool,
}

/// A rule that is wanted: its line without comment, and how it is added where it is missing.
struct Rule {
    line: String,
    chain: &'static str,
    comment: Option<String>,
    first: bool,
    /// Whether the Go plugin and earlier releases do not have it.
    is_own: bool,
}

impl Rule {
    fn new(chain: &'static str, rule: &str) -> Self {
        Self {
            line: format!("-A {chain} {rule}"),
            chain,
            comment: None,
            first: false,
            is_own: false,
        }
    }

    /// It is not among the rules of the Go plugin.
    fn own(self) -> Self {
        Self { is_own: true, ..self }
    }

    fn comment(self, text: impl Into<String>) -> Self {
        Self { comment: Some(text.into()), ..self }
    }

    /// It goes before what is in its chain.
    fn first(self) -> Self {
        Self { first: true, ..self }
    }

    /// The line for `iptables-restore`. `position` is where rules go that are to be the first.
    fn addition(&self, position: usize) -> String {
        let rule = &self.line["-A ".len() + self.chain.len()..];
        let rule = match &self.comment {
            Some(text) => format!(" {}{rule}", comment(text)),
            None => rule.to_owned(),
        };
        if self.first {
            format!("-I {} {position}{rule}", self.chain)
        } else {
            format!("-A {}{rule}", self.chain)
        }
    }
}

/// The rules for an address.
fn rules_of(address: IpAddr) -> [Rule; 3] {
    let address = IpNet::from(address);
    [
        Rule::new(
            CNI_FORWARD,
            &format!("-d {address} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        ),
        Rule::new(CNI_FORWARD, &format!("-d {address} {DNATED} -j ACCEPT")).own(),
        Rule::new(CNI_FORWARD, &format!("-s {address} -j ACCEPT")),
    ]
}

/// The rules for a bridge or a link with a policy, but those that end the chains.
fn rules_of_policy(policy: Policy, on: On<'_>) -> Vec<Rule> {
    let (name, is_isolated) = (on.name(), policy == Policy::Isolated);
    let policy = if is_isolated { "isolated" } else { "same-bridge" };
    let with_name = format!("CNI firewall plugin rules (ingressPolicy: {policy})");
    let out = format!("-i {name} ! -o {name} -j {STAGE_2}");
    let mut rules = vec![Rule::new(STAGE_1, &out).comment(&with_name).first()];
    if is_isolated && matches!(on, On::Bridge(_)) {
        let within = format!("-i {name} -o {name} -j DROP");
        rules.push(Rule::new(STAGE_1, &within).comment(with_name).first());
    }
    let into = format!("-o {name} -j DROP");
    rules.push(Rule::new(STAGE_2, &into).comment(POLICY_COMMENT).first());
    rules
}

/// What a packet of a connection to a published port matches.
const DNATED: &str = "-m conntrack --ctstate DNAT";

/// The line by which such packets leave a chain of the policies.
fn dnat_return(chain: &str) -> String {
    format!("-A {chain} {DNATED} -j RETURN")
}

fn jump_to(chain: &str, comment: &str) -> Rule {
    Rule::new(FORWARD, &format!("-j {chain}")).comment(comment).first()
}

impl Wanted<'_> {
    /// The families that something is wanted in.
    fn tables(&self) -> Vec<IpTable> {
        let is_wanted = |table: &IpTable| {
            (self.open.is_some() || self.policy.is_some())
                && self.addresses.iter().any(|a| table.is_for(*a))
        };
        FILTER.into_iter().filter(is_wanted).collect()
    }

    fn chains(&self) -> Vec<&str> {
        let open = self.open.into_iter().flat_map(|(_, admin)| [CNI_FORWARD, admin]);
        open.chain(self.policy.into_iter().flat_map(|_| [STAGE_1, STAGE_2])).collect()
    }

    /// The rules, in the order in which they are to be added.
    fn rules(&self, table: IpTable) -> Vec<Rule> {
        let mut rules = Vec::new();
        if let Some((addresses, admin)) = self.open {
            rules.push(jump_to(CNI_FORWARD, FORWARD_COMMENT));
            rules.push(
                Rule::new(CNI_FORWARD, &format!("-j {admin}")).comment(ADMIN_COMMENT).first(),
            );
            rules.extend(
                addresses
                    .iter()
                    .filter(|a| table.is_for(**a))
                    .flat_map(|address| rules_of(*address)),
            );
        }
        if let Some((policy, on)) = self.policy {
            rules.push(jump_to(STAGE_1, POLICY_COMMENT));
            rules.extend(rules_of_policy(policy, on));
            for chain in [STAGE_1, STAGE_2] {
                rules.push(Rule::new(chain, "-j RETURN").comment(POLICY_COMMENT));
                // The last that is inserted is the first of its chain.
                let dnated = Rule::new(chain, &format!("{DNATED} -j RETURN"));
                rules.push(dnated.comment(POLICY_COMMENT).first().own());
            }
        }
        rules
    }

    /// Adds what is missing.
    pub(super) fn add(&self, nft: &mut Nft) -> Result<()> {
        let tables = self.tables();
        let _lock = if tables.is_empty() { None } else { Some(iptables::lock()?) };
        for table in tables {
            // The tools of iptables use one of the two kinds of tables, and do not tell which.
            let mut in_nftables = table.legacy().is_none() || table.has_chain(nft, FORWARD)?;
            for attempt in 1..=ATTEMPTS {
                let seen = match table.legacy().filter(|_| !in_nftables) {
                    Some(legacy) => Seen::by_legacy(&legacy)?,
                    None => Seen::by_nftables(nft, table, &self.chains())?,
                };
                let lines = self.missing_lines(table, &seen);
                match if lines.is_empty() { Ok(()) } else { table.restore(lines) } {
                    Ok(()) => break,
                    Err(error) if attempt == ATTEMPTS => return Err(error),
                    Err(_) => in_nftables = !in_nftables,
                }
            }
        }
        Ok(())
    }

    /// What `iptables-restore` has to add to what is seen.
    fn missing_lines(&self, table: IpTable, seen: &Seen) -> Vec<String> {
        let chains = self.chains().into_iter().filter(|chain| !seen.has_chain(chain));
        let mut lines: Vec<String> = chains.map(|chain| format!("-N {chain}")).collect();
        for rule in self.rules(table) {
            if seen.is_late(&rule) {
                lines.push(rule.addition(1));
            } else if !seen.has(&rule.line) {
                // Behind the rule that has to stay before it.
                let before = match rule.chain {
                    FORWARD if rule.line == jump(STAGE_1) => None,
                    FORWARD => Some(jump(STAGE_1)),
                    STAGE_1 | STAGE_2 => Some(dnat_return(rule.chain)),
                    _ => None,
                };
                let before = before.and_then(|line| seen.position(rule.chain, &line));
                lines.push(rule.addition(before.map_or(1, |position| position + 1)));
            }
        }
        lines
    }

    /// CHECK: everything is there, in the order that it needs.
    pub(super) fn check(&self, nft: &mut Nft) -> Result<()> {
        for table in self.tables() {
            let mut missing = self.missing(table, &Seen::by_nftables(nft, table, &self.chains())?);
            if let (Some(_), Some(legacy)) = (&missing, table.legacy()) {
                missing = self.missing(table, &Seen::by_legacy(&legacy)?);
            }
            if let Some(what) = missing {
                let program = if table.v4 { "iptables" } else { "ip6tables" };
                return Err(differs(format!("{program}: {what}")));
            }
        }
        Ok(())
    }

    fn missing(&self, table: IpTable, seen: &Seen) -> Option<String> {
        let mut rules = self.rules(table);
        rules.retain(|rule| self.is_strict || !rule.is_own);
        let missing = rules.iter().find(|rule| !seen.has(&rule.line));
        let missing = missing.map(|rule| format!("the rule `{}` is missing", rule.line));
        let is_late = || rules.iter().find(|rule| seen.is_late(rule));
        missing.or_else(|| {
            is_late().map(|rule| {
                let other = if rule.chain == FORWARD { CNI_FORWARD } else { "the policies" };
                format!("the rule `{}` is behind that of {other}", rule.line)
            })
        })
    }
}

/// The line of a jump from `FORWARD`.
fn jump(chain: &str) -> String {
    format!("-A {FORWARD} -j {chain}")
}

/// The chains that matter here, and their rules as lines.
struct Seen {
    chains: Vec<String>,
    lines: Vec<String>,
}

impl Seen {
    fn by_nftables(nft: &mut Nft, table: IpTable, chains: &[&str]) -> Result<Self> {
        let mut seen = Self { chains: Vec::new(), lines: Vec::new() };
        for chain in [FORWARD].iter().chain(chains) {
            if table.has_chain(nft, chain)? {
                seen.chains.push((*chain).to_owned());
                let rules = table.rules(nft, chain, |_| true)?;
                seen.lines.extend(rules.iter().map(|rule| saved::line(chain, rule)));
            }
        }
        Ok(seen)
    }

    fn by_legacy(legacy: &Legacy) -> Result<Self> {
        let saved = legacy.save()?;
        let chains = saved.lines().filter_map(|line| line.strip_prefix(':')?.split(' ').next());
        let lines = saved.lines().filter(|line| line.starts_with("-A "));
        Ok(Self {
            chains: chains.map(str::to_owned).collect(),
            lines: lines.map(saved::without_comment).collect(),
        })
    }

    fn has_chain(&self, name: &str) -> bool {
        self.chains.iter().any(|chain| chain == name)
    }

    fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|seen| seen == line)
    }

    /// The rules of a chain.
    fn rules<'a>(&'a self, chain: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let start = format!("-A {chain} ");
        self.lines.iter().map(String::as_str).filter(move |line| line.starts_with(&start))
    }

    /// The place of a rule in its chain, from 1.
    fn position(&self, chain: &str, line: &str) -> Option<usize> {
        self.rules(chain).position(|seen| seen == line).map(|index| index + 1)
    }

    /// Whether it stands behind a rule that makes it useless: the jump to the policies behind the
    /// one that lets packets through, or the way out for connections to published ports behind a
    /// policy.
    fn is_late(&self, rule: &Rule) -> bool {
        let is_behind = |chain: &str, other: Option<usize>| {
            let positions = self.position(chain, &rule.line).zip(other);
            positions.is_some_and(|(own, other)| own > other)
        };
        if rule.line == jump(STAGE_1) {
            return is_behind(FORWARD, self.position(FORWARD, &jump(CNI_FORWARD)));
        }
        rule.line == dnat_return(rule.chain) && is_behind(rule.chain, Some(1))
    }
}

/// Removes the policies of links, wherever iptables keeps them.
pub(super) fn remove_links(nft: &mut Nft, links: &[String]) -> Result<()> {
    if links.is_empty() {
        return Ok(());
    }
    let rules = links.iter().flat_map(|link| rules_of_policy(Policy::Isolated, On::Bridge(link)));
    let unwanted: Vec<String> = rules.map(|rule| rule.line).collect();
    let mut all = BestEffort::default();
    for table in FILTER {
        all.step(remove_lines(nft, table, &[STAGE_1, STAGE_2], &unwanted));
    }
    all.finish()
}

/// Removes the rules of addresses, wherever iptables keeps them.
pub(super) fn remove(nft: &mut Nft, addresses: &[IpAddr]) -> Result<()> {
    let mut all = BestEffort::default();
    for table in FILTER {
        let lines: Vec<String> = addresses
            .iter()
            .filter(|address| table.is_for(**address))
            .flat_map(|address| rules_of(*address))
            .map(|rule| rule.line)
            .collect();
        if lines.is_empty() {
            continue;
        }
        all.step(remove_lines(nft, table, &[CNI_FORWARD], &lines));
    }
    all.finish()
}

/// Removes rules of these chains by their lines.
fn remove_lines(nft: &mut Nft, table: IpTable, chains: &[&str], lines: &[String]) -> Result<()> {
    let is_wanted = |line: &str| lines.iter().any(|wanted| wanted == line);
    let mut all = BestEffort::default();
    for chain in chains {
        let found = table.rules(nft, chain, |rule| is_wanted(&saved::line(chain, rule)))?;
        let handles: Vec<u64> = found.iter().map(|rule| rule.handle).collect();
        all.step(table.remove_rules(nft, chain, &handles));
    }
    if let Some(legacy) = table.legacy() {
        all.step(remove_by_legacy(&legacy, is_wanted));
    }
    all.finish()
}

fn remove_by_legacy(legacy: &Legacy, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let saved = legacy.save()?;
    let found = saved.lines().filter(|line| is_wanted(&saved::without_comment(line)));
    let lines: Vec<String> = found.map(|line| line.replacen("-A ", "-D ", 1)).collect();
    if lines.is_empty() { Ok(()) } else { legacy.restore(lines) }
}

/// Whether the host's forwarding goes through a table of iptables.
pub(super) fn is_in_use(nft: &mut Nft) -> Result<bool> {
    for table in FILTER {
        if table.has_chain(nft, FORWARD)? || table.legacy().is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether iptables drops the packets of one of these addresses by default.
pub(super) fn drops(nft: &mut Nft, addresses: &[IpAddr]) -> Result<bool> {
    for table in
        FILTER.into_iter().filter(|table| addresses.iter().any(|address| table.is_for(*address)))
    {
        let saved = table.legacy().map(|legacy| legacy.save()).transpose()?.unwrap_or_default();
        if table.drops(nft, FORWARD)?
            || saved.lines().any(|line| line.starts_with(":FORWARD DROP "))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there are bridges with a policy that iptables keeps apart.
pub(super) fn has_policies(nft: &mut Nft) -> Result<bool> {
    for table in FILTER {
        if table.has_chain(nft, STAGE_1)? {
            return Ok(true);
        }
    }
    Ok(false)
}
