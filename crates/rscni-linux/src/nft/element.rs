//! Elements of sets and maps.

use ipnet::IpNet;
use netlink_packet_core::DefaultNla;

use super::{
    Table, Transaction, Value, Verdict,
    message::{
        NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSETELEM, NFT_MSG_NEWSETELEM, list, nested, number,
        string,
    },
    transaction::{Create, Remove},
    userdata,
    verdict::verdict_data,
};
use crate::Result;

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
        Self { key: key.into(), last: None, data: None, comment: None }
    }

    /// All from `first` to `last`, in a set with intervals.
    pub fn range(first: impl Into<Value>, last: impl Into<Value>) -> Self {
        Self { last: Some(last.into()), ..Self::new(first) }
    }

    /// All addresses of a net, in a set with intervals.
    pub fn net(net: IpNet) -> Self {
        Self::range(net.network(), net.broadcast())
    }

    /// The same, giving `data`.
    #[must_use]
    pub fn data(self, data: impl Into<Data>) -> Self {
        Self { data: Some(data.into()), ..self }
    }

    /// The same with a comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
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
    nested(kind, &[DefaultNla::new(NFTA_DATA_VALUE, value.bytes.clone())])
}

pub(super) fn element_list(
    table: &Table,
    set: &str,
    elements: &[Vec<DefaultNla>],
) -> Vec<DefaultNla> {
    vec![
        string(NFTA_SET_ELEM_LIST_TABLE, &table.name),
        string(NFTA_SET_ELEM_LIST_SET, set),
        list(NFTA_SET_ELEM_LIST_ELEMENTS, elements.iter().map(Vec::as_slice)),
    ]
}

/// Elements.
impl Transaction<'_> {
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
        let bare = Element { data: None, comment: None, ..element.clone() };
        let elements = match bare.encode() {
            Ok(elements) => elements,
            Err(error) => return self.fail(error),
        };
        let action = format!("delete element from {table} {set}");
        let kinds = (NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSETELEM);
        let attributes = element_list(table, set, &elements);
        self.remove(table, kinds, remove, attributes, action)
    }
}
