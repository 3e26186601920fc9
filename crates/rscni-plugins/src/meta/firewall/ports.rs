//! `ingressPolicy: isolated` between the ports of one bridge: frames that a bridge passes on itself come to no chain of
//! IP, unless the host has `bridge-nf-call-iptables` on. So they are dropped in our table `bridge rscni`.
//!
//! ```text
//! table bridge rscni {
//!     set firewall-isolated { type ifname; elements = { "vethxxxxxxxxxxx" comment "net id eth0" } }
//!     chain forward {
//!         type filter hook forward priority filter;
//!         meta protocol != arp iifname @firewall-isolated drop
//!         meta protocol != arp oifname @firewall-isolated drop
//!     }
//! }
//! ```

use rscni_linux::nft::{
    BaseChain, Element, ElementInfo, Family, Field, Hook, Nft, Rule, Set, Table, Transaction,
    Value, ValueType,
};

use crate::{
    netfilter::nftable,
    plugin::error::{Result, differs},
    state::owner::{Owner, Stale},
};

const FORWARD: &str = "forward";
const PORTS: &str = "firewall-isolated";
/// `arp` as `meta protocol`. It passes, as it does where iptables does this.
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

/// Puts the rules back in one transaction, if one is missing.
pub(super) fn restore_rules(nft: &mut Nft) -> Result<()> {
    let table = table();
    let present = nft.rules(&table, FORWARD)?;
    let own: Vec<u64> =
        present.iter().filter(|rule| rule.looks_up(PORTS)).map(|rule| rule.handle).collect();
    if own.len() >= rules().len() {
        return Ok(());
    }
    let mut transaction = nft.transaction();
    for rule in rules() {
        transaction.add_rule(&table, FORWARD, &rule);
    }
    for handle in own {
        transaction.del_rule(&table, FORWARD, handle);
    }
    Ok(transaction.commit()?)
}

/// Keeps the ports from each other and from all others of their bridge.
pub(super) fn add(nft: &mut Nft, owner: Owner<'_>, ports: &[&str]) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    nftable::commit(nft, &table, skeleton, |transaction| {
        for port in ports {
            nftable::put(
                transaction,
                &table,
                PORTS,
                &Element::new(Value::ifname(port)).comment(&tag),
            );
        }
    })
}

/// CHECK
pub(super) fn check(nft: &mut Nft, owner: Owner<'_>, ports: &[&str]) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    for port in ports {
        let element = nft.get_element(&table, PORTS, &Value::ifname(port))?;
        if element.is_none_or(|element| element.comment.as_deref() != Some(&tag)) {
            return Err(differs(format!(
                "port {port} is missing in the set bridge rscni {PORTS} of ingressPolicy"
            )));
        }
    }
    if !ports.is_empty() && nft.rules(&table, FORWARD)?.len() < 2 {
        return Err(differs(format!("a rule of chain bridge rscni {FORWARD} is missing")));
    }
    Ok(())
}

/// Removes what is the owner's: from these ports, or wherever it is if they are not known.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, ports: Option<&[&str]>) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    let mut found = Vec::new();
    match ports {
        None => found = nftable::find(nft, &table, PORTS, &tag, &[])?,
        Some(ports) => {
            for port in ports {
                let element = nft.get_element(&table, PORTS, &Value::ifname(port))?;
                found.extend(element.filter(|element| element.comment.as_deref() == Some(&tag)));
            }
        }
    }
    remove_elements(nft, found)
}

/// GC
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    let found = nftable::find_stale(nft, &table(), PORTS, stale)?;
    remove_elements(nft, found)
}

fn remove_elements(nft: &mut Nft, elements: Vec<ElementInfo>) -> Result<()> {
    let table = table();
    let mut transaction = nft.transaction();
    for element in elements {
        transaction.destroy_element(&table, PORTS, &Element::new(Value::bytes(element.key)));
    }
    Ok(transaction.commit()?)
}
