//! Creating and deleting tables and chains.

use super::{
    Table, Transaction,
    message::{
        NFT_MSG_DELCHAIN, NFT_MSG_DELTABLE, NFT_MSG_DESTROYCHAIN, NFT_MSG_DESTROYTABLE,
        NFT_MSG_NEWCHAIN, NFT_MSG_NEWTABLE, table_name,
    },
    transaction::{Create, Remove},
};
use crate::netlink::AttributeBuf;

pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;

/// The hook of a base chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// Packets to this host.
    Input,
    /// Forwarded packets.
    Forward,
    /// Packets from this host.
    Output,
    /// After routing.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Input => 1,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        let all = [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];
        all.into_iter().find(|hook| hook.number() == number)
    }
}

/// The policy of a base chain, for packets that no rule decided on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Accepts the packet.
    Accept,
    /// Drops the packet.
    Drop,
}

impl Policy {
    fn number(self) -> u32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
        }
    }

    pub(super) fn from_number(number: u32) -> Option<Self> {
        [Self::Drop, Self::Accept].into_iter().find(|policy| policy.number() == number)
    }
}

/// The hook of a base chain, with its type, priority and policy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseChain {
    /// Type: `filter`, `nat` or `route`.
    pub kind: String,
    /// Hook.
    pub hook: Hook,
    /// Priority among the chains of the hook; the lowest comes first.
    pub priority: i32,
    /// Policy; the kernel's default is to accept.
    pub policy: Option<Policy>,
}

impl BaseChain {
    /// Creates a chain for source NAT (`priority srcnat`).
    pub fn srcnat() -> Self {
        Self::new("nat", Hook::Postrouting, 100)
    }

    /// Creates a chain for destination NAT of incoming packets (`priority dstnat`).
    pub fn dstnat() -> Self {
        Self::new("nat", Hook::Prerouting, -100)
    }

    /// Creates a filter chain.
    pub fn filter(hook: Hook, priority: i32) -> Self {
        Self::new("filter", hook, priority)
    }

    /// Creates a base chain of this type, hook and priority.
    pub fn new(kind: impl Into<String>, hook: Hook, priority: i32) -> Self {
        Self { kind: kind.into(), hook, priority, policy: None }
    }

    fn attributes(&self, name: AttributeBuf) -> AttributeBuf {
        let hook = AttributeBuf::new()
            .with_be(NFTA_HOOK_HOOKNUM, self.hook.number())
            .with(NFTA_HOOK_PRIORITY, self.priority.to_be_bytes());
        let policy = self.policy.map(|policy| policy.number().to_be_bytes());
        name.with_nested(NFTA_CHAIN_HOOK, hook)
            .with_text(NFTA_CHAIN_TYPE, &self.kind)
            .with_some(NFTA_CHAIN_POLICY, policy)
    }
}

pub(super) fn chain_name(table: &Table, chain: &str) -> AttributeBuf {
    AttributeBuf::new().with_text(NFTA_CHAIN_TABLE, &table.name).with_text(NFTA_CHAIN_NAME, chain)
}

/// Tables and chains.
impl Transaction<'_> {
    /// Creates a table, unless it exists.
    pub fn add_table(&mut self, table: &Table) -> &mut Self {
        self.table(table, Create::Idempotent)
    }

    /// Creates a table; fails with `EEXIST` if it exists.
    pub fn create_table(&mut self, table: &Table) -> &mut Self {
        self.table(table, Create::Exclusive)
    }

    fn table(&mut self, table: &Table, create: Create) -> &mut Self {
        let action = format!("add table {table}");
        self.create(table, NFT_MSG_NEWTABLE, create, Ok(table_name(table)), action)
    }

    /// Deletes a table with its contents; fails with `ENOENT` if it does not exist.
    pub fn del_table(&mut self, table: &Table) -> &mut Self {
        self.remove_table(table, Remove::Present)
    }

    /// Deletes a table with its contents, if it exists.
    pub fn destroy_table(&mut self, table: &Table) -> &mut Self {
        self.remove_table(table, Remove::MayBeAbsent)
    }

    fn remove_table(&mut self, table: &Table, remove: Remove) -> &mut Self {
        let action = format!("delete table {table}");
        let kinds = (NFT_MSG_DELTABLE, NFT_MSG_DESTROYTABLE);
        self.remove(table, kinds, remove, Ok(table_name(table)), action)
    }

    /// Creates a chain, unless it exists; a base chain if `base` is set.
    ///
    /// Fails if the chain exists with another type, hook or priority.
    pub fn add_chain(&mut self, table: &Table, chain: &str, base: Option<&BaseChain>) -> &mut Self {
        self.chain(table, chain, base, Create::Idempotent)
    }

    /// Creates a chain; fails with `EEXIST` if it exists.
    pub fn create_chain(
        &mut self,
        table: &Table,
        chain: &str,
        base: Option<&BaseChain>,
    ) -> &mut Self {
        self.chain(table, chain, base, Create::Exclusive)
    }

    fn chain(
        &mut self,
        table: &Table,
        chain: &str,
        base: Option<&BaseChain>,
        create: Create,
    ) -> &mut Self {
        let name = chain_name(table, chain);
        let attributes = base.map_or(name.clone(), |base| base.attributes(name));
        let action = format!("add chain {table} {chain}");
        self.create(table, NFT_MSG_NEWCHAIN, create, Ok(attributes), action)
    }

    /// Deletes a chain with its rules; fails if it does not exist (`ENOENT`) or is referenced
    /// (`EBUSY`).
    pub fn del_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.remove_chain(table, chain, Remove::Present)
    }

    /// Deletes a chain with its rules, if it exists; fails with `EBUSY` if it is referenced.
    pub fn destroy_chain(&mut self, table: &Table, chain: &str) -> &mut Self {
        self.remove_chain(table, chain, Remove::MayBeAbsent)
    }

    fn remove_chain(&mut self, table: &Table, chain: &str, remove: Remove) -> &mut Self {
        let action = format!("delete chain {table} {chain}");
        let kinds = (NFT_MSG_DELCHAIN, NFT_MSG_DESTROYCHAIN);
        self.remove(table, kinds, remove, Ok(chain_name(table, chain)), action)
    }
}
