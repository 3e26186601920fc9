//! Fields of packets and of their state, which expressions load.

use super::value::Kind;

/// Link, network and transport header, as `payload` numbers them.
pub(super) const LINK: u32 = 0;
pub(super) const NETWORK: u32 = 1;
pub(super) const TRANSPORT: u32 = 2;

pub(super) const ETHER_IP: u128 = 0x800;
pub(super) const ETHER_ARP: u128 = 0x806;
pub(super) const ETHER_IP6: u128 = 0x86dd;
const ICMP: u128 = 1;
const ICMP6: u128 = 58;

type Row = (u32, usize, &'static str, Kind);

const ETHER: &[Row] = &[
    (0, 6, "ether daddr", Kind::Ether),
    (6, 6, "ether saddr", Kind::Ether),
    (12, 2, "ether type", Kind::EtherType),
];
const IP: &[Row] = &[
    (2, 2, "ip length", Kind::Number),
    (4, 2, "ip id", Kind::Number),
    (8, 1, "ip ttl", Kind::Number),
    (9, 1, "ip protocol", Kind::Protocol),
    (12, 4, "ip saddr", Kind::Ip4),
    (16, 4, "ip daddr", Kind::Ip4),
];
const IP6: &[Row] = &[
    (4, 2, "ip6 length", Kind::Number),
    (6, 1, "ip6 nexthdr", Kind::Protocol),
    (7, 1, "ip6 hoplimit", Kind::Number),
    (8, 16, "ip6 saddr", Kind::Ip6),
    (24, 16, "ip6 daddr", Kind::Ip6),
];
const ARP: &[Row] = &[
    (0, 2, "arp htype", Kind::Number),
    (2, 2, "arp ptype", Kind::EtherType),
    (6, 2, "arp operation", Kind::ArpOperation),
    (8, 6, "arp saddr ether", Kind::Ether),
    (14, 4, "arp saddr ip", Kind::Ip4),
    (18, 6, "arp daddr ether", Kind::Ether),
    (24, 4, "arp daddr ip", Kind::Ip4),
];
const PORTS: &[Row] = &[(0, 2, "sport", Kind::Port), (2, 2, "dport", Kind::Port)];
const ICMP_FIELDS: &[Row] =
    &[(0, 1, "icmp type", Kind::IcmpType), (1, 1, "icmp code", Kind::Number)];
const ICMP6_FIELDS: &[Row] =
    &[(0, 1, "icmpv6 type", Kind::Icmp6Type), (1, 1, "icmpv6 code", Kind::Number)];

/// A field of a packet, by its location. The protocols are the numbers of the network header's
/// Ethernet type and of the transport protocol, if the rule has matched them before.
pub(super) fn payload(
    base: u32,
    offset: u32,
    length: usize,
    network: Option<u128>,
    transport: Option<u128>,
) -> (String, Kind) {
    let header = match (base, network, transport) {
        (LINK, ..) => ETHER,
        (NETWORK, Some(ETHER_IP), _) => IP,
        (NETWORK, Some(ETHER_IP6), _) => IP6,
        (NETWORK, Some(ETHER_ARP), _) => ARP,
        (TRANSPORT, _, Some(ICMP)) => ICMP_FIELDS,
        (TRANSPORT, _, Some(ICMP6)) => ICMP6_FIELDS,
        (TRANSPORT, ..) => PORTS,
        _ => &[],
    };
    // `nft` loads the bytes of an address that its prefix covers.
    let is_at = |row: &&Row| {
        let is_address = matches!(row.3, Kind::Ip4 | Kind::Ip6);
        row.0 == offset && (row.1 == length || is_address && length < row.1)
    };
    match header.iter().find(is_at) {
        Some((_, _, name, Kind::Port)) => {
            let protocol = match transport {
                Some(6) => "tcp",
                Some(17) => "udp",
                Some(33) => "dccp",
                Some(132) => "sctp",
                Some(136) => "udplite",
                _ => "th",
            };
            (format!("{protocol} {name}"), Kind::Port)
        }
        Some((_, _, name, kind)) => ((*name).to_owned(), *kind),
        None => {
            let header = ["@ll", "@nh", "@th"].get(base as usize).unwrap_or(&"@ih");
            (format!("{header},{},{}", offset * 8, length * 8), Kind::Number)
        }
    }
}

/// A field of `meta`.
pub(super) fn meta(key: u32) -> Option<(&'static str, Kind)> {
    Some(match key {
        0 => ("meta length", Kind::Id),
        1 => ("meta protocol", Kind::EtherType),
        3 => ("meta mark", Kind::Mark),
        4 => ("iif", Kind::Index),
        5 => ("oif", Kind::Index),
        6 => ("iifname", Kind::Name),
        7 => ("oifname", Kind::Name),
        10 => ("meta skuid", Kind::Id),
        11 => ("meta skgid", Kind::Id),
        15 => ("meta nfproto", Kind::Family),
        16 => ("meta l4proto", Kind::Protocol),
        17 => ("meta ibrname", Kind::Name),
        18 => ("meta obrname", Kind::Name),
        19 => ("meta pkttype", Kind::PacketType),
        _ => return None,
    })
}

/// A field of `ct`, for a direction if it has one.
pub(super) fn ct(key: u32, direction: Option<u8>) -> Option<(String, Kind)> {
    let (name, kind) = match key {
        0 => ("state", Kind::CtState),
        1 => ("direction", Kind::CtDirection),
        2 => ("status", Kind::CtStatus),
        3 => ("mark", Kind::Mark),
        7 => ("l3proto", Kind::Family),
        10 => ("protocol", Kind::Protocol),
        11 => ("proto-src", Kind::Port),
        12 => ("proto-dst", Kind::Port),
        19 => ("ip saddr", Kind::Ip4),
        20 => ("ip daddr", Kind::Ip4),
        21 => ("ip6 saddr", Kind::Ip6),
        22 => ("ip6 daddr", Kind::Ip6),
        _ => return None,
    };
    let direction = direction.map(|direction| Kind::CtDirection.show(&[direction]) + " ");
    Some((format!("ct {}{name}", direction.unwrap_or_default()), kind))
}

/// A lookup of the routing table.
pub(super) fn fib(result: u32, flags: u32) -> Option<(String, Kind)> {
    const PRESENT: u32 = 32;
    let (name, kind) = match result {
        1 => ("oif", Kind::Index),
        2 => ("oifname", Kind::Name),
        3 => ("type", Kind::AddressType),
        _ => return None,
    };
    let keys = ["saddr", "daddr", "mark", "iif", "oif"];
    let used = keys.iter().enumerate().filter(|(bit, _)| flags & 1 << bit != 0);
    let used: Vec<_> = used.map(|(_, key)| *key).collect();
    let kind = if flags & PRESENT == 0 { kind } else { Kind::Presence };
    Some((format!("fib {} {name}", used.join(" . ")), kind))
}
