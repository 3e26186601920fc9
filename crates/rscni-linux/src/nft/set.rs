//! Sets, maps and their elements.

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;

use super::{
    Table, Transaction, Value, Verdict,
    message::{
        NFT_MSG_DELSET, NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSET, NFT_MSG_DESTROYSETELEM,
        NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, list, nested, number, string,
    },
    rule::verdict_data,
    transaction::{Create, Remove},
    userdata,
};
use crate::Result;

const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
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

pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_SET_ELEM_USERDATA: u16 = 6;
pub(super) const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(super) const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
pub(super) const NFTA_DATA_VALUE: u16 = 1;

/// The type of a key or of a map's data, under the name that `nft` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// The number of the type in `nft`, and the length of a value.
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

    /// 1 is the host's, 2 the network's.
    fn byte_order(self) -> u32 {
        match self {
            Self::Mark | Self::IfaceIndex | Self::Ifname => 1,
            _ => 2,
        }
    }
}

/// The number and length of one type, or of several joined.
fn joined(types: &[ValueType]) -> (u32, u32) {
    if let [only] = types {
        return only.describe();
    }
    types.iter().fold((0, 0), |(number, length), part| {
        let (part, bytes) = part.describe();
        (number << 6 | part, length + bytes.next_multiple_of(4))
    })
}

/// What a map gives.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataType {
    /// A value, or several joined, such as an address and a port for `dnat`.
    Value(Vec<ValueType>),
    /// A verdict.
    Verdict,
}

/// A set or map to be made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Set {
    /// Its name, unique in its table.
    pub name: String,
    /// The types of its keys; several are joined.
    pub key: Vec<ValueType>,
    /// What it gives, if it is a map.
    pub data: Option<DataType>,
    /// Whether its elements may be ranges.
    pub interval: bool,
}

impl Set {
    /// A set of single values.
    pub fn new(name: impl Into<String>, key: impl Into<Vec<ValueType>>) -> Self {
        Self {
            name: name.into(),
            key: key.into(),
            data: None,
            interval: false,
        }
    }

    /// A map from single values.
    pub fn map(name: impl Into<String>, key: impl Into<Vec<ValueType>>, data: DataType) -> Self {
        Self {
            data: Some(data),
            ..Self::new(name, key)
        }
    }

    /// The same with ranges as elements.
    #[must_use]
    pub fn with_intervals(self) -> Self {
        Self {
            interval: true,
            ..self
        }
    }

    fn attributes(&self, table: &Table, id: u32) -> Vec<DefaultNla> {
        let (key_type, key_length) = joined(&self.key);
        let joins = self.key.len() > 1;
        let flags = [
            (self.interval, NFT_SET_INTERVAL),
            (self.data.is_some(), NFT_SET_MAP),
            // What the kernel needs to know to look ranges up part by part.
            (self.interval && joins, NFT_SET_CONCAT),
        ];
        let flags = flags
            .into_iter()
            .filter(|(set, _)| *set)
            .fold(0, |all, (_, flag)| all | flag);
        let order = |types: &[ValueType]| match types {
            [only] => only.byte_order(),
            _ => 0,
        };
        let mut notes = userdata::number(KEY_BYTE_ORDER, order(&self.key));
        let mut attributes = vec![
            string(NFTA_SET_TABLE, &table.name),
            string(NFTA_SET_NAME, &self.name),
            number(NFTA_SET_FLAGS, flags),
            number(NFTA_SET_KEY_TYPE, key_type),
            number(NFTA_SET_KEY_LEN, key_length),
            number(NFTA_SET_ID, id),
        ];
        match &self.data {
            None => {}
            Some(DataType::Verdict) => {
                attributes.push(number(NFTA_SET_DATA_TYPE, NFT_DATA_VERDICT));
            }
            Some(DataType::Value(types)) => {
                let (data_type, data_length) = joined(types);
                attributes.push(number(NFTA_SET_DATA_TYPE, data_type));
                attributes.push(number(NFTA_SET_DATA_LEN, data_length));
                notes.extend(userdata::number(DATA_BYTE_ORDER, order(types)));
            }
        }
        if self.interval && joins {
            let lengths: Vec<[DefaultNla; 1]> = self
                .key
                .iter()
                .map(|part| [number(NFTA_SET_FIELD_LEN, part.describe().1)])
                .collect();
            let fields = list(NFTA_SET_DESC_CONCAT, lengths.iter().map(|part| &part[..]));
            attributes.push(nested(NFTA_SET_DESC, &[fields]));
        }
        attributes.push(DefaultNla::new(NFTA_SET_USERDATA, notes));
        attributes
    }
}

/// What a map's element gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A value, or several joined.
    Value(Value),
    /// A verdict.
    Verdict(Verdict),
}

impl From<Value> for Data {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

impl From<Verdict> for Data {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key, or the first of a range.
    pub key: Value,
    /// The last of a range.
    pub last: Option<Value>,
    /// What it gives, if it is in a map.
    pub data: Option<Data>,
    /// A note, at most 128 bytes.
    pub comment: Option<String>,
}

impl Element {
    /// An element with this key.
    pub fn new(key: impl Into<Value>) -> Self {
        Self {
            key: key.into(),
            last: None,
            data: None,
            comment: None,
        }
    }

    /// All from `first` to `last`, in a set with intervals.
    pub fn range(first: impl Into<Value>, last: impl Into<Value>) -> Self {
        Self {
            last: Some(last.into()),
            ..Self::new(first)
        }
    }

    /// All addresses of a net, in a set with intervals.
    pub fn net(net: IpNet) -> Self {
        Self::range(net.network(), net.broadcast())
    }

    /// The same, giving `data`.
    #[must_use]
    pub fn data(self, data: impl Into<Data>) -> Self {
        Self {
            data: Some(data.into()),
            ..self
        }
    }

    /// The same with a comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Self {
            comment: Some(comment.into()),
            ..self
        }
    }

    /// The element as the kernel takes it: a range of single values is two elements, its first and what comes
    /// after its last.
    fn encode(&self) -> Result<Vec<Vec<DefaultNla>>> {
        let mut first = vec![data(NFTA_SET_ELEM_KEY, &self.key)];
        let mut rest = Vec::new();
        match &self.last {
            Some(last) if !self.key.parts.is_empty() => {
                first.push(data(NFTA_SET_ELEM_KEY_END, last));
            }
            Some(last) => rest.extend(last.next().map(|end| {
                vec![
                    data(NFTA_SET_ELEM_KEY, &end),
                    number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END),
                ]
            })),
            None => {}
        }
        first.extend(self.data.as_ref().map(|given| match given {
            Data::Value(value) => data(NFTA_SET_ELEM_DATA, value),
            Data::Verdict(verdict) => nested(NFTA_SET_ELEM_DATA, &[verdict_data(verdict)]),
        }));
        if let Some(comment) = &self.comment {
            let comment = userdata::comment(comment)?;
            first.push(DefaultNla::new(NFTA_SET_ELEM_USERDATA, comment));
        }
        let mut elements = vec![first];
        elements.extend(rest);
        Ok(elements)
    }
}

/// A value where the kernel wants either a value or a verdict.
pub(super) fn data(kind: u16, value: &Value) -> DefaultNla {
    nested(
        kind,
        &[DefaultNla::new(NFTA_DATA_VALUE, value.bytes.clone())],
    )
}

pub(super) fn element_list(
    table: &Table,
    set: &str,
    elements: &[Vec<DefaultNla>],
) -> Vec<DefaultNla> {
    vec![
        string(NFTA_SET_ELEM_LIST_TABLE, &table.name),
        string(NFTA_SET_ELEM_LIST_SET, set),
        list(
            NFTA_SET_ELEM_LIST_ELEMENTS,
            elements.iter().map(Vec::as_slice),
        ),
    ]
}

/// Sets, maps and their elements.
impl Transaction<'_> {
    /// Makes a set or map, unless it is there. One that is there with other types is an error.
    pub fn add_set(&mut self, table: &Table, set: &Set) -> &mut Self {
        self.set(table, set, Create::Idempotent)
    }

    /// Makes a set or map; it is an error (`EEXIST`) if it is there.
    pub fn create_set(&mut self, table: &Table, set: &Set) -> &mut Self {
        self.set(table, set, Create::Exclusive)
    }

    fn set(&mut self, table: &Table, set: &Set, create: Create) -> &mut Self {
        self.sets += 1;
        let attributes = set.attributes(table, self.sets);
        let action = format!("add set {table} {}", set.name);
        self.create(table, NFT_MSG_NEWSET, create, attributes, action)
    }

    /// Deletes a set; it is an error if it is not there (`ENOENT`) or rules use it (`EBUSY`).
    pub fn del_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.remove_set(table, set, Remove::Present)
    }

    /// Deletes a set, if it is there; it is an error if rules use it (`EBUSY`).
    pub fn destroy_set(&mut self, table: &Table, set: &str) -> &mut Self {
        self.remove_set(table, set, Remove::MayBeAbsent)
    }

    fn remove_set(&mut self, table: &Table, set: &str, remove: Remove) -> &mut Self {
        let attributes = vec![
            string(NFTA_SET_TABLE, &table.name),
            string(NFTA_SET_NAME, set),
        ];
        let action = format!("delete set {table} {set}");
        let kinds = (NFT_MSG_DELSET, NFT_MSG_DESTROYSET);
        self.remove(table, kinds, remove, attributes, action)
    }

    /// Adds an element, unless it is there with the same data. With other data it is an error (`EEXIST`).
    pub fn add_element(&mut self, table: &Table, set: &str, element: &Element) -> &mut Self {
        self.element(table, set, element, Create::Idempotent)
    }

    /// Adds an element; it is an error (`EEXIST`) if it is there.
    pub fn create_element(&mut self, table: &Table, set: &str, element: &Element) -> &mut Self {
        self.element(table, set, element, Create::Exclusive)
    }

    fn element(
        &mut self,
        table: &Table,
        set: &str,
        element: &Element,
        create: Create,
    ) -> &mut Self {
        let elements = match element.encode() {
            Ok(elements) => elements,
            Err(error) => return self.fail(error),
        };
        let action = format!("add element to {table} {set}");
        let attributes = element_list(table, set, &elements);
        self.create(table, NFT_MSG_NEWSETELEM, create, attributes, action)
    }

    /// Removes an element (its data and comment do not matter); it is an error (`ENOENT`) if it is not there.
    pub fn del_element(&mut self, table: &Table, set: &str, element: &Element) -> &mut Self {
        self.remove_element(table, set, element, Remove::Present)
    }

    /// Removes an element, if it is there.
    pub fn destroy_element(&mut self, table: &Table, set: &str, element: &Element) -> &mut Self {
        self.remove_element(table, set, element, Remove::MayBeAbsent)
    }

    fn remove_element(
        &mut self,
        table: &Table,
        set: &str,
        element: &Element,
        remove: Remove,
    ) -> &mut Self {
        let bare = Element {
            data: None,
            comment: None,
            ..element.clone()
        };
        let elements = match bare.encode() {
            Ok(elements) => elements,
            Err(error) => return self.fail(error),
        };
        let action = format!("delete element from {table} {set}");
        let kinds = (NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSETELEM);
        let attributes = element_list(table, set, &elements);
        self.remove(table, kinds, remove, attributes, action)
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, table: &Table, set: &str) -> &mut Self {
        let attributes = vec![
            string(NFTA_SET_ELEM_LIST_TABLE, &table.name),
            string(NFTA_SET_ELEM_LIST_SET, set),
        ];
        let action = format!("flush set {table} {set}");
        self.push(table, NFT_MSG_DELSETELEM, 0, attributes, action)
    }
}
