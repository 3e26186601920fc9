//! Results, whatever they are, in every version: what has been written once is read and written again the same.

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

/// Text that may be empty, which is the same as none.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![1 => Just(String::new()), 3 => ".{1,12}"]
}

/// The same result, without text that is empty.
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

/// Keys that no version knows.
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
        dst in network(), gw in of(address()), mtu in any::<Option<u32>>(), advmss in any::<Option<u32>>(),
        priority in any::<Option<u32>>(), table in any::<Option<u32>>(), scope in any::<Option<u8>>(),
        extra in extra(),
    ) -> Route {
        Route { dst, gw, mtu, advmss, priority, table, scope, extra }
    }
}

prop_compose! {
    fn dns()(nameservers in texts(), domain in of(text()), search in texts(), options in texts(), extra in extra()) -> Dns {
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

/// Through text, as it goes from plugin to plugin.
fn read(json: &Value) -> CNIResult {
    CNIResult::from_json(json.to_string().as_bytes()).unwrap()
}

proptest! {
    #[test]
    fn what_a_version_can_hold_survives(result in result()) {
        for version in SpecVersion::ALL {
            let written = result.to_json(version);
            prop_assert_eq!(&written["cniVersion"], version.as_str());
            prop_assert_eq!(&read(&written).to_json(version), &written, "{}", version);
            prop_assert_eq!(without_empty_text(result.clone()).to_json(version), written, "{}", version);
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
            let destinations = |r: &CNIResult| r.routes.iter().map(|r| (r.dst, r.gw)).collect::<Vec<_>>();
            prop_assert_eq!(destinations(&back), destinations(&result));
            let places = |r: &CNIResult| {
                r.interfaces.iter().map(|i| (i.name.clone(), i.mac.clone(), i.sandbox.clone())).collect::<Vec<_>>()
            };
            prop_assert_eq!(places(&back), places(&result));
        }
    }

    #[test]
    fn old_versions_hold_the_first_address_of_each_family(result in result()) {
        for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
            let back = read(&result.to_json(version));
            let first = |v4| result.ips.iter().find(move |ip| ip.address.addr().is_ipv4() == v4);
            let expected: Vec<_> = [first(true), first(false)].into_iter().flatten().map(|ip| (ip.address, ip.gateway)).collect();
            prop_assert_eq!(back.ips.iter().map(|ip| (ip.address, ip.gateway)).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn old_versions_hold_the_routes_of_the_families_that_have_an_address(result in result()) {
        for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
            let back = read(&result.to_json(version));
            let has_address = |v4| result.ips.iter().any(|ip| ip.address.addr().is_ipv4() == v4);
            let of = |v4| result.routes.iter().filter(move |route| route.dst.addr().is_ipv4() == v4 && has_address(v4));
            let expected: Vec<_> = of(true).chain(of(false))
                .map(|route| Route { extra: route.extra.clone(), ..Route::new(route.dst, route.gw) })
                .collect();
            prop_assert_eq!(back.routes, expected);
            prop_assert_eq!(back.dns, without_empty_text(result.clone()).dns);
            prop_assert_eq!(back.interfaces, []);
        }
    }

    #[test]
    fn on_its_way_through_any_two_versions_a_result_keeps_what_the_older_one_can_hold(result in result()) {
        for one in SpecVersion::ALL {
            for other in SpecVersion::ALL {
                let sent = read(&result.to_json(one));
                let arrived = read(&sent.to_json(other));
                let older = one.min(other);
                prop_assert_eq!(arrived.to_json(older), sent.to_json(older), "{} to {}", one, other);
            }
        }
    }

    #[test]
    fn a_configuration_keeps_its_prev_result(result in result()) {
        for version in SpecVersion::ALL {
            let config = json!({ "cniVersion": version, "name": "n", "prevResult": result.to_json(version) });
            let conf = NetConf::from_json(config.to_string().as_bytes()).unwrap();
            prop_assert_eq!(Value::Object(conf.to_json()), config);
        }
    }

    #[test]
    fn reading_anything_ends_in_a_result_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(error) = CNIResult::from_json(&bytes) {
            prop_assert_eq!(error.code(), 6);
        }
    }
}
