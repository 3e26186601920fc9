//! The chains, rules, maps and sets for host ports.
//!
//! ```text
//! table inet rscni {
//!     map hostport4     { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service }
//!     map hostport4_any { type inet_proto . inet_service : ipv4_addr . inet_service
//!         elements = { tcp . 8080 comment "net id eth0" : 10.1.0.5 . 80 } }
//!     set hostport4_any_from24_13 { type ipv4_addr . inet_proto . inet_service
//!         elements = { 10.1.0.0 . tcp . 8080 } }
//!     set hostport6_any_from_lo_13 { type ipv6_addr . inet_proto . inet_service
//!         elements = { ::1 . tcp . 8080 } }
//!     chain hostports4 {
//!         dnat ip to meta l4proto . ip daddr . th dport map @hostport4
//!         jump hostports4_any }
//!     chain hostports4_any {
//!         ip saddr & 255.255.255.0 . meta l4proto . th dport @hostport4_any_from24_13
//!             meta mark set meta mark | 0x2000
//!         dnat ip to meta l4proto . th dport map @hostport4_any }
//!     chain hostport-prerouting { type nat hook prerouting priority dstnat
//!         fib daddr type local jump hostports4 }
//!     chain hostport-output { type nat hook output priority dstnat
//!         fib daddr type local jump hostports4
//!         ip6 daddr ::1 ip6 saddr . meta l4proto . th dport @hostport6_any_from_lo_13
//!             jump hostports6_any }
//!     chain hostport-masquerade-13 { type nat hook postrouting priority srcnat
//!         ct status dnat meta mark & 0x2000 == 0x2000 masquerade }
//!     chain hostport-localnet { type filter hook prerouting priority mangle
//!         iifname != "lo" ip saddr != 127.0.0.0/8 ip daddr 127.0.0.0/8 drop }
//! }
//! ```
//!
//! A mapping whose port another attachment of the same container has waits in maps and sets of the
//! same names with the suffix `_standby` ([`standby`](super::standby)). No rule looks them up.
//!
//! The maps have no verdicts, because the kernel follows each verdict whenever a rule changes, so
//! calls would cost more with every port. A packet is masqueraded if its source subnet is in a set;
//! a rule for each prefix length masks the source, so there are as few rules as prefix lengths.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use rscni_linux::nft::{
    BaseChain, DataType, Field, Hook, NatFlags, Nft, RawExpression, Rule, RuleInfo, Set,
    Transaction, Value, ValueType,
};

use super::names::{ENTRIES, FROM_LO, Group, LOCALNET, loopback, masquerade_chain, standby, table};
use crate::{netfilter::nftable, plugin::Result};

/// `fib daddr type local`
const LOCAL: u32 = 2;
/// `ct status dnat`
const DNAT: u32 = 0x20;
/// The priority `mangle`: before connection tracking restores the addresses of packets.
const MANGLE: i32 = -150;

impl Group {
    fn key(&self, specific: bool) -> Vec<ValueType> {
        let address = specific.then(|| self.family().key);
        let parts = [Some(ValueType::InetProto), address, Some(ValueType::InetService)];
        parts.into_iter().flatten().collect()
    }

    fn fields(&self, specific: bool) -> Vec<Field> {
        let address = specific.then(|| self.family().destination);
        [Some(Field::L4proto), address, Some(Field::Dport)].into_iter().flatten().collect()
    }

    fn forward_map(&self, specific: bool) -> Set {
        let target = DataType::Value(vec![self.family().key, ValueType::InetService]);
        Set::map(self.map(specific), self.key(specific), target)
    }

    fn source_set(&self, specific: bool, net: IpNet, bit: u8) -> Set {
        let mut key = self.key(specific);
        if net.prefix_len() > 0 {
            key.insert(0, self.family().key);
        }
        Set::new(self.sources(specific, net, bit), key)
    }

    /// Returns the rule that sends packets for the host to the chain. Packets for `::1` have their
    /// own rules ([`entry_from_localhost`](Self::entry_from_localhost)).
    fn entry(&self) -> Rule {
        let mut rule = self.family().rule();
        if !self.v4 {
            rule = rule.ne(Field::Ip6Daddr, IpAddr::from(Ipv6Addr::LOCALHOST));
        }
        rule.eq(Field::FibDaddrType, Value::number(LOCAL)).jump(&self.chain(true))
    }

    /// Returns the same rule in the language of `nft`, with conditions.
    pub(super) fn entry_text(&self, conditions: &[String]) -> String {
        let family = if self.v4 { "meta nfproto ipv4" } else { "ip6 daddr != ::1" };
        format!("{family} {} fib daddr type local jump {}", conditions.join(" "), self.chain(true))
    }

    /// Returns the rule that sends packets for `::1` to the chain, if their source and port are in
    /// the set. Mappings without masquerading leave `::1` to the host's own services.
    fn entry_from_localhost(&self, specific: bool, set: &str) -> Rule {
        let net = loopback(false);
        let rule = self.family().rule().in_net(Field::Ip6Daddr, net);
        let rule = rule.net_in_set(self.family().source, net, &self.fields(specific), set);
        rule.jump(&self.chain(specific))
    }

    fn forward(&self, specific: bool) -> Rule {
        let rule = self.family().rule();
        rule.dnat_map(&self.fields(specific), &self.map(specific), !self.v4)
    }

    /// Returns the rule that marks packets whose source subnet is in the set.
    fn mark(&self, specific: bool, net: IpNet, bit: u8) -> Rule {
        let set = self.sources(specific, net, bit);
        let rule = self.family().rule();
        let rule = rule.net_in_set(self.family().source, net, &self.fields(specific), &set);
        rule.set_mark(1 << bit, 1 << bit)
    }

    /// Recreates the rules of the group in one transaction.
    fn restore_rules(&self, nft: &mut Nft) -> Result<()> {
        let table = table();
        let sets = nft.sets(&table)?;
        let of_entries = [nft.rules(&table, ENTRIES[0])?, nft.rules(&table, ENTRIES[1])?];
        let mut transaction = nft.transaction();
        for specific in [false, true] {
            let chain = self.chain(specific);
            transaction.flush_chain(&table, &chain);
            for set in sets.iter().filter(|set| set.starts_with(&self.map(specific))) {
                let Some((net, bit)) = self.parse_sources(specific, set) else { continue };
                transaction.add_rule(&table, &chain, &self.mark(specific, net, bit));
                if net == loopback(false) && !of_entries[1].iter().any(|rule| rule.looks_up(set)) {
                    let entry = self.entry_from_localhost(specific, set);
                    transaction.add_rule(&table, ENTRIES[1], &entry);
                }
            }
            transaction.add_rule(&table, &chain, &self.forward(specific));
        }
        transaction.add_rule(&table, &self.chain(true), &Rule::new().jump(&self.chain(false)));
        for (entry, rules) in ENTRIES.iter().zip(&of_entries) {
            let is_entered = rules.iter().any(|rule| leads_to(rule, &self.chain(true)));
            if !is_entered && !self.has_conditions() {
                transaction.add_rule(&table, entry, &self.entry());
            }
        }
        Ok(transaction.commit()?)
    }

    /// Whether the group has conditions, whose rules only `nft` can add.
    fn has_conditions(&self) -> bool {
        !self.suffix.is_empty()
    }
}

/// Whether a rule sends all packets to a chain. The rules for `::1`, which look up a set, send only
/// some.
pub(super) fn leads_to(rule: &RuleInfo, chain: &str) -> bool {
    let looks_up_localhost =
        |expression: &RawExpression| expression.text(&[1]).is_some_and(|set| set.contains(FROM_LO));
    rule.jump_target.as_deref() == Some(chain) && !rule.expressions.iter().any(looks_up_localhost)
}

/// Returns the rule that masquerades packets with the mark.
fn masquerade(bit: u8) -> Rule {
    let mark = 1 << bit;
    let rule = Rule::new().any_of(Field::CtStatus, DNAT).masked(Field::Mark, mark, mark);
    rule.masquerade(NatFlags::default())
}

/// Returns the rule that drops packets from other interfaces to the addresses of `lo`.
fn localnet() -> Rule {
    let net = loopback(true);
    let rule = Rule::new().ne(Field::Iifname, Value::ifname("lo")).family_of(net.addr());
    rule.not_in_net(Field::IpSaddr, net).in_net(Field::IpDaddr, net).drop()
}

/// Adds the only rule of a chain, if it is missing.
fn restore_chain(nft: &mut Nft, chain: &str, rule: &Rule) -> Result<()> {
    if !nft.rules(&table(), chain)?.is_empty() {
        return Ok(());
    }
    let mut transaction = nft.transaction();
    transaction.add_rule(&table(), chain, rule);
    Ok(transaction.commit()?)
}

/// A part of the skeleton, which the first attachment that needs it creates in one transaction.
pub(super) enum Part {
    Maps(Group),
    Masquerade(u8),
    Localnet,
    Sources(Group, IpNet, u8),
    /// For waiting mappings. It follows the parts that active mappings need.
    Standby(Group, Vec<(IpNet, u8)>),
}

impl Part {
    /// Creates the missing parts.
    pub(super) fn ensure(nft: &mut Nft, parts: &[Self]) -> Result<()> {
        for part in parts {
            nftable::create(nft, |transaction| part.create(transaction.add_table(&table())))?;
        }
        Ok(())
    }

    /// Restores the rules of an existing part.
    pub(super) fn restore(&self, nft: &mut Nft) -> Result<()> {
        match self {
            Self::Maps(group) => group.restore_rules(nft),
            Self::Masquerade(bit) => restore_chain(nft, &masquerade_chain(*bit), &masquerade(*bit)),
            Self::Localnet => restore_chain(nft, LOCALNET, &localnet()),
            // The maps' part restores the rules for these sets.
            Self::Sources(..) | Self::Standby(..) => Ok(()),
        }
    }

    /// Begins by creating (not adding) something, so that two calls at once do not make the rules
    /// twice.
    fn create(&self, transaction: &mut Transaction<'_>) {
        let table = &table();
        match self {
            Self::Maps(group) => {
                for specific in [false, true] {
                    transaction.create_chain(table, &group.chain(specific), None);
                    transaction.add_set(table, &group.forward_map(specific));
                    transaction.add_rule(table, &group.chain(specific), &group.forward(specific));
                }
                let jump = Rule::new().jump(&group.chain(false));
                transaction.add_rule(table, &group.chain(true), &jump);
                let hooks = [BaseChain::dstnat(), BaseChain::new("nat", Hook::Output, -100)];
                for (chain, base) in ENTRIES.iter().zip(hooks) {
                    transaction.add_chain(table, chain, Some(&base));
                    if !group.has_conditions() {
                        transaction.add_rule(table, chain, &group.entry());
                    }
                }
            }
            Self::Masquerade(bit) => {
                let chain = masquerade_chain(*bit);
                transaction.create_chain(table, &chain, Some(&BaseChain::srcnat()));
                transaction.add_rule(table, &chain, &masquerade(*bit));
            }
            Self::Localnet => {
                let base = BaseChain::filter(Hook::Prerouting, MANGLE);
                transaction.create_chain(table, LOCALNET, Some(&base));
                transaction.add_rule(table, LOCALNET, &localnet());
            }
            Self::Standby(group, sources) => {
                for specific in [true, false] {
                    let add_set = |set: Set, transaction: &mut Transaction<'_>| {
                        let key = [&set.key[..], &[ValueType::Mark]].concat();
                        transaction.add_set(table, &Set { name: standby(&set.name), key, ..set });
                    };
                    add_set(group.forward_map(specific), transaction);
                    for (net, bit) in sources {
                        add_set(group.source_set(specific, *net, *bit), transaction);
                    }
                }
            }
            Self::Sources(group, net, bit) => {
                for specific in [true, false] {
                    let set = group.source_set(specific, *net, *bit);
                    transaction.create_set(table, &set);
                    if *net == loopback(false) {
                        let entry = group.entry_from_localhost(specific, &set.name);
                        transaction.add_rule(table, ENTRIES[1], &entry);
                    }
                    // Before the rule with `dnat`, which ends the chain.
                    let mark = group.mark(specific, *net, *bit);
                    transaction.insert_rule(table, &group.chain(specific), &mark, None);
                }
            }
        }
    }
}
