//! Elements of sets and maps.

use ipnet::IpNet;

use super::{
    Table, Transaction, Value, Verdict,
    message::{NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSETELEM, NFT_MSG_NEWSETELEM, list},
    transaction::{Create, Remove},
    userdata,
    verdict::verdict_data,
};
use crate::{
    Result,
    netlink::{AttributeBuf, NLA_F_NESTED},
};

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

/// The data of a map element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A value or a concatenation.
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
    /// Key, or first value of a range.
    pub key: Value,
    /// Last value of a range.
    pub last: Option<Value>,
    /// Data, if it belongs to a map.
    pub data: Option<Data>,
    /// Comment of at most 128 bytes.
    pub comment: Option<String>,
}

impl Element {
    /// Creates an element with this key.
    pub fn new(key: impl Into<Value>) -> Self {
        Self { key: key.into(), last: None, data: None, comment: None }
    }

    /// Creates an interval from `first` to `last`, for a set with intervals.
    pub fn range(first: impl Into<Value>, last: impl Into<Value>) -> Self {
        Self { last: Some(last.into()), ..Self::new(first) }
    }

    /// Creates the interval of a subnet, for a set with intervals.
    pub fn net(net: IpNet) -> Self {
        Self::range(net.network(), net.broadcast())
    }

    /// Sets the data.
    #[must_use]
    pub fn data(self, data: impl Into<Data>) -> Self {
        Self { data: Some(data.into()), ..self }
    }

    /// Sets the comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }

    /// Encodes the element as a list of one set. An interval of single values is two elements: its
    /// first value, and an end marker at the value after its last.
    pub(super) fn in_set(&self, table: &Table, set: &str) -> Result<AttributeBuf> {
        let joined = !self.key.parts.is_empty();
        let key_end = self.last.as_ref().filter(|_| joined).map(data);
        let given = self.data.as_ref().map(|given| match given {
            Data::Value(value) => data(value),
            Data::Verdict(verdict) => verdict_data(verdict),
        });
        let first = AttributeBuf::new()
            .with_nested(NFTA_SET_ELEM_KEY, data(&self.key))
            .with_some(NFTA_SET_ELEM_KEY_END | NLA_F_NESTED, key_end)
            .with_some(NFTA_SET_ELEM_DATA | NLA_F_NESTED, given)
            .with_some(NFTA_SET_ELEM_USERDATA, userdata::some_comment(self.comment.as_deref())?);
        let after = self.last.as_ref().filter(|_| !joined).and_then(Value::next).map(|end| {
            AttributeBuf::new()
                .with_nested(NFTA_SET_ELEM_KEY, data(&end))
                .with_be(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END)
        });
        let elements = list([&first].into_iter().chain(&after));
        Ok(set_of_elements(table, set).with_nested(NFTA_SET_ELEM_LIST_ELEMENTS, elements))
    }
}

/// Encodes a value where the kernel expects a value or a verdict.
pub(super) fn data(value: &Value) -> AttributeBuf {
    AttributeBuf::new().with(NFTA_DATA_VALUE, &value.bytes)
}

/// Returns the table and set in messages about elements.
pub(super) fn set_of_elements(table: &Table, set: &str) -> AttributeBuf {
    AttributeBuf::new()
        .with_text(NFTA_SET_ELEM_LIST_TABLE, &table.name)
        .with_text(NFTA_SET_ELEM_LIST_SET, set)
}

/// Elements.
impl Transaction<'_> {
    /// Adds an element, unless it exists with the same data; fails with `EEXIST` if its data
    /// differ.
    pub fn add_element(&mut self, table: &Table, set: &str, element: &Element) -> &mut Self {
        self.element(table, set, element, Create::Idempotent)
    }

    /// Adds an element; fails with `EEXIST` if it exists.
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
        let attributes = element.in_set(table, set);
        let action = format!("add element to {table} {set}");
        self.create(table, NFT_MSG_NEWSETELEM, create, attributes, action)
    }

    /// Removes an element by its key; fails with `ENOENT` if it does not exist.
    pub fn del_element(&mut self, table: &Table, set: &str, element: &Element) -> &mut Self {
        self.remove_element(table, set, element, Remove::Present)
    }

    /// Removes an element, if it exists.
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
        let attributes = bare.in_set(table, set);
        let action = format!("delete element from {table} {set}");
        let kinds = (NFT_MSG_DELSETELEM, NFT_MSG_DESTROYSETELEM);
        self.remove(table, kinds, remove, attributes, action)
    }
}
