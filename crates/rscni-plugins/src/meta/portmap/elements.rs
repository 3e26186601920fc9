//! Host ports as elements of maps and sets, whose comment is their owner; see [`names`](super::names) for the rules.
//!
//! A host port leads to one container. The first to have it keeps it: another ADD fails, unless the address that the
//! port leads to has gone over to the container that asks for it. Another attachment of the same container waits until
//! the port is free ([`standby`](super::standby)).

use crate::plugin::Call;
use std::net::IpAddr;

use ipnet::IpNet;
use rscni::Error;
use rscni_linux::nft::{Data, Element, ElementInfo, Nft, Value};

use super::{
    check,
    config::{Config, Mapping, Protocol},
    names::{self, Group, LOCALNET, Part, SETS, loopback, masquerade_chain, table},
    nft_program,
    standby::{self, Step, Waiting, is_sibling},
};
use crate::{
    netfilter::{iptables, nftable},
    plugin::error::Result,
    state::owner::{Owner, Stale},
};

/// A mapping in one family, as the elements that make it up.
pub(super) struct Entry<'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) group: Group,
    pub(super) target: IpAddr,
    pub(super) forward: (String, Element),
    pub(super) sources: Vec<(IpNet, String, Element)>,
    /// Another attachment of the container has the port.
    waits: bool,
}

impl Entry<'_> {
    /// The elements with their sets, in the form for an active or for a waiting mapping.
    pub(super) fn elements(
        &self,
        waits: bool,
        tag: &str,
    ) -> impl Iterator<Item = (String, Element)> {
        let sources = self.sources.iter().map(|(_, set, source)| (set, source));
        let all = std::iter::once((&self.forward.0, &self.forward.1)).chain(sources);
        all.map(move |(set, element)| {
            if waits {
                (names::standby(set), standby::element(element, tag))
            } else {
                (set.clone(), element.clone())
            }
        })
    }
}

/// An element that was found, and its set.
pub(super) type Found = (String, ElementInfo);

/// What was removed: a port of a protocol, and the container that it led to.
pub(super) struct Removed {
    pub(super) protocol: u8,
    pub(super) port: u16,
    pub(super) container: Option<IpAddr>,
}

/// The nets from which the way back would not lead through the host, so that they have to be masqueraded.
fn sources(config: &Config, mapping: &Mapping, net: IpNet) -> Vec<IpNet> {
    if !config.snat {
        return Vec::new();
    }
    let v4 = net.addr().is_ipv4();
    let localhost = config.is_for_localhost(mapping, v4).then(|| loopback(v4));
    let (net, localhost) = if config.masq_all {
        (IpNet::new_assert(net.addr(), 0).trunc(), localhost.filter(|_| !v4))
    } else {
        (net.trunc(), localhost)
    };
    [Some(net), localhost].into_iter().flatten().collect()
}

pub(super) fn entries<'a>(config: &'a Config, owner: Owner<'_>, nets: &[IpNet]) -> Vec<Entry<'a>> {
    let tag = owner.tag();
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for net in nets {
        let group = Group::new(config, net.addr().is_ipv4());
        for mapping in config.mappings.iter().filter(|mapping| mapping.is_for(group.v4)) {
            let specific = mapping.address().is_some();
            let parts = [
                Some(Value::byte(mapping.protocol.number())),
                mapping.address().map(Value::from),
                Some(Value::port(mapping.host_port)),
            ];
            let key = || parts.iter().flatten().cloned();
            let target =
                Value::concat([Value::from(net.addr()), Value::port(mapping.container_port)]);
            let forward = Element::new(Value::concat(key())).data(target).comment(&tag);
            let map = group.map(specific);
            // The configuration may say the same twice.
            if entries.iter().any(|other| other.forward.0 == map && other.forward.1 == forward) {
                continue;
            }
            let source = |from: IpNet| {
                let net = (from.prefix_len() > 0).then(|| Value::from(from.network()));
                let element =
                    Element::new(Value::concat(net.into_iter().chain(key()))).comment(&tag);
                (from, group.sources(specific, from, config.mark_bit), element)
            };
            entries.push(Entry {
                mapping,
                group: group.clone(),
                target: net.addr(),
                forward: (map, forward),
                sources: sources(config, mapping, *net).into_iter().map(source).collect(),
                waits: false,
            });
        }
    }
    entries
}

/// What must be there for these entries, each once, in the order in which it depends on what is before it.
pub(super) fn parts(config: &Config, entries: &[Entry<'_>]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut seen = Vec::new();
    let mut once = |name: String, part: Part| {
        if !seen.contains(&name) {
            seen.push(name);
            parts.push(part);
        }
    };
    for entry in entries {
        once(entry.group.chain(true), Part::Maps(entry.group.clone()));
        for (net, ..) in &entry.sources {
            once(masquerade_chain(config.mark_bit), Part::Masquerade(config.mark_bit));
            if entry.group.v4 {
                once(LOCALNET.to_owned(), Part::Localnet);
            }
            let set = entry.group.sources(false, *net, config.mark_bit);
            once(set, Part::Sources(entry.group.clone(), *net, config.mark_bit));
        }
    }
    for entry in entries.iter().filter(|entry| entry.waits) {
        let sources: Vec<_> =
            entry.sources.iter().map(|(net, ..)| (*net, config.mark_bit)).collect();
        let name = format!("{} {sources:?}", entry.group.chain(true));
        once(name, Part::Standby(entry.group.clone(), sources));
    }
    parts
}

/// Something may be missing, and something in the way; more rounds mean that somebody else keeps changing it.
const ROUNDS: u32 = 6;

/// How many mappings, or elements to remove, go into one transaction: the kernel takes no message of any length, and has
/// no room for any number of refusals.
const MAPPINGS_AT_ONCE: usize = 50;
const ELEMENTS_AT_ONCE: usize = 150;

/// Adds the mappings to the container's addresses, in one transaction unless they are very many.
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
            // Who has the port must not change before this mapping waits for it.
            if lock.is_none() {
                lock = Some(iptables::lock()?);
            }
            make_room(nft, call, owner, &mut entries)?;
        } else {
            return Err(error.into());
        }
    }
    for group in groups(&entries).filter(|group| !config.conditions(group.v4).is_empty()) {
        nft_program::enter(nft, group, config.conditions(group.v4))?;
    }
    Ok(())
}

/// Puts back the rules that the mappings need, in chains that are there without them.
pub(super) fn restore_rules(
    nft: &mut Nft,
    owner: Owner<'_>,
    config: &Config,
    nets: &[IpNet],
) -> Result<()> {
    let entries = entries(config, owner, nets);
    if check::check_rules(nft, config, &entries).is_ok() {
        return Ok(());
    }
    for part in parts(config, &entries) {
        part.restore(nft)?;
    }
    for group in groups(&entries).filter(|group| !config.conditions(group.v4).is_empty()) {
        nft_program::enter(nft, group, config.conditions(group.v4))?;
    }
    Ok(())
}

pub(super) fn groups<'a>(entries: &'a [Entry<'_>]) -> impl Iterator<Item = &'a Group> {
    let is_first = |i: usize| entries[..i].iter().all(|other| other.group != entries[i].group);
    entries.iter().enumerate().filter(move |(i, _)| is_first(*i)).map(|(_, entry)| &entry.group)
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

/// Removes what earlier ADDs of this attachment left, and that of those whose ports lead to an address that is this
/// container's now: they are gone. Mappings whose port another attachment of this container has are to wait. Any other
/// owner keeps its port, and the call fails.
fn make_room(
    nft: &mut Nft,
    call: &Call<'_>,
    owner: Owner<'_>,
    entries: &mut [Entry<'_>],
) -> Result<()> {
    let mut tags = vec![owner.tag()];
    for entry in entries.iter_mut() {
        entry.waits = false;
        let (map, forward) = &entry.forward;
        let Some(holder) = nft.get_element(&table(), map, &forward.key)? else { continue };
        let tag = holder.comment.clone().unwrap_or_default();
        if tags.contains(&tag) {
            continue;
        }
        if target(&holder) == Some(entry.target) {
            tags.push(tag);
        } else if is_sibling(&tag, call) {
            entry.waits = true;
        } else {
            return Err(taken(entry, &holder).into());
        }
    }
    let is_gone = |tag: &str| tags.iter().any(|other| other == tag);
    let sets = nft.sets(&table())?;
    let found = find_tagged(nft, &sets, is_gone)?;
    take_out(nft, &sets, &found, &is_gone)?;
    let mut ownerless = Vec::new();
    for entry in entries.iter_mut().filter(|entry| !entry.waits) {
        let (map, forward) = &entry.forward;
        match nft.get_element(&table(), map, &forward.key)? {
            // A mapping that waited has taken over. If it belongs to another container, the next round finds out.
            Some(holder) => entry.waits = is_sibling(&holder.comment.unwrap_or_default(), call),
            // Without the port itself they serve nobody.
            None => ownerless.extend(entry.sources.iter().map(|(_, set, source)| (set, source))),
        }
    }
    for elements in ownerless.chunks(ELEMENTS_AT_ONCE) {
        let mut transaction = nft.transaction();
        for (set, element) in elements {
            transaction.destroy_element(&table(), set, element);
        }
        transaction.commit()?;
    }
    Ok(())
}

/// The error for a port that another container has.
fn taken(entry: &Entry<'_>, holder: &ElementInfo) -> Error {
    let (mapping, tag) = (entry.mapping, holder.comment.as_deref().unwrap_or_default());
    let leads_to = target(holder).map(|ip| ip.to_string()).unwrap_or_default();
    Error::TryAgainLater(format!(
        "{mapping} is taken: it leads to {leads_to} for the attachment \"{tag}\" (network, container, interface); DEL that \
         one first, or have GC remove it if it is gone"
    ))
}

/// The address that an element of a map leads to.
pub(super) fn target(element: &ElementInfo) -> Option<IpAddr> {
    let Some(Data::Value(value)) = &element.data else { return None };
    let length = value.as_bytes().len().checked_sub(4)?;
    nftable::address(&value.as_bytes()[..length])
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

/// Removes what the attachment has. What it was to have, if that is known, saves a search.
pub(super) fn remove(
    nft: &mut Nft,
    owner: Owner<'_>,
    known: Option<(&Config, &[IpNet])>,
) -> Result<Vec<Removed>> {
    let tag = owner.tag();
    // No other attachment must begin to wait for a port that is about to be removed.
    let _lock = iptables::lock()?;
    let sets = nft.sets(&table())?;
    let is_own = |other: &str| other == tag;
    let found = match known {
        Some((config, nets)) => find_known(nft, &sets, owner, config, nets)?,
        None => None,
    };
    let found = found.map_or_else(|| find_tagged(nft, &sets, is_own), Ok)?;
    take_out(nft, &sets, &found, &is_own)
}

/// The elements of the mappings, if all are there and this owner's, so that it has no others: the configuration may have
/// changed since ADD.
fn find_known(
    nft: &mut Nft,
    sets: &[String],
    owner: Owner<'_>,
    config: &Config,
    nets: &[IpNet],
) -> Result<Option<Vec<Found>>> {
    let (entries, tag) = (entries(config, owner, nets), owner.tag());
    if entries.is_empty() || !config.snat && sets.iter().any(|set| Group::is_of_sources(set)) {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in entries {
        let (map, forward) = &entry.forward;
        let is_own = |element: &ElementInfo| element.comment.as_deref() == Some(&*tag);
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

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<Vec<Removed>> {
    let _lock = iptables::lock()?;
    let sets = nft.sets(&table())?;
    let is_stale = |tag: &str| stale.has_tag(tag);
    let found = find_tagged(nft, &sets, is_stale)?;
    take_out(nft, &sets, &found, &is_stale)
}

/// All elements whose tag is wanted. It looks at every port of the host.
fn find_tagged(
    nft: &mut Nft,
    sets: &[String],
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for set in sets.iter().filter(|set| set.starts_with(SETS)) {
        let elements = nft.elements(&table(), set)?.into_iter();
        let wanted = elements.filter(|e| e.comment.as_deref().is_some_and(&is_wanted));
        found.extend(wanted.map(|element| (set.clone(), element)));
    }
    Ok(found)
}

/// Removes the elements. Mappings that wait for their ports become active in the same transaction, unless they have a tag
/// that `is_removed`. A transaction that fails, or a kill, leaves every port with what it had or with its successor.
fn take_out(
    nft: &mut Nft,
    sets: &[String],
    found: &[Found],
    is_removed: &dyn Fn(&str) -> bool,
) -> Result<Vec<Removed>> {
    let waiting = Waiting::read(nft, sets)?;
    let mut gone = Vec::new();
    let mut steps = Vec::new();
    let mut rest: Vec<&Found> = found.iter().collect();
    for forward in found.iter().filter(|(set, _)| Group::of_map(set).is_some()) {
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
        steps.push(Step { remove, activate: waiting.successor(map, element, is_removed) });
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
            step.put_into(&mut transaction);
        }
        transaction.commit()?;
        steps = later;
    }
    Ok(gone)
}

/// The ports of UDP among what was removed.
pub(super) fn udp_ports(removed: &[Removed]) -> impl Iterator<Item = u16> {
    removed.iter().filter(|r| r.protocol == Protocol::Udp.number()).map(|r| r.port)
}
