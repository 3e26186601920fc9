//! Creating and deleting sets and maps. Elements are in [`element`](super::element).

use super::{
    Table, Transaction,
    element::set_of_elements,
    message::{NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSET, NFT_MSG_NEWSET, list},
    transaction::{Create, Remove},
    userdata,
};
use crate::netlink::AttributeBuf;

pub(super) const NFTA_SET_TABLE: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_FIELD_LEN: u16 = 1;

const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_CONCAT: u32 = 0x80;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;

/// The type of a key or of data, by its name in `nft`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ValueType {
    /// `ipv4_addr`
    Ipv4Addr,
    /// `ipv6_addr`
    Ipv6Addr,
    /// `ether_addr`
    EtherAddr,
    /// `ether_type`
    EtherType,
    /// `inet_proto`: an IP protocol
    InetProto,
    /// `inet_service`: a port
    InetService,
    /// `mark`
    Mark,
    /// `iface_index`
    IfaceIndex,
    /// `ifname`
    Ifname,
}

impl ValueType {
    /// Returns the number of the type in `nft`, and its length in bytes.
    fn describe(self) -> (u32, u32) {
        match self {
            Self::Ipv4Addr => (7, 4),
            Self::Ipv6Addr => (8, 16),
            Self::EtherAddr => (9, 6),
            Self::EtherType => (10, 2),
            Self::InetProto => (12, 1),
            Self::InetService => (13, 2),
            Self::Mark => (19, 4),
            Self::IfaceIndex => (20, 4),
            Self::Ifname => (41, 16),
        }
    }

    /// Returns 1 for host byte order, 2 for network byte order.
    fn byte_order(self) -> u32 {
        match self {
            Self::Mark | Self::IfaceIndex | Self::Ifname => 1,
            _ => 2,
        }
    }
}

/// Returns the number and length of a type or a concatenation.
fn joined(types: &[ValueType]) -> (u32, u32) {
    if let [only] = types {
        return only.describe();
    }
    types.iter().fold((0, 0), |(number, length), part| {
        let (part, bytes) = part.describe();
        (number << 6 | part, length + bytes.next_multiple_of(4))
    })
}

/// The data of a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataType {
    /// A value or a concatenation, such as address and port for `dnat`.
    Value(Vec<ValueType>),
    /// A verdict.
    Verdict,
}

/// A set or map to be created.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Set {
    /// Name, unique in its table.
    pub name: String,
    /// Type of the keys; several form a concatenation.
    pub key: Vec<ValueType>,
    /// Data, if it is a map.
    pub data: Option<DataType>,
    /// Whether elements may be intervals.
    pub interval: bool,
}

impl Set {
    /// Creates a set of single values.
    pub fn new(name: impl Into<String>, key: impl Into<Vec<ValueType>>) -> Self {
        Self { name: name.into(), key: key.into(), data: None, interval: false }
    }

    /// Creates a map from single values.
    pub fn map(name: impl Into<String>, key: impl Into<Vec<ValueType>>, data: DataType) -> Self {
        Self { data: Some(data), ..Self::new(name, key) }
    }

    /// Allows intervals as elements.
    #[must_use]
    pub fn with_intervals(self) -> Self {
        Self { interval: true, ..self }
    }

    fn attributes(&self, table: &Table, id: u32) -> AttributeBuf {
        let (key_type, key_length) = joined(&self.key);
        let joins = self.key.len() > 1;
        let flags = [
            (self.interval, NFT_SET_INTERVAL),
            (self.data.is_some(), NFT_SET_MAP),
            // The kernel needs this to look up intervals of concatenations.
            (self.interval && joins, NFT_SET_CONCAT),
        ];
        let flags = flags.into_iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag);
        let order = |types: &[ValueType]| match types {
            [only] => only.byte_order(),
            _ => 0,
        };
        let mut notes = userdata::number(KEY_BYTE_ORDER, order(&self.key));
        let mut attributes = set_name(table, &self.name)
            .with_be(NFTA_SET_FLAGS, flags)
            .with_be(NFTA_SET_KEY_TYPE, key_type)
            .with_be(NFTA_SET_KEY_LEN, key_length)
            .with_be(NFTA_SET_ID, id);
        match &self.data {
            None => {}
            Some(DataType::Verdict) => {
                attributes = attributes.with_be(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT);
            }
            Some(DataType::Value(types)) => {
                let (data_type, data_length) = joined(types);
                attributes = attributes
                    .with_be(NFTA_SET_DATA_TYPE, data_type)
                    .with_be(NFTA_SET_DATA_LEN, data_length);
                notes.extend(userdata::number(DATA_BYTE_ORDER, order(types)));
            }
        }
        if self.interval && joins {
            let length = |part: &ValueType| {
                AttributeBuf::new().with_be(NFTA_SET_FIELD_LEN, part.describe().1)
            };
            let lengths: Vec<AttributeBuf> = self.key.iter().map(length).collect();
            let fields = AttributeBuf::new().with_nested(NFTA_SET_DESC_CONCAT, list(&lengths));
            attributes = attributes.with_nested(NFTA_SET_DESC, fields);
        }
        attributes.with(NFTA_SET_USERDATA, notes)
    }
}

fn set_name(table: &Table, set: &str) -> AttributeBuf {
    AttributeBuf::new().with_text(NFTA_SET_TABLE, &table.name).with_text(NFTA_SET_NAME, set)
}

/// Sets and maps.
impl Transaction<'_> {
    /// Creates a set or map, unless it exists; fails if it exists with other types.
    pub fn add_set(&mut self, table: &Table, set: &Set) -> &mut Self {
        self.set(table, set, Create::Idempotent)
    }

    /// Creates a set or map; fails with `EEXIST` if it exists.
    pub fn create_set(&mut self, table: &Table, set: &Set) -> &mut Self {
        self.set(table, set, Create::Exclusive)
    }

    fn set(&mut self, table: &Table, set: &Set, create: Create) -> &mut Self {
        self.sets += 1;
        let attributes = set.attributes(table, self.sets);
        let action = format!("add set {table} {}", set.name);
        self.create(table, NFT_MSG_NEWSET, create, Ok(attributes), action)
    }

    /// Deletes a set; fails if it does not exist (`ENOENT`) or is referenced (`EBUSY`).
    pub fn del_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.remove_set(table, set, Remove::Present)
    }

    /// Deletes a set, if it exists; fails with `EBUSY` if it is referenced.
    pub fn destroy_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.remove_set(table, set, Remove::MayBeAbsent)
    }

    fn remove_set(&mut self, table: &Table, set: &str, remove: Remove) -> &mut Self {
        let action = format!("delete set {table} {set}");
        let kinds = (NFT_MSG_DELSET, NFT_MSG_DESTROYSET);
        self.remove(table, kinds, remove, Ok(set_name(table, set)), action)
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, table: &Table, set: &str) -> &mut Self {
        let action = format!("flush set {table} {set}");
        self.push(table, NFT_MSG_DELSETELEM, 0, Ok(set_of_elements(table, set)), action)
    }
}
