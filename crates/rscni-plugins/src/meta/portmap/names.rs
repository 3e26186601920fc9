//! Which chains, maps and sets of nftables there are for host ports, and how they come about.
//!
//! ```text
//! table inet rscni {
//!     map hostport4     { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service }
//!     map hostport4_any { type inet_proto . inet_service : ipv4_addr . inet_service
//!         elements = { tcp . 8080 comment "net id eth0" : 10.1.0.5 . 80 } }
//!     set hostport4_any_from24_13 { type ipv4_addr . inet_proto . inet_service; elements = { 10.1.0.0 . tcp . 8080 } }
//!     set hostport4_any_from8_13  { type ipv4_addr . inet_proto . inet_service; elements = { 127.0.0.0 . tcp . 8080 } }
//!     chain hostports4 { dnat ip to meta l4proto . ip daddr . th dport map @hostport4; jump hostports4_any }
//!     set hostport6_any_from_lo_13 { type ipv6_addr . inet_proto . inet_service; elements = { ::1 . tcp . 8080 } }
//!     chain hostports4_any {
//!         ip saddr & 255.0.0.0 . meta l4proto . th dport @hostport4_any_from8_13 meta mark set meta mark | 0x2000
//!         ip saddr & 255.255.255.0 . meta l4proto . th dport @hostport4_any_from24_13 meta mark set meta mark | 0x2000
//!         dnat ip to meta l4proto . th dport map @hostport4_any
//!     }
//!     chain hostport-prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports4 }
//!     chain hostport-output     { type nat hook output priority dstnat; fib daddr type local jump hostports4
//!         ip6 daddr ::1 ip6 saddr . meta l4proto . th dport @hostport6_any_from_lo_13 jump hostports6_any }
//!     chain hostport-masquerade-13 { type nat hook postrouting priority srcnat
//!         ct status dnat meta mark & 0x2000 == 0x2000 masquerade }
//!     chain hostport-localnet { type filter hook prerouting priority mangle
//!         iifname != "lo" ip saddr != 127.0.0.0/8 ip daddr 127.0.0.0/8 drop }
//! }
//! ```
//!
//! A port that another attachment of the same container has is kept in maps and sets of the same names that end in
//! `_standby` ([`standby`](super::standby)). No rule looks them up.
//!
//! There are no verdicts in the maps on purpose: the kernel follows each of them whenever a rule changes, so that calls
//! would cost more with every port. What has to be masqueraded is known by the net that a packet comes from, which is
//! cut out of its source by a rule for each length of prefix; so rules are as few as lengths in use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rscni_linux::nft::{
    BaseChain, DataType, Family, Field, Hook, NatFlags, Nft, RawExpression, Rule, RuleInfo, Set,
    Table, Transaction, Value, ValueType,
};
use sha2::{Digest, Sha256};

use super::config::Config;
use crate::{netfilter::nftable, plugin::error::Result, state::inventory::Purpose};

/// How the names of all sets and maps begin.
pub(super) const SETS: &str = "hostport";
/// What the names of the sets have in them whose mappings are reached from `::1`.
pub(super) const FROM_LO: &str = "_from_lo_";
/// How the names of maps and sets with waiting mappings end.
const STANDBY: &str = "_standby";
/// The chains that packets come to first.
pub(super) const ENTRIES: [&str; 2] = ["hostport-prerouting", "hostport-output"];
/// The chain that keeps what comes by wire from the addresses of `lo`.
pub(super) const LOCALNET: &str = "hostport-localnet";

/// `fib daddr type local`
const LOCAL: u32 = 2;
/// `ct status dnat`
const DNAT: u32 = 0x20;
/// Where `nft` puts `mangle`: before connection tracking gives packets back their addresses.
const MANGLE: i32 = -150;

pub(super) fn table() -> Table {
    nftable::table(Family::Inet)
}

/// The chain that masquerades what has the mark.
pub(super) fn masquerade_chain(bit: u8) -> String {
    format!("hostport-masquerade-{bit}")
}

/// The map or set for waiting mappings that belongs to one for active mappings.
pub(super) fn standby(set: &str) -> String {
    format!("{set}{STANDBY}")
}

/// The map or set for active mappings that belongs to one for waiting mappings.
pub(crate) fn active(set: &str) -> Option<&str> {
    set.strip_suffix(STANDBY).filter(|set| set.starts_with(SETS))
}

/// Describes an element of our maps and sets for the inventory, by its host port.
pub(crate) fn describe(set: &str, key: &[u8]) -> Option<(String, Purpose)> {
    let family = set.strip_prefix(SETS)?;
    // The key begins with the protocol or the source, and ends with the port in a word of four
    // bytes. For a waiting mapping one more word follows.
    let words = if active(set).is_some() { 2 } else { 1 };
    let port = key.len().checked_sub(4 * words).and_then(|at| key[at..].first_chunk());
    let port = port.map_or(0, |port| u16::from_be_bytes(*port));
    Some((format!("port {port}"), Purpose::PublishedPort { v4: family.starts_with('4') }))
}

/// What there is for one family, apart for each set of conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) v4: bool,
    suffix: String,
}

impl Group {
    pub(super) fn new(config: &Config, v4: bool) -> Self {
        let conditions = config.conditions(v4).join(" ");
        if conditions.is_empty() {
            return Self { v4, suffix: String::new() };
        }
        let hash = Sha256::digest(conditions);
        Self {
            v4,
            suffix: hash[..4].iter().fold("-".to_owned(), |text, byte| format!("{text}{byte:02x}")),
        }
    }

    fn family(&self) -> char {
        if self.v4 { '4' } else { '6' }
    }

    /// The chain with the rules for mappings for one address of the host, which leads to that for all others.
    pub(super) fn chain(&self, specific: bool) -> String {
        let any = if specific { "" } else { "_any" };
        format!("hostports{}{any}{}", self.family(), self.suffix)
    }

    /// The map from mappings for one address of the host, or from those for all.
    pub(super) fn map(&self, specific: bool) -> String {
        let any = if specific { "" } else { "_any" };
        format!("{SETS}{}{any}{}", self.family(), self.suffix)
    }

    /// The set of mappings that are masqueraded if a packet comes from a net of the same length as this one.
    pub(super) fn sources(&self, specific: bool, net: IpNet, bit: u8) -> String {
        if net == loopback(false) {
            return format!("{}{FROM_LO}{bit}", self.map(specific));
        }
        format!("{}_from{}_{bit}", self.map(specific), net.prefix_len())
    }

    /// The family of a map, and whether its mappings are for one address, from its name.
    pub(super) fn of_map(name: &str) -> Option<(bool, bool)> {
        let rest = name.strip_prefix(SETS)?;
        let (v4, rest) = match rest.split_at_checked(1)? {
            ("4", rest) => (true, rest),
            ("6", rest) => (false, rest),
            _ => return None,
        };
        (!Self::is_of_sources(name) && active(name).is_none())
            .then(|| (v4, !rest.starts_with("_any")))
    }

    /// Whether a name is that of a set of what is masqueraded.
    pub(super) fn is_of_sources(name: &str) -> bool {
        name.starts_with(SETS) && name.contains("_from")
    }

    fn any(&self) -> IpAddr {
        if self.v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
    }

    fn address(&self) -> ValueType {
        if self.v4 { ValueType::Ipv4Addr } else { ValueType::Ipv6Addr }
    }

    fn source(&self) -> Field {
        if self.v4 { Field::IpSaddr } else { Field::Ip6Saddr }
    }

    fn key(&self, specific: bool) -> Vec<ValueType> {
        let address = specific.then(|| self.address());
        [Some(ValueType::InetProto), address, Some(ValueType::InetService)]
            .into_iter()
            .flatten()
            .collect()
    }

    fn forward_map(&self, specific: bool) -> Set {
        let target = DataType::Value(vec![self.address(), ValueType::InetService]);
        Set::map(self.map(specific), self.key(specific), target)
    }

    fn source_set(&self, specific: bool, net: IpNet, bit: u8) -> Set {
        let mut key = self.key(specific);
        if net.prefix_len() > 0 {
            key.insert(0, self.address());
        }
        Set::new(self.sources(specific, net, bit), key)
    }

    fn fields(&self, specific: bool) -> Vec<Field> {
        let address = specific.then_some(if self.v4 { Field::IpDaddr } else { Field::Ip6Daddr });
        [Some(Field::L4proto), address, Some(Field::Dport)].into_iter().flatten().collect()
    }

    /// The rule by which packets to the host come to the chain. Those to `::1` come by rules of their own, with the set of
    /// ports that lead from there into containers.
    fn entry(&self) -> Rule {
        let rule = Rule::new().family_of(self.any());
        let rule = if self.v4 {
            rule
        } else {
            rule.ne(Field::Ip6Daddr, IpAddr::from(Ipv6Addr::LOCALHOST))
        };
        rule.eq(Field::FibDaddrType, Value::number(LOCAL)).jump(&self.chain(true))
    }

    /// The same rule in the language of `nft`, with conditions.
    pub(super) fn entry_text(&self, conditions: &[String]) -> String {
        let family = if self.v4 { "meta nfproto ipv4" } else { "ip6 daddr != ::1" };
        format!("{family} {} fib daddr type local jump {}", conditions.join(" "), self.chain(true))
    }
}

/// Rules that are missing from a chain are put back in one transaction: the rules of the group are
/// made again.
impl Group {
    fn restore_rules(&self, nft: &mut Nft) -> Result<()> {
        let table = table();
        let sets = nft.sets(&table)?;
        let mut entered = Vec::new();
        for entry in ENTRIES {
            let rules = nft.rules(&table, entry)?;
            entered.push(rules.iter().any(|rule| leads_to(rule, &self.chain(true))));
        }
        let of_output = nft.rules(&table, ENTRIES[1])?;
        let mut transaction = nft.transaction();
        for specific in [false, true] {
            let chain = self.chain(specific);
            transaction.flush_chain(&table, &chain);
            for set in sets.iter().filter(|set| set.starts_with(&self.map(specific))) {
                let Some((net, bit)) = self.of_sources(specific, set) else { continue };
                transaction.add_rule(&table, &chain, &self.mark(specific, net, bit));
                if net == loopback(false) && !of_output.iter().any(|rule| rule.looks_up(set)) {
                    let entry = self.entry_from_localhost(specific, set);
                    transaction.add_rule(&table, ENTRIES[1], &entry);
                }
            }
            transaction.add_rule(&table, &chain, &self.forward(specific));
        }
        transaction.add_rule(&table, &self.chain(true), &Rule::new().jump(&self.chain(false)));
        for (entry, is_entered) in ENTRIES.iter().zip(entered) {
            // Only `nft` understands conditions.
            if !is_entered && self.suffix.is_empty() {
                transaction.add_rule(&table, entry, &self.entry());
            }
        }
        Ok(transaction.commit()?)
    }

    /// A net as long as those in a set of sources of this group, and the bit of the mark, from the
    /// name of the set.
    fn of_sources(&self, specific: bool, set: &str) -> Option<(IpNet, u8)> {
        let rest = set.strip_prefix(&self.map(specific))?;
        if let Some(bit) = rest.strip_prefix(FROM_LO) {
            return Some((loopback(false), bit.parse().ok()?));
        }
        let (length, bit) = rest.strip_prefix("_from")?.split_once('_')?;
        Some((IpNet::new(self.any(), length.parse().ok()?).ok()?, bit.parse().ok()?))
    }

    /// Sends packets to `::1` on, if their source and port are in the set: mappings without
    /// masquerading leave `::1` to the host's own services.
    fn entry_from_localhost(&self, specific: bool, set: &str) -> Rule {
        let net = loopback(false);
        let rule = Rule::new().family_of(self.any()).in_net(Field::Ip6Daddr, net);
        let rule = rule.net_in_set(self.source(), net, &self.fields(specific), set);
        rule.jump(&self.chain(specific))
    }

    fn forward(&self, specific: bool) -> Rule {
        let rule = Rule::new().family_of(self.any());
        rule.dnat_map(&self.fields(specific), &self.map(specific), !self.v4)
    }

    /// Marks what comes from a net of the same length as this one, if it is in the set.
    fn mark(&self, specific: bool, net: IpNet, bit: u8) -> Rule {
        let set = self.sources(specific, net, bit);
        let rule = Rule::new().family_of(self.any());
        let rule = rule.net_in_set(self.source(), net, &self.fields(specific), &set);
        rule.set_mark(1 << bit, 1 << bit)
    }
}

/// Whether a rule sends all packets on to a chain. The rules for `::1`, which look up a set, send
/// only some.
pub(super) fn leads_to(rule: &RuleInfo, chain: &str) -> bool {
    let looks_up_localhost =
        |expression: &RawExpression| expression.text(&[1]).is_some_and(|set| set.contains(FROM_LO));
    rule.jump_target.as_deref() == Some(chain) && !rule.expressions.iter().any(looks_up_localhost)
}

/// Masquerades what has the mark.
fn masquerade(bit: u8) -> Rule {
    let mark = 1 << bit;
    let rule = Rule::new().any_of(Field::CtStatus, DNAT).masked(Field::Mark, mark, mark);
    rule.masquerade(NatFlags::default())
}

/// Drops what comes by wire for the addresses of `lo`.
fn localnet() -> Rule {
    let net = loopback(true);
    let rule = Rule::new().ne(Field::Iifname, Value::ifname("lo")).family_of(net.addr());
    rule.not_in_net(Field::IpSaddr, net).in_net(Field::IpDaddr, net).drop()
}

/// Adds the only rule of a chain, if it has none.
fn restore_chain(nft: &mut Nft, chain: &str, rule: &Rule) -> Result<()> {
    let table = table();
    if !nft.rules(&table, chain)?.is_empty() {
        return Ok(());
    }
    let mut transaction = nft.transaction();
    transaction.add_rule(&table, chain, rule);
    Ok(transaction.commit()?)
}

/// Something that is there for all attachments once one needed it, and made in one transaction.
pub(super) enum Part {
    Maps(Group),
    Masquerade(u8),
    Localnet,
    Sources(Group, IpNet, u8),
    /// For mappings that wait. It comes after the parts that they need once they are active.
    Standby(Group, Vec<(IpNet, u8)>),
}

impl Part {
    /// Makes each part that is missing.
    pub(super) fn ensure(nft: &mut Nft, parts: &[Self]) -> Result<()> {
        for part in parts {
            let mut transaction = nft.transaction();
            transaction.add_table(&table());
            part.create(&mut transaction);
            match transaction.commit() {
                Err(error) if !error.is_exists() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Puts back the rules of a part that is there without them.
    pub(super) fn restore(&self, nft: &mut Nft) -> Result<()> {
        match self {
            Self::Maps(group) => group.restore_rules(nft),
            Self::Masquerade(bit) => restore_chain(nft, &masquerade_chain(*bit), &masquerade(*bit)),
            Self::Localnet => restore_chain(nft, LOCALNET, &localnet()),
            // With those of the group; sets have no rules.
            Self::Sources(..) | Self::Standby(..) => Ok(()),
        }
    }

    /// Begins by creating (not adding) something, so two calls at once do not make the rules twice.
    fn create(&self, transaction: &mut Transaction<'_>) {
        let table = &table();
        match self {
            Self::Maps(group) => {
                for specific in [false, true] {
                    transaction.create_chain(table, &group.chain(specific), None);
                    transaction.add_set(table, &group.forward_map(specific));
                    transaction.add_rule(table, &group.chain(specific), &group.forward(specific));
                }
                transaction.add_rule(
                    table,
                    &group.chain(true),
                    &Rule::new().jump(&group.chain(false)),
                );
                let hooks = [BaseChain::dstnat(), BaseChain::new("nat", Hook::Output, -100)];
                for (chain, base) in ENTRIES.iter().zip(hooks) {
                    transaction.add_chain(table, chain, Some(&base));
                    // Only `nft` understands conditions.
                    if group.suffix.is_empty() {
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
                    // Before the rule that sends the packet on.
                    let mark = group.mark(specific, *net, *bit);
                    transaction.insert_rule(table, &group.chain(specific), &mark, None);
                }
            }
        }
    }
}

/// `127.0.0.0/8`, or `::1/128`
pub(super) fn loopback(v4: bool) -> IpNet {
    if v4 {
        IpNet::new_assert(Ipv4Addr::LOCALHOST.into(), 8).trunc()
    } else {
        IpAddr::from(Ipv6Addr::LOCALHOST).into()
    }
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let name = String::from_utf8_lossy(data);
    if Group::of_map(&name).is_some() {
        assert!(name.starts_with(SETS) && !Group::is_of_sources(&name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_told_from_other_sets_by_its_name() {
        for (suffix, v4) in [("", true), ("", false), ("-12345678", true)] {
            let group = Group { v4, suffix: suffix.to_owned() };
            for specific in [true, false] {
                assert_eq!(Group::of_map(&group.map(specific)), Some((v4, specific)));
                let sources = group.sources(specific, loopback(true), 13);
                assert_eq!(Group::of_map(&sources), None);
                for set in [group.map(specific), sources] {
                    assert_eq!(Group::of_map(&standby(&set)), None);
                    assert_eq!(active(&standby(&set)), Some(&*set));
                    assert_eq!(active(&set), None);
                }
            }
        }
        assert_eq!(Group::of_map("masquerade4"), None);
    }
}
