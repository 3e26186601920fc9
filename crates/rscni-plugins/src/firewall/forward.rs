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
//!         iifname . oifname @firewall-isolated drop
//!         iifname @firewall-bridges oifname @firewall-bridges iifname . oifname != @firewall-same-bridge drop
//!         ip daddr @firewall4 ct state established,related accept
//!         ip saddr @firewall4 accept
//!         ip6 daddr @firewall6 ct state established,related accept
//!         ip6 saddr @firewall6 accept
//!     }
//! }
//! ```
//!
//! The chain `firewall-admin` is the operator's: it is made empty, and nothing here ever changes it. An `accept` ends
//! this chain only, a `drop` is final: what another table drops at the same hook stays dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rscni_linux::nft::{
    BaseChain, CtState, Element, Family, Field, Hook, Nft, Rule, RuleInfo, Set, Table, Transaction,
    Value, ValueType, Verdict,
};

use super::{
    config::{Backend, Policy},
    records,
};
use crate::{
    failure::{Result, differs},
    nftable,
};

const FORWARD: &str = "forward";
const ADMIN: &str = "firewall-admin";
const BRIDGES: &str = "firewall-bridges";
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

/// All that is there once the first attachment needed it.
pub(super) fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction
        .create_chain(&table, FORWARD, Some(&BaseChain::filter(Hook::Forward, 0)))
        .add_chain(&table, ADMIN, None)
        .add_set(&table, &Set::new(BRIDGES, [ValueType::Ifname]))
        .add_set(&table, &Set::new(SAME_BRIDGE, [ValueType::Ifname; 2]))
        .add_set(&table, &Set::new(ISOLATED, [ValueType::Ifname; 2]));
    records::create_sets(transaction, Backend::Nftables);
    let isolated = Rule::new().in_set(&BOTH_WAYS, ISOLATED).drop();
    let other_bridge = Rule::new()
        .in_set(&[Field::Iifname], BRIDGES)
        .in_set(&[Field::Oifname], BRIDGES)
        .not_in_set(&BOTH_WAYS, SAME_BRIDGE)
        .drop();
    for rule in [Rule::new().jump(ADMIN), isolated, other_bridge] {
        transaction.add_rule(&table, FORWARD, &rule);
    }
    for (family, source, destination) in FAMILIES {
        let set = records::set(Backend::Nftables, family.is_ipv4());
        let answer = Rule::new()
            .family_of(family)
            .in_set(&[destination], set)
            .ct_state(CtState::ESTABLISHED | CtState::RELATED)
            .accept();
        let own = Rule::new().family_of(family).in_set(&[source], set).accept();
        transaction.add_rule(&table, FORWARD, &answer).add_rule(&table, FORWARD, &own);
    }
}

/// CHECK: the rules of the chain are there. There may be more: the operator's.
pub(super) fn check(nft: &mut Nft) -> Result<()> {
    let rules = nft.rules(&table(), FORWARD)?;
    let sets = |rule: &RuleInfo| -> Vec<String> {
        rule.expressions
            .iter()
            .filter(|e| e.name == "lookup")
            .filter_map(|e| e.text(&[LOOKUP_SET]))
            .collect()
    };
    let has = |sets_wanted: &[&str], verdict: &Verdict, is_answer: bool| {
        rules.iter().any(|rule| {
            rule.verdict.as_ref() == Some(verdict)
                && sets(rule) == sets_wanted
                && rule.expressions.iter().any(|expression| expression.name == "ct") == is_answer
        })
    };
    let [v4, v6] = [true, false].map(|v4| records::set(Backend::Nftables, v4));
    let missing = [
        (&[][..], Verdict::Jump(ADMIN.into()), false),
        (&[ISOLATED], Verdict::Drop, false),
        (&[BRIDGES, BRIDGES, SAME_BRIDGE], Verdict::Drop, false),
        (&[v4], Verdict::Accept, true),
        (&[v4], Verdict::Accept, false),
        (&[v6], Verdict::Accept, true),
        (&[v6], Verdict::Accept, false),
    ];
    match missing.iter().find(|(sets, verdict, is_answer)| !has(sets, verdict, *is_answer)) {
        None => Ok(()),
        Some((sets, verdict, _)) => Err(differs(format!(
            "a rule of chain inet rscni {FORWARD} is missing: {verdict:?}{}",
            sets.iter().map(|set| format!(" @{set}")).collect::<Vec<_>>().concat()
        ))),
    }
}

/// `NFTA_LOOKUP_SET`
const LOOKUP_SET: u16 = 1;

fn pair(bridge: &str) -> Value {
    Value::concat([Value::ifname(bridge), Value::ifname(bridge)])
}

/// The elements of a policy: the set, and the key that stands for the bridge.
fn elements(policy: Policy, bridge: &str) -> Vec<(&'static str, Value)> {
    let mut elements = vec![(BRIDGES, Value::ifname(bridge)), (SAME_BRIDGE, pair(bridge))];
    if policy == Policy::Isolated {
        elements.push((ISOLATED, pair(bridge)));
    }
    elements
}

/// Puts a bridge under a policy. It stays: nobody knows who else is on the bridge.
pub(super) fn add_policy(nft: &mut Nft, policy: Policy, bridge: &str) -> Result<()> {
    let table = table();
    nftable::commit(nft, &table, skeleton, |transaction| {
        for (set, key) in elements(policy, bridge) {
            transaction.add_element(&table, set, &Element::new(key));
        }
    })
}

/// CHECK: the bridge is under the policy.
pub(super) fn check_policy(nft: &mut Nft, policy: Policy, bridge: &str) -> Result<()> {
    check(nft)?;
    for (set, key) in elements(policy, bridge) {
        if nft.get_element(&table(), set, &key)?.is_none() {
            return Err(differs(format!(
                "bridge {bridge} is missing in the set inet rscni {set} of ingressPolicy"
            )));
        }
    }
    Ok(())
}
