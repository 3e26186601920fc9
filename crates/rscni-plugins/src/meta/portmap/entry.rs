//! The elements and parts of the skeleton that the mappings of a configuration need.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::nft::{Data, Element, ElementInfo, Value};

use super::{
    config::{Config, Mapping},
    names::{self, Group, LOCALNET, loopback, masquerade_chain},
    skeleton::Part,
    standby,
};
use crate::{netfilter::nftable, state::Owner};

/// The elements of a mapping in one family.
pub(super) struct Entry<'a> {
    pub(super) mapping: &'a Mapping,
    pub(super) group: Group,
    pub(super) target: IpAddr,
    pub(super) forward: (String, Element),
    /// The masqueraded source subnets.
    pub(super) sources: Vec<(IpNet, String, Element)>,
    /// Whether another attachment of the container has the port.
    pub(super) waits: bool,
}

impl Entry<'_> {
    /// Returns the elements with their sets, in the form for an active or for a waiting mapping.
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

/// Returns the source subnets to masquerade: answers to these would not return through the host.
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

/// Returns the entries of all mappings, for the container's addresses `nets`.
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
            let element = |subnet: Option<Value>| {
                let key = subnet.into_iter().chain(parts.iter().flatten().cloned());
                Element::new(Value::concat(key)).comment(&tag)
            };
            let target =
                Value::concat([Value::from(net.addr()), Value::port(mapping.container_port)]);
            let forward = (group.map(specific), element(None).data(target));
            // The configuration may have the same mapping twice.
            if entries.iter().any(|other| other.forward == forward) {
                continue;
            }
            let source = |from: IpNet| {
                let subnet = (from.prefix_len() > 0).then(|| Value::from(from.network()));
                (from, group.sources(specific, from, config.mark_bit), element(subnet))
            };
            entries.push(Entry {
                mapping,
                group: group.clone(),
                target: net.addr(),
                forward,
                sources: sources(config, mapping, *net).into_iter().map(source).collect(),
                waits: false,
            });
        }
    }
    entries
}

/// Returns the parts of the skeleton for these entries, each once, after those that it depends on.
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

/// Returns the groups of the entries, each once.
pub(super) fn groups<'a>(entries: &'a [Entry<'_>]) -> impl Iterator<Item = &'a Group> {
    let is_first = |i: usize| entries[..i].iter().all(|other| other.group != entries[i].group);
    entries.iter().enumerate().filter(move |(i, _)| is_first(*i)).map(|(_, entry)| &entry.group)
}

/// Returns the address to which an element of a map leads.
pub(super) fn target(element: &ElementInfo) -> Option<IpAddr> {
    let Some(Data::Value(value)) = &element.data else { return None };
    let length = value.as_bytes().len().checked_sub(4)?;
    nftable::address(&value.as_bytes()[..length])
}
