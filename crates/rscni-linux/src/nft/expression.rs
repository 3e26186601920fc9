//! Expressions, of which rules consist.
//!
//! An expression loads a value into a register, compares a register, or acts. Registers are
//! numbered in words of four bytes (since Linux 4.1); a value takes as many words as it needs.

use super::{
    Value, Verdict,
    element::{NFTA_DATA_VALUE, data},
    verdict::verdict_data,
};
use crate::netlink::{self, AttributeBuf};

const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;

/// The register that holds the verdict.
pub(super) const VERDICT: u32 = 0;
/// The first of the sixteen data registers (`NFT_REG32_00`).
pub(super) const FIRST: u32 = 8;

/// One expression: its name and attributes.
pub(super) type Expression = AttributeBuf;

fn expression(name: &str, attributes: AttributeBuf) -> Expression {
    AttributeBuf::new().with_text(NFTA_EXPR_NAME, name).with_nested(NFTA_EXPR_DATA, attributes)
}

/// Attributes that are numbers, by their type.
fn numbers<const N: usize>(numbers: [(u16, u32); N]) -> AttributeBuf {
    numbers.into_iter().fold(AttributeBuf::new(), |list, (kind, number)| list.with_be(kind, number))
}

/// A field of a packet, by its name in `nft`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// `iifname`: the incoming interface, 16 bytes, see [`Value::ifname`].
    Iifname,
    /// `oifname`: the outgoing interface.
    Oifname,
    /// `iif`: the index of the incoming interface.
    Iif,
    /// `oif`: the index of the outgoing interface.
    Oif,
    /// `meta nfproto`: 2 for IPv4, 10 for IPv6. Needed before an IP field in an `inet` table.
    Nfproto,
    /// `meta l4proto`: the IP protocol. Needed before a port.
    L4proto,
    /// `meta protocol`: the Ethernet type. Needed before an IP field in a `bridge` table.
    Protocol,
    /// `meta mark`
    Mark,
    /// `ip saddr`
    IpSaddr,
    /// `ip daddr`
    IpDaddr,
    /// `ip6 saddr`
    Ip6Saddr,
    /// `ip6 daddr`
    Ip6Daddr,
    /// `th sport`: the source port of TCP, UDP, SCTP, DCCP
    Sport,
    /// `th dport`
    Dport,
    /// `ether saddr`
    EtherSaddr,
    /// `ether daddr`
    EtherDaddr,
    /// `ether type`
    EtherType,
    /// `arp saddr ether`: the sender's hardware address in an ARP packet
    ArpSaddrEther,
    /// `arp saddr ip`: the sender's address in an ARP packet
    ArpSaddrIp,
    /// `ct state`: compare it by a mask of [`CtState`]
    CtState,
    /// `ct status`: compare it by a mask, 0x20 is `dnat`, 0x10 `snat`
    CtStatus,
    /// `ct mark`
    CtMark,
    /// `fib daddr type`: the type of the destination address; 2 is `local`
    FibDaddrType,
    /// `fib saddr type`: the type of the source address
    FibSaddrType,
}

/// The location of a field.
enum Source {
    Meta(u32),
    /// Base header (0 link, 1 network, 2 transport) and offset.
    Payload(u32, u32),
    Ct(u32),
    FibAddrType(u32),
}

impl Field {
    /// Returns the location and length in bytes.
    fn describe(self) -> (Source, u32) {
        use Source::{Ct, FibAddrType, Meta, Payload};
        match self {
            Self::Protocol => (Meta(1), 2),
            Self::Mark => (Meta(3), 4),
            Self::Iif => (Meta(4), 4),
            Self::Oif => (Meta(5), 4),
            Self::Iifname => (Meta(6), 16),
            Self::Oifname => (Meta(7), 16),
            Self::Nfproto => (Meta(15), 1),
            Self::L4proto => (Meta(16), 1),
            Self::IpSaddr => (Payload(1, 12), 4),
            Self::IpDaddr => (Payload(1, 16), 4),
            Self::Ip6Saddr => (Payload(1, 8), 16),
            Self::Ip6Daddr => (Payload(1, 24), 16),
            Self::Sport => (Payload(2, 0), 2),
            Self::Dport => (Payload(2, 2), 2),
            Self::EtherDaddr => (Payload(0, 0), 6),
            Self::EtherSaddr => (Payload(0, 6), 6),
            Self::EtherType => (Payload(0, 12), 2),
            Self::ArpSaddrEther => (Payload(1, 8), 6),
            Self::ArpSaddrIp => (Payload(1, 14), 4),
            Self::CtState => (Ct(0), 4),
            Self::CtStatus => (Ct(2), 4),
            Self::CtMark => (Ct(3), 4),
            Self::FibSaddrType => (FibAddrType(1), 4),
            Self::FibDaddrType => (FibAddrType(2), 4),
        }
    }

    /// Returns the number of registers it needs.
    pub(super) fn words(self) -> u32 {
        self.describe().1.div_ceil(4)
    }
}

/// Connection states, as a mask for [`Field::CtState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CtState(pub u32);

impl CtState {
    /// Belongs to no valid connection.
    pub const INVALID: Self = Self(1);
    /// Belongs to a connection with packets in both directions.
    pub const ESTABLISHED: Self = Self(2);
    /// Starts a connection related to another one.
    pub const RELATED: Self = Self(4);
    /// Starts a connection.
    pub const NEW: Self = Self(8);
}

impl std::ops::BitOr for CtState {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Flags of NAT statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NatFlags {
    /// `random`: random ports.
    pub random: bool,
    /// `fully-random`: unpredictable random ports.
    pub fully_random: bool,
    /// `persistent`: the same address for a client each time.
    pub persistent: bool,
}

impl NatFlags {
    fn bits(self, ports: bool) -> Option<[u8; 4]> {
        let flags =
            [(ports, 0x2), (self.random, 0x4), (self.persistent, 0x8), (self.fully_random, 0x10)];
        let bits: u32 = flags.into_iter().filter(|(set, _)| *set).map(|(_, bit)| bit).sum();
        (bits != 0).then(|| bits.to_be_bytes())
    }
}

/// Loads a field into a register.
pub(super) fn load(field: Field, register: u32) -> Expression {
    let (source, length) = field.describe();
    match source {
        Source::Meta(key) => expression("meta", numbers([(1, register), (2, key)])),
        Source::Payload(base, offset) => {
            expression("payload", numbers([(1, register), (2, base), (3, offset), (4, length)]))
        }
        Source::Ct(key) => expression("ct", numbers([(1, register), (2, key)])),
        // 3 selects the address type.
        Source::FibAddrType(flags) => {
            expression("fib", numbers([(1, register), (2, 3), (3, flags)]))
        }
    }
}

/// Stores a register in the packet mark.
pub(super) fn store_mark(register: u32) -> Expression {
    expression("meta", numbers([(2, 3), (3, register)]))
}

/// Stores a register in the connection mark.
pub(super) fn store_ct_mark(register: u32) -> Expression {
    expression("ct", numbers([(2, 3), (4, register)]))
}

/// Continues if the register equals (inverted: differs from) the value.
pub(super) fn compare(register: u32, inverted: bool, value: &Value) -> Expression {
    let operation = numbers([(1, register), (2, inverted.into())]);
    expression("cmp", operation.with_nested(3, data(value)))
}

/// Continues if the register is (inverted: is not) between the values, inclusive.
pub(super) fn range(register: u32, inverted: bool, from: &Value, to: &Value) -> Expression {
    let operation = numbers([(1, register), (2, inverted.into())]);
    expression("range", operation.with_nested(3, data(from)).with_nested(4, data(to)))
}

/// Computes `register = (register & mask) ^ xor`.
pub(super) fn bitwise(register: u32, mask: &[u8], xor: &[u8]) -> Expression {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let attributes = numbers([(1, register), (2, register), (3, length)])
        .with_nested(4, data(&Value::bytes(mask)))
        .with_nested(5, data(&Value::bytes(xor)));
    expression("bitwise", attributes)
}

/// Continues if the registers are (inverted: are not) in the set; stores the data of a map in
/// `target`.
pub(super) fn lookup(set: &str, register: u32, target: Option<u32>, inverted: bool) -> Expression {
    let attributes = AttributeBuf::new()
        .with_text(1, set)
        .with_be(2, register)
        .with_some(3, target.map(u32::to_be_bytes))
        .with_some(5, inverted.then_some(1_u32.to_be_bytes()));
    expression("lookup", attributes)
}

pub(super) fn immediate(register: u32, value: &Value) -> Expression {
    expression("immediate", numbers([(1, register)]).with_nested(2, data(value)))
}

/// Ends the rule with a verdict.
pub(super) fn verdict(verdict: &Verdict) -> Expression {
    expression("immediate", numbers([(1, VERDICT)]).with_nested(2, verdict_data(verdict)))
}

pub(super) fn counter() -> Expression {
    expression("counter", AttributeBuf::new().with(1, [0; 8]).with(2, [0; 8]))
}

pub(super) fn masquerade(flags: NatFlags) -> Expression {
    expression("masq", AttributeBuf::new().with_some(1, flags.bits(false)))
}

/// Translates the source (0) or destination (1) to the address and port in these registers.
pub(super) fn nat(
    kind: u32,
    v6: bool,
    address: u32,
    port: Option<u32>,
    flags: NatFlags,
) -> Expression {
    let attributes = numbers([(1, kind), (2, if v6 { 10 } else { 2 }), (3, address)])
        .with_some(5, port.map(u32::to_be_bytes))
        .with_some(7, flags.bits(port.is_some()));
    expression("nat", attributes)
}

/// Translates the destination to this host, at the port in the register.
pub(super) fn redirect(port: Option<u32>, flags: NatFlags) -> Expression {
    let attributes = AttributeBuf::new()
        .with_some(1, port.map(u32::to_be_bytes))
        .with_some(3, flags.bits(port.is_some()));
    expression("redir", attributes)
}

/// Returns the name and attributes of a listed expression.
pub(super) fn read<'a>(
    attributes: impl Iterator<Item = (u16, netlink::Value<'a>)>,
) -> Option<(String, &'a [u8])> {
    let mut name = None;
    let mut contents: &[u8] = &[];
    for (kind, value) in attributes {
        match kind {
            NFTA_EXPR_NAME => name = Some(value.string()),
            NFTA_EXPR_DATA => contents = value.0,
            _ => {}
        }
    }
    Some((name?, contents))
}

/// Reads a value that [`data`] encodes.
pub(super) fn read_value(value: netlink::Value<'_>) -> Option<&[u8]> {
    value.nested().value(NFTA_DATA_VALUE).map(|value| value.0)
}
