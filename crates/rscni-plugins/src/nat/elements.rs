//! Masquerading with set elements: per family, a set of the containers' addresses, and a set of
//! each address with its subnet. `docs/plugins/README.md` shows the table.
//!
//! The set and rule of a prefix length are created with its first container, and stay. No element
//! jumps to a chain, because the kernel validates all such chains whenever one is added.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::nft::{BaseChain, Element, NatFlags, Nft, Rule, Set, Transaction, Value, Verdict};

use super::{
    family::{self, table},
    invalid,
};
use crate::{
    netfilter::{
        Elements, FAMILIES,
        nftable::{self, has_tag},
    },
    plugin::Result,
    state::{OwnedBy, Owner, Purpose, Resources},
};

const POSTROUTING: &str = "postrouting";
/// `masquerade` is a keyword of `nft`.
const CHAIN: &str = "masquerading";

/// Returns the name of the set of containers in subnets with this one's prefix length.
fn inside(subnet: IpNet) -> String {
    format!("{}-inside-{}", family::set(family::of(subnet)), subnet.prefix_len())
}

/// Returns the elements of a container's address, with their sets.
fn elements(address: IpNet) -> [(String, Value); 2] {
    let container = || Value::from(address.addr());
    let subnet = (address.prefix_len() > 0).then(|| Value::from(address.network()));
    let both = Value::concat(subnet.into_iter().chain([container()]));
    let set = family::set(family::of(address)).to_owned();
    [(set, container()), (inside(address), both)]
}

pub(crate) fn describe(set: &str, key: &[u8]) -> Option<(String, Purpose)> {
    let family = FAMILIES.into_iter().find(|it| set.starts_with(family::set(it)))?;
    // A set for a subnet has the subnet before the container.
    let length = if family.any.is_ipv4() { 4 } else { 16 };
    let addresses = key.chunks(length).filter_map(nftable::address).map(|it| it.to_string());
    Some((addresses.collect::<Vec<_>>().join(" . "), Purpose::Masquerade))
}

/// Creates what every container needs.
fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction.add_table(&table).create_chain(&table, POSTROUTING, Some(&BaseChain::srcnat()));
    transaction.add_chain(&table, CHAIN, None);
    for family in FAMILIES {
        let set = family::set(family);
        let multicast = family::multicast(family.any.is_ipv4()).parse().expect("a constant");
        let containers = family.rule().in_set(&[family.source], set);
        let multicast = family.rule().in_net(family.destination, multicast).return_();
        transaction
            .add_set(&table, &Set::new(set, [family.key]))
            .add_rule(&table, POSTROUTING, &containers.verdict(&Verdict::Jump(CHAIN.into())))
            .add_rule(&table, CHAIN, &multicast);
    }
    transaction.add_rule(&table, CHAIN, &Rule::new().masquerade(NatFlags::default()));
}

/// Creates what containers in subnets with this one's prefix length need.
fn skeleton_inside(transaction: &mut Transaction<'_>, subnet: IpNet) {
    let key = family::of(subnet).key;
    let set = Set::new(inside(subnet), vec![key; if subnet.prefix_len() > 0 { 2 } else { 1 }]);
    let (table, rule) = (table(), inside_rule(subnet));
    transaction.create_set(&table, &set).insert_rule(&table, CHAIN, &rule, None);
}

fn inside_rule(subnet: IpNet) -> Rule {
    let family = family::of(subnet);
    let rule = family.rule();
    rule.net_in_set(family.destination, subnet, &[family.source], &inside(subnet)).return_()
}

/// Recreates the chains and their rules in one transaction, for the sets that exist.
pub(super) fn restore_rules(nft: &mut Nft) -> Result<()> {
    let table = table();
    let sets = nft.sets(&table)?;
    let mut transaction = nft.transaction();
    for chain in [POSTROUTING, CHAIN] {
        transaction.add_chain(&table, chain, None).flush_chain(&table, chain);
        transaction.del_chain(&table, chain);
    }
    skeleton(&mut transaction);
    for subnet in family::subnets_in(&sets, inside) {
        transaction.insert_rule(&table, CHAIN, &inside_rule(subnet), None);
    }
    Ok(transaction.commit()?)
}

/// Adds the addresses in one transaction.
pub(super) fn add(nft: &mut Nft, owner: Owner<'_>, addresses: &[IpNet]) -> Result<()> {
    match put(nft, owner, addresses) {
        Err(error) if error.is_not_found() => {}
        outcome => return Ok(outcome?),
    }
    nftable::create(nft, skeleton)?;
    nftable::create(nft, invalid::skeleton)?;
    for address in addresses {
        nftable::create(nft, |transaction| skeleton_inside(transaction, *address))?;
    }
    Ok(put(nft, owner, addresses)?)
}

fn put(nft: &mut Nft, owner: Owner<'_>, addresses: &[IpNet]) -> rscni_linux::Result<()> {
    let (table, tag) = (table(), owner.tag());
    let mut transaction = nft.transaction();
    invalid::require(&mut transaction);
    for (set, key) in addresses.iter().copied().flat_map(elements) {
        nftable::put(&mut transaction, &table, &set, &Element::new(key).comment(&tag));
    }
    transaction.commit()
}

/// Removes the attachment's elements. Its addresses, if known, save a search.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, known: Option<&[IpNet]>) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    let mut own = Vec::new();
    for address in known.into_iter().flatten() {
        let elements = elements(*address);
        let mut found = Vec::new();
        for (set, key) in &elements {
            found.extend(nft.get_element(&table, set, key)?);
        }
        // An address without elements is of a family that is not masqueraded.
        if found.len() == elements.len() && found.iter().all(|element| has_tag(element, &tag)) {
            own.extend(elements);
        } else if !found.is_empty() {
            own.clear();
            break;
        }
    }
    if !own.is_empty() {
        return nftable::remove_elements(nft, &table, &own);
    }
    remove_of(nft, &|by| by.is_owner(owner))
}

/// Removes the elements of wanted owners from all sets for masquerading.
pub(super) fn remove_of(nft: &mut Nft, is_wanted: &dyn Fn(&OwnedBy) -> bool) -> Result<()> {
    let mut sets = nft.sets(&table())?;
    sets.retain(|set| FAMILIES.iter().any(|family| set.starts_with(family::set(family))));
    Elements { nft, table: table(), sets: &sets }.remove_of(is_wanted)
}

/// Returns the first address that is not masqueraded for this owner.
pub(super) fn missing(
    nft: &mut Nft,
    owner: Owner<'_>,
    addresses: &[IpNet],
) -> Result<Option<IpAddr>> {
    let (table, tag) = (table(), owner.tag());
    let leading = nft.rules(&table, POSTROUTING)?;
    let rules = nft.rules(&table, CHAIN)?;
    let is_masquerade =
        rules.last().is_some_and(|rule| rule.expressions.iter().any(|e| e.name == "masq"));
    for net in addresses {
        let set = family::set(family::of(*net));
        let mut exists = is_masquerade
            && leading.iter().any(|rule| rule.looks_up(set))
            && rules.iter().any(|rule| rule.looks_up(&inside(*net)));
        for (set, key) in elements(*net) {
            exists &= nft.get_element(&table, &set, &key)?.is_some_and(|e| has_tag(&e, &tag));
        }
        if !exists {
            return Ok(Some(net.addr()));
        }
    }
    Ok(None)
}
