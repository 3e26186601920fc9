//! Expressions that have no syntax of `nft` here, with the numbers and values of their attributes.

use crate::netlink::{Attributes, attribute, attributes, hex, list, text};

/// Formats an expression with all its attributes: `[socket 1=00000001 2=00000001]`.
pub(super) fn expression(name: &str, data: &[u8]) -> String {
    match (name, values(data).as_str()) {
        // Their values change with packets.
        ("quota" | "last" | "connlimit", _) | (_, "") => format!("[{name}]"),
        ("match" | "target", _) => extension(name, &attributes(data)),
        (_, values) => format!("[{name} {values}]"),
    }
}

/// A match or target of `iptables`.
fn extension(name: &str, data: &Attributes<'_>) -> String {
    let part = |kind| data.get(&kind).copied().unwrap_or_default();
    let revision = if part(2).iter().all(|byte| *byte == 0) { "" } else { &hex(part(2)) };
    format!("[xt {name} {:?}{revision} {}]", text(part(1)), value(part(3)))
}

/// Formats values by their numbers, with nested ones.
fn values(bytes: &[u8]) -> String {
    let shown: Vec<_> =
        list(bytes).into_iter().map(|(kind, bytes)| format!("{kind}={}", value(bytes))).collect();
    shown.join(" ")
}

fn value(bytes: &[u8]) -> String {
    let inner = list(bytes);
    let covered: usize = inner.iter().map(|(kind, value)| attribute(*kind, value).len()).sum();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_what_they_look_like() {
        assert_eq!(value(b"eth0\0\0\0\0"), "eth0");
        assert_eq!(value(&[10, 1, 0, 2]), "0a010002");
        assert_eq!(value(&attribute(1, &[10, 1, 0, 2])), "[1=0a010002]");
        let mut comment = b"name: \"net\"".to_vec();
        comment.resize(256, 0);
        assert_eq!(value(&comment), "name: \"net\"");
        assert_eq!(value(&[0; 32]), "00..");
    }

    #[test]
    fn extensions_of_iptables_are_shown_with_their_names() {
        let comment = [attribute(1, b"comment\0"), attribute(2, &[0; 4]), attribute(3, b"net\0")];
        assert_eq!(expression("match", &comment.concat()), "[xt match \"comment\" net]");
        assert_eq!(expression("quota", &attribute(1, &[7; 8])), "[quota]");
    }
}
