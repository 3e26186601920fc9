//! Ranges of addresses and the order in which they are allocated.
//!
//! Addresses are 128-bit numbers here for both families, so nothing overflows and the size of a
//! range does not matter. The [store](super::store) knows which addresses are taken.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use rscni::{
    IpRange,
    address::{parse_address, parse_net},
};

/// Consecutive addresses of one subnet, both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    subnet: IpNet,
    first: u128,
    last: u128,
    gateway: IpAddr,
}

impl Range {
    /// Reads a configured range. Defaults: the whole subnet, and its first address as the gateway.
    ///
    /// The network address and the broadcast address of IPv4 are never in a range.
    ///
    /// # Errors
    /// The key that is wrong, and the reason.
    pub(crate) fn read(conf: &IpRange) -> Result<Self, String> {
        let subnet = read_subnet(&conf.subnet)?;
        let bits = subnet.max_prefix_len();
        if subnet.prefix_len() + 2 > bits {
            return Err(format!(
                "subnet: \"{subnet}\" is too small to allocate from: use /{} or larger",
                bits - 2
            ));
        }
        let (lowest, highest) = usable(&subnet);

        let inside = |key: &str, text: &Option<String>| {
            let Some(address) = read_address(text.as_deref().unwrap_or_default())
                .map_err(|problem| format!("{key}: {problem} (subnet {subnet})"))?
            else {
                return Ok(None);
            };
            if !subnet.contains(&address) {
                return Err(format!("{key}: \"{address}\" is not in subnet {subnet}"));
            }
            Ok(Some(number(address)))
        };
        let gateway = inside("gateway", &conf.gateway)?.unwrap_or(lowest);
        let first = inside("rangeStart", &conf.range_start)?.unwrap_or(lowest).max(lowest);
        let last = inside("rangeEnd", &conf.range_end)?.unwrap_or(highest).min(highest);
        if first > last {
            return Err(format!(
                "rangeStart: the range {}-{} of subnet {subnet} holds no address: set rangeStart \
                 and rangeEnd further apart",
                address(is_v4(&subnet), first),
                address(is_v4(&subnet), last)
            ));
        }
        Ok(Self { subnet, first, last, gateway: address(is_v4(&subnet), gateway) })
    }

    pub(crate) fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Returns an address of this range with the prefix length of the subnet.
    pub(crate) fn with_prefix(&self, address: IpAddr) -> IpNet {
        // The prefix length of a subnet of the same family is always valid.
        IpNet::new(address, self.subnet.prefix_len()).unwrap_or_else(|_| address.into())
    }

    fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4() && (self.first..=self.last).contains(&number(address))
    }

    /// Whether the subnet has this address for containers, in the range or not.
    fn has_in_subnet(&self, address: IpAddr) -> bool {
        let (lowest, highest) = usable(&self.subnet);
        address.is_ipv4() == self.is_v4() && (lowest..=highest).contains(&number(address))
    }

    fn interval(&self) -> Interval {
        Interval { v4: self.is_v4(), first: self.first, last: self.last }
    }

    fn bounds(&self) -> (IpAddr, IpAddr) {
        let address = |number| address(self.is_v4(), number);
        (address(self.first), address(self.last))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.is_v4() == other.is_v4() && self.first <= other.last && other.first <= self.last
    }

    fn is_v4(&self) -> bool {
        is_v4(&self.subnet)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = self.bounds();
        write!(f, "{first}-{last}")
    }
}

/// Returns the first and the last address of a subnet for containers.
fn usable(subnet: &IpNet) -> (u128, u128) {
    let (network, end) = (number(subnet.network()), number(subnet.broadcast()));
    (network + 1, if is_v4(subnet) { end - 1 } else { end })
}

/// Ranges of one family. An attachment gets one address of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Reads a configured set.
    ///
    /// # Errors
    /// The problem, and how to solve it.
    pub(crate) fn read(conf: &[IpRange]) -> Result<Self, String> {
        let ranges = conf.iter().enumerate();
        let ranges = ranges
            .map(|(i, range)| Range::read(range).map_err(|problem| format!("[{i}].{problem}")))
            .collect::<Result<Vec<_>, _>>()?;
        let Some(first) = ranges.first() else {
            return Err(": [] is an empty range set: give it a range with a \"subnet\"".into());
        };
        if ranges.iter().any(|range| range.is_v4() != first.is_v4()) {
            return Err(
                ": the range set mixes IPv4 and IPv6: give each family a range set of its own"
                    .into(),
            );
        }
        for (i, one) in ranges.iter().enumerate() {
            if let Some(other) = ranges[i + 1..].iter().find(|other| one.overlaps(other)) {
                return Err(format!(": the range set has ranges that overlap: {one} and {other}"));
            }
        }
        Ok(Self(ranges))
    }

    /// Returns the range of an address that may be outside of all ranges: the range that contains
    /// it, or one whose subnet does.
    pub(crate) fn range_around(&self, address: IpAddr) -> Option<&Range> {
        let around = || self.0.iter().find(|range| range.has_in_subnet(address));
        self.range_of(address).or_else(around)
    }

    pub(crate) fn is_v4(&self) -> bool {
        self.0.first().is_some_and(Range::is_v4)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|one| other.0.iter().any(|two| one.overlaps(two)))
    }

    /// Returns the first and the last address of each range.
    pub(crate) fn bounds(&self) -> impl Iterator<Item = (IpAddr, IpAddr)> {
        self.0.iter().map(Range::bounds)
    }

    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.range_of(address).is_some()
    }

    /// Returns the number of addresses, gateways included.
    pub(crate) fn size(&self) -> u128 {
        self.0.iter().fold(0, |size, range| {
            size.saturating_add((range.last - range.first).saturating_add(1))
        })
    }

    pub(crate) fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(address))
    }

    /// Whether `address` is the gateway of a range, and so never allocated.
    pub(crate) fn is_gateway(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.gateway == address)
    }

    pub(crate) fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let is_first =
            |at: usize| !self.0[..at].iter().any(|earlier| earlier.gateway == self.0[at].gateway);
        self.0
            .iter()
            .enumerate()
            .filter(move |(at, _)| is_first(*at))
            .map(|(_, range)| range.gateway)
    }

    /// Returns the intervals in which to search for a free address, in order: from the address
    /// after `last` to the end of the set, then from its start to `last`. Without `last`, or if
    /// `last` is not in this set, the search begins at the start.
    ///
    /// The intervals contain every address of the set once, gateways included.
    pub(crate) fn intervals(&self, last: Option<IpAddr>) -> Vec<Interval> {
        let position = last.and_then(|last| self.0.iter().position(|range| range.contains(last)));
        let (at, last) =
            position.zip(last.map(number)).map_or((0, None), |(at, last)| (at, Some(last)));
        let (before, from) = self.0.split_at(at);
        let mut intervals: Vec<Interval> = from.iter().chain(before).map(Range::interval).collect();
        if let Some((last, all)) = last.zip(intervals.first().copied()) {
            match last.checked_add(1).filter(|next| *next <= all.last) {
                Some(next) => intervals[0].first = next,
                None => drop(intervals.remove(0)),
            }
            intervals.push(Interval { last, ..all });
        }
        intervals
    }

    /// Returns every address that can be allocated, in that order. Lazy, since sets can be huge.
    pub(crate) fn candidates(&self, last: Option<IpAddr>) -> impl Iterator<Item = IpAddr> {
        let all = self.intervals(last).into_iter();
        all.flat_map(|interval| {
            (interval.first..=interval.last).map(move |number| interval.address(number))
        })
        .filter(|address| !self.is_gateway(*address))
    }
}

/// Consecutive addresses of a family, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) v4: bool,
    pub(crate) first: u128,
    pub(crate) last: u128,
}

impl Interval {
    pub(crate) fn address(&self, number: u128) -> IpAddr {
        address(self.v4, number)
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

/// Parses an address. Empty text means none, as Go tools write it. An IPv4-mapped IPv6 address
/// becomes IPv4.
///
/// # Errors
/// The reason why the text is not an address.
pub(crate) fn read_address(text: &str) -> Result<Option<IpAddr>, String> {
    match text {
        "" => Ok(None),
        text => match parse_address(text) {
            Ok(address) => Ok(Some(address.to_canonical())),
            Err(error) => Err(format!("{text:?} {error}")),
        },
    }
}

fn read_subnet(text: &str) -> Result<IpNet, String> {
    if text.is_empty() {
        return Err("subnet: missing, but required: set it, as in 10.1.0.0/16".into());
    }
    let subnet = parse_net(text).map_err(|error| format!("subnet: {text:?} {error}"))?;
    if subnet.addr().to_canonical() != subnet.addr() {
        return Err(format!("subnet: \"{subnet}\" is IPv4 mapped into IPv6: write it as IPv4"));
    }
    if subnet.addr() != subnet.network() {
        return Err(format!(
            "subnet: \"{subnet}\" has host bits set: the network address is {}",
            subnet.trunc()
        ));
    }
    Ok(subnet)
}

fn is_v4(subnet: &IpNet) -> bool {
    matches!(subnet, IpNet::V4(_))
}

pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

pub(crate) fn address(v4: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn conf(subnet: &str, first: &str, last: &str, gateway: &str) -> IpRange {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        IpRange {
            subnet: subnet.into(),
            range_start: given(first),
            range_end: given(last),
            gateway: given(gateway),
        }
    }

    fn set(ranges: &[(&str, &str, &str)]) -> RangeSet {
        let ranges: Vec<_> =
            ranges.iter().map(|(subnet, first, last)| conf(subnet, first, last, "")).collect();
        RangeSet::read(&ranges).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[rstest]
    #[case("10.0.0.0/24", "", "", "", "10.0.0.1-10.0.0.254", "10.0.0.1")]
    #[case("10.0.0.0/30", "", "", "", "10.0.0.1-10.0.0.2", "10.0.0.1")]
    #[case(
        "10.0.0.0/24",
        "10.0.0.10",
        "10.0.0.20",
        "10.0.0.254",
        "10.0.0.10-10.0.0.20",
        "10.0.0.254"
    )]
    #[case("10.0.0.0/24", "10.0.0.0", "10.0.0.255", "", "10.0.0.1-10.0.0.254", "10.0.0.1")]
    #[case(
        "10.0.0.0/24",
        "::ffff:10.0.0.7",
        "",
        "::ffff:10.0.0.9",
        "10.0.0.7-10.0.0.254",
        "10.0.0.9"
    )]
    #[case("10.0.0.0/24", "", "", "10.0.0.255", "10.0.0.1-10.0.0.254", "10.0.0.255")]
    #[case("0.0.0.0/0", "", "", "", "0.0.0.1-255.255.255.254", "0.0.0.1")]
    #[case(
        "2001:db8:1::/48",
        "",
        "",
        "",
        "2001:db8:1::1-2001:db8:1:ffff:ffff:ffff:ffff:ffff",
        "2001:db8:1::1"
    )]
    #[case("fd00::/126", "fd00::", "", "", "fd00::1-fd00::3", "fd00::1")]
    #[case("::/0", "", "", "", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "::1")]
    fn missing_keys_have_defaults(
        #[case] subnet: &str,
        #[case] first: &str,
        #[case] last: &str,
        #[case] gateway: &str,
        #[case] range: &str,
        #[case] expected_gateway: &str,
    ) {
        let read = Range::read(&conf(subnet, first, last, gateway)).unwrap();
        assert_eq!((read.to_string().as_str(), read.gateway()), (range, ip(expected_gateway)));
    }

    #[test]
    fn parts_of_one_subnet_do_not_overlap() {
        let parts = set(&[
            ("10.0.0.0/24", "10.0.0.10", "10.0.0.20"),
            ("10.0.0.0/24", "10.0.0.21", "10.0.0.30"),
        ]);
        assert_eq!(parts.to_string(), "10.0.0.10-10.0.0.20,10.0.0.21-10.0.0.30");
        assert!(!parts.overlaps(&set(&[("10.0.0.0/24", "10.0.0.31", "")])));
        assert!(parts.overlaps(&set(&[("10.0.0.0/24", "10.0.0.30", "")])));
    }

    #[test]
    fn candidates_follow_the_last_address_and_wrap_around() {
        let set = set(&[("10.0.0.0/29", "", ""), ("10.0.1.0/30", "", "")]);
        let after = |last: Option<&str>| -> Vec<String> {
            set.candidates(last.map(ip)).map(|address| address.to_string()).collect()
        };
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.1.2"];
        assert_eq!(after(None), all);
        assert_eq!(after(Some("10.9.0.1")), all);
        assert_eq!(after(Some("fd00::1")), all);
        assert_eq!(
            after(Some("10.0.0.4")),
            ["10.0.0.5", "10.0.0.6", "10.0.1.2", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
        );
        assert_eq!(
            after(Some("10.0.0.6")),
            ["10.0.1.2", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert_eq!(after(Some("10.0.1.2")), all);
    }

    #[test]
    fn gateways_of_all_ranges_are_no_candidates() {
        let set = RangeSet::read(&[
            conf("10.0.0.0/29", "10.0.0.1", "10.0.0.3", "10.0.0.6"),
            conf("10.0.0.0/29", "10.0.0.4", "10.0.0.6", "10.0.0.2"),
        ]);
        let addresses: Vec<_> =
            set.unwrap().candidates(None).map(|address| address.to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    }

    #[test]
    fn a_range_of_only_the_gateway_has_no_candidate() {
        assert_eq!(set(&[("10.0.0.0/24", "10.0.0.1", "10.0.0.1")]).candidates(None).count(), 0);
    }

    #[test]
    fn candidates_of_the_largest_ranges_are_lazy_and_complete() {
        let set = set(&[("::/0", "", "")]);
        let end = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let next = |last| set.candidates(last).next().unwrap().to_string();
        assert_eq!(next(None), "::2");
        assert_eq!(next(Some(ip("fd00::ffff:ffff"))), "fd00::1:0:0");
        assert_eq!(next(Some(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"))), end);
        assert_eq!(next(Some(ip(end))), "::2");
        assert_eq!(set.range_of(ip("::2")).unwrap().with_prefix(ip("::2")).to_string(), "::2/0");
    }

    /// A configured range of a subnet with 4 to 64 addresses: the configuration, the family, the
    /// number of the network address, the number of addresses, the bounds as offsets.
    type Configured = (IpRange, bool, u128, u128, Option<u128>, Option<u128>);

    prop_compose! {
        fn configured()(
            (v4, base) in prop_oneof![
                prop::sample::select(vec![0, 0x0a00_0000, 0x0a00_0040, 0xffff_ffc0_u32])
                    .prop_map(|n| (true, n.into())),
                prop::sample::select(vec![0, 0xfd00 << 112, (0xfd00 << 112) + 64, u128::MAX - 63])
                    .prop_map(|n| (false, n)),
            ],
            bits in 2..=6_u32,
            part in 0..16_u128,
            bounds in prop::array::uniform2(prop::option::weighted(0.6, 0..64_u128)),
        ) -> Configured {
            let size = 1 << bits;
            let network = base + part * size % 64;
            let [first, last] = bounds.map(|bound| bound.map(|bound| bound % size));
            let text = |place: Option<u128>| {
                place.map(|place| address(v4, network + place).to_string())
            };
            let width = if v4 { 32 } else { 128 } - bits;
            let subnet = format!("{}/{width}", address(v4, network));
            let (range_start, range_end) = (text(first), text(last));
            let range = IpRange { subnet, range_start, range_end, gateway: None };
            (range, v4, network, size, first, last)
        }
    }

    /// Returns the addresses of a range by trying each one.
    fn brute_force((_, v4, network, size, first, last): &Configured) -> Vec<u128> {
        let is_own = |place: u128| place != 0 && (!v4 || place != size - 1);
        let is_within = |place: u128| {
            first.is_none_or(|first| place >= first) && last.is_none_or(|last| place <= last)
        };
        (0..*size)
            .filter(|place| is_own(*place) && is_within(*place))
            .map(|place| network + place)
            .collect()
    }

    proptest! {
        #[test]
        fn a_range_has_the_same_addresses_as_brute_force(
            configured in configured(),
            away in 0..4_u128,
        ) {
            let expected = brute_force(&configured);
            let (conf, v4, network, size, ..) = &configured;
            let Ok(range) = Range::read(conf) else {
                prop_assert!(expected.is_empty());
                return Ok(());
            };
            let ends = (Some(&range.first), Some(&range.last));
            prop_assert_eq!(ends, (expected.first(), expected.last()));
            let set = RangeSet(vec![range]);
            prop_assert_eq!(set.size(), expected.len() as u128);
            // Some addresses before and after the subnet too.
            let end = if *v4 { u32::MAX.into() } else { u128::MAX };
            let last = network.saturating_add(size + away).min(end);
            for number in network.saturating_sub(away)..=last {
                let contains = set.contains(address(*v4, number));
                prop_assert_eq!(contains, expected.contains(&number), "{}", number);
                prop_assert!(!set.contains(address(!v4, number & u128::from(u32::MAX))));
            }
            let gateway = network + 1;
            prop_assert!(set.is_gateway(address(*v4, gateway)));
            for last in &expected {
                let after = expected.iter().filter(|number| *number > last);
                let all = after.chain(expected.iter().filter(|number| *number <= last));
                let all = all.filter(|n| **n != gateway).map(|number| address(*v4, *number));
                let candidates: Vec<_> = set.candidates(Some(address(*v4, *last))).collect();
                prop_assert_eq!(candidates, all.collect::<Vec<_>>());
            }
        }

        #[test]
        fn ranges_overlap_like_brute_force(one in configured(), other in configured()) {
            let ranges = (Range::read(&one.0), Range::read(&other.0));
            let (Ok(first), Ok(second)) = ranges else { return Ok(()) };
            let (all, others) = (brute_force(&one), brute_force(&other));
            let both = one.1 == other.1 && all.iter().any(|number| others.contains(number));
            prop_assert_eq!(first.overlaps(&second), both);
            prop_assert_eq!(second.overlaps(&first), both);
            let set = RangeSet::read(&[one.0, other.0]);
            prop_assert_eq!(set.is_ok(), !both && one.1 == other.1, "{:?}", set);
        }

        #[test]
        fn addresses_convert_to_numbers_and_back(v4: u32, v6: u128) {
            prop_assert_eq!(number(address(true, v4.into())), u128::from(v4));
            prop_assert_eq!(number(address(false, v6)), v6);
            prop_assert!(address(true, v4.into()).is_ipv4() && address(false, v6).is_ipv6());
        }

        #[test]
        fn every_candidate_comes_exactly_once(
            bounds in prop::collection::btree_set(1u8..=254, 2..9),
            last: u8,
        ) {
            let bounds: Vec<_> = bounds.into_iter().map(|n| format!("10.0.0.{n}")).collect();
            let range = |pair: &[String]| conf("10.0.0.0/24", &pair[0], &pair[1], "10.0.0.77");
            let ranges: Vec<_> = bounds.chunks_exact(2).map(range).collect();
            let set = RangeSet::read(&ranges).unwrap();
            let last: IpAddr = Ipv4Addr::new(10, 0, 0, last).into();
            let walked: Vec<_> = set.candidates(Some(last)).collect();
            let distinct: BTreeSet<_> = walked.iter().copied().collect();
            let expected: BTreeSet<IpAddr> = (0..=255)
                .map(|host| Ipv4Addr::new(10, 0, 0, host).into())
                .filter(|address| set.contains(*address) && *address != ip("10.0.0.77"))
                .collect();
            prop_assert_eq!(walked.len(), distinct.len());
            prop_assert_eq!(&distinct, &expected);
            if expected.contains(&last) {
                prop_assert_eq!(walked.last(), Some(&last));
            }
        }
    }
}
