//! The content of a server's answer: address, routes, DNS settings, times.

use std::{net::Ipv4Addr, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use rscni::{CNIResult, Dns, IpConfig, Route};
use serde::{Deserialize, Serialize};

use super::message::{Message, code};

/// Duration of a lease without a lease time.
const DEFAULT_TIME: Duration = Duration::from_secs(3600);
/// The scope of a route without a router.
const SCOPE_LINK: u8 = 253;

/// An address with its configuration, as ADD returns it. A renewal does not change it, since the
/// container would not notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) address: Ipv4Net,
    gateway: Option<Ipv4Addr>,
    routes: Vec<Route>,
    dns: Option<Dns>,
}

/// The times of a lease, relative to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// T1: when to renew the lease with its server.
    pub(crate) renew: Duration,
    /// T2: when to rebind the lease with any server.
    pub(crate) rebind: Duration,
    pub(crate) expire: Duration,
}

impl Lease {
    /// Reads an offer or an acknowledgement.
    ///
    /// # Errors
    /// The reason why it is unusable, as the predicate of a sentence.
    pub(crate) fn of(message: &Message) -> Result<Self, String> {
        let address = message.yiaddr;
        if !is_unicast(address) {
            return Err(format!("gives {address}, which is not a host address"));
        }
        let mask =
            message.options.address(code::SUBNET_MASK).ok_or("gives no subnet mask (option 1)")?;
        let address = Ipv4Net::with_netmask(address, mask)
            .map_err(|_| format!("gives {mask} as subnet mask"))?;
        let gateway =
            message.options.addresses(code::ROUTERS).next().filter(|gateway| is_unicast(*gateway));
        Ok(Self { address, gateway, routes: routes(message, gateway), dns: dns(message) })
    }

    /// Converts the lease to a result of ADD. The priority is the metric of all routes.
    pub(crate) fn result(self, priority: Option<u32>) -> CNIResult {
        let routes = self.routes.into_iter().map(|route| Route { priority, ..route });
        let ip = IpConfig {
            gateway: self.gateway.map(Into::into),
            ..IpConfig::new(self.address.into())
        };
        CNIResult { ips: vec![ip], routes: routes.collect(), dns: self.dns, ..CNIResult::default() }
    }
}

impl Terms {
    /// Reads an acknowledgement. Returns `None` for a lease that does not expire.
    ///
    /// # Errors
    /// If the lease expires at once.
    pub(crate) fn of(message: &Message) -> Result<Option<Self>, String> {
        let seconds = |code| message.options.number(code).map(|n| Duration::from_secs(n.into()));
        let expire = match message.options.number(code::LEASE_TIME) {
            Some(0) => return Err("gives a lease of no time".into()),
            Some(u32::MAX) => return Ok(None),
            _ => seconds(code::LEASE_TIME).unwrap_or(DEFAULT_TIME),
        };
        // RFC 2131, section 4.4.5, has these defaults for missing or invalid times.
        let within = |time: &Duration| !time.is_zero() && *time < expire;
        let rebind = seconds(code::REBINDING_TIME).filter(within).unwrap_or(expire * 7 / 8);
        let renew = seconds(code::RENEWAL_TIME)
            .filter(|time| within(time) && *time <= rebind)
            .unwrap_or(rebind * 4 / 7);
        Ok(Some(Self { renew, rebind, expire }))
    }
}

/// Whether an interface can have this address.
fn is_unicast(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    (1..224).contains(&first) && !address.is_loopback()
}

/// Returns the classless routes (RFC 3442), or else the static routes and a default route.
fn routes(message: &Message, gateway: Option<Ipv4Addr>) -> Vec<Route> {
    if let Some(routes) = message.options.get(code::CLASSLESS_ROUTES).and_then(classless) {
        return routes;
    }
    let static_routes: Vec<_> = message.options.addresses(code::STATIC_ROUTES).collect();
    let classful =
        static_routes.chunks_exact(2).filter_map(|pair| Some((classful(pair[0])?, pair[1])));
    let default = gateway.map(|gateway| (Ipv4Net::default(), gateway));
    classful
        .chain(default)
        .map(|(dst, router)| Route::new(dst.into(), Some(router.into())))
        .collect()
}

/// Parses option 121: prefix length, prefix, router. Returns `None` if it is empty or invalid.
fn classless(mut bytes: &[u8]) -> Option<Vec<Route>> {
    let mut routes = Vec::new();
    while let [width, rest @ ..] = bytes {
        let (prefix, rest) = rest.split_at_checked(usize::from(*width).div_ceil(8))?;
        let (hop, rest) = rest.split_first_chunk::<4>()?;
        let mut octets = [0; 4];
        octets.get_mut(..prefix.len())?.copy_from_slice(prefix);
        let dst = IpNet::from(Ipv4Net::new(octets.into(), *width).ok()?.trunc());
        let hop = Ipv4Addr::from(*hop);
        routes.push(if hop.is_unspecified() {
            Route { scope: Some(SCOPE_LINK), ..Route::new(dst, None) }
        } else {
            Route::new(dst, Some(hop.into()))
        });
        bytes = rest;
    }
    Some(routes).filter(|routes| !routes.is_empty())
}

/// Returns the classful network of an address. The default route and multicast have none.
fn classful(address: Ipv4Addr) -> Option<Ipv4Net> {
    let width = match address.octets()[0] {
        1..128 => 8,
        128..192 => 16,
        192..224 => 24,
        _ => return None,
    };
    Ipv4Net::new(address, width).ok().map(|net| net.trunc())
}

fn dns(message: &Message) -> Option<Dns> {
    let name = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
        // In a resolv.conf a newline would start another entry.
        let is_name = !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        is_name.then(|| text.to_owned())
    };
    let dns = Dns {
        nameservers: message
            .options
            .addresses(code::DOMAIN_NAME_SERVERS)
            .map(|ip| ip.to_string())
            .collect(),
        domain: message.options.get(code::DOMAIN_NAME).and_then(name),
        search: message
            .options
            .get(code::DOMAIN_SEARCH)
            .and_then(names)
            .unwrap_or_default()
            .iter()
            .filter_map(|n| name(n.as_bytes()))
            .collect(),
        ..Dns::default()
    };
    Some(dns).filter(|dns| !dns.is_empty())
}

/// Parses the names of option 119, in the compressed form of DNS (RFC 3397).
fn names(bytes: &[u8]) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let (name, next) = name_at(bytes, at)?;
        names.push(name);
        at = next;
    }
    Some(names)
}

/// Length of the longest name with its length bytes (RFC 1035, section 2.3.4).
const LONGEST_NAME: usize = 255;

/// Returns the name at `at`, and the position of the next one.
fn name_at(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    let (mut next, mut start, mut length_of_all) = (None, at, 0);
    loop {
        match usize::from(*bytes.get(at)?) {
            0 => return Some((labels.join("."), next.unwrap_or(at + 1))),
            length @ 1..64 => {
                labels.push(String::from_utf8_lossy(bytes.get(at + 1..=at + length)?).into_owned());
                at += 1 + length;
                length_of_all += 1 + length;
                if length_of_all >= LONGEST_NAME {
                    return None;
                }
            }
            high @ 192..256 => {
                let target = (high - 192) << 8 | usize::from(*bytes.get(at + 1)?);
                next.get_or_insert(at + 2);
                // Only backwards, or the name would never end.
                at = Some(target).filter(|target| *target < start)?;
                start = at;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rscni_linux::MacAddr;
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::{
        super::message::{Kind, Options},
        *,
    };

    fn ack(options: &[(u8, &[u8])]) -> Message {
        let mut all = Options::default();
        all.set(code::SUBNET_MASK, [255, 255, 255, 0]);
        for (code, value) in options {
            all.set(*code, *value);
        }
        Message {
            kind: Kind::Ack,
            xid: 1,
            secs: 0,
            broadcast: false,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::new(10, 0, 0, 7),
            chaddr: MacAddr::default(),
            options: all,
        }
    }

    fn result(options: &[(u8, &[u8])]) -> Value {
        Lease::of(&ack(options)).unwrap().result(None).to_json(rscni::SpecVersion::LATEST)
    }

    #[test]
    fn the_first_router_is_gateway_and_default_route() {
        let result = result(&[(3, &[10, 0, 0, 1, 10, 0, 0, 2])]);
        assert_eq!(result["ips"], json!([{ "address": "10.0.0.7/24", "gateway": "10.0.0.1" }]));
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }]));
        assert_eq!(result.get("dns"), None);
    }

    #[test]
    fn classless_routes_replace_all_others() {
        let routes = [
            0, 10, 0, 0, 1, 24, 192, 0, 2, 10, 0, 0, 9, 12, 172, 16, 0, 0, 0, 0, 32, 203, 0, 113,
            5, 10, 0, 0, 9,
        ];
        let result =
            result(&[(121, &routes), (3, &[10, 0, 0, 2]), (33, &[10, 9, 0, 0, 10, 0, 0, 3])]);
        assert_eq!(
            result["routes"],
            json!([
                { "dst": "0.0.0.0/0", "gw": "10.0.0.1" },
                { "dst": "192.0.2.0/24", "gw": "10.0.0.9" },
                { "dst": "172.16.0.0/12", "scope": 253 },
                { "dst": "203.0.113.5/32", "gw": "10.0.0.9" },
            ])
        );
        assert_eq!(result["ips"][0]["gateway"], "10.0.0.2");
    }

    #[test]
    fn static_routes_have_classful_prefixes() {
        let routes = [
            9, 9, 9, 9, 10, 0, 0, 1, 172, 16, 5, 5, 10, 0, 0, 2, 192, 0, 2, 3, 10, 0, 0, 3, 224, 0,
            0, 1, 10, 0, 0, 4, 7,
        ];
        let result = result(&[(33, &routes), (3, &[10, 0, 0, 254])]);
        let dst: Vec<_> =
            result["routes"].as_array().unwrap().iter().map(|route| route["dst"].clone()).collect();
        assert_eq!(dst, ["9.0.0.0/8", "172.16.0.0/16", "192.0.2.0/24", "0.0.0.0/0"]);
    }

    #[test]
    fn all_routes_have_the_metric() {
        let lease =
            Lease::of(&ack(&[(3, &[10, 0, 0, 1]), (33, &[9, 0, 0, 0, 10, 0, 0, 1])])).unwrap();
        assert!(lease.result(Some(7)).routes.iter().all(|route| route.priority == Some(7)));
    }

    #[test]
    fn recursive_or_long_names_are_ignored() {
        for to_itself in [
            &[1, b'a', 0xc0, 0][..],
            &[0xc0, 0],
            &[1, b'a', 0, 1, b'b', 0xc0, 3],
            &[1, b'a', 0xc0, 4, 0xc0, 0],
        ] {
            assert_eq!(result(&[(119, to_itself)]).get("dns"), None, "{to_itself:?}");
        }
        let mut name = [&[63][..], &[b'a'; 63]].concat().repeat(4);
        name[192] = 61;
        name.truncate(192 + 62);
        name.push(0);
        assert_eq!(result(&[(119, &name)])["dns"]["search"][0].as_str().map(str::len), Some(253));
        name.splice(0..0, [1, b'b']);
        assert_eq!(result(&[(119, &name)]).get("dns"), None);
    }

    #[test]
    fn dns_settings_come_from_the_server() {
        let search = b"\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04";
        let result = result(&[(6, &[8, 8, 8, 8, 9, 9, 9, 9]), (15, b"apple.com\0"), (119, search)]);
        let expected = json!({
            "nameservers": ["8.8.8.8", "9.9.9.9"], "domain": "apple.com",
            "search": ["eng.apple.com", "marketing.apple.com"],
        });
        assert_eq!(result["dns"], expected);
    }

    #[rstest]
    #[case::a_newline(15, b"a\nnameserver 6.6.6.6")]
    #[case::no_text(15, &[0xff, 0xfe])]
    #[case::a_pointer_to_itself(119, &[0xc0, 0x00])]
    #[case::a_pointer_ahead(119, &[0xc0, 0x02, 1, b'a', 0])]
    #[case::a_label_cut_off(119, &[5, b'a'])]
    #[case::no_end(119, &[1, b'a'])]
    #[case::no_kind_of_label(119, &[0x80, 0])]
    fn invalid_names_are_ignored(#[case] code: u8, #[case] value: &[u8]) {
        assert_eq!(result(&[(code, value)]).get("dns"), None);
    }

    #[rstest]
    #[case::cut_off(&[24, 192, 0, 2, 10, 0, 0])]
    #[case::too_wide(&[33, 192, 0, 2, 1, 1, 10, 0, 0, 1])]
    #[case::far_too_wide(&[255, 192, 0, 2, 1, 1, 10, 0, 0, 1])]
    #[case::empty(&[])]
    fn invalid_classless_routes_are_ignored(#[case] value: &[u8]) {
        let result = result(&[(121, value), (3, &[10, 0, 0, 1])]);
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }]));
    }

    #[rstest]
    #[case::unspecified([0, 0, 0, 0], [255, 255, 255, 0], "not a host address")]
    #[case::all_stations([255, 255, 255, 255], [255, 255, 255, 0], "not a host address")]
    #[case::a_group([224, 0, 0, 1], [255, 255, 255, 0], "not a host address")]
    #[case::loopback([127, 0, 0, 1], [255, 255, 255, 0], "not a host address")]
    #[case::mask_with_a_hole([10, 0, 0, 1], [255, 0, 255, 0], "255.0.255.0")]
    fn invalid_addresses_and_masks_are_rejected(
        #[case] address: [u8; 4],
        #[case] mask: [u8; 4],
        #[case] word: &str,
    ) {
        let message = Message { yiaddr: address.into(), ..ack(&[(1, &mask)]) };
        let problem = Lease::of(&message).unwrap_err();
        assert!(problem.contains(word), "{problem}");
    }

    #[rstest]
    #[case::as_told(&[(51, 100), (58, 10), (59, 20)], (10, 20, 100))]
    #[case::not_told(&[(51, 80)], (40, 70, 80))]
    #[case::nothing_told(&[], (1800, 3150, 3600))]
    #[case::the_wrong_way_round(&[(51, 80), (58, 75), (59, 70)], (40, 70, 80))]
    #[case::after_the_end(&[(51, 80), (58, 90), (59, 90)], (40, 70, 80))]
    #[case::at_once(&[(51, 80), (58, 0), (59, 0)], (40, 70, 80))]
    fn invalid_times_have_defaults(
        #[case] options: &[(u8, u32)],
        #[case] expected: (u64, u64, u64),
    ) {
        let values: Vec<_> = options.iter().map(|(code, n)| (*code, n.to_be_bytes())).collect();
        let options: Vec<(u8, &[u8])> =
            values.iter().map(|(code, bytes)| (*code, &bytes[..])).collect();
        let Terms { renew, rebind, expire } = Terms::of(&ack(&options)).unwrap().unwrap();
        assert_eq!((renew.as_secs(), rebind.as_secs(), expire.as_secs()), expected);
    }

    #[test]
    fn a_lease_can_be_infinite_but_not_empty() {
        assert_eq!(Terms::of(&ack(&[(51, &[255; 4])])), Ok(None));
        assert!(Terms::of(&ack(&[(51, &[0; 4])])).is_err());
    }

    proptest! {
        #[test]
        fn no_option_causes_a_panic(code: u8, value in prop::collection::vec(any::<u8>(), 0..300)) {
            let message = ack(&[(code, &value)]);
            let _ = Terms::of(&message);
            if let Ok(lease) = Lease::of(&message) {
                // What is written to disk reads back.
                let text = serde_json::to_vec(&lease).unwrap();
                prop_assert_eq!(serde_json::from_slice::<Lease>(&text).unwrap(), lease);
            }
        }
    }
}
