//! The backend nftables: a chain at the hook `forward` in our table, with rules that look at sets.
//!
//! ```text
//! table inet rscni {
//!     set firewall4 { type ipv4_addr; elements = { 10.1.0.5 comment "net id eth0" } }
//!     set firewall6 { type ipv6_addr; }
//!     set firewall-bridges { type ifname; elements = { "cni0", "cni1" } }
//!     set firewall-same-bridge { type ifname . ifname; elements = { "cni0" . "cni0", "cni1" . "cni1" } }
//!     set firewall-isolated { type ifname . ifname; elements = { "cni1" . "cni1" } }
//!     chain firewall-admin { }
//!     chain forward {
//!         type filter hook forward priority filter;
//!         jump firewall-admin
//!         jump firewall-policy
//!         ip daddr @firewall4 ct state established,related accept
//!         ip daddr @firewall4 ct status dnat accept
//!         ip saddr @firewall4 accept
//!         ip6 daddr @firewall6 ct state established,related accept
//!         ip6 daddr @firewall6 ct status dnat accept
//!         ip6 saddr @firewall6 accept
//!     }
//!     chain firewall-policy {
//!         ct status dnat return
//!         iifname . oifname @firewall-isolated drop
//!         iifname @firewall-bridges oifname @firewall-bridges iifname . oifname != @firewall-same-bridge drop
//!     }
//!     chain firewall-rules-2 { }
//! }
//! ```
//!
//! A connection to a published port has `ct status dnat`. It is let through, also between bridges
//! that a policy keeps apart: then both directions have `ct status dnat`. The `return` comes first
//! because a packet without a connection (`ct state invalid`) matches no rule that looks at `ct`,
//! and must still be dropped.
//!
//! The chain `firewall-admin` is the operator's: it is made empty, and nothing here ever changes it. An `accept` ends
//! this chain only, a `drop` is final: what another table drops at the same hook stays dropped.
//!
//! The chain `firewall-rules-2` stays empty. Its name is the version of these rules: it is missing
//! where an earlier release made the table, and then ADD replaces the rules, which costs no call
//! that looks at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rscni_linux::nft::{
    BaseChain, CtState, Element, Family, Field, Hook, Nft, Rule, RuleInfo, Set, Table, Transaction,
    Value, ValueType, Verdict,
};

use super::{
    config::{Backend, On, Policy},
    records,
};
use crate::{
    netfilter::nftable,
    plugin::error::{Result, differs},
    state::owner::Owner,
};

const FORWARD: &str = "forward";
const ADMIN: &str = "firewall-admin";
const POLICY: &str = "firewall-policy";
/// An empty chain whose name is the version of the rules.
const VERSION: &str = "firewall-rules-2";
pub(super) const BRIDGES: &str = "firewall-bridges";
const SAME_BRIDGE: &str = "firewall-same-bridge";
const ISOLATED: &str = "firewall-isolated";

const BOTH_WAYS: [Field; 2] = [Field::Iifname, Field::Oifname];

fn table() -> Table {
    nftable::table(Family::Inet)
}

/// An address of each family, with the fields of a packet of that family.
const FAMILIES: [(IpAddr, Field, Field); 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Field::IpSaddr, Field::IpDaddr),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), Field::Ip6Saddr, Field::Ip6Daddr),
];

/// `ct status dnat`
const DNAT: u32 = 0x20;

/// The rules of the chain `forward`, in their order.
fn forward_rules() -> Vec<Rule> {
    let mut rules = vec![Rule::new().jump(ADMIN), Rule::new().jump(POLICY)];
    for (family, source, destination) in FAMILIES {
        let set = records::set(Backend::Nftables, family.is_ipv4());
        let to_container = || Rule::new().family_of(family).in_set(&[destination], set);
        let answer = CtState::ESTABLISHED | CtState::RELATED;
        rules.push(to_container().ct_state(answer).accept());
        rules.push(to_container().any_of(Field::CtStatus, DNAT).accept());
        rules.push(Rule::new().family_of(family).in_set(&[source], set).accept());
    }
    rules
}

/// The rules of the policies, in their order.
fn policy_rules() -> [Rule; 3] {
    let dnated = Rule::new().any_of(Field::CtStatus, DNAT).return_();
    let isolated = Rule::new().in_set(&BOTH_WAYS, ISOLATED).drop();
    let other_bridge = Rule::new()
        .in_set(&[Field::Iifname], BRIDGES)
        .in_set(&[Field::Oifname], BRIDGES)
        .not_in_set(&BOTH_WAYS, SAME_BRIDGE)
        .drop();
    [dnated, isolated, other_bridge]
}

/// Adds the chains and sets that the rules of `forward` refer to, where they are missing.
fn add_parts(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction
        .add_chain(&table, ADMIN, None)
        .add_chain(&table, POLICY, None)
        .add_chain(&table, VERSION, None)
        .add_set(&table, &Set::new(BRIDGES, [ValueType::Ifname]))
        .add_set(&table, &Set::new(SAME_BRIDGE, [ValueType::Ifname; 2]))
        .add_set(&table, &Set::new(ISOLATED, [ValueType::Ifname; 2]));
    records::add_sets(transaction, Backend::Nftables);
}

/// Makes the chains, sets and rules; fails if the chain `forward` exists.
fn create(transaction: &mut Transaction<'_>) {
    let table = table();
    let base = BaseChain::filter(Hook::Forward, 0);
    transaction.add_table(&table).create_chain(&table, FORWARD, Some(&base));
    add_parts(transaction);
    for rule in policy_rules() {
        transaction.add_rule(&table, POLICY, &rule);
    }
    for rule in forward_rules() {
        transaction.add_rule(&table, FORWARD, &rule);
    }
}

/// Commits changes of the sets. Makes the rules if they are missing, and replaces those of an
/// earlier release.
pub(super) fn commit(nft: &mut Nft, changes: impl Fn(&mut Transaction<'_>)) -> Result<()> {
    let attempt = |nft: &mut Nft, is_first: bool| {
        let mut transaction = nft.transaction();
        if is_first {
            create(&mut transaction);
        }
        // Removes nothing, and fails if the chain is missing.
        transaction.flush_chain(&table(), VERSION);
        changes(&mut transaction);
        transaction.commit()
    };
    let outcome = match attempt(nft, false) {
        Err(error) if error.is_not_found() => match attempt(nft, true) {
            Err(error) if error.is_exists() => {
                restore(nft)?;
                attempt(nft, false)
            }
            outcome => outcome,
        },
        outcome => outcome,
    };
    Ok(outcome?)
}

/// How often to look again when another program changes the same chain.
const ATTEMPTS: usize = 4;

/// Puts all rules back in one transaction, so that no packet meets half of them. The policy of the
/// chain `forward` stays, and so do the rules of the operator.
pub(super) fn restore(nft: &mut Nft) -> Result<()> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match replace_rules(nft) {
            Err(error) if attempts < ATTEMPTS && (error.is_not_found() || error.is_exists()) => {}
            outcome => return Ok(outcome?),
        }
    }
}

fn replace_rules(nft: &mut Nft) -> rscni_linux::Result<()> {
    let table = table();
    if nft.chain(&table, FORWARD)?.is_none() {
        let mut transaction = nft.transaction();
        create(&mut transaction);
        return transaction.commit();
    }
    let ours: Vec<u64> = nft
        .rules(&table, FORWARD)?
        .iter()
        .filter(|rule| Part::of(rule).is_some())
        .map(|rule| rule.handle)
        .collect();
    let mut transaction = nft.transaction();
    add_parts(&mut transaction);
    transaction.flush_chain(&table, POLICY);
    for rule in policy_rules() {
        transaction.add_rule(&table, POLICY, &rule);
    }
    if let Some(first) = ours.first() {
        for rule in forward_rules() {
            transaction.insert_rule(&table, FORWARD, &rule, Some(*first));
        }
    } else {
        for rule in forward_rules().iter().rev() {
            transaction.insert_rule(&table, FORWARD, rule, None);
        }
    }
    for handle in ours {
        transaction.del_rule(&table, FORWARD, handle);
    }
    transaction.commit()
}

/// One of our rules in the chains `forward` and `firewall-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Admin,
    Policies,
    DnatReturn,
    Isolated,
    OtherBridge,
    /// Accepts answers to the container, for IPv4 or IPv6.
    Answer(bool),
    /// Accepts connections to published ports (`ct status dnat`).
    Dnat(bool),
    /// Accepts what the container sends.
    Own(bool),
}

impl Part {
    /// Which of our rules it is; none if it is another program's.
    fn of(rule: &RuleInfo) -> Option<Self> {
        let verdict = rule.verdict.as_ref()?;
        let count = |name: &str| rule.expressions.iter().filter(|e| e.name == name).count();
        let sets: Vec<String> = rule
            .expressions
            .iter()
            .filter(|e| e.name == "lookup")
            .filter_map(|e| e.text(&[LOOKUP_SET]))
            .collect();
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let known = ["meta", "cmp", "payload", "lookup", "ct", "bitwise", "immediate"];
        if rule.expressions.iter().any(|e| !known.contains(&e.name.as_str())) {
            return None;
        }
        let [v4, v6] = [true, false].map(|v4| records::set(Backend::Nftables, v4));
        let ct = rule.expressions.iter().find(|e| e.name == "ct").map(|e| e.number(&[CT_KEY]));
        match (verdict, &sets[..]) {
            (Verdict::Jump(chain), []) if rule.expressions.len() == 1 => match chain.as_str() {
                ADMIN => Some(Self::Admin),
                POLICY => Some(Self::Policies),
                _ => None,
            },
            (Verdict::Return, []) if ct == Some(Some(CT_STATUS)) && count("payload") == 0 => {
                Some(Self::DnatReturn)
            }
            (Verdict::Drop, [set]) if *set == ISOLATED && count("payload") == 0 => {
                Some(Self::Isolated)
            }
            (Verdict::Drop, [one, two, pair])
                if (*one, *two, *pair) == (BRIDGES, BRIDGES, SAME_BRIDGE) =>
            {
                Some(Self::OtherBridge)
            }
            (Verdict::Accept, [set])
                if (*set == v4 || *set == v6) && count("payload") == 1 && count("meta") == 1 =>
            {
                let is_v4 = *set == v4;
                match ct {
                    None => Some(Self::Own(is_v4)),
                    Some(Some(CT_STATE)) => Some(Self::Answer(is_v4)),
                    Some(Some(CT_STATUS)) => Some(Self::Dnat(is_v4)),
                    Some(_) => None,
                }
            }
            _ => None,
        }
    }
}

/// `NFTA_CT_KEY`, and the keys of `ct state` and `ct status`.
const CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

/// CHECK: the rules of the chain are there. There may be more: the operator's. The rules of an
/// earlier release are enough, unless `is_strict`.
pub(super) fn check(nft: &mut Nft, is_strict: bool) -> Result<()> {
    let rules: Vec<Part> = nft.rules(&table(), FORWARD)?.iter().filter_map(Part::of).collect();
    let is_of_earlier_release =
        rules.contains(&Part::Isolated) && rules.contains(&Part::OtherBridge);
    let mut wanted = vec![Part::Admin];
    let is_current = is_strict || !is_of_earlier_release;
    wanted.extend(is_current.then_some(Part::Policies));
    for v4 in [true, false] {
        wanted.extend([Part::Answer(v4), Part::Own(v4)]);
        wanted.extend(is_current.then_some(Part::Dnat(v4)));
    }
    require(&wanted, &rules, FORWARD)
}

fn require(wanted: &[Part], rules: &[Part], chain: &str) -> Result<()> {
    match wanted.iter().find(|part| !rules.contains(part)) {
        None => Ok(()),
        Some(part) => {
            Err(differs(format!("a rule of chain inet rscni {chain} is missing: {}", part.text())))
        }
    }
}

impl Part {
    /// The rule as `nft` shows it.
    fn text(self) -> String {
        let (ip, set) = match self {
            Self::Answer(v4) | Self::Dnat(v4) | Self::Own(v4) => {
                (if v4 { "ip" } else { "ip6" }, records::set(Backend::Nftables, v4))
            }
            _ => ("", ""),
        };
        match self {
            Self::Admin => format!("jump {ADMIN}"),
            Self::Policies => format!("jump {POLICY}"),
            Self::DnatReturn => "ct status dnat return".to_owned(),
            Self::Isolated => format!("iifname . oifname @{ISOLATED} drop"),
            Self::OtherBridge => format!(
                "iifname @{BRIDGES} oifname @{BRIDGES} iifname . oifname != @{SAME_BRIDGE} drop"
            ),
            Self::Answer(_) => format!("{ip} daddr @{set} ct state established,related accept"),
            Self::Dnat(_) => format!("{ip} daddr @{set} ct status dnat accept"),
            Self::Own(_) => format!("{ip} saddr @{set} accept"),
        }
    }
}

/// `NFTA_LOOKUP_SET`
const LOOKUP_SET: u16 = 1;

fn pair(bridge: &str) -> Value {
    Value::concat([Value::ifname(bridge), Value::ifname(bridge)])
}

/// The elements of a policy: the set, and the key that stands for the bridge or the link.
fn elements(policy: Policy, place: On<'_>) -> Vec<(&'static str, Value)> {
    let On::Bridge(bridge) = place else { return vec![(BRIDGES, Value::ifname(place.name()))] };
    let mut elements = vec![(BRIDGES, Value::ifname(bridge)), (SAME_BRIDGE, pair(bridge))];
    if policy == Policy::Isolated {
        elements.push((ISOLATED, pair(bridge)));
    }
    elements
}

/// Puts a bridge or a link under a policy. For a bridge it stays: other attachments may be on the
/// bridge. For a link it goes with the attachment, whose tag the element has.
pub(super) fn add_policy(
    nft: &mut Nft,
    owner: Owner<'_>,
    policy: Policy,
    place: On<'_>,
) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    commit(nft, |transaction| {
        for (set, key) in elements(policy, place) {
            match place {
                On::Bridge(_) => {
                    transaction.add_element(&table, set, &Element::new(key));
                }
                On::Link(_) => {
                    nftable::put(transaction, &table, set, &Element::new(key).comment(&tag));
                }
            }
        }
    })
}

/// CHECK: the bridge or the link is under the policy.
pub(super) fn check_policy(
    nft: &mut Nft,
    policy: Policy,
    place: On<'_>,
    is_strict: bool,
) -> Result<()> {
    check(nft, is_strict)?;
    let mut rules = nft.rules(&table(), POLICY)?;
    // An earlier release had them there.
    if rules.is_empty() && !is_strict {
        rules = nft.rules(&table(), FORWARD)?;
    }
    let rules: Vec<Part> = rules.iter().filter_map(Part::of).collect();
    let wanted = [Part::Isolated, Part::OtherBridge, Part::DnatReturn];
    let is_of_earlier_release = !is_strict && rules.contains(&Part::Admin);
    let wanted = if is_of_earlier_release { &wanted[..2] } else { &wanted[..] };
    require(wanted, &rules, POLICY)?;
    for (set, key) in elements(policy, place) {
        if nft.get_element(&table(), set, &key)?.is_none() {
            return Err(differs(format!(
                "{} is missing in the set inet rscni {set} of ingressPolicy",
                place.name()
            )));
        }
    }
    Ok(())
}
