//! Masquerading as elements: the containers' addresses in a set per family, and each with its subnet in another.
//!
//! ```text
//! table inet rscni {
//!     set masquerade4 { type ipv4_addr; elements = { 10.1.0.5 comment "net id eth0" } }
//!     set masquerade4-inside-16 {
//!         type ipv4_addr . ipv4_addr
//!         elements = { 10.1.0.0 . 10.1.0.5 comment "net id eth0" }
//!     }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat;
//!         ip saddr @masquerade4 jump masquerading
//!         ip6 saddr @masquerade6 jump masquerading
//!     }
//!     chain masquerading {
//!         ip daddr & 255.255.0.0 . ip saddr @masquerade4-inside-16 return
//!         ip daddr 224.0.0.0/4 return
//!         ip6 daddr ff00::/8 return
//!         masquerade
//!     }
//! }
//! ```
//!
//! Set and rule of a prefix length come with the first container whose subnet has it, and stay. No element leads to a
//! chain: the kernel would walk all that do whenever one comes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rscni_linux::nft::{
    BaseChain, Element, ElementInfo, Family, Field, NatFlags, Nft, Rule, Set, Table, Transaction,
    Value, ValueType, Verdict,
};

use super::invalid;
use crate::{
    netfilter::nftable,
    plugin::error::Result,
    state::{
        inventory::Purpose,
        owner::{Owner, Stale},
    },
};

const POSTROUTING: &str = "postrouting";
/// `masquerade` alone is a word that `nft` keeps for itself.
const CHAIN: &str = "masquerading";

/// What differs between the families.
pub(super) struct Kind {
    /// An address of the family: it is what rules for one family ask for in a table of both.
    pub(super) any: IpAddr,
    /// The set of the containers' addresses; the names of those with their subnets begin with it.
    pub(super) set: &'static str,
    pub(super) key: ValueType,
    pub(super) source: Field,
    destination: Field,
    multicast: &'static str,
}

pub(super) const V4: Kind = Kind {
    any: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    set: "masquerade4",
    key: ValueType::Ipv4Addr,
    source: Field::IpSaddr,
    destination: Field::IpDaddr,
    multicast: "224.0.0.0/4",
};

pub(super) const V6: Kind = Kind {
    any: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    set: "masquerade6",
    key: ValueType::Ipv6Addr,
    source: Field::Ip6Saddr,
    destination: Field::Ip6Daddr,
    multicast: "ff00::/8",
};

pub(super) fn kind(address: IpAddr) -> &'static Kind {
    if address.is_ipv4() { &V4 } else { &V6 }
}

pub(super) fn table() -> Table {
    nftable::table(Family::Inet)
}

/// The set that has the containers of subnets with this one's prefix length.
fn inside(subnet: IpNet) -> String {
    format!("{}-inside-{}", kind(subnet.addr()).set, subnet.prefix_len())
}

/// The elements of a container's address, and the sets that they are in.
fn elements(address: IpNet) -> [(String, Value); 2] {
    let container = || Value::from(address.addr());
    let subnet = (address.prefix_len() > 0).then(|| Value::from(address.network()));
    let both = Value::concat(subnet.into_iter().chain([container()]));
    [(kind(address.addr()).set.to_owned(), container()), (inside(address), both)]
}

/// What is always there once the first container needed it.
fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction.add_table(&table).create_chain(&table, POSTROUTING, Some(&BaseChain::srcnat()));
    transaction.add_chain(&table, CHAIN, None);
    for kind in [&V4, &V6] {
        let (of_family, multicast) =
            (|| Rule::new().family_of(kind.any), kind.multicast.parse().expect("a constant"));
        let containers =
            of_family().in_set(&[kind.source], kind.set).verdict(&Verdict::Jump(CHAIN.into()));
        transaction
            .add_set(&table, &Set::new(kind.set, [kind.key]))
            .add_rule(&table, POSTROUTING, &containers)
            .add_rule(&table, CHAIN, &of_family().in_net(kind.destination, multicast).return_());
    }
    transaction.add_rule(&table, CHAIN, &Rule::new().masquerade(NatFlags::default()));
}

/// What is there once the first container of a subnet as long as this needed it.
fn skeleton_inside(transaction: &mut Transaction<'_>, subnet: IpNet) {
    let (table, kind, set) = (table(), kind(subnet.addr()), inside(subnet));
    let fields = vec![kind.key; if subnet.prefix_len() > 0 { 2 } else { 1 }];
    let rule = inside_rule(subnet);
    transaction.create_set(&table, &Set::new(set, fields)).insert_rule(&table, CHAIN, &rule, None);
}

fn inside_rule(subnet: IpNet) -> Rule {
    let kind = kind(subnet.addr());
    Rule::new()
        .family_of(kind.any)
        .net_in_set(kind.destination, subnet, &[kind.source], &inside(subnet))
        .return_()
}

/// Makes the chains and their rules again in one transaction, for the sets that are there.
pub(super) fn restore_rules(nft: &mut Nft) -> Result<()> {
    let table = table();
    let sets = nft.sets(&table)?;
    let mut transaction = nft.transaction();
    for chain in [POSTROUTING, CHAIN] {
        transaction.add_chain(&table, chain, None).flush_chain(&table, chain);
    }
    for chain in [POSTROUTING, CHAIN] {
        transaction.del_chain(&table, chain);
    }
    skeleton(&mut transaction);
    for kind in [&V4, &V6] {
        let longest = if kind.any.is_ipv4() { 32 } else { 128 };
        for length in 0..=longest {
            let subnet = IpNet::new_assert(kind.any, length);
            if sets.contains(&inside(subnet)) {
                let rule = inside_rule(subnet);
                transaction.insert_rule(&table, CHAIN, &rule, None);
            }
        }
    }
    Ok(transaction.commit()?)
}

/// Adds the addresses, in one transaction.
pub(super) fn add(nft: &mut Nft, owner: Owner<'_>, addresses: &[IpNet]) -> Result<()> {
    match put(nft, owner, addresses) {
        Err(error) if error.is_not_found() => {}
        outcome => return Ok(outcome?),
    }
    make(nft, skeleton)?;
    make(nft, invalid::skeleton)?;
    for address in addresses {
        make(nft, |transaction| skeleton_inside(transaction, *address))?;
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

/// Makes a part that begins with what may be there only once, unless it is there.
pub(super) fn make(
    nft: &mut Nft,
    part: impl FnOnce(&mut Transaction<'_>),
) -> rscni_linux::Result<()> {
    let mut transaction = nft.transaction();
    part(&mut transaction);
    match transaction.commit() {
        Err(error) if error.is_exists() => Ok(()),
        outcome => outcome,
    }
}

/// Removes the attachment's elements. Its addresses, if known, save a search.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, known: Option<&[IpNet]>) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    let mut own = Vec::new();
    for address in known.into_iter().flatten() {
        let elements = elements(*address);
        let mut tags = Vec::new();
        for (set, key) in &elements {
            let found = nft.get_element(&table, set, key)?;
            tags.extend(found.map(|element| element.comment.unwrap_or_default()));
        }
        // One without elements is of a family that is not masqueraded.
        if tags.len() == elements.len() && tags.iter().all(|other| *other == tag) {
            own.extend(elements);
        } else if !tags.is_empty() {
            own.clear();
            break;
        }
    }
    if !own.is_empty() {
        return destroy(nft, &own);
    }
    destroy_all(nft, |nft, set| nftable::find(nft, &table, set, &tag, &[]))
}

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    destroy_all(nft, |nft, set| nftable::find_stale(nft, &table(), set, stale))
}

/// Describes an element of our sets for the inventory.
pub(crate) fn describe(set: &str, key: &[u8]) -> Option<(String, Purpose)> {
    let kind = [V4, V6].into_iter().find(|kind| set.starts_with(kind.set))?;
    // A set for a subnet has the subnet before the container.
    let length = if kind.any.is_ipv4() { 4 } else { 16 };
    let addresses = key.chunks(length).filter_map(nftable::address).map(|it| it.to_string());
    Some((addresses.collect::<Vec<_>>().join(" . "), Purpose::Masquerade))
}

/// Removes what `find` gives of each set.
fn destroy_all(
    nft: &mut Nft,
    find: impl Fn(&mut Nft, &str) -> Result<Vec<ElementInfo>>,
) -> Result<()> {
    let mut found = Vec::new();
    for set in nft.sets(&table())? {
        if set.starts_with(V4.set) || set.starts_with(V6.set) {
            let elements = find(nft, &set)?;
            found.extend(
                elements.into_iter().map(|element| (set.clone(), Value::bytes(element.key))),
            );
        }
    }
    destroy(nft, &found)
}

/// The kernel takes no message of any length.
const ELEMENTS_AT_ONCE: usize = 150;

fn destroy(nft: &mut Nft, elements: &[(String, Value)]) -> Result<()> {
    for some in elements.chunks(ELEMENTS_AT_ONCE) {
        let mut transaction = nft.transaction();
        for (set, key) in some {
            transaction.destroy_element(&table(), set, &Element::new(key.clone()));
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The first address that is not masqueraded for this owner.
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
        let address = net.addr();
        let mut is_there = is_masquerade
            && leading.iter().any(|rule| rule.looks_up(kind(address).set))
            && rules.iter().any(|rule| rule.looks_up(&inside(*net)));
        for (set, key) in elements(*net) {
            let element = nft.get_element(&table, &set, &key)?;
            is_there &= element.is_some_and(|element| element.comment.as_deref() == Some(&tag));
        }
        if !is_there {
            return Ok(Some(address));
        }
    }
    Ok(None)
}
