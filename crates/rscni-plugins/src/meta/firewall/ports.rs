//! `ingressPolicy: isolated` between the ports of one bridge. Frames within a bridge pass no chain
//! of IP, unless the host has set `bridge-nf-call-iptables`, so our table `bridge rscni` drops
//! them. `docs/plugins/firewall.md` shows it.
//!

use rscni_linux::nft::{
    BaseChain, Element, Family, Field, Hook, Nft, Rule, Set, Table, Transaction, Value, ValueType,
};

use crate::{
    netfilter::{
        Elements,
        nftable::{self, has_tag},
    },
    plugin::{Result, differs},
    state::{Owner, Resources},
};

const FORWARD: &str = "forward";
const PORTS: &str = "firewall-isolated";
/// `arp` as `meta protocol`. It passes, as it does with the Go plugin's rules.
const ARP: u16 = 0x0806;

fn table() -> Table {
    nftable::table(Family::Bridge)
}

fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction
        .create_chain(&table, FORWARD, Some(&BaseChain::filter(Hook::Forward, 0)))
        .add_set(&table, &Set::new(PORTS, [ValueType::Ifname]));
    for rule in rules() {
        transaction.add_rule(&table, FORWARD, &rule);
    }
}

fn rules() -> [Rule; 2] {
    [Field::Iifname, Field::Oifname].map(|field| {
        Rule::new().ne(Field::Protocol, Value::ether_type(ARP)).in_set(&[field], PORTS).drop()
    })
}

/// Restores the rules in one transaction, if one is missing.
pub(super) fn restore_rules(nft: &mut Nft) -> Result<()> {
    let table = table();
    let mut own = nft.rules(&table, FORWARD)?;
    own.retain(|rule| rule.looks_up(PORTS));
    if own.len() >= rules().len() {
        return Ok(());
    }
    let mut transaction = nft.transaction();
    for rule in rules() {
        transaction.add_rule(&table, FORWARD, &rule);
    }
    for rule in own {
        transaction.del_rule(&table, FORWARD, rule.handle);
    }
    Ok(transaction.commit()?)
}

/// Isolates the ports from all others of their bridge.
pub(super) fn add(nft: &mut Nft, owner: Owner<'_>, ports: &[&str]) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    nftable::commit(nft, &table, skeleton, |transaction| {
        for port in ports {
            let element = Element::new(Value::ifname(port)).comment(&tag);
            nftable::put(transaction, &table, PORTS, &element);
        }
    })
}

pub(super) fn check(nft: &mut Nft, owner: Owner<'_>, ports: &[&str]) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    for port in ports {
        let element = nft.get_element(&table, PORTS, &Value::ifname(port))?;
        if !element.is_some_and(|element| has_tag(&element, &tag)) {
            return Err(differs(format!(
                "port {port} is missing in the set bridge rscni {PORTS} of ingressPolicy"
            )));
        }
    }
    if !ports.is_empty() && nft.rules(&table, FORWARD)?.len() < rules().len() {
        return Err(differs(format!("a rule of chain bridge rscni {FORWARD} is missing")));
    }
    Ok(())
}

/// Removes the owner's elements: those of these ports, or all if the ports are not known.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, ports: Option<&[&str]>) -> Result<()> {
    let Some(ports) = ports else { return elements(nft).remove_of(&|by| by.is_owner(owner)) };
    let keys = ports.iter().map(|port| Value::ifname(port));
    let found = nftable::get(nft, &table(), PORTS, keys, &owner.tag())?;
    elements(nft).remove(found)
}

pub(super) fn elements(nft: &mut Nft) -> Elements<'_, &'static str> {
    Elements { nft, table: table(), sets: &[PORTS] }
}
