//! static as a runtime calls it.

mod ipam;

use ipam::{Call, addresses};
use rscni::SpecVersion;
use rstest::rstest;
use serde_json::{Value, json};

fn call(command: &str, ipam: &Value) -> Call {
    let conf = json!({ "cniVersion": "1.1.0", "name": "net", "type": "bridge", "ipam": ipam });
    Call::new("static", command, "a", &conf)
}

fn configured() -> Value {
    json!({
        "type": "static",
        "addresses": [
            { "address": "10.10.0.1/24", "gateway": "10.10.0.254" },
            { "address": "fd00::1/64" }
        ],
        "routes": [
            { "dst": "0.0.0.0/0" },
            { "dst": "192.168.0.0/16", "gw": "10.10.5.1", "table": 7 }
        ],
        "dns": { "nameservers": ["8.8.8.8"], "domain": "example.com", "search": ["example.com"] }
    })
}

#[test]
fn results_have_the_format_of_each_version() {
    for version in SpecVersion::ALL {
        let with =
            |command| call(command, &configured()).key("cniVersion", version.as_str().into());
        let result = with("ADD").ok();
        if version.has_legacy_result() {
            assert_eq!(result["ip4"]["ip"], "10.10.0.1/24");
            assert_eq!(result["ip4"]["gateway"], "10.10.0.254");
            assert_eq!(result["ip6"]["ip"], "fd00::1/64");
        } else {
            assert_eq!(addresses(&result), ["10.10.0.1/24", "fd00::1/64"]);
            assert_eq!(result["ips"][0]["gateway"], "10.10.0.254");
            assert_eq!(result["routes"][1]["table"], 7);
        }
        assert_eq!(result["dns"], configured()["dns"]);
        let check = with("CHECK").key("prevResult", result);
        if version.has_check() {
            check.ok();
        } else {
            assert_eq!(check.error().0, 1);
        }
        if version.has_gc_and_status() {
            with("STATUS").ok();
            with("GC").key("cni.dev/valid-attachments", json!([])).ok();
        } else {
            assert_eq!((with("STATUS").error().0, with("GC").error().0), (1, 1));
        }
        assert_eq!(with("DEL").ok(), Value::Null);
    }
}

#[test]
fn addresses_of_cni_args_follow_the_configured_ones() {
    let add = call("ADD", &configured())
        .var("CNI_ARGS", "IP=10.10.0.7/24, 11.11.0.1/24;GATEWAY=10.10.0.9,11.11.0.9");
    let result = add.ok();
    assert_eq!(addresses(&result), ["10.10.0.1/24", "fd00::1/64", "10.10.0.7/24", "11.11.0.1/24"]);
    let gateways: Vec<_> =
        result["ips"].as_array().unwrap().iter().map(|ip| ip["gateway"].as_str()).collect();
    assert_eq!(gateways, [Some("10.10.0.254"), None, Some("10.10.0.9"), Some("11.11.0.9")]);
}

#[test]
fn runtime_config_replaces_args_and_args_replace_the_rest() {
    let add = || {
        call("ADD", &configured())
            .var("CNI_ARGS", "IP=10.10.0.7/24")
            .key("args", json!({ "cni": { "ips": ["10.2.2.42/24", "2001:db8::5/64"] } }))
    };
    assert_eq!(addresses(&add().ok()), ["10.2.2.42/24", "2001:db8::5/64"]);
    let result =
        add().key("runtimeConfig", json!({ "ips": ["::ffff:10.3.3.3/120"], "mac": 7 })).ok();
    assert_eq!(addresses(&result), ["10.3.3.3/24"]);
    assert_eq!(result["routes"].as_array().map(Vec::len), Some(2));
    let empty = add()
        .key("runtimeConfig", json!({ "ips": [] }))
        .key("args", json!({ "cni": { "ips": null } }));
    assert_eq!(addresses(&empty.ok()), ["10.10.0.1/24", "fd00::1/64", "10.10.0.7/24"]);
}

#[test]
fn a_replaced_address_may_be_invalid() {
    let add = call("ADD", &json!({ "addresses": [{ "address": "" }] }));
    assert_eq!(
        addresses(&add.key("runtimeConfig", json!({ "ips": ["10.3.3.3/24"] })).ok()),
        ["10.3.3.3/24"]
    );
}

#[test]
fn without_addresses_the_result_is_empty() {
    assert_eq!(call("ADD", &json!({ "type": "static" })).ok(), json!({ "cniVersion": "1.1.0" }));
}

#[rstest]
#[case("args", json!({ "cni": { "ips": ["10.0.0.1"] } }), "args.cni.ips[0]: \"10.0.0.1\"")]
#[case("runtimeConfig", json!({ "ips": ["10.0.0.1"] }), "runtimeConfig.ips[0]: \"10.0.0.1\"")]
fn addresses_of_the_runtime_need_a_prefix_length(
    #[case] key: &str,
    #[case] value: Value,
    #[case] problem: &str,
) {
    call("ADD", &configured()).key(key, value).fails(7, problem);
}

#[rstest]
#[case("IP=10.0.0.1", "IP: \"10.0.0.1\"")]
#[case("IP=10.0.0.1/24;GATEWAY=x", "GATEWAY: \"x\"")]
#[case("K8S_POD_NAME=x", "unknown K8S_POD_NAME")]
fn invalid_cni_args_are_code_4(#[case] args: &str, #[case] problem: &str) {
    call("ADD", &configured()).var("CNI_ARGS", args).fails(4, problem);
}

#[test]
fn old_versions_allow_one_address_per_family() {
    for version in SpecVersion::ALL {
        let add = call("ADD", &configured())
            .var("CNI_ARGS", "IP=11.11.0.1/24")
            .key("cniVersion", version.as_str().into());
        let code = add.reply().error.map(|error| error.code());
        assert_eq!(code, version.has_legacy_result().then_some(7), "{version}");
    }
}

#[test]
fn check_requires_every_address_and_gateway_in_the_result() {
    let check = |prev: Value| call("CHECK", &configured()).key("prevResult", prev);
    let result = call("ADD", &configured()).ok();
    check(result.clone()).ok();
    assert_eq!(check(Value::Null).error().0, 7);

    let mut without = result.clone();
    without["ips"].as_array_mut().unwrap().pop();
    check(without).fails(100, "fd00::1 is not in prevResult");

    let mut other = result;
    other["ips"][0]["gateway"] = "10.10.0.1".into();
    check(other).fails(100, "gateway of 10.10.0.1");
}
