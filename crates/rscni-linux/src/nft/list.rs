//! Looking at what is there: tables, chains, the rules of a chain, elements.

use super::{
    Data, Element, Family, Hook, Nft, Policy, Table, Value, Verdict, chain,
    element::{
        NFT_SET_ELEM_INTERVAL_END, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY,
        NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_USERDATA,
        set_of_elements,
    },
    expression::{self, read_value},
    message::{
        HEADER, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET, NFT_MSG_GETSETELEM, get_tables,
        message, table_name,
    },
    rule::{NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA, chain_attributes},
    set::{NFTA_SET_NAME, NFTA_SET_TABLE},
    userdata,
    verdict::read_verdict,
};
use crate::{
    Error, Result,
    netlink::{self, AttributeBuf, Attributes, OrAbsent, attributes},
};

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_HANDLE: u16 = 2;

/// A chain that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainInfo {
    /// The name of its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The number that the kernel gave it.
    pub handle: u64,
    /// The type of a base chain.
    pub kind: Option<String>,
    /// The hook of a base chain.
    pub hook: Option<Hook>,
    /// The priority of a base chain.
    pub priority: Option<i32>,
    /// The policy of a base chain.
    pub policy: Option<Policy>,
}

/// A rule that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleInfo {
    /// The number by which it is deleted.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// The chain that it jumps or goes to.
    pub jump_target: Option<String>,
    /// Its verdict, if it has one of its own.
    pub verdict: Option<Verdict>,
    /// What it is made of, as the kernel lists it.
    pub expressions: Vec<RawExpression>,
}

/// An expression as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawExpression {
    /// Its name, such as `payload`, `cmp`, `masq`.
    pub name: String,
    /// Its attributes.
    pub attributes: Vec<u8>,
}

impl RawExpression {
    /// The bytes of the attribute of this type, or of one within it: a path of types, from the outside in.
    pub fn attribute(&self, path: &[u16]) -> Option<&[u8]> {
        path.iter().try_fold(&self.attributes[..], |bytes, wanted| {
            attributes(bytes, 0).find(|(kind, _)| kind == wanted).map(|(_, value)| value.0)
        })
    }

    /// The attribute as a number, which nftables keeps in network byte order.
    pub fn number(&self, path: &[u16]) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(path)?.try_into().ok()?))
    }

    /// The attribute as text, without its NUL.
    pub fn text(&self, path: &[u16]) -> Option<String> {
        self.attribute(path).map(|bytes| netlink::Value(bytes).string())
    }
}

/// An element that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElementInfo {
    /// Its key, or the first of a range.
    pub key: Vec<u8>,
    /// The last of a range of joined values.
    pub key_end: Option<Vec<u8>>,
    /// It is not an element but marks where a range has ended, as its first value outside.
    pub interval_end: bool,
    /// What it gives, if it is in a map.
    pub data: Option<Data>,
    /// Its comment.
    pub comment: Option<String>,
}

impl ElementInfo {
    /// Whether its key is this.
    pub fn has_key(&self, key: &Value) -> bool {
        self.key == key.bytes
    }
}

impl RuleInfo {
    /// Whether it looks something up in this set or map.
    pub fn looks_up(&self, set: &str) -> bool {
        const NFTA_LOOKUP_SET: u16 = 1;
        let names = |expression: &RawExpression| {
            attributes(&expression.attributes, 0)
                .any(|(kind, value)| kind == NFTA_LOOKUP_SET && value.string() == set)
        };
        self.expressions.iter().any(|expression| expression.name == "lookup" && names(expression))
    }
}

impl Nft {
    /// All tables.
    pub fn tables(&mut self) -> Result<Vec<Table>> {
        self.socket.dump("list tables", &get_tables(), |payload| {
            let family = payload.first().copied().and_then(Family::from_number);
            let name = attributes(payload, HEADER)
                .find(|(kind, _)| *kind == NFTA_TABLE_NAME)
                .map(|(_, name)| name.string());
            Ok(family.zip(name).map(|(family, name)| Table { family, name }))
        })
    }

    /// The chains of a table; none if the table is not there.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<ChainInfo>> {
        let action = format!("list the chains of {table}");
        let request = message(table.family, NFT_MSG_GETCHAIN, &AttributeBuf::new());
        self.socket.dump(&action, &request, |payload| {
            // The kernel lists those of all tables of the family.
            Ok(Some(ChainInfo::parse(payload)).filter(|chain| chain.table == table.name))
        })
    }

    /// One chain, or `None`.
    pub fn chain(&mut self, table: &Table, name: &str) -> Result<Option<ChainInfo>> {
        let action = format!("look up chain {table} {name}");
        let request = message(table.family, NFT_MSG_GETCHAIN, &chain::chain_name(table, name));
        self.socket.get(&action, &request, |payload| Ok(ChainInfo::parse(payload))).or_absent()
    }

    /// The rules of one chain, in their order; none if the chain is not there.
    pub fn rules(&mut self, table: &Table, chain: &str) -> Result<Vec<RuleInfo>> {
        let action = format!("list the rules of chain {table} {chain}");
        let request = message(table.family, NFT_MSG_GETRULE, &chain_attributes(table, chain));
        let rules =
            self.socket.dump(&action, &request, |payload| Ok(Some(RuleInfo::parse(payload))));
        Ok(rules.or_absent()?.unwrap_or_default())
    }

    /// The names of a table's sets and maps; none if the table is not there.
    pub fn sets(&mut self, table: &Table) -> Result<Vec<String>> {
        let action = format!("list the sets of {table}");
        let request = message(table.family, NFT_MSG_GETSET, &table_name(table));
        let sets = self.socket.dump(&action, &request, |payload| {
            let text = |wanted| {
                attributes(payload, HEADER)
                    .find(|(kind, _)| *kind == wanted)
                    .map(|(_, v)| v.string())
            };
            Ok(text(NFTA_SET_NAME).filter(|_| text(NFTA_SET_TABLE).as_ref() == Some(&table.name)))
        });
        Ok(sets.or_absent()?.unwrap_or_default())
    }

    /// The element with this key, or `None`: a lookup that costs the same however large the set is.
    pub fn get_element(
        &mut self,
        table: &Table,
        set: &str,
        key: &Value,
    ) -> Result<Option<ElementInfo>> {
        let action = format!("look up an element of {table} {set}");
        let attributes = Element::new(key.clone()).in_set(table, set)?;
        let request = message(table.family, NFT_MSG_GETSETELEM, &attributes);
        self.socket
            .get(&action, &request, |payload| {
                elements(payload).next().ok_or_else(|| Error::decode(&action, "no element in it"))
            })
            .or_absent()
    }

    /// All elements of a set; none if the set is not there. Its cost grows with the set.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<ElementInfo>> {
        let action = format!("list the elements of {table} {set}");
        let request = message(table.family, NFT_MSG_GETSETELEM, &set_of_elements(table, set));
        let found = self
            .socket
            .dump(&action, &request, |payload| Ok(Some(elements(payload).collect::<Vec<_>>())));
        let found = found.or_absent()?.unwrap_or_default();
        Ok(found.into_iter().flatten().collect())
    }
}

impl ChainInfo {
    pub(super) fn parse(payload: &[u8]) -> Self {
        let mut chain = Self {
            table: String::new(),
            name: String::new(),
            handle: 0,
            kind: None,
            hook: None,
            priority: None,
            policy: None,
        };
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                chain::NFTA_CHAIN_TABLE => chain.table = value.string(),
                NFTA_CHAIN_HANDLE => chain.handle = value.u64_be(),
                chain::NFTA_CHAIN_NAME => chain.name = value.string(),
                chain::NFTA_CHAIN_TYPE => chain.kind = Some(value.string()),
                chain::NFTA_CHAIN_POLICY => chain.policy = Policy::from_number(value.u32_be()),
                chain::NFTA_CHAIN_HOOK => {
                    for (kind, value) in value.nested() {
                        match kind {
                            chain::NFTA_HOOK_HOOKNUM => {
                                chain.hook = Hook::from_number(value.u32_be());
                            }
                            chain::NFTA_HOOK_PRIORITY => chain.priority = Some(value.i32_be()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        chain
    }
}

impl RuleInfo {
    /// Reads a rule as the kernel lists it: for tests of what is made of rules that no kernel has.
    #[doc(hidden)]
    pub fn parse(payload: &[u8]) -> Self {
        let mut rule = Self {
            handle: 0,
            comment: None,
            jump_target: None,
            verdict: None,
            expressions: Vec::new(),
        };
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                NFTA_RULE_HANDLE => rule.handle = value.u64_be(),
                NFTA_RULE_USERDATA => rule.comment = userdata::read_comment(value.0),
                NFTA_RULE_EXPRESSIONS => {
                    let expressions = value
                        .nested()
                        .filter_map(|(_, element)| expression::read(element.nested()));
                    for (name, contents) in expressions {
                        rule.add_expression(name, contents);
                    }
                }
                _ => {}
            }
        }
        rule
    }

    fn add_expression(&mut self, name: String, contents: &[u8]) {
        const NFTA_IMMEDIATE_DATA: u16 = 2;
        if name == "immediate" {
            let verdict = attributes(contents, 0)
                .find(|(kind, _)| *kind == NFTA_IMMEDIATE_DATA)
                .and_then(|(_, value)| read_verdict(value));
            if let Some(Verdict::Jump(chain) | Verdict::Goto(chain)) = &verdict {
                self.jump_target = Some(chain.clone());
            }
            self.verdict = verdict.or(self.verdict.take());
        }
        self.expressions.push(RawExpression { name, attributes: contents.to_vec() });
    }
}

pub(super) fn elements(payload: &[u8]) -> impl Iterator<Item = ElementInfo> {
    attributes(payload, HEADER)
        .filter(|(kind, _)| *kind == NFTA_SET_ELEM_LIST_ELEMENTS)
        .flat_map(|(_, list)| list.nested())
        .map(|(_, element)| ElementInfo::parse(element.nested()))
}

impl ElementInfo {
    fn parse(element: Attributes<'_>) -> Self {
        let mut info =
            Self { key: Vec::new(), key_end: None, interval_end: false, data: None, comment: None };
        for (kind, value) in element {
            match kind {
                NFTA_SET_ELEM_KEY => info.key = read_value(value).unwrap_or_default().to_vec(),
                NFTA_SET_ELEM_KEY_END => info.key_end = read_value(value).map(<[u8]>::to_vec),
                NFTA_SET_ELEM_FLAGS => {
                    info.interval_end = value.u32_be() & NFT_SET_ELEM_INTERVAL_END != 0;
                }
                NFTA_SET_ELEM_DATA => {
                    let value_data = || read_value(value).map(|v| Data::Value(Value::bytes(v)));
                    info.data = read_verdict(value).map(Data::Verdict).or_else(value_data);
                }
                NFTA_SET_ELEM_USERDATA => info.comment = userdata::read_comment(value.0),
                _ => {}
            }
        }
        info
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_within_another_is_found_by_its_path() {
        let expression = RawExpression {
            name: "cmp".into(),
            // cmp: register 8, operator 1, the value 10.1.0.5 within the data
            attributes: [
                &[8, 0, 1, 0, 0, 0, 0, 8, 8, 0, 2, 0, 0, 0, 0, 1][..],
                &[12, 0, 3, 0x80, 8, 0, 1, 0, 10, 1, 0, 5],
            ]
            .concat(),
        };
        assert_eq!(expression.number(&[2]), Some(1));
        assert_eq!(expression.attribute(&[3, 1]), Some(&[10, 1, 0, 5][..]));
        assert_eq!(expression.attribute(&[4]), None);
        assert_eq!(expression.attribute(&[3, 2]), None);
    }
}
