//! Lists the nftables rules of one network namespace, including those that `iptables` made through
//! nftables.
//!
//! Every expression is shown with its name and values. Counters, handles and timers are left out,
//! because they change by themselves.

use std::{fmt::Write, io};

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    netlink::{attribute, attributes, dump, hex, list as in_order, text, u32_at},
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

/// Adds the rules in the calling thread's network namespace, with `namespace` as its name.
pub(crate) fn list(namespace: &str, items: &mut Items) -> io::Result<()> {
    let tables = match dump(NETLINK_NETFILTER, GET_TABLE, &any_family()) {
        // Without nftables in the kernel there are no rules.
        Err(error) if is_absent(&error) => return list_legacy(namespace, items),
        tables => tables?,
    };
    let mut add = |what: String, how: String| items.add(format!("{namespace}: nft {what}"), how);
    for message in tables {
        let (family, table) = named(&message, &[1]);
        add(format!("table {family} {table}"), String::new());
    }
    for message in dump(NETLINK_NETFILTER, GET_CHAIN, &any_family())? {
        let (family, chain) = named(&message, &[1, 3]);
        let found = attributes(message.get(4..).unwrap_or_default());
        let mut how = found.get(&7).map(|kind| text(kind)).unwrap_or_default();
        if let Some(hook) = found.get(&4).map(|hook| attributes(hook)) {
            let value =
                |kind| hook.get(&kind).and_then(|value: &&[u8]| u32_at(value, 0)).map(u32::from_be);
            let (hook, priority) =
                (value(1).unwrap_or_default(), value(2).unwrap_or_default().cast_signed());
            let _ = write!(how, " hook {hook} priority {priority}");
        }
        if let Some(policy) = found.get(&5).and_then(|policy| u32_at(policy, 0)).map(u32::from_be) {
            how += if policy == 0 { " policy drop" } else { " policy accept" };
        }
        add(format!("chain {family} {chain}"), how);
    }
    for message in dump(NETLINK_NETFILTER, GET_RULE, &any_family())? {
        let (family, chain) = named(&message, &[1, 2]);
        let found = attributes(message.get(4..).unwrap_or_default());
        let expressions = found.get(&4).map(|list| expressions(list)).unwrap_or_default();
        let comment = found.get(&7).and_then(|data| comment(data));
        let comment = comment.map(|text| format!(" # {text}")).unwrap_or_default();
        add(format!("rule {family} {chain}: {expressions}{comment}"), String::new());
    }
    for (request, what, name) in [(GET_OBJECT, "object", 2), (GET_FLOWTABLE, "flowtable", 2)] {
        match dump(NETLINK_NETFILTER, request, &any_family()) {
            Err(error) if is_absent(&error) => {}
            messages => {
                for message in messages? {
                    let (family, object) = named(&message, &[1, name]);
                    add(format!("{what} {family} {object}"), String::new());
                }
            }
        }
    }
    for message in dump(NETLINK_NETFILTER, GET_SET, &any_family())? {
        let (family, set) = named(&message, &[1, 2]);
        add(format!("set {family} {set}"), String::new());
        for element in elements(&message)? {
            add(format!("element {family} {set}: {element}"), String::new());
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
fn any_family() -> [u8; 4] {
    [0; 4]
}

/// The family of the object in a message, and the names in these attributes.
fn named(message: &[u8], names: &[u16]) -> (&'static str, String) {
    let family = match message.first() {
        Some(1) => "inet",
        Some(2) => "ip",
        Some(3) => "arp",
        Some(5) => "netdev",
        Some(7) => "bridge",
        Some(10) => "ip6",
        _ => "?",
    };
    let found = attributes(message.get(4..).unwrap_or_default());
    let names: Vec<_> =
        names.iter().filter_map(|kind| found.get(kind)).map(|name| text(name)).collect();
    (family, names.join(" "))
}

fn expressions(list: &[u8]) -> String {
    let mut shown = Vec::new();
    for (_, expression) in in_order(list) {
        let found = attributes(expression);
        let name = found.get(&1).map(|name| text(name)).unwrap_or_default();
        match (name.as_str(), found.get(&2)) {
            // Counters grow with packets.
            ("counter" | "quota" | "last" | "connlimit", _) | (_, None) => shown.push(name),
            (_, Some(data)) => shown.push(format!("{name}({})", values(data))),
        }
    }
    shown.join(" ")
}

/// Formats values by their numbers, with nested ones.
fn values(bytes: &[u8]) -> String {
    let shown: Vec<_> = in_order(bytes)
        .into_iter()
        .map(|(kind, value)| format!("{kind}={}", value_of(value)))
        .collect();
    shown.join(" ")
}

fn value_of(bytes: &[u8]) -> String {
    let inner = in_order(bytes);
    let covered: usize = inner.iter().map(|(_, value)| (4 + value.len()).next_multiple_of(4)).sum();
    let nested = !inner.is_empty() && covered == bytes.len().next_multiple_of(4);
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let (used, padding) = bytes.split_at(end);
    let is_text = used.len() > 1
        && !padding.is_empty()
        && used.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ')
        && !used.starts_with(b" ");
    if is_text {
        text(used)
    } else if nested {
        format!("[{}]", values(bytes))
    } else if padding.len() > 16 {
        hex(used) + "00.."
    } else {
        hex(bytes)
    }
}

/// The comment in a rule's user data, as `nft` and `iptables` keep it there.
fn comment(mut data: &[u8]) -> Option<String> {
    loop {
        let (kind, length) = (*data.first()?, usize::from(*data.get(1)?));
        let value = data.get(2..2 + length)?;
        if kind == 0 {
            return Some(text(value));
        }
        data = &data[2 + length..];
    }
}

/// Adds the elements of a set, given its message.
fn elements(set: &[u8]) -> io::Result<Vec<String>> {
    let found = attributes(set.get(4..).unwrap_or_default());
    let mut request = vec![set.first().copied().unwrap_or_default(), 0, 0, 0];
    for kind in [1, 2] {
        request.extend(attribute(kind, found.get(&kind).copied().unwrap_or_default()));
    }
    let messages = dump(NETLINK_NETFILTER, GET_SET_ELEMENTS, &request)?;
    let mut shown = Vec::new();
    for message in &messages {
        let found = attributes(message.get(4..).unwrap_or_default());
        for (_, element) in found.get(&3).map(|list| in_order(list)).unwrap_or_default() {
            let element = attributes(element);
            let parts: Vec<_> = [(1, "key"), (10, "to"), (2, "data")]
                .into_iter()
                .filter_map(|(kind, name)| {
                    Some(format!("{name} {}", value_of(element.get(&kind)?)))
                })
                .collect();
            let comment = element.get(&6).and_then(|data| comment(data));
            let comment = comment.map(|text| format!(" # {text}")).unwrap_or_default();
            shown.push(parts.join(" ") + &comment);
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_what_they_look_like() {
        assert_eq!(value_of(b"eth0\0\0\0\0"), "eth0");
        assert_eq!(value_of(&[10, 1, 0, 2]), "0a010002");
        assert_eq!(value_of(&attribute(1, &[10, 1, 0, 2])), "[1=0a010002]");
        let mut comment = b"name: \"net\"".to_vec();
        comment.resize(256, 0);
        assert_eq!(value_of(&comment), "name: \"net\"");
        assert_eq!(value_of(&[0; 32]), "00..");
    }

    #[test]
    fn a_comment_is_found_behind_other_user_data() {
        assert_eq!(comment(&[2, 1, 9, 0, 3, b'n', b'a', 0]), Some("na".to_owned()));
        assert_eq!(comment(&[2, 1, 9]), None);
        assert_eq!(comment(&[0, 9, 1]), None);
    }
}
