//! Rules: matches, followed by actions.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    Table, Transaction, Value, Verdict,
    expression::{self, CtState, Expression, FIRST, Field, NatFlags, VERDICT},
    message::{NFT_MSG_DELRULE, NFT_MSG_DESTROYRULE, NFT_MSG_NEWRULE, list},
    transaction::Remove,
    userdata,
};
use crate::{
    Result,
    netlink::{AttributeBuf, NLM_F_APPEND, NLM_F_CREATE},
};

pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_HANDLE: u16 = 3;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_POSITION: u16 = 6;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

/// A rule to be created. Expressions are evaluated in the order in which they were added.
///
/// ```
/// use rscni_linux::nft::{Field, NatFlags, Rule};
/// // ip saddr 10.1.0.0/24 ip daddr != 10.1.0.0/24 masquerade comment "net, id"
/// let rule = Rule::new()
///     .in_net(Field::IpSaddr, "10.1.0.0/24".parse().unwrap())
///     .not_in_net(Field::IpDaddr, "10.1.0.0/24".parse().unwrap())
///     .masquerade(NatFlags::default())
///     .comment("net, id");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Rule {
    expressions: Vec<Expression>,
    comment: Option<String>,
}

impl Rule {
    /// Creates a rule that matches everything and does nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a comment of at most 128 bytes.
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    fn with(mut self, expressions: impl IntoIterator<Item = Expression>) -> Self {
        self.expressions.extend(expressions);
        self
    }

    /// Matches if the field equals the value.
    pub fn eq(self, field: Field, value: impl Into<Value>) -> Self {
        self.compare(field, false, &value.into())
    }

    /// Matches if the field differs from the value.
    pub fn ne(self, field: Field, value: impl Into<Value>) -> Self {
        self.compare(field, true, &value.into())
    }

    fn compare(self, field: Field, inverted: bool, value: &Value) -> Self {
        self.with([expression::load(field, FIRST), expression::compare(FIRST, inverted, value)])
    }

    /// Matches packets of the address's family. In an `inet` table this must precede fields of that
    /// family.
    pub fn family_of(self, address: IpAddr) -> Self {
        let number = if address.is_ipv4() { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        self.eq(Field::Nfproto, Value::byte(number))
    }

    /// Matches if the address is in the subnet.
    pub fn in_net(self, field: Field, net: IpNet) -> Self {
        self.net(field, false, net)
    }

    /// Matches if the address is not in the subnet.
    pub fn not_in_net(self, field: Field, net: IpNet) -> Self {
        self.net(field, true, net)
    }

    fn net(self, field: Field, inverted: bool, net: IpNet) -> Self {
        let address = Value::from(net.network());
        if net.prefix_len() == net.max_prefix_len() {
            return self.compare(field, inverted, &address);
        }
        let mask = Value::from(net.netmask());
        self.masked_compare(field, &mask.bytes, inverted, &address)
    }

    /// Matches if any bit of the mask is set.
    pub fn any_of(self, field: Field, mask: u32) -> Self {
        self.masked_compare(field, &mask.to_ne_bytes(), true, &Value::number(0))
    }

    /// Matches if the masked field equals the value.
    pub fn masked(self, field: Field, mask: u32, value: u32) -> Self {
        self.masked_compare(field, &mask.to_ne_bytes(), false, &Value::number(value))
    }

    /// Matches if the masked field differs from the value.
    pub fn not_masked(self, field: Field, mask: u32, value: u32) -> Self {
        self.masked_compare(field, &mask.to_ne_bytes(), true, &Value::number(value))
    }

    fn masked_compare(self, field: Field, mask: &[u8], inverted: bool, value: &Value) -> Self {
        self.with([
            expression::load(field, FIRST),
            expression::bitwise(FIRST, mask, &vec![0; mask.len()]),
            expression::compare(FIRST, inverted, value),
        ])
    }

    /// Matches connections in any of these states.
    pub fn ct_state(self, states: CtState) -> Self {
        self.any_of(Field::CtState, states.0)
    }

    /// Matches if the field is between the values, inclusive.
    pub fn range(self, field: Field, from: impl Into<Value>, to: impl Into<Value>) -> Self {
        self.with([
            expression::load(field, FIRST),
            expression::range(FIRST, false, &from.into(), &to.into()),
        ])
    }

    /// Matches if the concatenated fields are in the set.
    pub fn in_set(self, fields: &[Field], set: &str) -> Self {
        self.load(fields).with([expression::lookup(set, FIRST, None, false)])
    }

    /// Matches if the concatenated fields are not in the set.
    pub fn not_in_set(self, fields: &[Field], set: &str) -> Self {
        self.load(fields).with([expression::lookup(set, FIRST, None, true)])
    }

    /// Matches if the address, masked to the length of `like` and concatenated with the other
    /// fields, is in the set: `ip saddr & 255.255.255.0 . meta l4proto . th dport @set`. With a
    /// length of zero only the other fields are looked up.
    pub fn net_in_set(self, field: Field, like: IpNet, others: &[Field], set: &str) -> Self {
        let mut rule = self;
        let mut register = FIRST;
        if like.prefix_len() > 0 {
            rule = rule.with([expression::load(field, FIRST)]);
            register += field.words();
        }
        if (1..like.max_prefix_len()).contains(&like.prefix_len()) {
            let mask = Value::from(like.netmask());
            rule = rule.with([expression::bitwise(FIRST, &mask.bytes, &vec![0; mask.bytes.len()])]);
        }
        rule.load_at(others, register).with([expression::lookup(set, FIRST, None, false)])
    }

    /// Applies the verdict that the map has for the fields (`vmap`); continues if it has none.
    pub fn verdict_map(self, fields: &[Field], map: &str) -> Self {
        self.load(fields).with([expression::lookup(map, FIRST, Some(VERDICT), false)])
    }

    fn load(self, fields: &[Field]) -> Self {
        self.load_at(fields, FIRST)
    }

    fn load_at(mut self, fields: &[Field], mut register: u32) -> Self {
        for field in fields {
            self.expressions.push(expression::load(*field, register));
            register += field.words();
        }
        self
    }

    /// Counts packets and bytes.
    pub fn counter(self) -> Self {
        self.with([expression::counter()])
    }

    /// Sets the packet mark: `mark = (mark & !mask) | value`.
    pub fn set_mark(self, mask: u32, value: u32) -> Self {
        if mask == u32::MAX {
            return self.with([
                expression::immediate(FIRST, &Value::number(value)),
                expression::store_mark(FIRST),
            ]);
        }
        // Clears the bits of the value first, so that xor sets them.
        let keep = !(mask | value);
        self.with([
            expression::load(Field::Mark, FIRST),
            expression::bitwise(FIRST, &keep.to_ne_bytes(), &value.to_ne_bytes()),
            expression::store_mark(FIRST),
        ])
    }

    /// Sets the connection mark.
    pub fn set_ct_mark(self, value: u32) -> Self {
        self.with([
            expression::immediate(FIRST, &Value::number(value)),
            expression::store_ct_mark(FIRST),
        ])
    }

    /// Copies the packet mark to the connection.
    pub fn save_mark(self) -> Self {
        self.with([expression::load(Field::Mark, FIRST), expression::store_ct_mark(FIRST)])
    }

    /// Copies the connection mark to the packet.
    pub fn restore_mark(self) -> Self {
        self.with([expression::load(Field::CtMark, FIRST), expression::store_mark(FIRST)])
    }

    /// Ends the rule with a verdict.
    pub fn verdict(self, verdict: &Verdict) -> Self {
        self.with([expression::verdict(verdict)])
    }

    /// Accepts the packet.
    pub fn accept(self) -> Self {
        self.verdict(&Verdict::Accept)
    }

    /// Drops the packet.
    pub fn drop(self) -> Self {
        self.verdict(&Verdict::Drop)
    }

    /// Returns to the calling chain.
    pub fn return_(self) -> Self {
        self.verdict(&Verdict::Return)
    }

    /// Calls another chain.
    pub fn jump(self, chain: &str) -> Self {
        self.verdict(&Verdict::Jump(chain.to_owned()))
    }

    /// Continues in another chain, without returning.
    pub fn goto(self, chain: &str) -> Self {
        self.verdict(&Verdict::Goto(chain.to_owned()))
    }

    /// Translates the source to the address of the outgoing interface.
    pub fn masquerade(self, flags: NatFlags) -> Self {
        self.with([expression::masquerade(flags)])
    }

    /// Translates the source.
    pub fn snat(self, address: IpAddr, port: Option<u16>, flags: NatFlags) -> Self {
        self.nat(0, address, port, flags)
    }

    /// Translates the destination.
    pub fn dnat(self, address: IpAddr, port: Option<u16>, flags: NatFlags) -> Self {
        self.nat(1, address, port, flags)
    }

    fn nat(self, kind: u32, address: IpAddr, port: Option<u16>, flags: NatFlags) -> Self {
        let v6 = address.is_ipv6();
        let port_register = port_after(v6);
        let mut rule = self.with([expression::immediate(FIRST, &address.into())]);
        if let Some(port) = port {
            rule = rule.with([expression::immediate(port_register, &Value::port(port))]);
        }
        let port = port.map(|_| port_register);
        rule.with([expression::nat(kind, v6, FIRST, port, flags)])
    }

    /// Translates the destination to the address (of the family given by `v6`) and port that the
    /// map has for the fields; continues if it has none.
    pub fn dnat_map(self, fields: &[Field], map: &str, v6: bool) -> Self {
        self.load(fields).with([
            expression::lookup(map, FIRST, Some(FIRST), false),
            expression::nat(1, v6, FIRST, Some(port_after(v6)), NatFlags::default()),
        ])
    }

    /// Translates the destination to this host, and to `port` if given.
    pub fn redirect(self, port: Option<u16>, flags: NatFlags) -> Self {
        let load = port.map(|port| expression::immediate(FIRST, &Value::port(port)));
        self.with(load).with([expression::redirect(port.map(|_| FIRST), flags)])
    }

    fn attributes(&self, table: &Table, chain: &str) -> Result<AttributeBuf> {
        Ok(chain_attributes(table, chain)
            .with_nested(NFTA_RULE_EXPRESSIONS, list(&self.expressions))
            .with_some(NFTA_RULE_USERDATA, userdata::some_comment(self.comment.as_deref())?))
    }
}

/// Returns the register that follows an address.
fn port_after(v6: bool) -> u32 {
    FIRST + if v6 { 4 } else { 1 }
}

pub(super) fn chain_attributes(table: &Table, chain: &str) -> AttributeBuf {
    AttributeBuf::new().with_text(NFTA_RULE_TABLE, &table.name).with_text(NFTA_RULE_CHAIN, chain)
}

/// Rules.
impl Transaction<'_> {
    /// Appends a rule to a chain.
    pub fn add_rule(&mut self, table: &Table, chain: &str, rule: &Rule) -> &mut Self {
        self.rule(table, chain, rule, None, NLM_F_CREATE | NLM_F_APPEND)
    }

    /// Inserts a rule at the beginning of a chain, or before the rule with the handle `before`.
    pub fn insert_rule(
        &mut self,
        table: &Table,
        chain: &str,
        rule: &Rule,
        before: Option<u64>,
    ) -> &mut Self {
        self.rule(table, chain, rule, before, NLM_F_CREATE)
    }

    fn rule(
        &mut self,
        table: &Table,
        chain: &str,
        rule: &Rule,
        position: Option<u64>,
        flags: u16,
    ) -> &mut Self {
        let position = position.map(u64::to_be_bytes);
        let attributes = rule
            .attributes(table, chain)
            .map(|attributes| attributes.with_some(NFTA_RULE_POSITION, position));
        let action = format!("add rule to chain {table} {chain}");
        self.push(table, NFT_MSG_NEWRULE, flags, attributes, action)
    }

    /// Deletes a rule by its handle; fails with `ENOENT` if it does not exist.
    pub fn del_rule(&mut self, table: &Table, chain: &str, handle: u64) -> &mut Self {
        self.remove_rule(table, chain, handle, Remove::Present)
    }

    /// Deletes a rule by its handle, if it exists.
    pub fn destroy_rule(&mut self, table: &Table, chain: &str, handle: u64) -> &mut Self {
        self.remove_rule(table, chain, handle, Remove::MayBeAbsent)
    }

    fn remove_rule(
        &mut self,
        table: &Table,
        chain: &str,
        handle: u64,
        remove: Remove,
    ) -> &mut Self {
        let attributes =
            chain_attributes(table, chain).with(NFTA_RULE_HANDLE, handle.to_be_bytes());
        let action = format!("delete rule {handle} of chain {table} {chain}");
        let kinds = (NFT_MSG_DELRULE, NFT_MSG_DESTROYRULE);
        self.remove(table, kinds, remove, Ok(attributes), action)
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        let action = format!("flush chain {table} {chain}");
        self.push(table, NFT_MSG_DELRULE, 0, Ok(chain_attributes(table, chain)), action)
    }
}
