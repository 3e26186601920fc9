//! Generated results in all versions: reading and writing them again changes nothing.

use std::net::IpAddr;

use proptest::{option::of, prelude::*};
use rscni::{CNIResult, Dns, Extra, Interface, IpConfig, IpNet, NetConf, Route, SpecVersion};
use serde_json::{Map, Value, json};

fn address() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>()
}

fn network() -> impl Strategy<Value = IpNet> {
    (address(), 0..=32_u8, 0..=128_u8)
        .prop_map(|(addr, v4, v6)| IpNet::new_assert(addr, if addr.is_ipv4() { v4 } else { v6 }))
}

/// A string that may be empty, which counts as `None`.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 3 => ".{1,12}"]
}

/// Replaces empty strings by `None`.
fn without_empty_text(mut result: CNIResult) -> CNIResult {
    let texts = result
        .interfaces
        .iter_mut()
        .flat_map(|i| [&mut i.mac, &mut i.sandbox, &mut i.socket_path, &mut i.pci_id])
        .chain(result.dns.as_mut().map(|dns| &mut dns.domain));
    for text in texts {
        *text = text.take().filter(|text| !text.is_empty());
    }
    result
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(".{0,12}", 0..3)
}

/// Keys that are not in the specification.
fn extra() -> impl Strategy<Value = Extra> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(json!({ "a": [1.5] })),
        any::<u64>().prop_map(Value::from)
    ];
    let keys = prop::collection::vec(("x-[a-cA-C]{1,2}", value), 0..2);
    keys.prop_map(|keys| Extra::from(keys.into_iter().collect::<Map<_, _>>()))
}

prop_compose! {
    fn interface()(
        name in ".{0,12}", mac in of(text()), mtu in any::<Option<u32>>(), sandbox in of(text()),
        socket_path in of(text()), pci_id in of(text()), extra in extra(),
    ) -> Interface {
        Interface { name, mac, mtu, sandbox, socket_path, pci_id, extra }
    }
}

prop_compose! {
    fn ip()(interface in any::<Option<u32>>(), address in network(), gateway in of(address()),
        extra in extra()) -> IpConfig {
        IpConfig { interface, address, gateway, extra }
    }
}

prop_compose! {
    fn route()(
        dst in network(), gw in of(address()), mtu in any::<Option<u32>>(),
        advmss in any::<Option<u32>>(), priority in any::<Option<u32>>(),
        table in any::<Option<u32>>(), scope in any::<Option<u8>>(), extra in extra(),
    ) -> Route {
        Route { dst, gw, mtu, advmss, priority, table, scope, extra }
    }
}

prop_compose! {
    fn dns()(
        nameservers in texts(), domain in of(text()), search in texts(), options in texts(),
        extra in extra(),
    ) -> Dns {
        Dns { nameservers, domain, search, options, extra }
    }
}

prop_compose! {
    fn result()(
        interfaces in prop::collection::vec(interface(), 0..4),
        ips in prop::collection::vec(ip(), 0..5),
        routes in prop::collection::vec(route(), 0..5),
        dns in of(dns()),
        extra in extra(),
    ) -> CNIResult {
        CNIResult { interfaces, ips, routes, dns, extra }
    }
}

/// Reads a result from text, as a plugin does.
fn read(json: &Value) -> CNIResult {
    CNIResult::from_json(json.to_string().as_bytes()).unwrap()
}

proptest! {
    #[test]
    fn members_of_a_version_survive(result in result()) {
        for version in SpecVersion::ALL {
            let written = result.to_json(version);
            prop_assert_eq!(&written["cniVersion"], version.as_str());
            prop_assert_eq!(&read(&written).to_json(version), &written, "{}", version);
            let without_empty = without_empty_text(result.clone());
            prop_assert_eq!(without_empty.to_json(version), written, "{}", version);
        }
    }

    #[test]
    fn the_newest_version_loses_nothing(result in result()) {
        prop_assert_eq!(read(&result.to_json(SpecVersion::V1_1_0)), without_empty_text(result));
    }

    #[test]
    fn addresses_and_interfaces_survive_from_0_3_0_on(result in result()) {
        for version in SpecVersion::ALL.into_iter().filter(|version| !version.has_legacy_result()) {
            let back = read(&result.to_json(version));
            let result = without_empty_text(result.clone());
            prop_assert_eq!(&back.ips, &result.ips);
            prop_assert_eq!(&back.dns, &result.dns);
            let routes = |r: &CNIResult| -> Vec<_> {
                r.routes.iter().map(|r| (r.dst, r.gw)).collect()
            };
            prop_assert_eq!(routes(&back), routes(&result));
            let interfaces = |r: &CNIResult| -> Vec<_> {
                let fields = |i: &Interface| (i.name.clone(), i.mac.clone(), i.sandbox.clone());
                r.interfaces.iter().map(fields).collect()
            };
            prop_assert_eq!(interfaces(&back), interfaces(&result));
        }
    }

    #[test]
    fn old_versions_keep_the_first_address_of_each_family(result in result()) {
        for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
            let back = read(&result.to_json(version));
            let first = |v4| result.ips.iter().find(move |ip| ip.address.addr().is_ipv4() == v4);
            let expected = [first(true), first(false)].into_iter().flatten();
            let fields = |ip: &IpConfig| (ip.address, ip.gateway);
            prop_assert!(back.ips.iter().map(fields).eq(expected.map(fields)), "{:?}", back);
        }
    }

    #[test]
    fn old_versions_keep_the_routes_of_families_with_an_address(result in result()) {
        for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
            let back = read(&result.to_json(version));
            let has_address = |v4| result.ips.iter().any(|ip| ip.address.addr().is_ipv4() == v4);
            let of_family = |v4| {
                let is_kept = move |r: &&Route| r.dst.addr().is_ipv4() == v4 && has_address(v4);
                result.routes.iter().filter(is_kept)
            };
            let expected: Vec<_> = of_family(true).chain(of_family(false))
                .map(|r| Route { extra: r.extra.clone(), ..Route::new(r.dst, r.gw) })
                .collect();
            prop_assert_eq!(back.routes, expected);
            prop_assert_eq!(back.dns, without_empty_text(result.clone()).dns);
            prop_assert_eq!(back.interfaces, []);
        }
    }

    #[test]
    fn conversion_between_two_versions_keeps_the_members_of_the_older(result in result()) {
        for one in SpecVersion::ALL {
            for other in SpecVersion::ALL {
                let sent = read(&result.to_json(one));
                let received = read(&sent.to_json(other));
                let older = one.min(other);
                prop_assert_eq!(received.to_json(older), sent.to_json(older), "{} {}", one, other);
            }
        }
    }

    #[test]
    fn a_configuration_keeps_its_prev_result(result in result()) {
        for version in SpecVersion::ALL {
            let prev_result = result.to_json(version);
            let config = json!({ "cniVersion": version, "name": "n", "prevResult": prev_result });
            let conf = NetConf::from_json(config.to_string().as_bytes()).unwrap();
            prop_assert_eq!(Value::Object(conf.to_json()), config);
        }
    }

    #[test]
    fn any_bytes_are_a_result_or_code_6(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = CNIResult::from_json(&bytes) {
            prop_assert_eq!(error.code(), 6);
        }
    }
}
