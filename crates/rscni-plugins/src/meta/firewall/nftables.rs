//! The backend nftables: a chain at the hook `forward` in our table, whose rules look up sets.
//! `docs/plugins/firewall.md` shows the table.
//!
//! Connections to published ports (`ct status dnat`) are accepted even between isolated bridges;
//! both directions have that status. The `return` comes first because packets without a connection
//! (`ct state invalid`) match no rule with `ct`, and must still be dropped.
//!
//! The chain `firewall-admin` is the operator's: it is created empty and never changed. An `accept`
//! ends only this chain, and a `drop` is final: packets that another table drops at the same hook
//! stay dropped.
//!
//! The chain `firewall-rules-2` stays empty. Its name is the version of these rules. If it is
//! missing, an earlier release made the table, and ADD replaces the rules. So calls need not read
//! the rules.

use rscni_linux::nft::{
    BaseChain, CtState, Element, Field, Hook, Nft, Rule, RuleInfo, Set, Transaction, Value,
    ValueType, Verdict,
};

use super::{
    backend::{Backend, table},
    config::Policy,
    ingress::{HostInterface, IngressPolicy},
};
use crate::{
    netfilter::{FAMILIES, nftable},
    plugin::{Result, differs},
    state::Owner,
};

const FORWARD: &str = "forward";
const ADMIN: &str = "firewall-admin";
const POLICY: &str = "firewall-policy";
/// An empty chain whose name is the version of the rules.
const VERSION: &str = "firewall-rules-2";
pub(super) const BRIDGES: &str = "firewall-bridges";
const SAME_BRIDGE: &str = "firewall-same-bridge";
const ISOLATED: &str = "firewall-isolated";

const BOTH_INTERFACES: [Field; 2] = [Field::Iifname, Field::Oifname];

/// `ct status dnat`
const DNAT: u32 = 0x20;

/// Returns the rules of the chain `forward` in their order.
fn forward_rules() -> Vec<Rule> {
    let mut rules = vec![Rule::new().jump(ADMIN), Rule::new().jump(POLICY)];
    for family in FAMILIES {
        let set = Backend::Nftables.set(family.any.is_ipv4());
        let to_container = || family.rule().in_set(&[family.destination], set);
        let answer = CtState::ESTABLISHED | CtState::RELATED;
        rules.push(to_container().ct_state(answer).accept());
        rules.push(to_container().any_of(Field::CtStatus, DNAT).accept());
        rules.push(family.rule().in_set(&[family.source], set).accept());
    }
    rules
}

/// Returns the rules of the policies in their order.
fn policy_rules() -> [Rule; 3] {
    let dnated = Rule::new().any_of(Field::CtStatus, DNAT).return_();
    let isolated = Rule::new().in_set(&BOTH_INTERFACES, ISOLATED).drop();
    let other_bridge = Rule::new()
        .in_set(&[Field::Iifname], BRIDGES)
        .in_set(&[Field::Oifname], BRIDGES)
        .not_in_set(&BOTH_INTERFACES, SAME_BRIDGE)
        .drop();
    [dnated, isolated, other_bridge]
}

/// Adds the missing chains and sets that the rules of `forward` refer to.
fn add_parts(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction
        .add_chain(&table, ADMIN, None)
        .add_chain(&table, POLICY, None)
        .add_chain(&table, VERSION, None)
        .add_set(&table, &Set::new(BRIDGES, [ValueType::Ifname]))
        .add_set(&table, &Set::new(SAME_BRIDGE, [ValueType::Ifname; 2]))
        .add_set(&table, &Set::new(ISOLATED, [ValueType::Ifname; 2]));
    for set in Backend::Nftables.sets() {
        transaction.add_set(&table, &set);
    }
}

/// Creates the chains, sets and rules. Fails if the chain `forward` exists.
fn create(transaction: &mut Transaction<'_>) {
    let table = table();
    let base = BaseChain::filter(Hook::Forward, 0);
    transaction.create_chain(&table, FORWARD, Some(&base));
    add_parts(transaction);
    for rule in policy_rules() {
        transaction.add_rule(&table, POLICY, &rule);
    }
    for rule in forward_rules() {
        transaction.add_rule(&table, FORWARD, &rule);
    }
}

/// Commits changes of the sets. Creates missing rules, and replaces those of an earlier release.
pub(super) fn commit(nft: &mut Nft, changes: impl Fn(&mut Transaction<'_>)) -> Result<()> {
    let changes = |transaction: &mut Transaction<'_>| {
        // Fails if the chain is missing, and otherwise changes nothing.
        transaction.flush_chain(&table(), VERSION);
        changes(transaction);
    };
    nftable::commit_or(nft, &table(), create, changes, restore)
}

/// How often to retry when another program changes the same chain.
const ATTEMPTS: usize = 4;

/// Restores all rules in one transaction, so that no packet meets half of them. Keeps the policy of
/// the chain `forward` and the rules of the operator.
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
        create(transaction.add_table(&table));
        return transaction.commit();
    }
    let ours: Vec<u64> = nft
        .rules(&table, FORWARD)?
        .iter()
        .filter(|rule| recognise(rule).is_some())
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

const ISOLATED_DROP: &str = "iifname . oifname @firewall-isolated drop";
const OTHER_BRIDGE_DROP: &str = "iifname @firewall-bridges oifname @firewall-bridges \
     iifname . oifname != @firewall-same-bridge drop";
const DNAT_RETURN: &str = "ct status dnat return";

/// The conditions of the rules that accept answers, connections to published ports, and packets
/// from the container.
const CONDITIONS: [(&str, &str); 3] =
    [("daddr", " ct state established,related"), ("daddr", " ct status dnat"), ("saddr", "")];

/// Returns a rule of [`CONDITIONS`] as `nft` shows it.
fn accept(v4: bool, (field, condition): (&str, &str)) -> String {
    let (ip, set) = (if v4 { "ip" } else { "ip6" }, Backend::Nftables.set(v4));
    format!("{ip} {field} @{set}{condition} accept")
}

/// Returns one of our rules as `nft` shows it, or `None` for a rule of another program.
fn recognise(rule: &RuleInfo) -> Option<String> {
    let verdict = rule.verdict.as_ref()?;
    let count = |name: &str| rule.expressions.iter().filter(|e| e.name == name).count();
    let lookups = rule.expressions.iter().filter(|e| e.name == "lookup");
    let sets: Vec<String> = lookups.filter_map(|e| e.text(&[LOOKUP_SET])).collect();
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let known = ["meta", "cmp", "payload", "lookup", "ct", "bitwise", "immediate"];
    if rule.expressions.iter().any(|e| !known.contains(&e.name.as_str())) {
        return None;
    }
    let ct = rule.expressions.iter().find(|e| e.name == "ct").map(|e| e.number(&[CT_KEY]));
    match (verdict, &sets[..]) {
        (Verdict::Jump(chain), []) if rule.expressions.len() == 1 => {
            [ADMIN, POLICY].contains(&&**chain).then(|| format!("jump {chain}"))
        }
        (Verdict::Return, []) if ct == Some(Some(CT_STATUS)) && count("payload") == 0 => {
            Some(DNAT_RETURN.to_owned())
        }
        (Verdict::Drop, [ISOLATED]) if count("payload") == 0 => Some(ISOLATED_DROP.to_owned()),
        (Verdict::Drop, [BRIDGES, BRIDGES, SAME_BRIDGE]) => Some(OTHER_BRIDGE_DROP.to_owned()),
        (Verdict::Accept, [set]) if count("payload") == 1 && count("meta") == 1 => {
            let v4 = [true, false].into_iter().find(|v4| *set == Backend::Nftables.set(*v4))?;
            let condition = match ct {
                Some(Some(CT_STATE)) => CONDITIONS[0],
                Some(Some(CT_STATUS)) => CONDITIONS[1],
                Some(_) => return None,
                None => CONDITIONS[2],
            };
            Some(accept(v4, condition))
        }
        _ => None,
    }
}

/// `NFTA_CT_KEY`, and the keys of `ct state` and `ct status`.
const CT_KEY: u16 = 2;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

/// CHECK: the rules of the chain exist, possibly among rules of the operator. Those of an earlier
/// release are enough, unless `is_strict`.
pub(super) fn check(nft: &mut Nft, is_strict: bool) -> Result<()> {
    let rules: Vec<String> = nft.rules(&table(), FORWARD)?.iter().filter_map(recognise).collect();
    let has = |wanted: &str| rules.iter().any(|rule| rule == wanted);
    let is_current = is_strict || !(has(ISOLATED_DROP) && has(OTHER_BRIDGE_DROP));
    let mut wanted = vec![format!("jump {ADMIN}")];
    wanted.extend(is_current.then(|| format!("jump {POLICY}")));
    for v4 in [true, false] {
        let [answer, dnat, own] = CONDITIONS.map(|condition| accept(v4, condition));
        wanted.extend([answer, own]);
        wanted.extend(is_current.then_some(dnat));
    }
    require(wanted.iter().map(String::as_str), &rules, FORWARD)
}

fn require<'r>(
    mut wanted: impl Iterator<Item = &'r str>,
    rules: &[String],
    chain: &str,
) -> Result<()> {
    wanted.find(|wanted| !rules.iter().any(|rule| rule == wanted)).map_or(Ok(()), |missing| {
        Err(differs(format!("a rule of chain inet rscni {chain} is missing: {missing}")))
    })
}

/// `NFTA_LOOKUP_SET`
const LOOKUP_SET: u16 = 1;

fn pair(bridge: &str) -> Value {
    Value::concat([Value::ifname(bridge), Value::ifname(bridge)])
}

fn elements(ingress: &IngressPolicy<'_>) -> Vec<(&'static str, Value)> {
    let bridge = match ingress.interface {
        HostInterface::Veth(name) => return vec![(BRIDGES, Value::ifname(name))],
        HostInterface::Bridge(name) => name,
    };
    let mut elements = vec![(BRIDGES, Value::ifname(bridge)), (SAME_BRIDGE, pair(bridge))];
    if ingress.policy == Policy::Isolated {
        elements.push((ISOLATED, pair(bridge)));
    }
    elements
}

/// Applies a policy to its bridge or veth. The elements of a bridge stay, because other attachments
/// may be on it. The element of a veth is removed with the attachment, whose tag it has.
pub(super) fn add_policy(
    nft: &mut Nft,
    owner: Owner<'_>,
    ingress: &IngressPolicy<'_>,
) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    commit(nft, |transaction| {
        for (set, key) in elements(ingress) {
            let element = Element::new(key);
            if matches!(ingress.interface, HostInterface::Bridge(_)) {
                transaction.add_element(&table, set, &element);
            } else {
                nftable::put(transaction, &table, set, &element.comment(&tag));
            }
        }
    })
}

/// CHECK: the policy applies to its bridge or veth.
pub(super) fn check_policy(
    nft: &mut Nft,
    ingress: &IngressPolicy<'_>,
    is_strict: bool,
) -> Result<()> {
    check(nft, is_strict)?;
    let mut rules = nft.rules(&table(), POLICY)?;
    // Earlier releases had the rules of the policies in that chain.
    if rules.is_empty() && !is_strict {
        rules = nft.rules(&table(), FORWARD)?;
    }
    let rules: Vec<String> = rules.iter().filter_map(recognise).collect();
    let is_of_earlier_release = !is_strict && rules.contains(&format!("jump {ADMIN}"));
    let wanted = [ISOLATED_DROP, OTHER_BRIDGE_DROP, DNAT_RETURN].into_iter();
    require(wanted.take(if is_of_earlier_release { 2 } else { 3 }), &rules, POLICY)?;
    for (set, key) in elements(ingress) {
        if nft.get_element(&table(), set, &key)?.is_none() {
            return Err(differs(format!(
                "{} is missing in the set inet rscni {set} of ingressPolicy",
                ingress.interface.name()
            )));
        }
    }
    Ok(())
}
