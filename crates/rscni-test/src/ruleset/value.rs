//! Values in the notation of `nft`, by their type.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::netlink::hex;

/// Types of values. Those of set keys have their number in `nft`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Family,
    Number,
    Ip4,
    Ip6,
    Ether,
    EtherType,
    ArpOperation,
    Protocol,
    Port,
    IcmpType,
    Icmp6Type,
    Mark,
    Index,
    Id,
    CtState,
    CtDirection,
    CtStatus,
    PacketType,
    AddressType,
    Presence,
    Name,
}

/// Number and name of a type as `nft` has them, length in bytes, and whether the kernel keeps the
/// value in the byte order of the host.
const KINDS: [(Kind, u32, &str, usize, bool); 21] = [
    (Kind::Family, 2, "nf_proto", 1, false),
    (Kind::Number, 4, "integer", 4, false),
    (Kind::Ip4, 7, "ipv4_addr", 4, false),
    (Kind::Ip6, 8, "ipv6_addr", 16, false),
    (Kind::Ether, 9, "ether_addr", 6, false),
    (Kind::EtherType, 10, "ether_type", 2, false),
    (Kind::ArpOperation, 11, "arp_op", 2, false),
    (Kind::Protocol, 12, "inet_proto", 1, false),
    (Kind::Port, 13, "inet_service", 2, false),
    (Kind::IcmpType, 14, "icmp_type", 1, false),
    (Kind::Mark, 19, "mark", 4, true),
    (Kind::Index, 20, "iface_index", 4, true),
    (Kind::Id, 24, "uid", 4, true),
    (Kind::CtState, 26, "ct_state", 4, true),
    (Kind::CtDirection, 27, "ct_dir", 1, false),
    (Kind::CtStatus, 28, "ct_status", 4, true),
    (Kind::Icmp6Type, 29, "icmpv6_type", 1, false),
    (Kind::PacketType, 31, "pkt_type", 1, false),
    (Kind::AddressType, 38, "fib_addrtype", 4, true),
    (Kind::Presence, 39, "boolean", 1, false),
    (Kind::Name, 41, "ifname", 16, false),
];

impl Kind {
    fn row(self) -> (Self, u32, &'static str, usize, bool) {
        KINDS.into_iter().find(|row| row.0 == self).unwrap_or(KINDS[1])
    }

    /// Name of the type.
    pub(super) fn name(self) -> &'static str {
        self.row().2
    }

    /// Length of a value in bytes.
    pub(super) fn length(self) -> usize {
        self.row().3
    }

    /// Reads the type of a set's key or data, six bits for each part. `None` if one is unknown.
    pub(super) fn parts(mut number: u32) -> Option<Vec<Self>> {
        let mut kinds = Vec::new();
        while number != 0 {
            kinds.insert(0, KINDS.into_iter().find(|row| row.1 == number & 0x3f)?.0);
            number >>= 6;
        }
        Some(kinds)
    }

    /// Value as an unsigned number.
    pub(super) fn number(self, bytes: &[u8]) -> u128 {
        let add = |number, byte: &u8| number << 8 | u128::from(*byte);
        let is_host_order = self.row().4 && cfg!(target_endian = "little");
        if is_host_order { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    }

    fn symbols(self) -> &'static [(u32, &'static str)] {
        match self {
            Self::Family => &[(2, "ipv4"), (10, "ipv6")],
            Self::EtherType => &[(0x800, "ip"), (0x806, "arp"), (0x86dd, "ip6"), (0x8100, "8021q")],
            Self::ArpOperation => &[(1, "request"), (2, "reply")],
            Self::Protocol => &[
                (1, "icmp"),
                (2, "igmp"),
                (6, "tcp"),
                (17, "udp"),
                (33, "dccp"),
                (47, "gre"),
                (50, "esp"),
                (51, "ah"),
                (58, "ipv6-icmp"),
                (132, "sctp"),
                (136, "udplite"),
            ],
            Self::IcmpType => &[
                (0, "echo-reply"),
                (3, "destination-unreachable"),
                (5, "redirect"),
                (8, "echo-request"),
                (11, "time-exceeded"),
                (12, "parameter-problem"),
            ],
            Self::Icmp6Type => &[
                (1, "destination-unreachable"),
                (2, "packet-too-big"),
                (3, "time-exceeded"),
                (4, "parameter-problem"),
                (128, "echo-request"),
                (129, "echo-reply"),
                (133, "nd-router-solicit"),
                (134, "nd-router-advert"),
                (135, "nd-neighbor-solicit"),
                (136, "nd-neighbor-advert"),
                (137, "nd-redirect"),
            ],
            Self::CtState => {
                &[(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")]
            }
            Self::CtDirection => &[(0, "original"), (1, "reply")],
            Self::CtStatus => &[
                (1, "expected"),
                (2, "seen-reply"),
                (4, "assured"),
                (8, "confirmed"),
                (16, "snat"),
                (32, "dnat"),
                (512, "dying"),
            ],
            Self::PacketType => &[(0, "host"), (1, "broadcast"), (2, "multicast"), (3, "other")],
            Self::AddressType => &[
                (0, "unspec"),
                (1, "unicast"),
                (2, "local"),
                (3, "broadcast"),
                (4, "anycast"),
                (5, "multicast"),
                (6, "blackhole"),
                (7, "unreachable"),
                (8, "prohibit"),
            ],
            Self::Presence => &[(0, "missing"), (1, "exists")],
            _ => &[],
        }
    }

    /// Whether values are sets of bits.
    pub(super) fn is_flags(self) -> bool {
        matches!(self, Self::CtState | Self::CtStatus)
    }

    /// Formats a value. One that is shorter than the type is a prefix: `"veth*"`, `10.0.0.0/8`.
    pub(super) fn show(self, bytes: &[u8]) -> String {
        let number = self.number(bytes);
        let symbol = |wanted: u128| self.symbols().iter().find(|row| u128::from(row.0) == wanted);
        match self {
            Self::Ip4 | Self::Ip6 if bytes.len() < self.length() => {
                let mut whole = bytes.to_vec();
                whole.resize(self.length(), 0);
                format!("{}/{}", self.show(&whole), bytes.len() * 8)
            }
            Self::Ip4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).unwrap_or_default()).to_string(),
            Self::Ip6 => {
                Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()).to_string()
            }
            Self::Ether => {
                let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                bytes.join(":")
            }
            Self::Name => {
                let text = crate::netlink::text(bytes);
                let rest = if bytes.len() < self.length() { "*" } else { "" };
                format!("\"{text}{rest}\"")
            }
            Self::Mark => format!("{number:#010x}"),
            Self::Index => match u32::try_from(number).ok().and_then(name_of) {
                Some(name) => format!("\"{name}\""),
                None => number.to_string(),
            },
            Self::CtState | Self::CtStatus if number != 0 => {
                let bits = (0..32).map(|bit| 1_u128 << bit).filter(|bit| number & bit != 0);
                let shown = bits.map(|bit| match symbol(bit) {
                    Some((_, name)) => (*name).to_owned(),
                    None => format!("{bit:#x}"),
                });
                shown.collect::<Vec<_>>().join(",")
            }
            _ => match symbol(number) {
                Some((_, name)) => (*name).to_owned(),
                None if matches!(self, Self::EtherType) => format!("{number:#06x}"),
                None if self.is_flags() => format!("{number:#x}"),
                None if bytes.len() > 8 => format!("0x{}", hex(bytes)),
                None => number.to_string(),
            },
        }
    }

    /// Formats the values from `first` to `last`: as a prefix if it is one, or with both.
    pub(super) fn range(self, first: &[u8], last: &[u8]) -> String {
        if first == last {
            return self.show(first);
        }
        let differing: Vec<u8> = first.iter().zip(last).map(|(a, b)| a ^ b).collect();
        let (from, ignored) = (self.number(first), self.number(&differing));
        let is_prefix = matches!(self, Self::Ip4 | Self::Ip6)
            && ignored.wrapping_add(1) & ignored == 0
            && from & ignored == 0;
        if is_prefix {
            let length = self.length() * 8 - ignored.count_ones() as usize;
            format!("{}/{length}", self.show(first))
        } else {
            format!("{}-{}", self.show(first), self.show(last))
        }
    }
}

/// Splits a concatenation. Each part is padded to four bytes.
pub(super) fn split<'a>(
    kinds: &'a [Kind],
    bytes: &'a [u8],
) -> impl Iterator<Item = (Kind, &'a [u8])> {
    let mut at = 0;
    kinds.iter().map(move |kind| {
        let part =
            bytes.get(at..at + kind.length()).unwrap_or_else(|| &bytes[at.min(bytes.len())..]);
        at += kind.length().next_multiple_of(4);
        (*kind, part)
    })
}

/// Formats a concatenation: `10.1.0.2 . 80`.
pub(super) fn show_all(kinds: &[Kind], bytes: &[u8]) -> String {
    match kinds {
        [only] => only.show(bytes),
        _ => {
            split(kinds, bytes).map(|(kind, part)| kind.show(part)).collect::<Vec<_>>().join(" . ")
        }
    }
}

/// Name of the interface in the calling thread's network namespace.
fn name_of(index: u32) -> Option<String> {
    let socket =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    rustix::net::netdevice::index_to_name(socket.ok()?, index).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_prefix_if_it_can_be() {
        let range = |first: [u8; 4], last: [u8; 4]| Kind::Ip4.range(&first, &last);
        assert_eq!(range([10, 0, 0, 0], [10, 0, 0, 255]), "10.0.0.0/24");
        assert_eq!(range([0; 4], [255; 4]), "0.0.0.0/0");
        assert_eq!(range([10, 0, 0, 1], [10, 0, 0, 2]), "10.0.0.1-10.0.0.2");
        assert_eq!(range([10, 0, 0, 1], [10, 0, 0, 1]), "10.0.0.1");
        assert_eq!(Kind::Ip6.range(&[0; 16], &[255; 16]), "::/0");
    }

    #[test]
    fn unknown_values_are_numbers() {
        assert_eq!(Kind::Protocol.show(&[253]), "253");
        assert_eq!(Kind::EtherType.show(&[0x88, 0xcc]), "0x88cc");
        assert_eq!(Kind::CtState.show(&0x82_u32.to_ne_bytes()), "established,0x80");
        assert_eq!(Kind::parts(3), None);
    }
}
