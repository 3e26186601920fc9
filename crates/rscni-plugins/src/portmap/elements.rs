//! Host ports as elements of maps and sets, whose comment is their owner; see [`names`](super::names) for the rules.
//!
//! A host port leads to one container. The first to have it keeps it: another ADD fails, unless the address that the
//! port leads to has gone over to the container that asks for it.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni::Error;
use rscni_linux::nft::{Data, Element, ElementInfo, Nft, Value};

use super::{
    config::{Config, Mapping, Protocol},
    names::{ENTRIES, Group, LOCALNET, Part, SETS, loopback, masquerade_chain, table},
    nft_program,
};
use crate::{
    failure::{Result, differs},
    nftable,
    owner::{Owner, Stale},
};

/// A mapping in one family, as the elements that make it up.
struct Entry<'a> {
    mapping: &'a Mapping,
    group: Group,
    target: IpAddr,
    forward: (String, Element),
    sources: Vec<(IpNet, String, Element)>,
}

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
    if config.masq_all {
        return vec![IpNet::new_assert(net.addr(), 0).trunc()];
    }
    let localhost = (net.addr().is_ipv4() && mapping.is_for_localhost()).then(loopback);
    [Some(net.trunc()), localhost].into_iter().flatten().collect()
}

fn entries<'a>(config: &'a Config, owner: Owner<'_>, nets: &[IpNet]) -> Vec<Entry<'a>> {
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
            });
        }
    }
    entries
}

/// What must be there for these entries, each once, in the order in which it depends on what is before it.
fn parts(config: &Config, entries: &[Entry<'_>]) -> Vec<Part> {
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
    parts
}

/// Something may be missing, and something in the way; more rounds mean that somebody else keeps changing it.
const ROUNDS: u32 = 4;

/// How many mappings, or elements to remove, go into one transaction: the kernel takes no message of any length, and has
/// no room for any number of refusals.
const MAPPINGS_AT_ONCE: usize = 50;
const ELEMENTS_AT_ONCE: usize = 150;

/// Adds the mappings to the container's addresses, in one transaction unless they are very many.
pub(super) fn add(nft: &mut Nft, owner: Owner<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let entries = entries(config, owner, nets);
    let mut rounds = 0;
    while let Err(error) = create(nft, &entries) {
        rounds += 1;
        if rounds < ROUNDS && error.is_not_found() {
            Part::ensure(nft, &parts(config, &entries))?;
        } else if rounds < ROUNDS && error.is_exists() {
            make_room(nft, owner, &entries)?;
        } else {
            return Err(error.into());
        }
    }
    for group in groups(&entries).filter(|group| !config.conditions(group.v4).is_empty()) {
        nft_program::enter(nft, group, config.conditions(group.v4))?;
    }
    Ok(())
}

fn groups<'a>(entries: &'a [Entry<'_>]) -> impl Iterator<Item = &'a Group> {
    let is_first = |i: usize| entries[..i].iter().all(|other| other.group != entries[i].group);
    entries.iter().enumerate().filter(move |(i, _)| is_first(*i)).map(|(_, entry)| &entry.group)
}

fn create(nft: &mut Nft, entries: &[Entry<'_>]) -> rscni_linux::Result<()> {
    let table = table();
    for entries in entries.chunks(MAPPINGS_AT_ONCE) {
        let mut transaction = nft.transaction();
        for entry in entries {
            let (map, forward) = &entry.forward;
            transaction.create_element(&table, map, forward);
            for (_, set, source) in &entry.sources {
                transaction.create_element(&table, set, source);
            }
        }
        transaction.commit()?;
    }
    Ok(())
}

/// Removes what earlier ADDs of this attachment left, and that of those whose ports lead to an address that is this
/// container's now: they are gone. Any other owner keeps its port, and the call fails.
fn make_room(nft: &mut Nft, owner: Owner<'_>, entries: &[Entry<'_>]) -> Result<()> {
    let mut tags = vec![owner.tag()];
    let mut ownerless = Vec::new();
    for entry in entries {
        let (map, forward) = &entry.forward;
        if let Some(holder) = nft.get_element(&table(), map, &forward.key)? {
            let tag = holder.comment.clone().unwrap_or_default();
            if !tags.contains(&tag) {
                refuse_taken(entry, &holder)?;
                tags.push(tag);
            }
        }
        // Without the port itself they serve nobody.
        ownerless.extend(entry.sources.iter().map(|(_, set, source)| (set, source)));
    }
    remove_all(nft, |tag| tags.iter().any(|other| other == tag))?;
    destroy(nft, &ownerless)
}

fn refuse_taken(entry: &Entry<'_>, holder: &ElementInfo) -> Result<()> {
    let leads_to = target(holder);
    if leads_to == Some(entry.target) {
        return Ok(());
    }
    let (mapping, tag) = (entry.mapping, holder.comment.as_deref().unwrap_or_default());
    let leads_to = leads_to.map(|ip| ip.to_string()).unwrap_or_default();
    Err(Error::TryAgainLater(format!(
        "{mapping} is taken: it leads to {leads_to} for the attachment \"{tag}\" (network, container, interface); DEL that \
         one first, or have GC remove it if it is gone"
    ))
    .into())
}

/// Whether both lead to the same address and port.
fn same_data(found: &ElementInfo, wanted: &Element) -> bool {
    matches!((&found.data, &wanted.data), (Some(Data::Value(a)), Some(Data::Value(b))) if a.as_bytes() == b.as_bytes())
}

/// The address that an element of a map leads to.
fn target(element: &ElementInfo) -> Option<IpAddr> {
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
    if let Some((config, nets)) = known {
        let entries = entries(config, owner, nets);
        if let Some(found) = find_all(nft, &tag, config, &entries)? {
            let sources =
                entries.iter().flat_map(|e| e.sources.iter().map(|(_, set, source)| (set, source)));
            let forwards = entries.iter().map(|e| (&e.forward.0, &e.forward.1));
            destroy(nft, &sources.chain(forwards).collect::<Vec<_>>())?;
            return Ok(found.iter().map(removed).collect());
        }
    }
    remove_all(nft, |other| other == tag)
}

/// What the mappings lead to, if all elements are there and this owner's, so that it has no others: the configuration
/// may have changed since ADD.
fn find_all(
    nft: &mut Nft,
    tag: &str,
    config: &Config,
    entries: &[Entry<'_>],
) -> Result<Option<Vec<ElementInfo>>> {
    if entries.is_empty()
        || !config.snat && nft.sets(&table())?.iter().any(|set| Group::is_of_sources(set))
    {
        return Ok(None);
    }
    let mut found = Vec::new();
    for entry in entries {
        let mut own = |set: &str, element: &Element| -> Result<Option<ElementInfo>> {
            let element = nft.get_element(&table(), set, &element.key)?;
            Ok(element.filter(|element| element.comment.as_deref() == Some(tag)))
        };
        for (_, set, source) in &entry.sources {
            if own(set, source)?.is_none() {
                return Ok(None);
            }
        }
        match own(&entry.forward.0, &entry.forward.1)? {
            Some(element) => found.push(element),
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<Vec<Removed>> {
    remove_all(nft, |tag| stale.has_tag(tag))
}

/// Removes all elements whose tag is wanted. It looks at every port of the host.
fn remove_all(nft: &mut Nft, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Removed>> {
    let table = table();
    let mut gone = Vec::new();
    let mut elements = Vec::new();
    for set in nft.sets(&table)?.into_iter().filter(|set| set.starts_with(SETS)) {
        for element in nft.elements(&table, &set)? {
            if element.comment.as_deref().is_some_and(&is_wanted) {
                if Group::of_map(&set).is_some() {
                    gone.push(removed(&element));
                }
                elements.push((set.clone(), Element::new(Value::bytes(element.key))));
            }
        }
    }
    destroy(nft, &elements.iter().map(|(set, element)| (set, element)).collect::<Vec<_>>())?;
    Ok(gone)
}

fn destroy(nft: &mut Nft, elements: &[(&String, &Element)]) -> Result<()> {
    for elements in elements.chunks(ELEMENTS_AT_ONCE) {
        let mut transaction = nft.transaction();
        for (set, element) in elements {
            transaction.destroy_element(&table(), set, element);
        }
        transaction.commit()?;
    }
    Ok(())
}

/// CHECK: all elements are there and lead to the container, and so are the rules that look them up.
pub(super) fn check(
    nft: &mut Nft,
    owner: Owner<'_>,
    config: &Config,
    nets: &[IpNet],
) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    let entries = entries(config, owner, nets);
    for entry in &entries {
        let (mapping, (map, forward)) = (entry.mapping, &entry.forward);
        let to = format!("{}, port {}", entry.target, mapping.container_port);
        match nft.get_element(&table, map, &forward.key)? {
            None => {
                return Err(differs(format!(
                    "{mapping} does not lead to {to}: it is missing in {map}"
                )));
            }
            Some(found) if found.comment.as_deref() != Some(&tag) => {
                let other = found.comment.unwrap_or_default();
                return Err(differs(format!(
                    "{mapping} does not lead to {to}: \"{other}\" has it"
                )));
            }
            Some(found) if !same_data(&found, forward) => {
                let other = target(&found).map(|ip| ip.to_string()).unwrap_or_default();
                return Err(differs(format!(
                    "{mapping} does not lead to {to}: another port or address ({other}) has it"
                )));
            }
            Some(_) => {}
        }
        for (net, set, source) in &entry.sources {
            if nft.get_element(&table, set, &source.key)?.is_none() {
                let what =
                    format!("{mapping} is not masqueraded for {net}: it is missing in {set}");
                return Err(differs(what));
            }
        }
    }
    check_rules(nft, config, &entries)
}

fn check_rules(nft: &mut Nft, config: &Config, entries: &[Entry<'_>]) -> Result<()> {
    let table = table();
    let leads = |nft: &mut Nft, from: &str, to: &str| -> Result<()> {
        if nft.rules(&table, from)?.iter().any(|rule| rule.jump_target.as_deref() == Some(to)) {
            return Ok(());
        }
        Err(differs(format!("host ports: the rule of {from} that leads to {to} is missing")))
    };
    for group in groups(entries) {
        let chain = group.chain(true);
        for from in ENTRIES {
            leads(nft, from, &chain)?;
        }
        leads(nft, &chain, &group.chain(false))?;
        for specific in [true, false] {
            let chain = group.chain(specific);
            let rules = nft.rules(&table, &chain)?;
            let of_chain = entries
                .iter()
                .filter(|e| e.group == *group && e.mapping.address().is_some() == specific);
            for set in
                of_chain.flat_map(|e| e.sources.iter().map(|(_, set, _)| set).chain([&e.forward.0]))
            {
                if !rules.iter().any(|rule| rule.looks_up(set)) {
                    return Err(differs(format!(
                        "host ports: the rule of {chain} that looks up {set} is missing"
                    )));
                }
            }
        }
    }
    for part in parts(config, entries) {
        let chain = match part {
            Part::Masquerade(bit) => masquerade_chain(bit),
            Part::Localnet => LOCALNET.to_owned(),
            Part::Maps(_) | Part::Sources(..) => continue,
        };
        if nft.rules(&table, &chain)?.is_empty() {
            return Err(differs(format!("host ports: the rule of {chain} is missing")));
        }
    }
    Ok(())
}

/// The ports of UDP among what was removed.
pub(super) fn udp_ports(removed: &[Removed]) -> impl Iterator<Item = u16> {
    removed.iter().filter(|r| r.protocol == Protocol::Udp.number()).map(|r| r.port)
}
