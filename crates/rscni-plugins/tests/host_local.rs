//! host-local as a runtime calls it, with reservations in a temporary directory.

mod host_local_network;
mod ipam;

use std::{collections::BTreeSet, fs};

use host_local_network::Network;
use ipam::addresses;
use rscni::SpecVersion;
use rstest::rstest;
use serde_json::{Value, json};

#[test]
fn results_have_the_format_of_each_version() {
    for version in SpecVersion::ALL {
        let routes = json!([
            { "dst": "0.0.0.0/0" },
            { "dst": "10.9.0.0/16", "gw": "10.1.2.1", "mtu": 1400 }
        ]);
        let ranges = json!([[{ "subnet": "10.1.2.0/24" }], [{ "subnet": "fd00:1::/64" }]]);
        let network = Network::new(version, &json!({ "ranges": ranges, "routes": routes }));
        let result = network.call("ADD", "a").ok();
        let mut expected = json!({
            "cniVersion": version,
            "ips": [
                { "address": "10.1.2.2/24", "gateway": "10.1.2.1" },
                { "address": "fd00:1::2/64", "gateway": "fd00:1::1" }
            ],
            "routes": routes
        });
        match version {
            SpecVersion::V0_1_0 | SpecVersion::V0_2_0 => {
                expected = json!({
                    "cniVersion": version,
                    "ip4": { "ip": "10.1.2.2/24", "gateway": "10.1.2.1", "routes": routes },
                    "ip6": { "ip": "fd00:1::2/64", "gateway": "fd00:1::1" }
                });
            }
            SpecVersion::V0_3_0 | SpecVersion::V0_3_1 | SpecVersion::V0_4_0 => {
                expected["ips"][0]["version"] = "4".into();
                expected["ips"][1]["version"] = "6".into();
            }
            _ => {}
        }
        assert_eq!(result, expected, "{version}");
        assert_eq!(network.reserved(), ["10.1.2.2", "fd00:1::2"]);

        let check = network.call("CHECK", "a").key("prevResult", result);
        if version.has_check() {
            check.ok();
        } else {
            assert_eq!(check.error().0, 1, "{version}");
        }
        let status = network.call("STATUS", "");
        let gc = network.gc(&json!([{ "containerID": "a", "ifname": "eth0" }]));
        if version.has_gc_and_status() {
            assert_eq!((status.ok(), gc.ok()), (Value::Null, Value::Null));
        } else {
            assert_eq!((status.error().0, gc.error().0), (1, 1), "{version}");
        }
        assert_eq!(network.reserved().len(), 2);
        assert_eq!(network.call("DEL", "a").ok(), Value::Null);
        assert_eq!(network.call("DEL", "a").ok(), Value::Null);
        assert!(network.reserved().is_empty());
    }
}

#[test]
fn a_released_address_is_allocated_last() {
    let network = Network::of(&["10.0.0.0/29"]);
    assert_eq!(network.add("a"), ["10.0.0.2/29"]);
    for next in ["10.0.0.3/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29", "10.0.0.3/29"] {
        assert_eq!(network.add("b"), [next]);
        network.call("DEL", "b").ok();
    }
}

#[test]
fn the_single_range_precedes_the_range_sets() {
    let network = Network::new(
        SpecVersion::LATEST,
        &json!({
            "subnet": "10.0.0.0/24", "gateway": "10.0.0.254",
            "rangeStart": "10.0.0.10", "rangeEnd": "10.0.0.11",
            "ranges": [[{ "subnet": "10.0.1.0/24" }]]
        }),
    );
    let result = network.call("ADD", "a").ok();
    assert_eq!(addresses(&result), ["10.0.0.10/24", "10.0.1.2/24"]);
    assert_eq!(result["ips"][0]["gateway"], "10.0.0.254");
}

#[test]
fn ranges_of_the_runtime_come_first() {
    let network =
        Network::new(SpecVersion::LATEST, &json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }]] }));
    let ranges =
        json!({ "ipRanges": [[{ "subnet": "10.7.0.0/16", "rangeStart": "10.7.3.3" }]], "mac": 7 });
    assert_eq!(
        addresses(&network.call("ADD", "a").key("runtimeConfig", ranges.clone()).ok()),
        ["10.7.3.3/16", "10.0.0.2/24"]
    );
    let network = Network::new(SpecVersion::LATEST, &json!({}));
    assert_eq!(
        addresses(&network.call("ADD", "a").key("runtimeConfig", ranges).ok()),
        ["10.7.3.3/16"]
    );
}

#[test]
fn dns_settings_come_from_resolv_conf() {
    let mut network = Network::of(&["10.0.0.0/24"]);
    let file = network.dir.path().join("resolv.conf");
    network.conf["ipam"]["resolvConf"] = file.to_str().into();
    network.call("ADD", "a").fails(5, "resolv.conf");
    assert!(network.reserved().is_empty());
    fs::write(&file, "nameserver 192.0.2.3\nsearch a b\n").unwrap();
    assert_eq!(
        network.call("ADD", "a").ok()["dns"],
        json!({ "nameservers": ["192.0.2.3"], "search": ["a", "b"] })
    );
}

#[rstest]
#[case("CNI_ARGS", "IP=10.0.0.22")]
#[case("CNI_ARGS", "IP=10.0.0.22/8;IgnoreUnknown=1;K8S_POD_NAME=x")]
#[case("args", r#"{ "cni": { "ips": ["10.0.0.22"] } }"#)]
#[case("runtimeConfig", r#"{ "ips": ["::ffff:10.0.0.22"] }"#)]
fn an_address_can_be_requested_in_three_ways(#[case] place: &str, #[case] request: &str) {
    let network = Network::of(&["10.0.0.0/24", "fd00::/64"]);
    let call = network.call("ADD", "a");
    let call = match place {
        "CNI_ARGS" => call.var(place, request),
        key => call.key(key, serde_json::from_str(request).unwrap()),
    };
    assert_eq!(addresses(&call.ok()), ["10.0.0.22/24", "fd00::2/64"]);
    assert_eq!(network.add("b")[0], "10.0.0.23/24");
}

#[test]
fn requests_of_all_sources_add_up_without_duplicates() {
    let network = Network::of(&["10.0.0.0/24", "fd00::/64"]);
    let call = network
        .call("ADD", "a")
        .var("CNI_ARGS", "IP=10.0.0.22")
        .key("args", json!({ "cni": { "ips": ["fd00::22/64"] } }))
        .key("runtimeConfig", json!({ "ips": ["10.0.0.22/24", "fd00:0::22"] }));
    assert_eq!(addresses(&call.ok()), ["10.0.0.22/24", "fd00::22/64"]);
}

#[rstest]
#[case(json!(["10.0.0.1"]), 7, "10.0.0.1 is the gateway")]
#[case(json!(["10.0.1.5"]), 7, "10.0.1.5 is in no range set")]
#[case(json!(["10.0.0.0"]), 7, "10.0.0.0 is in no range set")]
#[case(json!(["10.0.0.255"]), 7, "10.0.0.255 is in no range set")]
#[case(json!(["10.0.0.8", "10.0.0.9"]), 7, "10.0.0.9 is a second request")]
#[case(json!(["10.0.0.2"]), 11, "10.0.0.2 of range set 0 (10.0.0.1-10.0.0.254) is taken")]
#[case(json!(["fd00::8", "10.0.0.2"]), 11, "10.0.0.2")]
#[case(json!(["10.0.0.8", "fd00::2"]), 11, "fd00::2")]
#[case(json!(["10.0.0"]), 7, "runtimeConfig.ips[0]: \"10.0.0\"")]
#[case(json!([""]), 7, "runtimeConfig.ips")]
fn an_impossible_request_reserves_nothing(
    #[case] ips: Value,
    #[case] code: u32,
    #[case] problem: &str,
) {
    let network = Network::of(&["10.0.0.0/24", "fd00::/64"]);
    network.add("first");
    network.call("ADD", "a").key("runtimeConfig", json!({ "ips": ips })).fails(code, problem);
    assert_eq!(network.reserved(), ["10.0.0.2", "fd00::2"]);
}

#[rstest]
#[case("IP=10.0.0", "\"10.0.0\"")]
#[case("IP=10.9.9.9", "10.9.9.9 is in no range set")]
#[case("GATEWAY=10.0.0.1", "unknown GATEWAY")]
#[case("nonsense", "KEY=VALUE")]
fn an_invalid_request_in_cni_args_is_code_4(#[case] args: &str, #[case] problem: &str) {
    let network = Network::of(&["10.0.0.0/24"]);
    network.call("ADD", "a").var("CNI_ARGS", args).fails(4, problem);
    assert!(network.reserved().is_empty());
}

#[test]
fn add_rolls_back_if_a_set_is_exhausted() {
    let network = Network::of(&["fd00::/64", "10.0.0.0/30"]);
    assert_eq!(network.add("a"), ["fd00::2/64", "10.0.0.2/30"]);
    network
        .call("ADD", "b")
        .fails(11, "no IP addresses available in range set 1 (10.0.0.1-10.0.0.2)");
    assert_eq!(network.reserved(), ["10.0.0.2", "fd00::2"]);
    network.call("STATUS", "").fails(50, "range set 1");
    network.call("DEL", "a").ok();
    network.call("STATUS", "").ok();
    assert_eq!(network.add("b")[1], "10.0.0.2/30");
}

#[test]
fn add_rolls_back_if_a_write_fails() {
    let network = Network::of(&["10.0.0.0/24", "fd00::/64"]);
    fs::create_dir_all(network.file("last_reserved_ip.1")).unwrap();
    network.call("ADD", "a").fails(5, "last_reserved_ip.1");
    assert!(network.reserved().is_empty());
}

#[test]
fn a_second_add_fails_and_does_not_change_the_first() {
    let network = Network::of(&["10.0.0.0/24"]);
    network.add("a");
    for request in ["", "IP=10.0.0.7"] {
        network
            .call("ADD", "a")
            .var("CNI_ARGS", request)
            .fails(11, "10.0.0.2 has been allocated to a eth0");
    }
    assert_eq!(network.reserved(), ["10.0.0.2"]);
    let other = addresses(&network.call("ADD", "a").var("CNI_IFNAME", "eth1").ok());
    assert_eq!(other, ["10.0.0.3/24"]);
}

#[test]
fn del_releases_only_the_addresses_of_the_attachment() {
    let network = Network::of(&["10.0.0.0/24", "fd00::/64"]);
    network.add("a");
    network.add("ab");
    network.call("ADD", "a").var("CNI_IFNAME", "eth1").ok();
    network.call("DEL", "a").var("CNI_NETNS", "").ok();
    assert_eq!(network.reserved(), ["10.0.0.3", "10.0.0.4", "fd00::3", "fd00::4"]);
}

#[test]
fn del_and_gc_need_no_valid_ranges_and_create_no_directory() {
    let mut network = Network::of(&["10.0.0.0/24"]);
    network.call("DEL", "a").ok();
    network.gc(&json!([])).ok();
    assert!(!network.dir.path().join("net").exists());
    network.add("a");
    network.add("b");
    network.conf["ipam"]["ranges"] = json!("oops");
    network.call("DEL", "a").var("CNI_ARGS", "UNKNOWN=1").ok();
    assert_eq!(network.reserved(), ["10.0.0.3"]);
    network.gc(&json!([])).ok();
    assert!(network.reserved().is_empty());
}

#[test]
fn reservations_of_old_releases_belong_to_all_interfaces() {
    let network = Network::of(&["10.0.0.0/24"]);
    network.write("10.0.0.2", "a");
    network.write("10.0.0.3", "b\n");
    network.call("CHECK", "a").key("prevResult", json!({})).ok();
    assert_eq!(network.call("ADD", "a").error().0, 11);
    network.gc(&json!([{ "containerID": "a", "ifname": "net1" }])).ok();
    assert_eq!(network.reserved(), ["10.0.0.2"]);
    network.call("DEL", "a").ok();
    assert!(network.reserved().is_empty());
}

#[test]
fn del_keeps_a_reservation_of_an_old_release_beside_a_new_one() {
    let network = Network::of(&["10.0.0.0/24"]);
    network.write("10.0.0.2", "a");
    network.write("10.0.0.3", "a\r\neth0");
    network.call("DEL", "a").ok();
    assert_eq!(network.reserved(), ["10.0.0.2"]);
}

#[test]
fn check_finds_missing_reservations() {
    let network = Network::of(&["10.0.0.0/24", "fd00::/64"]);
    network
        .call("CHECK", "a")
        .key("prevResult", json!({}))
        .fails(100, "an address is not reserved for a eth0");
    assert!(!network.dir.path().join("net").exists());

    let result = network.call("ADD", "a").ok();
    network.call("CHECK", "a").fails(7, "prevResult");
    fs::remove_file(network.file("fd00::2")).unwrap();
    network.call("CHECK", "a").key("prevResult", json!({})).ok();
    network
        .call("CHECK", "a")
        .key("prevResult", result.clone())
        .fails(100, "fd00::2 is not reserved for a eth0");

    fs::write(network.file("fd00::2"), "another\r\neth0").unwrap();
    assert_eq!(network.call("CHECK", "a").key("prevResult", result).error().0, 100);
}

#[test]
fn check_ignores_addresses_outside_of_its_ranges() {
    let network = Network::of(&["10.0.0.0/24"]);
    network.add("a");
    let prev = json!({
        "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/run/netns/none" }],
        "ips": [
            { "interface": 0, "address": "10.0.0.9/24" },
            { "interface": 1, "address": "10.0.0.2/24" },
            { "interface": 1, "address": "192.168.0.2/24" }
        ]
    });
    network.call("CHECK", "a").key("prevResult", prev).ok();
}

#[test]
fn gc_releases_reservations_without_a_valid_attachment() {
    let network = Network::of(&["10.0.0.0/24"]);
    for container in ["a", "b", "c"] {
        network.add(container);
    }
    network.write("10.0.0.77", "");
    network.write("unrelated", "b\r\neth0");
    let valid =
        json!([{ "containerID": "a", "ifname": "eth0" }, { "containerID": "b", "ifname": "eth1" }]);
    network.gc(&valid).ok();
    assert_eq!(network.reserved(), ["10.0.0.2", "unrelated"]);
}

#[test]
fn gc_without_valid_attachments_releases_everything() {
    let network = Network::of(&["10.0.0.0/24"]);
    network.add("a");
    network.call("GC", "").ok();
    assert!(network.reserved().is_empty());
    network.add("a");
    // libcni writes an empty list as null.
    network.gc(&Value::Null).ok();
    assert!(network.reserved().is_empty());
}

#[test]
fn gc_continues_after_a_failure_and_reports_it() {
    let network = Network::of(&["10.0.0.0/24"]);
    network.add("a");
    fs::create_dir_all(network.file("10.0.0.9/kept")).unwrap();
    network.add("b");
    network.gc(&json!([])).fails(5, "10.0.0.9");
    assert_eq!(network.reserved(), ["10.0.0.9"]);
}

#[test]
fn status_creates_nothing_and_reports_an_unusable_directory() {
    let mut network = Network::of(&["10.0.0.0/24"]);
    network.call("STATUS", "").ok();
    assert!(!network.dir.path().join("net").exists());
    let file = network.dir.path().join("file");
    fs::write(&file, "").unwrap();
    network.conf["ipam"]["dataDir"] = file.to_str().into();
    network.call("STATUS", "").fails(50, "dataDir cannot be used");
    assert_eq!(network.call("ADD", "a").error().0, 5);
}

#[rstest]
#[case::of_a_range(
    json!({ "ranges": [
        [{ "subnet": "10.0.0.0/24" }],
        [{ "subnet": "fd00::/64", "gateway": "fd00:1::1" }]
    ] }),
    "ipam.ranges[1][0].gateway: \"fd00:1::1\" is not in subnet fd00::/64"
)]
#[case::of_the_old_form(
    json!({ "subnet": "10.0.0.0/24", "gateway": "10.0.1.1" }),
    "ipam.gateway: \"10.0.1.1\" is not in subnet 10.0.0.0/24"
)]
#[case::of_the_other_family(
    json!({ "ranges": [
        [{ "subnet": "10.0.0.0/24" }, { "subnet": "10.0.1.0/24", "gateway": "fd00::1" }]
    ] }),
    "ipam.ranges[0][1].gateway: \"fd00::1\" is not in subnet 10.0.1.0/24"
)]
fn a_gateway_outside_of_the_subnet_prevents_only_additions(
    #[case] ipam: Value,
    #[case] problem: &str,
) {
    let mut network = Network::of(&["10.0.0.0/24", "fd00::/64"]);
    network.add("a");
    network.add("b");
    let given = network.conf["ipam"]["dataDir"].take();
    network.conf["ipam"] = ipam;
    network.conf["ipam"]["type"] = "host-local".into();
    network.conf["ipam"]["dataDir"] = given;
    for command in ["ADD", "CHECK", "STATUS"] {
        network.call(command, "c").fails(7, problem);
    }
    network.call("DEL", "a").ok();
    assert_eq!(network.reserved(), ["10.0.0.3", "fd00::3"]);
    network.gc(&json!([])).ok();
    assert!(network.reserved().is_empty());
}

#[test]
fn errors_in_ranges_of_the_runtime_name_the_key() {
    let ranges = json!([[{ "subnet": "10.0.0.0/24", "gateway": "10.0.1.1" }]]);
    let call = Network::of(&["fd00::/64"]).call("ADD", "a");
    call.key("runtimeConfig", json!({ "ipRanges": ranges }))
        .fails(7, "runtimeConfig.ipRanges[0][0].gateway: \"10.0.1.1\"");
}

/// Two ranges of an IPv4 subnet and one of an IPv6 subnet, with `allowOutsideRange`.
fn with_room_outside() -> Network {
    let v4 = |first: &str, last: &str| {
        json!({
            "subnet": "10.0.0.0/24", "rangeStart": first, "rangeEnd": last, "gateway": "10.0.0.254"
        })
    };
    Network::new(
        SpecVersion::LATEST,
        &json!({
            "allowOutsideRange": true,
            "ranges": [
                [v4("10.0.0.10", "10.0.0.12"), v4("10.0.0.20", "10.0.0.21")],
                [{ "subnet": "fd00::/64", "rangeStart": "fd00::10", "rangeEnd": "fd00::1f" }],
            ],
        }),
    )
}

#[rstest]
#[case::cni_args("IP=10.0.0.100", json!({}), json!({}), ["10.0.0.100/24", "fd00::10/64"])]
#[case::args(
    "",
    json!({ "cni": { "ips": ["10.0.0.100/32"] } }),
    json!({}),
    ["10.0.0.100/24", "fd00::10/64"]
)]
#[case::runtime("", json!({}), json!({ "ips": ["fd00::5"] }), ["10.0.0.10/24", "fd00::5/64"])]
#[case::all(
    "IP=10.0.0.15",
    json!({ "cni": { "ips": ["10.0.0.15"] } }),
    json!({ "ips": ["fd00::ffff"] }),
    ["10.0.0.15/24", "fd00::ffff/64"]
)]
#[case::in_a_range(
    "IP=10.0.0.21",
    json!({}),
    json!({ "ips": ["fd00::1f"] }),
    ["10.0.0.21/24", "fd00::1f/64"]
)]
fn an_allowed_address_outside_of_the_range_can_be_requested(
    #[case] cni_args: &str,
    #[case] args: Value,
    #[case] runtime: Value,
    #[case] expected: [&str; 2],
) {
    let mut network = with_room_outside();
    let call = |network: &Network, command: &str, container: &str| {
        let call = network.call(command, container).var("CNI_ARGS", cni_args);
        call.key("args", args.clone()).key("runtimeConfig", runtime.clone())
    };
    let result = call(&network, "ADD", "a").ok();
    assert_eq!(addresses(&result), expected);
    assert_eq!(result["ips"][0]["gateway"], "10.0.0.254");
    call(&network, "CHECK", "a").key("prevResult", result.clone()).ok();
    network.call("ADD", "a").fails(11, "has been allocated to a eth0");
    assert_eq!(call(&network, "ADD", "b").error().0, 11);
    // Without request and key, addresses come from the ranges.
    network.conf["ipam"]["allowOutsideRange"] = Value::Null;
    let other = network.add("b");
    assert!(other[0].starts_with("10.0.0.") && !expected.contains(&other[0].as_str()), "{other:?}");
    call(&network, "DEL", "a").ok();
    assert_eq!(network.reserved().len(), 2);
    if expected[0] == "10.0.0.100/24" {
        let (code, details) = call(&network, "ADD", "c").error();
        assert!([4, 7].contains(&code) && details.contains("allowOutsideRange"), "{details}");
    }
}

#[rstest]
#[case("10.0.0.0", "is in no range set")]
#[case("10.0.0.255", "is in no range set")]
#[case("10.0.0.254", "is the gateway")]
#[case("fd00::", "is in no range set")]
#[case("fd00::1", "is the gateway")]
#[case("10.0.1.5", "is in no range set")]
#[case("fd00:0:0:1::5", "is in no range set")]
fn an_unusable_address_cannot_be_requested(#[case] address: &str, #[case] problem: &str) {
    let network = with_room_outside();
    let runtime = json!({ "ips": [address] });
    network.call("ADD", "a").key("runtimeConfig", runtime).fails(7, problem);
    assert!(network.reserved().is_empty());
}

#[test]
fn an_address_of_another_set_is_not_outside() {
    let range = |first: &str, last: &str| {
        let range = json!({ "subnet": "10.0.0.0/24", "rangeStart": first, "rangeEnd": last });
        json!([range])
    };
    let network = Network::new(
        SpecVersion::LATEST,
        &json!({
            "allowOutsideRange": true,
            "ranges": [range("10.0.0.10", "10.0.0.19"), range("10.0.0.20", "10.0.0.29")],
        }),
    );
    let call = |container: &str, ips: Value| {
        network.call("ADD", container).key("runtimeConfig", json!({ "ips": ips }))
    };
    let given = |container: &str, ips: Value| addresses(&call(container, ips).ok());
    assert_eq!(given("a", json!(["10.0.0.25"])), ["10.0.0.10/24", "10.0.0.25/24"]);
    assert_eq!(given("b", json!(["10.0.0.26", "10.0.0.99"])), ["10.0.0.99/24", "10.0.0.26/24"]);
    assert_eq!(given("c", json!(["10.0.0.98", "10.0.0.97"])), ["10.0.0.98/24", "10.0.0.97/24"]);
    call("d", json!(["10.0.0.27", "10.0.0.28"])).fails(7, "second request");
}

#[test]
fn addresses_outside_of_the_range_do_not_move_the_round_robin() {
    let network = with_room_outside();
    assert_eq!(network.add("a")[0], "10.0.0.10/24");
    for address in ["10.0.0.100", "10.0.0.2"] {
        let runtime = json!({ "ips": [address] });
        network.call("ADD", address).key("runtimeConfig", runtime).ok();
    }
    assert_eq!(network.add("b")[0], "10.0.0.11/24");
    // The index is rebuilt from the directory.
    fs::remove_dir_all(network.dir.path().join(".index")).unwrap();
    let runtime = json!({ "ips": ["10.0.0.100"] });
    assert_eq!(network.call("ADD", "c").key("runtimeConfig", runtime).error().0, 11);
    assert_eq!(network.add("c")[0], "10.0.0.12/24");
    assert_eq!(network.add("d")[0], "10.0.0.20/24");
    network.gc(&json!([{ "containerID": "10.0.0.2", "ifname": "eth0" }])).ok();
    assert_eq!(network.reserved()[0], "10.0.0.2");
    assert_eq!(network.reserved().len(), 2);
    assert_eq!(network.add("e")[0], "10.0.0.21/24");
}

#[test]
fn a_missing_ipam_and_an_invalid_data_dir_are_code_7() {
    let network = Network::of(&["10.0.0.0/24"]);
    let call = |command: &str, ipam: Value| network.call(command, "a").key("ipam", ipam);
    assert_eq!(call("DEL", Value::Null).error().0, 7);
    let with_number = json!({ "dataDir": 5, "subnet": "10.0.0.0/24" });
    for ipam in [Value::Null, with_number, json!({ "dataDir": "/a\0b" })] {
        assert_eq!(call("ADD", ipam.clone()).error().0, 7, "{ipam}");
    }
}

#[test]
fn old_versions_allow_one_range_set_per_family() {
    for version in SpecVersion::ALL {
        let two =
            json!({ "ranges": [[{ "subnet": "10.0.0.0/24" }], [{ "subnet": "10.0.1.0/24" }]] });
        let reply = Network::new(version, &two).call("ADD", "a").reply();
        assert_eq!(
            reply.error.map(|error| error.code()),
            version.has_legacy_result().then_some(7),
            "{version}"
        );
    }
}

#[test]
fn addresses_of_the_largest_ranges_are_allocated() {
    let network = Network::of(&["::/0"]);
    network.call("STATUS", "").ok();
    assert_eq!(network.add("a"), ["::2/0"]);
    network.write("last_reserved_ip.0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    assert_eq!(network.add("b"), ["::3/0"]);
}

#[test]
fn concurrent_adds_get_different_addresses() {
    const CALLERS: usize = 8;
    const EACH: usize = 15;
    let network = Network::of(&["10.0.0.0/25", "fd00::/64"]);
    let given: Vec<String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let network = &network;
                scope.spawn(move || {
                    (0..EACH)
                        .flat_map(|i| network.add(&format!("c{caller}-{i}")))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(given.len(), 2 * CALLERS * EACH);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
    assert_eq!(network.reserved().len(), given.len());
}
