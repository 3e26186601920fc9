//! The project's own nftables tables, and set elements whose comment is the tag of their owner.
//!
//! Rules are few and the same for all containers; what differs is an element of a set or map. So
//! packets and calls cost the same with one container or a thousand. The table and its rules stay
//! after the last element was removed, as a bridge stays without ports.

use std::net::IpAddr;

use rscni_linux::nft::{Element, ElementInfo, Family, Nft, Table, Transaction, Value};

use crate::{
    error::Result,
    state::{OwnedBy, Resources},
};

const NAME: &str = "rscni";

/// How many elements go into one transaction: the kernel limits the length of a message.
pub(crate) const ELEMENTS_AT_ONCE: usize = 150;

pub(crate) fn table(family: Family) -> Table {
    Table::new(family, NAME)
}

/// Commits `changes`, together with the `skeleton` if the chains, sets or rules in it are missing.
///
/// Several features share a table, each with its own skeleton. A skeleton must begin by creating
/// (not adding) a chain or a set, so that two calls at once do not make its rules twice.
pub(crate) fn commit(
    nft: &mut Nft,
    table: &Table,
    skeleton: impl Fn(&mut Transaction<'_>),
    changes: impl Fn(&mut Transaction<'_>),
) -> Result<()> {
    commit_or(nft, table, skeleton, changes, |_| Ok(()))
}

/// Commits like [`commit`]. Calls `restore` before the last attempt if the skeleton exists, but
/// something in it is missing.
pub(crate) fn commit_or(
    nft: &mut Nft,
    table: &Table,
    skeleton: impl FnOnce(&mut Transaction<'_>),
    changes: impl Fn(&mut Transaction<'_>),
    restore: impl FnOnce(&mut Nft) -> Result<()>,
) -> Result<()> {
    let attempt = |nft: &mut Nft| {
        let mut transaction = nft.transaction();
        changes(&mut transaction);
        transaction.commit()
    };
    match attempt(nft) {
        Err(error) if error.is_not_found() => {}
        outcome => return Ok(outcome?),
    }
    let mut transaction = nft.transaction();
    skeleton(transaction.add_table(table));
    changes(&mut transaction);
    match transaction.commit() {
        Err(error) if error.is_exists() => {}
        outcome => return Ok(outcome?),
    }
    restore(nft)?;
    Ok(attempt(nft)?)
}

/// Commits a part of a skeleton that begins by creating something, unless that exists.
pub(crate) fn create(
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

/// Adds an element in place of one with the same key: the address has a new owner.
pub(crate) fn put(transaction: &mut Transaction<'_>, table: &Table, set: &str, element: &Element) {
    transaction.destroy_element(table, set, element).add_element(table, set, element);
}

pub(crate) fn has_tag(element: &ElementInfo, tag: &str) -> bool {
    element.comment.as_deref() == Some(tag)
}

/// An existing element and its set.
pub(crate) type Found = (String, ElementInfo);

/// Returns the elements with these keys that carry this tag.
pub(crate) fn get(
    nft: &mut Nft,
    table: &Table,
    set: &str,
    keys: impl IntoIterator<Item = Value>,
    tag: &str,
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for key in keys {
        let element = nft.get_element(table, set, &key)?.filter(|element| has_tag(element, tag));
        found.extend(element.map(|element| (set.to_owned(), element)));
    }
    Ok(found)
}

/// The elements of some sets of a table.
///
/// Listing reads the whole sets, which costs more with every container. That is for GC and for
/// calls without a `prevResult`.
pub(crate) struct Elements<'a, S> {
    pub(crate) nft: &'a mut Nft,
    pub(crate) table: Table,
    pub(crate) sets: &'a [S],
}

impl<S: AsRef<str>> Resources for Elements<'_, S> {
    type Resource = Found;

    fn list(&mut self) -> Result<Vec<(OwnedBy, Found)>> {
        let mut found = Vec::new();
        for set in self.sets.iter().map(AsRef::as_ref) {
            for element in self.nft.elements(&self.table, set)? {
                let Some(tag) = &element.comment else { continue };
                found.push((OwnedBy::of_tag(tag), (set.to_owned(), element)));
            }
        }
        Ok(found)
    }

    fn remove(self, found: Vec<Found>) -> Result<()> {
        let key = |(set, element): Found| (set, Value::bytes(element.key));
        remove_elements(self.nft, &self.table, &found.into_iter().map(key).collect::<Vec<_>>())
    }
}

/// Removes elements by set and key, as far as they exist.
pub(crate) fn remove_elements(
    nft: &mut Nft,
    table: &Table,
    elements: &[(impl AsRef<str>, Value)],
) -> Result<()> {
    for elements in elements.chunks(ELEMENTS_AT_ONCE) {
        let mut transaction = nft.transaction();
        for (set, key) in elements {
            transaction.destroy_element(table, set.as_ref(), &Element::new(key.clone()));
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Removes rules by chain and handle in one transaction, as far as they exist.
pub(crate) fn remove_rules<'c>(
    nft: &mut Nft,
    table: &Table,
    rules: impl IntoIterator<Item = (&'c str, u64)>,
) -> Result<()> {
    let mut transaction = nft.transaction();
    for (chain, handle) in rules {
        transaction.destroy_rule(table, chain, handle);
    }
    Ok(transaction.commit()?)
}

/// Decodes an address, which is the key of an element or the operand of a rule.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

/// Returns the text in the key of an element, such as the name of an interface, which ends with a
/// NUL.
pub(crate) fn text(key: &[u8]) -> String {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    String::from_utf8_lossy(&key[..end]).into_owned()
}
