//! Lists the nftables rules of one network namespace in the syntax of `nft`, including those that
//! `iptables` made through nftables.
//!
//! Counters, handles and timers are left out, because they change by themselves.

mod field;
mod raw;
mod registers;
mod rule;
mod set;
mod value;

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use self::set::{Set, Sets};
use crate::{
    netlink::{Attributes, attribute, attributes, be_u32, dump, list as in_order, text},
    snapshot::Items,
};

const NFTABLES: u16 = 10 << 8;
const GET_TABLE: u16 = NFTABLES + 1;
const GET_CHAIN: u16 = NFTABLES + 4;
const GET_RULE: u16 = NFTABLES + 7;
const GET_SET: u16 = NFTABLES + 10;
const GET_SET_ELEMENTS: u16 = NFTABLES + 13;
const GET_OBJECT: u16 = NFTABLES + 19;
const GET_FLOWTABLE: u16 = NFTABLES + 23;

/// Types of comments in user data.
const TABLE_COMMENT: u8 = 0;
const CHAIN_COMMENT: u8 = 0;
const RULE_COMMENT: u8 = 0;

/// Adds the rules in the calling thread's network namespace, with `namespace` as its name.
pub(crate) fn list(namespace: &str, items: &mut Items) -> io::Result<()> {
    let tables = match dump(NETLINK_NETFILTER, GET_TABLE, &ANY_FAMILY) {
        // Without nftables in the kernel there are no rules.
        Err(error) if is_absent(&error) => return list_legacy(namespace, items),
        tables => tables?,
    };
    let mut add = |what: String, how: String| items.add(format!("{namespace}: nft {what}"), how);
    for message in &tables {
        let table = Object::read(message, &[1]);
        let flags = table.number(2).unwrap_or_default();
        let dormant = (flags & 1 != 0).then(|| "flags dormant".to_owned());
        add(format!("table {table}"), properties([dormant, table.comment(6, TABLE_COMMENT)]));
    }
    for message in dump(NETLINK_NETFILTER, GET_CHAIN, &ANY_FAMILY)? {
        let chain = Object::read(&message, &[1, 3]);
        let how = properties([hook(&chain), policy(&chain), chain.comment(12, CHAIN_COMMENT)]);
        add(format!("chain {chain}"), how);
    }
    let mut sets = Sets::new();
    for message in dump(NETLINK_NETFILTER, GET_SET, &ANY_FAMILY)? {
        let object = Object::read(&message, &[1, 2]);
        let elements = elements(&object)?;
        let elements: Vec<_> = elements.iter().map(|element| attributes(element)).collect();
        let set = Set::read(&object.attributes, &elements);
        if !set.is_anonymous {
            let kind = if set.is_map { "map" } else { "set" };
            add(format!("{kind} {object}"), set.properties.clone());
            for element in &set.elements {
                add(format!("element {object}: {element}"), String::new());
            }
        }
        sets.insert(set::id(object.family, &object.attributes), set);
    }
    for message in dump(NETLINK_NETFILTER, GET_RULE, &ANY_FAMILY)? {
        let rule = Object::read(&message, &[1, 2]);
        let expressions = rule.attributes.get(&4).copied().unwrap_or_default();
        let table = rule.attributes.get(&1).map(|name| text(name)).unwrap_or_default();
        let mut shown = rule::show(rule.family, &table, expressions, &sets);
        if let Some(comment) = rule.comment(7, RULE_COMMENT) {
            shown = shown + " " + &comment;
        }
        add(format!("rule {rule}: {shown}"), String::new());
    }
    for (request, what) in [(GET_OBJECT, "object"), (GET_FLOWTABLE, "flowtable")] {
        match dump(NETLINK_NETFILTER, request, &ANY_FAMILY) {
            Err(error) if is_absent(&error) => {}
            messages => messages?.iter().for_each(|message| {
                add(format!("{what} {}", Object::read(message, &[1, 2])), String::new());
            }),
        }
    }
    list_legacy(namespace, items)
}

/// Tables of legacy `iptables`, which creates them on its first use. The kernel shows no more
/// without its binary interface.
fn list_legacy(namespace: &str, items: &mut Items) -> io::Result<()> {
    for family in ["ip", "ip6"] {
        match std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // The kernel shows this file only to root of the machine.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            tables => {
                tables?.lines().for_each(|table| {
                    items.add(
                        format!("{namespace}: legacy {family}tables table {table}"),
                        String::new(),
                    );
                });
            }
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    const EINVAL: i32 = 22;
    const EPROTONOSUPPORT: i32 = 93;
    const EOPNOTSUPP: i32 = 95;
    matches!(error.raw_os_error(), Some(EINVAL | EPROTONOSUPPORT | EOPNOTSUPP))
}

/// The header of a request for the objects of every family.
const ANY_FAMILY: [u8; 4] = [0; 4];

/// A message about an object, with the numbers of the attributes that name it. It is displayed with
/// its family and name.
struct Object<'a> {
    family: u8,
    attributes: Attributes<'a>,
    names: &'static [u16],
}

impl<'a> Object<'a> {
    fn read(message: &'a [u8], names: &'static [u16]) -> Self {
        Self {
            family: message.first().copied().unwrap_or_default(),
            attributes: attributes(message.get(4..).unwrap_or_default()),
            names,
        }
    }

    fn number(&self, kind: u16) -> Option<u32> {
        be_u32(self.attributes.get(&kind)?)
    }

    fn comment(&self, attribute: u16, kind: u8) -> Option<String> {
        let text = comment(self.attributes.get(&attribute)?, kind)?;
        Some(format!("comment \"{text}\""))
    }
}

impl std::fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.family {
            INET => "inet",
            2 => "ip",
            3 => "arp",
            NETDEV => "netdev",
            BRIDGE => "bridge",
            10 => "ip6",
            _ => "?",
        })?;
        let mut names = self.names.iter().filter_map(|kind| self.attributes.get(kind));
        names.try_for_each(|name| write!(f, " {}", text(name)))
    }
}

const INET: u8 = 1;
const NETDEV: u8 = 5;
const BRIDGE: u8 = 7;

fn properties<const N: usize>(properties: [Option<String>; N]) -> String {
    properties.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Type, hook and priority of a base chain.
fn hook(chain: &Object<'_>) -> Option<String> {
    let hook = attributes(chain.attributes.get(&4)?);
    let kind = chain.attributes.get(&7).map(|kind| text(kind)).unwrap_or_default();
    let name = match (chain.family, be_u32(hook.get(&1)?)?) {
        (NETDEV, 0) | (INET, 5) => "ingress",
        (NETDEV, _) => "egress",
        (3, number) => ["input", "output", "forward"].get(number as usize)?,
        (_, number) => ["prerouting", "input", "forward", "output", "postrouting"]
            .get(number as usize)
            .copied()?,
    };
    let device = hook.get(&3).map(|device| format!(" device \"{}\"", text(device)));
    let priority = be_u32(hook.get(&2)?)?.cast_signed();
    let priority = self::priority(chain.family, name, priority);
    Some(format!("type {kind} hook {name}{} priority {priority}", device.unwrap_or_default()))
}

/// Formats a priority with the nearest name, as `nft` does.
fn priority(family: u8, hook: &str, number: i32) -> String {
    const REACH: i32 = 10;
    let names: &[(i32, &str, &str)] = match family {
        BRIDGE => &[
            (-300, "dstnat", "prerouting"),
            (-200, "filter", ""),
            (100, "out", "output"),
            (300, "srcnat", "postrouting"),
        ],
        NETDEV | 3 => &[(0, "filter", "")],
        _ => &[
            (-300, "raw", ""),
            (-150, "mangle", ""),
            (-100, "dstnat", "prerouting"),
            (0, "filter", ""),
            (50, "security", ""),
            (100, "srcnat", "postrouting"),
        ],
    };
    let near = names.iter().find(|(standard, _, only)| {
        (number - standard).abs() <= REACH && (only.is_empty() || *only == hook)
    });
    match near.map(|(standard, name, _)| (name, number - standard)) {
        Some((name, 0)) => (*name).to_owned(),
        Some((name, more @ 1..)) => format!("{name} + {more}"),
        Some((name, less)) => format!("{name} - {}", -less),
        None => number.to_string(),
    }
}

fn policy(chain: &Object<'_>) -> Option<String> {
    let policy = chain.number(5)?;
    Some(format!("policy {}", if policy == 0 { "drop" } else { "accept" }))
}

/// The comment in user data, as `nft` and `iptables` keep it there.
fn comment(mut data: &[u8], wanted: u8) -> Option<String> {
    loop {
        let (kind, length) = (*data.first()?, usize::from(*data.get(1)?));
        let value = data.get(2..2 + length)?;
        if kind == wanted {
            return Some(text(value));
        }
        data = &data[2 + length..];
    }
}

/// Returns the attributes of each element of a set.
fn elements(set: &Object<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut request = vec![set.family, 0, 0, 0];
    for kind in [1, 2] {
        request.extend(attribute(kind, set.attributes.get(&kind).copied().unwrap_or_default()));
    }
    let messages = dump(NETLINK_NETFILTER, GET_SET_ELEMENTS, &request)?;
    let elements = messages.iter().flat_map(|message| {
        let found = attributes(message.get(4..).unwrap_or_default());
        in_order(found.get(&3).copied().unwrap_or_default())
    });
    Ok(elements.map(|(_, element)| element.to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_is_found_behind_other_user_data() {
        assert_eq!(comment(&[2, 1, 9, 0, 3, b'n', b'a', 0], 0), Some("na".to_owned()));
        assert_eq!(comment(&[2, 1, 9], 0), None);
        assert_eq!(comment(&[0, 9, 1], 0), None);
    }

    #[test]
    fn priorities_are_named_where_they_are_standard() {
        assert_eq!(priority(2, "prerouting", -100), "dstnat");
        assert_eq!(priority(2, "output", -100), "-100");
        assert_eq!(priority(INET, "forward", -9), "filter - 9");
        assert_eq!(priority(BRIDGE, "prerouting", -300), "dstnat");
    }
}
