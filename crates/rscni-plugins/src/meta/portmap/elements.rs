//! Host ports as elements of maps and sets, whose comment is their owner;
//! [`skeleton`](super::skeleton) has the rules.
//!
//! A host port leads to one container. ADD fails if another container has the port, unless the
//! address that the port leads to now belongs to the calling container. Another attachment of the
//! same container waits until the port is free ([`standby`](super::standby)).

use std::{collections::HashSet, net::IpAddr};

use ipnet::IpNet;
use rscni::Error;
use rscni_linux::nft::{ElementInfo, Nft};

use super::{
    check::check_rules,
    config::{Config, Protocol},
    entry::{Entry, entries, groups, parts, target},
    names::{self, Group, SETS, is_of_sources, table},
    nft_program,
    skeleton::Part,
    standby::{Step, Waiting, is_sibling},
};
use crate::{
    netfilter::{
        Elements, Found, iptables,
        nftable::{self, ELEMENTS_AT_ONCE, has_tag},
    },
    plugin::{Call, Result},
    state::{OwnedBy, Owner, Resources},
};

pub(super) struct Removed {
    pub(super) protocol: u8,
    pub(super) port: u16,
    pub(super) container: Option<IpAddr>,
}

/// How often ADD retries after creating missing parts or removing stale elements. More rounds mean
/// that another program keeps changing them.
const ROUNDS: u32 = 6;

/// How many mappings go into one transaction: the kernel limits the length of a message, and of its
/// list of errors.
const MAPPINGS_AT_ONCE: usize = 50;

/// Adds the mappings to the container's addresses, in one transaction unless there are very many.
pub(super) fn add(nft: &mut Nft, call: &Call<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let owner = call.owner();
    let mut entries = entries(config, owner, nets);
    let mut rounds = 0;
    let mut lock = None;
    while let Err(error) = create(nft, owner, &entries) {
        rounds += 1;
        if rounds < ROUNDS && error.is_not_found() {
            Part::ensure(nft, &parts(config, &entries))?;
        } else if rounds < ROUNDS && error.is_exists() {
            // The holder of the port must not change before this mapping waits for it.
            if lock.is_none() {
                lock = Some(iptables::lock()?);
            }
            make_room(nft, call, owner, &mut entries)?;
        } else {
            return Err(error.into());
        }
    }
    enter_with_conditions(nft, config, &entries)
}

/// Restores the rules that the mappings need, in existing chains.
pub(super) fn restore_rules(
    nft: &mut Nft,
    owner: Owner<'_>,
    config: &Config,
    nets: &[IpNet],
) -> Result<()> {
    let entries = entries(config, owner, nets);
    if check_rules(nft, config, &entries).is_ok() {
        return Ok(());
    }
    for part in parts(config, &entries) {
        part.restore(nft)?;
    }
    enter_with_conditions(nft, config, &entries)
}

fn enter_with_conditions(nft: &mut Nft, config: &Config, entries: &[Entry<'_>]) -> Result<()> {
    for group in groups(entries) {
        let conditions = config.conditions(group.v4);
        if !conditions.is_empty() {
            nft_program::enter(nft, group, conditions)?;
        }
    }
    Ok(())
}

fn create(nft: &mut Nft, owner: Owner<'_>, entries: &[Entry<'_>]) -> rscni_linux::Result<()> {
    let (table, tag) = (table(), owner.tag());
    for entries in entries.chunks(MAPPINGS_AT_ONCE) {
        let mut transaction = nft.transaction();
        for entry in entries {
            for (set, element) in entry.elements(entry.waits, &tag) {
                transaction.create_element(&table, &set, &element);
            }
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Makes the ports of the entries available.
///
/// Removes the elements of earlier ADDs of this attachment, and of attachments whose ports lead to
/// an address that now belongs to this container: they are stale. Entries whose port another
/// attachment of this container has wait for it.
///
/// # Errors
/// If another container has a port.
fn make_room(
    nft: &mut Nft,
    call: &Call<'_>,
    owner: Owner<'_>,
    entries: &mut [Entry<'_>],
) -> Result<()> {
    let mut owners = vec![OwnedBy::of_tag(&owner.tag())];
    for entry in entries.iter_mut() {
        entry.waits = false;
        let (map, forward) = &entry.forward;
        let Some(holder) = nft.get_element(&table(), map, &forward.key)? else { continue };
        let tag = holder.comment.clone().unwrap_or_default();
        let by = OwnedBy::of_tag(&tag);
        if owners.contains(&by) {
            continue;
        }
        if target(&holder) == Some(entry.target) {
            owners.push(by);
        } else if is_sibling(&tag, call) {
            entry.waits = true;
        } else {
            return Err(taken(entry, &holder).into());
        }
    }
    let sets = nft.sets(&table())?;
    let found = find(nft, &sets, &|by| owners.contains(by))?;
    take_out(nft, &sets, &found)?;
    let mut ownerless = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !entry.waits) {
        let (map, forward) = &entry.forward;
        if let Some(holder) = nft.get_element(&table(), map, &forward.key)? {
            // A waiting mapping took over. If it is of another container, the next round fails.
            entry.waits = is_sibling(&holder.comment.unwrap_or_default(), call);
        } else {
            // Without the port, the elements of its sources are useless.
            let sources = entry.sources.iter();
            ownerless.extend(sources.map(|(_, set, source)| (set, source.key.clone())));
        }
    }
    nftable::remove_elements(nft, &table(), &ownerless)
}

/// Returns the error for a port that another container has.
fn taken(entry: &Entry<'_>, holder: &ElementInfo) -> Error {
    let (mapping, tag) = (entry.mapping, holder.comment.as_deref().unwrap_or_default());
    let leads_to = target(holder).map(|ip| ip.to_string()).unwrap_or_default();
    Error::TryAgainLater(format!(
        "{mapping} is taken: it leads to {leads_to} for the attachment \"{tag}\" (network, \
         container, interface); DEL that one first, or have GC remove it if it is gone"
    ))
}

fn removed(element: &ElementInfo) -> Removed {
    // The key begins with the protocol and ends with the port, each in a word of four bytes.
    let port = element.key.len().checked_sub(4).and_then(|at| element.key[at..].first_chunk());
    Removed {
        protocol: element.key.first().copied().unwrap_or_default(),
        port: port.map_or(0, |port| u16::from_be_bytes(*port)),
        container: target(element),
    }
}

/// Removes the mappings of wanted owners. The owner, configuration and addresses of an ADD, if
/// known, save a search.
pub(super) fn remove(
    nft: &mut Nft,
    is_wanted: &dyn Fn(&OwnedBy) -> bool,
    known: Option<(Owner<'_>, &Config, &[IpNet])>,
) -> Result<Vec<Removed>> {
    // No other attachment may begin to wait for a port that is about to be removed.
    let _lock = iptables::lock()?;
    let sets = nft.sets(&table())?;
    let found = match known {
        Some((owner, config, nets)) => find_known(nft, &sets, owner, config, nets)?,
        None => None,
    };
    let found = found.map_or_else(|| find(nft, &sets, is_wanted), Ok)?;
    take_out(nft, &sets, &found)
}

/// Returns the elements of the mappings, if all exist and are this owner's. Otherwise there may be
/// others, because the configuration may have changed since ADD.
fn find_known(
    nft: &mut Nft,
    sets: &[String],
    owner: Owner<'_>,
    config: &Config,
    nets: &[IpNet],
) -> Result<Option<Vec<Found>>> {
    let (entries, tag) = (entries(config, owner, nets), owner.tag());
    if entries.is_empty() || !config.snat && sets.iter().any(|set| is_of_sources(set)) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in entries {
        let (map, forward) = &entry.forward;
        let is_own = |element: &ElementInfo| has_tag(element, &tag);
        let waits = !nft.get_element(&table(), map, &forward.key)?.as_ref().is_some_and(is_own);
        if waits && !sets.contains(&names::standby(map)) {
            return Ok(None);
        }
        for (set, element) in entry.elements(waits, &tag) {
            match nft.get_element(&table(), &set, &element.key)?.filter(is_own) {
                Some(element) => found.push((set, element)),
                None => return Ok(None),
            }
        }
    }
    Ok(Some(found))
}

/// Returns all elements of wanted owners. Reads every port of the host.
fn find(
    nft: &mut Nft,
    sets: &[String],
    is_wanted: &dyn Fn(&OwnedBy) -> bool,
) -> Result<Vec<Found>> {
    let sets: Vec<&str> =
        sets.iter().map(String::as_str).filter(|set| set.starts_with(SETS)).collect();
    Elements { nft, table: table(), sets: &sets }.find(is_wanted)
}

/// Removes the elements. The same transaction activates the mappings that wait for their ports,
/// except those of the same owners. So after a failure or a kill, every port is unchanged or has
/// its successor.
fn take_out(nft: &mut Nft, sets: &[String], found: &[Found]) -> Result<Vec<Removed>> {
    let waiting = Waiting::read(nft, sets)?;
    let tags: HashSet<_> =
        found.iter().filter_map(|(_, element)| element.comment.as_deref()).collect();
    let mut gone = Vec::new();
    let mut steps = Vec::new();
    let mut rest: Vec<&Found> = found.iter().collect();
    for forward in found.iter().filter(|(set, _)| Group::parse_map(set).is_some()) {
        let (map, element) = forward;
        gone.push(removed(element));
        let sources = format!("{map}_from");
        let belongs = |(set, source): &&Found| {
            set == map && source.key == element.key
                || set.starts_with(&sources)
                    && names::active(set).is_none()
                    && source.key.ends_with(&element.key)
        };
        let (remove, others) = rest.into_iter().partition(belongs);
        rest = others;
        steps.push(Step { remove, activate: waiting.successor(map, element, &tags) });
    }
    steps.extend(rest.into_iter().map(|element| Step { remove: vec![element], activate: vec![] }));

    let mut steps = &steps[..];
    while !steps.is_empty() {
        let mut changes = 0;
        let fits = |step: &&Step<'_>| {
            changes += step.len();
            changes <= ELEMENTS_AT_ONCE
        };
        let count = steps.iter().take_while(fits).count().max(1);
        let (now, later) = steps.split_at(count);
        let mut transaction = nft.transaction();
        for step in now {
            step.add_to(&mut transaction);
        }
        transaction.commit()?;
        steps = later;
    }
    Ok(gone)
}

pub(super) fn udp_ports(removed: &[Removed]) -> impl Iterator<Item = u16> {
    removed.iter().filter(|r| r.protocol == Protocol::Udp.number()).map(|r| r.port)
}
