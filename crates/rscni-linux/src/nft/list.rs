//! Lookups and lists of tables, chains, rules, sets and elements.

use super::{
    Data, Element, Family, Hook, Nft, Policy, Table, Value, Verdict, chain,
    element::{
        NFT_SET_ELEM_INTERVAL_END, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_KEY,
        NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_SET_ELEM_USERDATA,
        set_of_elements,
    },
    expression::{self, read_value},
    message::{
        HEADER, NFT_MSG_DELRULE, NFT_MSG_GETCHAIN, NFT_MSG_GETRULE, NFT_MSG_GETSET,
        NFT_MSG_GETSETELEM, NFT_MSG_NEWCHAIN, get_chains, get_tables, message, table_name,
    },
    rule::{NFTA_RULE_EXPRESSIONS, NFTA_RULE_HANDLE, NFTA_RULE_USERDATA, chain_attributes},
    set::{NFTA_SET_NAME, NFTA_SET_TABLE},
    userdata,
    verdict::read_verdict,
};
use crate::{
    Error, Result,
    netlink::{self, AttributeBuf, Attributes, Optional, attributes},
};

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_HANDLE: u16 = 2;

/// An existing chain.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChainInfo {
    /// Name of the table.
    pub table: String,
    /// Name.
    pub name: String,
    /// Handle.
    pub handle: u64,
    /// Type of a base chain.
    pub kind: Option<String>,
    /// Hook of a base chain.
    pub hook: Option<Hook>,
    /// Priority of a base chain.
    pub priority: Option<i32>,
    /// Policy of a base chain.
    pub policy: Option<Policy>,
}

/// An existing rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleInfo {
    /// Handle, by which it is deleted.
    pub handle: u64,
    /// Comment.
    pub comment: Option<String>,
    /// Target of a jump or goto.
    pub jump_target: Option<String>,
    /// Verdict of its own.
    pub verdict: Option<Verdict>,
    /// Expressions as listed by the kernel.
    pub expressions: Vec<RawExpression>,
}

/// An expression as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawExpression {
    /// Name, such as `payload`, `cmp`, `masq`.
    pub name: String,
    /// Encoded attributes.
    pub attributes: Vec<u8>,
}

impl RawExpression {
    /// Returns the value of an attribute, by its path of types from the outside in.
    pub fn attribute(&self, path: &[u16]) -> Option<&[u8]> {
        path.iter().try_fold(&self.attributes[..], |bytes, wanted| {
            attributes(bytes, 0).value(*wanted).map(|value| value.0)
        })
    }

    /// Returns an attribute as a number, in network byte order.
    pub fn number(&self, path: &[u16]) -> Option<u32> {
        Some(u32::from_be_bytes(self.attribute(path)?.try_into().ok()?))
    }

    /// Returns an attribute as text, without its NUL.
    pub fn text(&self, path: &[u16]) -> Option<String> {
        self.attribute(path).map(|bytes| netlink::Value(bytes).string())
    }
}

/// An existing element.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ElementInfo {
    /// Key, or first value of a range.
    pub key: Vec<u8>,
    /// Last value of a range of concatenations.
    pub key_end: Option<Vec<u8>>,
    /// Whether it is the end marker of an interval: the first value after it.
    pub interval_end: bool,
    /// Data, if it belongs to a map.
    pub data: Option<Data>,
    /// Comment.
    pub comment: Option<String>,
}

impl ElementInfo {
    /// Whether it has this key.
    pub fn has_key(&self, key: &Value) -> bool {
        self.key == key.bytes
    }
}

impl RuleInfo {
    /// Whether it contains a lookup in this set or map.
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
    /// Lists all tables.
    pub fn tables(&mut self) -> Result<Vec<Table>> {
        self.socket.dump("list tables", &get_tables(), |payload| {
            let family = payload.first().copied().and_then(Family::from_number);
            let name =
                attributes(payload, HEADER).value(NFTA_TABLE_NAME).map(netlink::Value::string);
            Ok(family.zip(name).map(|(family, name)| Table { family, name }))
        })
    }

    /// Lists the chains of a table; empty if it does not exist.
    pub fn chains(&mut self, table: &Table) -> Result<Vec<ChainInfo>> {
        let action = format!("list the chains of {table}");
        let request = message(table.family, NFT_MSG_GETCHAIN, &AttributeBuf::new());
        self.socket.dump(&action, &request, |payload| {
            // The kernel lists the chains of all tables of the family.
            Ok(Some(ChainInfo::parse(payload)).filter(|chain| chain.table == table.name))
        })
    }

    /// Lists the chains at a hook, in all tables.
    pub fn base_chains(&mut self, hook: Hook) -> Result<Vec<(Table, ChainInfo)>> {
        self.socket.dump("list chains", &get_chains(), |payload| {
            let family = payload.first().copied().and_then(Family::from_number);
            let chain = Some(ChainInfo::parse(payload)).filter(|chain| chain.hook == Some(hook));
            Ok(family.zip(chain).map(|(family, chain)| (Table::new(family, &chain.table), chain)))
        })
    }

    /// Looks up a chain.
    pub fn chain(&mut self, table: &Table, name: &str) -> Result<Option<ChainInfo>> {
        let action = format!("look up chain {table} {name}");
        let request = message(table.family, NFT_MSG_GETCHAIN, &chain::chain_name(table, name));
        self.socket.get(&action, &request, |payload| Ok(ChainInfo::parse(payload))).optional()
    }

    /// Lists the rules of a chain in order; empty if it does not exist.
    pub fn rules(&mut self, table: &Table, chain: &str) -> Result<Vec<RuleInfo>> {
        let action = format!("list the rules of chain {table} {chain}");
        let request = message(table.family, NFT_MSG_GETRULE, &chain_attributes(table, chain));
        let rules =
            self.socket.dump(&action, &request, |payload| Ok(Some(RuleInfo::parse(payload))));
        Ok(rules.optional()?.unwrap_or_default())
    }

    /// Lists the names of a table's sets and maps; empty if it does not exist.
    pub fn sets(&mut self, table: &Table) -> Result<Vec<String>> {
        let action = format!("list the sets of {table}");
        let request = message(table.family, NFT_MSG_GETSET, &table_name(table));
        let sets = self.socket.dump(&action, &request, |payload| {
            let text = |kind| attributes(payload, HEADER).value(kind).map(netlink::Value::string);
            Ok(text(NFTA_SET_NAME).filter(|_| text(NFTA_SET_TABLE).as_ref() == Some(&table.name)))
        });
        Ok(sets.optional()?.unwrap_or_default())
    }

    /// Looks up an element. The cost does not depend on the size of the set.
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
                elements(payload)
                    .next()
                    .ok_or_else(|| Error::decode(&action, "it contains no element"))
            })
            .optional()
    }

    /// Lists the elements of a set; empty if it does not exist. The cost grows with the set.
    pub fn elements(&mut self, table: &Table, set: &str) -> Result<Vec<ElementInfo>> {
        let action = format!("list the elements of {table} {set}");
        let request = message(table.family, NFT_MSG_GETSETELEM, &set_of_elements(table, set));
        let found = self
            .socket
            .dump(&action, &request, |payload| Ok(Some(elements(payload).collect::<Vec<_>>())));
        let found = found.optional()?.unwrap_or_default();
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
    /// Parses a rule as listed by the kernel. Public for tests with rules that no kernel produces.
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
            let verdict = attributes(contents, 0).value(NFTA_IMMEDIATE_DATA).and_then(read_verdict);
            if let Some(Verdict::Jump(chain) | Verdict::Goto(chain)) = &verdict {
                self.jump_target = Some(chain.clone());
            }
            self.verdict = verdict.or(self.verdict.take());
        }
        self.expressions.push(RawExpression { name, attributes: contents.to_vec() });
    }
}

/// A notification.
pub(crate) struct Notification {
    /// Name of the table.
    pub(crate) table: String,
    /// The hook of a base chain that was created or changed.
    pub(crate) hook: Option<Hook>,
    /// The comment of a rule that was removed.
    pub(crate) comment: Option<String>,
}

impl Notification {
    /// Parses a notification about a table, chain, rule, set or elements.
    pub(crate) fn parse(kind: u16, payload: &[u8]) -> Option<Self> {
        // Attribute 1 of all of them.
        let table =
            attributes(payload, HEADER).value(NFTA_TABLE_NAME).map(netlink::Value::string)?;
        let [_, kind] = kind.to_be_bytes();
        let is_chain = kind == NFT_MSG_NEWCHAIN;
        let is_lost_rule = kind == NFT_MSG_DELRULE;
        Some(Self {
            table,
            hook: is_chain.then(|| ChainInfo::parse(payload).hook).flatten(),
            comment: is_lost_rule.then(|| RuleInfo::parse(payload).comment).flatten(),
        })
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
    fn nested_attribute_is_found_by_path() {
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
