//! Elements of our nftables tables, and chains of iptables that have a comment with their owner.

use rscni_linux::nft::{ElementInfo, Family, Nft};

use super::{HeldBy, Holding};
use crate::{
    meta::portmap::names::active,
    netfilter::{
        iptables::{IpTable, jump_target},
        nftable,
    },
    plugin::error::Result,
};

/// The elements of our tables that carry an owner.
pub(super) fn elements() -> Result<Vec<Holding>> {
    let mut nft = Nft::open()?;
    let mut found = Vec::new();
    for family in [Family::Inet, Family::Bridge] {
        let table = nftable::table(family);
        for set in nft.sets(&table)? {
            for element in nft.elements(&table, &set)? {
                let Some(tag) = &element.comment else { continue };
                let what = format!("{table} {set} {}", shown(&set, &element));
                found.push(Holding { kind: "element", what, by: HeldBy::of_tag(tag) });
            }
        }
    }
    Ok(found)
}

/// The key of an element, as far as people know it by: an address, a host port, or the name of an interface.
fn shown(set: &str, element: &ElementInfo) -> String {
    let key = &element.key[..];
    if set.starts_with("hostport") {
        // It begins with the protocol, or with the source, and ends with the port in a word of four bytes; for a waiting
        // mapping one more word follows.
        let words = if active(set).is_some() { 2 } else { 1 };
        let port = key.len().checked_sub(4 * words).and_then(|at| key[at..].first_chunk());
        return format!("port {}", port.map_or(0, |port| u16::from_be_bytes(*port)));
    }
    if set.contains("-inside-") {
        // The subnet and the container, as `nft` shows them.
        let length = if set.starts_with("masquerade4") { 4 } else { 16 };
        let addresses =
            key.chunks(length).filter_map(nftable::address).map(|address| address.to_string());
        return addresses.collect::<Vec<_>>().join(" . ");
    }
    match nftable::address(key).filter(|_| set.ends_with(['4', '6'])) {
        Some(address) => address.to_string(),
        None => key.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect(),
    }
}

/// The chains of containers in the table `nat` of iptables: of masquerading and of host ports.
pub(super) fn chains() -> Result<Vec<Holding>> {
    let mut nft = Nft::open()?;
    let mut found: Vec<Holding> = Vec::new();
    for table in IpTable::of_both_families("nat") {
        let mut jumps: Vec<(String, Vec<u8>)> = Vec::new();
        for from in ["POSTROUTING", "CNI-HOSTPORT-DNAT"] {
            for rule in table.rules(&mut nft, from, |_| true)? {
                let text = rule.comment.clone().map(String::into_bytes);
                let texts = rule.expressions.iter().map(|expression| expression.attributes.clone());
                jumps.extend(
                    rule.jump_target
                        .map(|to| (to, text.into_iter().chain(texts).flatten().collect())),
                );
            }
        }
        if let Some(legacy) = table.legacy() {
            let saved = legacy.save()?;
            let to = |line: &str| {
                jump_target(line).map(|to| (to.to_owned(), line.replace('\\', "").into_bytes()))
            };
            jumps.extend(saved.lines().filter_map(to));
        }
        let program = if table.v4 { "iptables" } else { "ip6tables" };
        for (chain, text) in jumps.into_iter().filter(|(chain, _)| chain.starts_with("CNI-")) {
            let Some(by) = owner(&text) else { continue };
            let holding = Holding { kind: "chain", what: format!("{program} nat {chain}"), by };
            if !found.contains(&holding) {
                found.push(holding);
            }
        }
    }
    Ok(found)
}

/// The owner in a comment of the form `name: "NETWORK" id: "CONTAINER"`, with anything around it.
fn owner(bytes: &[u8]) -> Option<HeldBy> {
    let text = String::from_utf8_lossy(bytes);
    let (_, rest) = text.split_once("name: \"")?;
    let (network, rest) = rest.split_once("\" id: \"")?;
    let (container_id, _) = rest.split_once('"')?;
    Some(HeldBy::Container { network: network.to_owned(), container_id: container_id.to_owned() })
}

/// See [`fuzzing`](crate::fuzzing::saved).
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    if let Some(HeldBy::Container { network, container_id }) = owner(data) {
        let comment = format!("name: \"{network}\" id: \"{container_id}\"");
        assert_eq!(owner(comment.as_bytes()), owner(data));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_in_the_bytes_of_a_comment() {
        let by = HeldBy::Container { network: "net".into(), container_id: "box".into() };
        assert_eq!(owner(b"\0\x08comment\0dnat name: \"net\" id: \"box\"\0\0"), Some(by));
        assert_eq!(owner(b"CNI portfwd requiring masquerade"), None);
        assert_eq!(owner(b"name: \"net\" id: \"cut off"), None);
    }
}
