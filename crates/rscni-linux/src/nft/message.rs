//! Writing nftables messages: attributes in network byte order, nested where the kernel wants them nested.

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
    NetfilterSubsystem,
};

use super::{Family, Table};

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

const NFNL_MSG_BATCH_BEGIN: u8 = 0x10;
const NFNL_MSG_BATCH_END: u8 = 0x11;
/// nftables is named in the header of the batch, as the one that it is for.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// The member of every list.
pub(super) const NFTA_LIST_ELEM: u16 = 1;

pub(super) fn message(
    family: Family,
    message_type: u8,
    attributes: Vec<DefaultNla>,
) -> NetfilterMessage {
    with_header(family.proto(), 0, NetfilterSubsystem::NfTables, message_type, attributes)
}

/// A request about all families.
pub(super) fn unspecific(message_type: u8) -> NetfilterMessage {
    with_header(
        NetfilterProtoFamily::Unspec,
        0,
        NetfilterSubsystem::NfTables,
        message_type,
        Vec::new(),
    )
}

pub(super) fn batch_begin() -> NetfilterMessage {
    batch(NFNL_MSG_BATCH_BEGIN)
}

pub(super) fn batch_end() -> NetfilterMessage {
    batch(NFNL_MSG_BATCH_END)
}

fn batch(message_type: u8) -> NetfilterMessage {
    with_header(
        NetfilterProtoFamily::Unspec,
        NFNL_SUBSYS_NFTABLES,
        NetfilterSubsystem::None,
        message_type,
        Vec::new(),
    )
}

fn with_header(
    family: NetfilterProtoFamily,
    res_id: u16,
    subsys: NetfilterSubsystem,
    message_type: u8,
    attributes: Vec<DefaultNla>,
) -> NetfilterMessage {
    let inner = NetfilterMessageInner::Other { subsys, message_type, attributes };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, res_id), inner)
}

/// Text with its NUL.
pub(super) fn string(kind: u16, text: &str) -> DefaultNla {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

pub(super) fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

pub(super) fn signed(kind: u16, value: i32) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

pub(super) fn long(kind: u16, value: u64) -> DefaultNla {
    DefaultNla::new(kind, value.to_be_bytes().to_vec())
}

pub(super) fn nested(kind: u16, attributes: &[DefaultNla]) -> DefaultNla {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    DefaultNla::new(kind | NLA_F_NESTED, bytes)
}

/// A list of nested members.
pub(super) fn list<'a>(
    kind: u16,
    members: impl IntoIterator<Item = &'a [DefaultNla]>,
) -> DefaultNla {
    let members: Vec<DefaultNla> =
        members.into_iter().map(|member| nested(NFTA_LIST_ELEM, member)).collect();
    nested(kind, &members)
}

const NFTA_TABLE_NAME: u16 = 1;

pub(super) fn table_name(table: &Table) -> DefaultNla {
    string(NFTA_TABLE_NAME, &table.name)
}
