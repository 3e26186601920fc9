//! The shape of results in each version of the specification.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::versions::is_since;

/// Describes the faults of a result in a version of the specification: keys of other versions, and
/// values that are not what the specification says.
///
/// ```
/// # use serde_json::json;
/// let old = json!({ "cniVersion": "1.0.0", "ips": [{ "version": "4", "address": "10.1.0.5/16" }] });
/// assert_eq!(rscni_test::result_faults("1.0.0", &old), ["ips[0].version only exists up to 0.4.0"]);
/// ```
pub fn result_faults(version: &str, result: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let own = result["cniVersion"].as_str();
    // Results of 0.1.0 had no version.
    if own != Some(version) && !(own.is_none() && version == "0.1.0") {
        faults.push(format!("cniVersion is {}, not {version}", result["cniVersion"]));
    }
    if is_since(version, "0.3.0") {
        check_result(version, result, &mut faults);
    } else {
        check_legacy_result(result, &mut faults);
    }
    for key in ["nameservers", "search", "options"] {
        let strings = |all: &Vec<Value>| all.iter().all(Value::is_string);
        if !result["dns"][key].is_null() && !result["dns"][key].as_array().is_some_and(strings) {
            faults.push(format!("dns.{key} is not a list of strings"));
        }
    }
    faults
}

/// Checks `ip4` and `ip6`, up to 0.2.0.
fn check_legacy_result(result: &Value, faults: &mut Vec<String>) {
    for key in ["ips", "interfaces", "routes"] {
        if !result[key].is_null() {
            faults.push(format!("{key} requires 0.3.0"));
        }
    }
    for (key, v4) in [("ip4", true), ("ip6", false)] {
        let ip = &result[key];
        if ip.is_null() {
            continue;
        }
        if net(&ip["ip"]).is_none_or(|net| net.addr().is_ipv4() != v4) {
            let family = if v4 { "IPv4" } else { "IPv6" };
            let address = &ip["ip"];
            faults.push(format!(
                "{key}.ip {address} is not an {family} address with a prefix length"
            ));
        }
        check_gateway(key, &ip["gateway"], faults);
        check_routes(&format!("{key}.routes"), list(ip, "routes"), faults);
    }
}

/// Checks `interfaces`, `ips` and `routes`, from 0.3.0.
fn check_result(version: &str, result: &Value, faults: &mut Vec<String>) {
    for key in ["ip4", "ip6"] {
        if !result[key].is_null() {
            faults.push(format!("{key} only exists up to 0.2.0"));
        }
    }
    for key in ["ips", "interfaces", "routes"] {
        if !result[key].is_null() && !result[key].is_array() {
            faults.push(format!("{key} is not a list"));
        }
    }
    let interfaces = list(result, "interfaces");
    for (i, interface) in interfaces.iter().enumerate() {
        if interface["name"].as_str().is_none_or(str::is_empty) {
            faults.push(format!("interfaces[{i}] has no name"));
        }
        for key in ["mac", "sandbox"] {
            if !interface[key].is_null() && !interface[key].is_string() {
                faults.push(format!("interfaces[{i}].{key} is not a string"));
            }
        }
    }
    for (i, ip) in list(result, "ips").iter().enumerate() {
        let address = &ip["address"];
        let Some(net) = net(address) else {
            faults
                .push(format!("ips[{i}].address {address} is not an address with a prefix length"));
            continue;
        };
        let family = if net.addr().is_ipv4() { "4" } else { "6" };
        match (is_since(version, "1.0.0"), &ip["version"]) {
            (false, own) if *own != family => {
                faults.push(format!("ips[{i}].version is {own}, not {family:?}"));
            }
            (true, own) if !own.is_null() => {
                faults.push(format!("ips[{i}].version only exists up to 0.4.0"));
            }
            _ => {}
        }
        check_gateway(&format!("ips[{i}]"), &ip["gateway"], faults);
        let (index, count) = (&ip["interface"], interfaces.len());
        let is_valid = |index: u64| usize::try_from(index).is_ok_and(|index| index < count);
        if !index.is_null() && !index.as_u64().is_some_and(is_valid) {
            faults.push(format!("ips[{i}].interface is {index}, of {count} interfaces"));
        }
    }
    check_routes("routes", list(result, "routes"), faults);
}

fn check_gateway(path: &str, gateway: &Value, faults: &mut Vec<String>) {
    if !gateway.is_null() && ip(gateway).is_none() {
        faults.push(format!("{path}.gateway {gateway} is not an address"));
    }
}

fn check_routes(path: &str, routes: &[Value], faults: &mut Vec<String>) {
    for (i, route) in routes.iter().enumerate() {
        if net(&route["dst"]).is_none() {
            faults.push(format!("{path}[{i}].dst {} is not a network", route["dst"]));
        }
        if !route["gw"].is_null() && ip(&route["gw"]).is_none() {
            faults.push(format!("{path}[{i}].gw {} is not an address", route["gw"]));
        }
    }
}

/// The elements of an array; none if the key is not an array.
fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn net(value: &Value) -> Option<IpNet> {
    value.as_str()?.parse().ok()
}

fn ip(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{VERSIONS, result_in};
    use serde_json::json;

    #[test]
    fn a_result_is_valid_only_in_its_version() {
        for version in VERSIONS {
            let result = result_in(version);
            assert_eq!(result_faults(version, &result), [""; 0], "{version}");
            for other in ["0.2.0", "0.4.0", "1.0.0"].iter().filter(|other| **other != version) {
                assert!(!result_faults(other, &result).is_empty(), "{version} as {other}");
            }
        }
    }

    #[test]
    fn each_part_is_checked() {
        for (path, value, fault) in [
            ("/ips/0/address", json!("10.1.0.5"), "prefix length"),
            ("/ips/0/gateway", json!("x"), "gateway"),
            ("/ips/0/interface", json!(2), "of 2 interfaces"),
            ("/interfaces/0/name", json!(""), "has no name"),
            ("/interfaces/0/mac", json!(1), "mac"),
            ("/routes/0/dst", json!("10.0.0.1"), "dst"),
            ("/routes/0/gw", json!("10.0.0.1/8"), "gw"),
            ("/routes", json!({}), "not a list"),
            ("/dns/search", json!("a"), "dns.search"),
        ] {
            let mut result = result_in("1.1.0");
            *result.pointer_mut(path).unwrap() = value;
            let found = result_faults("1.1.0", &result);
            assert!(found.len() == 1 && found[0].contains(fault), "{path}: {found:?}");
        }
    }
}
