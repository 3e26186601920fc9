//! This project's own nftables tables: what is always in them, and elements that belong to an attachment.
//!
//! Rules are few and the same for every container; what differs from container to container is an element of a set or
//! map, whose comment says whose it is. So packets and calls cost the same with one container or a thousand. The table
//! and its rules stay when the last element goes, as a bridge stays without ports.

use std::net::IpAddr;

use rscni_linux::nft::{Element, ElementInfo, Family, Nft, Table, Transaction, Value};

use crate::{plugin::error::Result, state::owner::Stale};

/// The name of our tables.
const NAME: &str = "rscni";

/// Our table of a family.
pub(crate) fn table(family: Family) -> Table {
    Table::new(family, NAME)
}

/// Commits `changes`; where what they need is missing, with the `skeleton`: the chains, sets and rules that are always
/// there once the first attachment needed them.
///
/// Several features share a table, each with a skeleton of its own, which must begin by creating (not adding) a chain
/// or a set: so two calls at once do not make its rules twice.
pub(crate) fn commit(
    nft: &mut Nft,
    table: &Table,
    skeleton: impl Fn(&mut Transaction<'_>),
    changes: impl Fn(&mut Transaction<'_>),
) -> Result<()> {
    let mut attempt = |with_skeleton: bool| {
        let mut transaction = nft.transaction();
        if with_skeleton {
            transaction.add_table(table);
            skeleton(&mut transaction);
        }
        changes(&mut transaction);
        transaction.commit()
    };
    let outcome = match attempt(false) {
        Err(error) if error.is_not_found() => match attempt(true) {
            Err(error) if error.is_exists() => attempt(false),
            outcome => outcome,
        },
        outcome => outcome,
    };
    Ok(outcome?)
}

/// Puts an element where there may be one of the same key: the address has a new owner.
pub(crate) fn put(transaction: &mut Transaction<'_>, table: &Table, set: &str, element: &Element) {
    transaction.destroy_element(table, set, element).add_element(table, set, element);
}

/// The elements of a set that carry this tag.
///
/// Those with the keys given are looked up one by one. If none of them is the owner's, or there are no keys, the
/// whole set is read: that costs more with every container, and is for calls without a `prevResult`.
pub(crate) fn find(
    nft: &mut Nft,
    table: &Table,
    set: &str,
    tag: &str,
    keys: &[Value],
) -> Result<Vec<ElementInfo>> {
    let mut found = Vec::new();
    for key in keys {
        let element = nft.get_element(table, set, key)?;
        found.extend(element.filter(|element| element.comment.as_deref() == Some(tag)));
    }
    if found.len() < keys.len() || keys.is_empty() {
        found = nft.elements(table, set)?;
        found.retain(|element| element.comment.as_deref() == Some(tag));
    }
    Ok(found)
}

/// The elements of a set that GC may remove.
pub(crate) fn find_stale(
    nft: &mut Nft,
    table: &Table,
    set: &str,
    stale: &Stale<'_>,
) -> Result<Vec<ElementInfo>> {
    let mut found = nft.elements(table, set)?;
    found.retain(|element| element.comment.as_deref().is_some_and(|tag| stale.has_tag(tag)));
    Ok(found)
}

/// The address that these bytes are, as the key of an element or what a rule compares with.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// The text in the key of an element, such as the name of an interface, which ends with a NUL.
pub(crate) fn text(key: &[u8]) -> String {
    key.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect()
}
