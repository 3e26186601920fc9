//! Sets and maps in the syntax of `nft`.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    comment, rule,
    value::{Kind, show_all, split},
};
use crate::netlink::{Attributes, attributes, be_u32, be_u64, hex, list, text};

const ANONYMOUS: u32 = 0x1;
const INTERVAL: u32 = 0x4;
const MAP: u32 = 0x8;
const TIMEOUT: u32 = 0x10;
/// Flags that `nft` lists by their names.
const FLAGS: [(u32, &str); 4] =
    [(0x2, "constant"), (0x20, "dynamic"), (INTERVAL, "interval"), (TIMEOUT, "timeout")];
const VERDICT: u32 = 0xffff_ff00;

/// Flags of an element.
const INTERVAL_END: u32 = 1;
const CATCH_ALL: u32 = 2;

const SET_COMMENT: u8 = 7;
const ELEMENT_COMMENT: u8 = 0;

/// Type of a set's keys or of a map's data.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Type {
    /// A value or a concatenation.
    Values(Vec<Kind>),
    Verdict,
    /// The number of a type without a name here.
    Unknown(u32),
}

impl Type {
    fn read(number: u32) -> Self {
        match Kind::parts(number) {
            _ if number == VERDICT => Self::Verdict,
            Some(kinds) if !kinds.is_empty() => Self::Values(kinds),
            _ => Self::Unknown(number),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Values(kinds) => kinds.iter().map(|k| k.name()).collect::<Vec<_>>().join(" . "),
            Self::Verdict => "verdict".to_owned(),
            Self::Unknown(number) => format!("type-{number:#x}"),
        }
    }

    /// Formats a data attribute.
    fn show(&self, data: &[u8]) -> String {
        let found = attributes(data);
        match (self, found.get(&1), found.get(&2)) {
            (Self::Values(kinds), Some(value), _) => show_all(kinds, value),
            (_, Some(value), _) => format!("0x{}", hex(value)),
            (_, _, Some(verdict)) => rule::verdict(verdict),
            _ => String::new(),
        }
    }
}

/// A set or map with its elements.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) is_anonymous: bool,
    pub(super) is_map: bool,
    /// Length of a key in registers.
    pub(super) key_length: usize,
    pub(super) data: Option<Type>,
    /// Type, flags, timeout and comment: `type ipv4_addr; flags interval`.
    pub(super) properties: String,
    pub(super) elements: Vec<String>,
}

impl Set {
    /// Reads a set's attributes and those of its elements.
    pub(super) fn read(set: &Attributes<'_>, elements: &[Attributes<'_>]) -> Self {
        let number = |kind| set.get(&kind).and_then(|value| be_u32(value));
        let flags = number(3).unwrap_or_default();
        let key = Type::read(number(4).unwrap_or_default());
        let data = number(6).filter(|_| flags & MAP != 0).map(Type::read);
        let mut properties = format!("type {}", key.name());
        if let Some(data) = &data {
            let _ = write!(properties, " : {}", data.name());
        }
        let timeout = set.get(&11).and_then(|value| be_u64(value));
        // The property `timeout` implies its flag.
        let flags_shown = if timeout.is_some() { flags & !TIMEOUT } else { flags };
        let named: Vec<_> =
            FLAGS.into_iter().filter(|(bit, _)| flags_shown & bit != 0).map(|row| row.1).collect();
        if !named.is_empty() {
            let _ = write!(properties, "; flags {}", named.join(","));
        }
        if let Some(timeout) = timeout {
            let _ = write!(properties, "; timeout {}", duration(timeout));
        }
        let size = set.get(&9).and_then(|desc| be_u32(attributes(desc).get(&1)?));
        if let Some(size) = size {
            let _ = write!(properties, "; size {size}");
        }
        if let Some(text) = set.get(&13).and_then(|data| comment(data, SET_COMMENT)) {
            let _ = write!(properties, "; comment \"{text}\"");
        }
        Self {
            is_anonymous: flags & ANONYMOUS != 0,
            is_map: flags & MAP != 0,
            key_length: number(5).unwrap_or_default() as usize,
            properties,
            elements: shown(elements, &key, data.as_ref(), flags & INTERVAL != 0, timeout),
            data,
        }
    }
}

/// Formats elements in the order of their keys.
fn shown(
    elements: &[Attributes<'_>],
    key: &Type,
    data: Option<&Type>,
    is_interval: bool,
    default_timeout: Option<u64>,
) -> Vec<String> {
    let mut rows: Vec<Row<'_>> = elements.iter().map(Row::read).collect();
    let order = |row: &Row<'_>| match key {
        Type::Values(kinds) => {
            split(kinds, row.key).map(|(kind, part)| kind.number(part)).collect()
        }
        _ => row.key.iter().map(|byte| u128::from(*byte)).collect::<Vec<_>>(),
    };
    rows.sort_by_cached_key(|row| (order(row), !row.is(INTERVAL_END)));
    let mut lines = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        if row.is(INTERVAL_END) {
            continue;
        }
        let mut line = match (key, row.key_end) {
            _ if row.is(CATCH_ALL) => "*".to_owned(),
            (Type::Values(kinds), Some(end)) => {
                let parts = split(kinds, row.key).zip(split(kinds, end));
                let parts = parts.map(|((kind, first), (_, last))| kind.range(first, last));
                parts.collect::<Vec<_>>().join(" . ")
            }
            (Type::Values(kinds), None) if is_interval && kinds.len() == 1 => {
                let next = rows.get(index + 1).map(|next| next.key);
                kinds[0].range(row.key, &before(next, row.key.len()))
            }
            (Type::Values(kinds), None) => show_all(kinds, row.key),
            _ => format!("0x{}", hex(row.key)),
        };
        let found = row.attributes;
        if let Some(timeout) = found.get(&4).and_then(|value| be_u64(value))
            && Some(timeout) != default_timeout
        {
            let _ = write!(line, " timeout {}", duration(timeout));
        }
        if let Some(text) = found.get(&6).and_then(|data| comment(data, ELEMENT_COMMENT)) {
            let _ = write!(line, " comment \"{text}\"");
        }
        if let (Some(value), Some(data)) = (found.get(&2), data) {
            let _ = write!(line, " : {}", data.show(value));
        }
        lines.push(line);
    }
    lines
}

/// An element, or the end of one.
struct Row<'a> {
    attributes: &'a Attributes<'a>,
    key: &'a [u8],
    key_end: Option<&'a [u8]>,
    flags: u32,
}

impl<'a> Row<'a> {
    fn read(attributes: &'a Attributes<'a>) -> Self {
        let value = |kind| attributes.get(&kind).and_then(|data| list(data).first().map(|d| d.1));
        let flags = attributes.get(&3).and_then(|flags| be_u32(flags)).unwrap_or_default();
        Self { attributes, key: value(1).unwrap_or_default(), key_end: value(10), flags }
    }

    fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// The value before `next`, or the largest one.
fn before(next: Option<&[u8]>, length: usize) -> Vec<u8> {
    let mut value = next.map_or_else(|| vec![0; length], <[u8]>::to_vec);
    for byte in value.iter_mut().rev() {
        let (less, borrows) = byte.overflowing_sub(1);
        *byte = less;
        if !borrows {
            break;
        }
    }
    value
}

/// Formats milliseconds: `1h30m`.
fn duration(mut milliseconds: u64) -> String {
    let mut shown = String::new();
    for (unit, length) in
        [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)]
    {
        if milliseconds >= length {
            let _ = write!(shown, "{}{unit}", milliseconds / length);
            milliseconds %= length;
        }
    }
    shown
}

/// Sets and maps by table (family and name) and name.
pub(super) type Sets = BTreeMap<(u8, String, String), Set>;

/// Returns the key of a set in [`Sets`].
pub(super) fn id(family: u8, set: &Attributes<'_>) -> (u8, String, String) {
    let name = |kind| set.get(&kind).map(|name| text(name)).unwrap_or_default();
    (family, name(1), name(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_before_the_smallest_one_is_the_largest() {
        assert_eq!(before(Some(&[10, 0, 1, 0]), 4), [10, 0, 0, 255]);
        assert_eq!(before(None, 4), [255; 4]);
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration(5_400_000), "1h30m");
        assert_eq!(duration(1500), "1s500ms");
    }
}
