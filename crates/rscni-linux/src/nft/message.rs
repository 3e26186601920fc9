//! Messages to nftables.

use super::{Family, Table};
use crate::netlink::{AttributeBuf, Message};

pub(super) const NFT_MSG_NEWTABLE: u8 = 0;
pub(super) const NFT_MSG_GETTABLE: u8 = 1;
pub(super) const NFT_MSG_DELTABLE: u8 = 2;
pub(super) const NFT_MSG_NEWCHAIN: u8 = 3;
pub(super) const NFT_MSG_GETCHAIN: u8 = 4;
pub(super) const NFT_MSG_DELCHAIN: u8 = 5;
pub(super) const NFT_MSG_NEWRULE: u8 = 6;
pub(super) const NFT_MSG_GETRULE: u8 = 7;
pub(super) const NFT_MSG_DELRULE: u8 = 8;
pub(super) const NFT_MSG_NEWSET: u8 = 9;
pub(super) const NFT_MSG_GETSET: u8 = 10;
pub(super) const NFT_MSG_DELSET: u8 = 11;
pub(super) const NFT_MSG_NEWSETELEM: u8 = 12;
pub(super) const NFT_MSG_GETSETELEM: u8 = 13;
pub(super) const NFT_MSG_DELSETELEM: u8 = 14;
pub(super) const NFT_MSG_DESTROYTABLE: u8 = 26;
pub(super) const NFT_MSG_DESTROYCHAIN: u8 = 27;
pub(super) const NFT_MSG_DESTROYRULE: u8 = 28;
pub(super) const NFT_MSG_DESTROYSET: u8 = 29;
pub(super) const NFT_MSG_DESTROYSETELEM: u8 = 30;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;

const NFTA_TABLE_NAME: u16 = 1;
/// Every member of a list has this type.
const NFTA_LIST_ELEM: u16 = 1;

/// The length of `struct nfgenmsg`.
pub(super) const HEADER: usize = 4;

/// Creates a message to nftables.
pub(super) fn message(family: Family, message_type: u8, attributes: &AttributeBuf) -> Message {
    of_family(family.number(), message_type, attributes)
}

fn of_family(family: u8, message_type: u8, attributes: &AttributeBuf) -> Message {
    let kind = NFNL_SUBSYS_NFTABLES << 8 | u16::from(message_type);
    Message::new(kind, &[family, 0, 0, 0], attributes)
}

/// Creates a request for the tables of all families.
pub(super) fn get_tables() -> Message {
    of_family(0, NFT_MSG_GETTABLE, &AttributeBuf::new())
}

/// Creates a request for the chains of all families.
pub(super) fn get_chains() -> Message {
    of_family(0, NFT_MSG_GETCHAIN, &AttributeBuf::new())
}

pub(super) fn batch_begin() -> Message {
    batch(NFNL_MSG_BATCH_BEGIN)
}

pub(super) fn batch_end() -> Message {
    batch(NFNL_MSG_BATCH_END)
}

/// Creates the begin or end of a batch, with the subsystem in network byte order.
fn batch(kind: u16) -> Message {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    Message::new(kind, &[0, 0, high, low], &AttributeBuf::new())
}

/// Returns a list of nested members.
pub(super) fn list<'a>(members: impl IntoIterator<Item = &'a AttributeBuf>) -> AttributeBuf {
    let members = members.into_iter();
    members.fold(AttributeBuf::new(), |list, member| list.with_nested(NFTA_LIST_ELEM, member))
}

pub(super) fn table_name(table: &Table) -> AttributeBuf {
    AttributeBuf::new().with_text(NFTA_TABLE_NAME, &table.name)
}
