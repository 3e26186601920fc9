//! What a result looks like in each version of the specification.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_test::VERSIONS;
use serde_json::Value;

/// The place of a version among all.
pub(crate) fn age(version: &str) -> usize {
    VERSIONS.iter().position(|known| *known == version).unwrap_or_default()
}

/// Whether `version` is `since` or later.
pub(crate) fn is_since(version: &str, since: &str) -> bool {
    age(version) >= age(since)
}

/// The elements of an array, or none.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// The addresses of a result of any version.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let now = list(result, "ips").iter().filter_map(|ip| ip["address"].as_str());
    let before = ["ip4", "ip6"].iter().filter_map(|family| result[family]["ip"].as_str());
    now.chain(before).map(str::to_owned).collect()
}

/// What is wrong with a result of a version: nothing, or one complaint for each part.
pub(crate) fn complaints(version: &str, result: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let said = result["cniVersion"].as_str();
    // The first version had no versions in results.
    if said != Some(version) && !(said.is_none() && version == "0.1.0") {
        wrong.push(format!("cniVersion is {}, not {version}", result["cniVersion"]));
    }
    if is_since(version, "0.3.0") {
        since_lists(version, result, &mut wrong);
    } else {
        before_lists(result, &mut wrong);
    }
    for key in ["nameservers", "search", "options"] {
        let texts = |all: &Vec<Value>| all.iter().all(Value::is_string);
        if !result["dns"][key].is_null() && !result["dns"][key].as_array().is_some_and(texts) {
            wrong.push(format!("dns.{key} is no list of texts"));
        }
    }
    wrong
}

/// `ip4` and `ip6`, up to 0.2.0.
fn before_lists(result: &Value, wrong: &mut Vec<String>) {
    for key in ["ips", "interfaces", "routes"] {
        if !result[key].is_null() {
            wrong.push(format!("{key} exists from 0.3.0 on"));
        }
    }
    for (key, v4) in [("ip4", true), ("ip6", false)] {
        let ip = &result[key];
        if ip.is_null() {
            continue;
        }
        if net(&ip["ip"]).is_none_or(|net| net.addr().is_ipv4() != v4) {
            wrong.push(format!(
                "{key}.ip is {}, no address of its family with a prefix length",
                ip["ip"]
            ));
        }
        gateway(key, &ip["gateway"], wrong);
        routes(&format!("{key}.routes"), list(ip, "routes"), wrong);
    }
}

/// `interfaces`, `ips` and `routes`, from 0.3.0 on.
fn since_lists(version: &str, result: &Value, wrong: &mut Vec<String>) {
    for key in ["ip4", "ip6"] {
        if !result[key].is_null() {
            wrong.push(format!("{key} exists up to 0.2.0"));
        }
    }
    for key in ["ips", "interfaces", "routes"] {
        if !result[key].is_null() && !result[key].is_array() {
            wrong.push(format!("{key} is no list"));
        }
    }
    let interfaces = list(result, "interfaces");
    for (place, interface) in interfaces.iter().enumerate() {
        if interface["name"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("interfaces[{place}] has no name"));
        }
        for key in ["mac", "sandbox"] {
            if !interface[key].is_null() && !interface[key].is_string() {
                wrong.push(format!("interfaces[{place}].{key} is no text"));
            }
        }
    }
    for (place, ip) in list(result, "ips").iter().enumerate() {
        let address = net(&ip["address"]);
        let Some(address) = address else {
            wrong.push(format!(
                "ips[{place}].address is {}, no address with a prefix length",
                ip["address"]
            ));
            continue;
        };
        let family = if address.addr().is_ipv4() { "4" } else { "6" };
        match (is_since(version, "1.0.0"), &ip["version"]) {
            (false, said) if *said != family => {
                wrong.push(format!("ips[{place}].version is {said}, not {family:?}"));
            }
            (true, said) if !said.is_null() => {
                wrong.push(format!("ips[{place}].version exists up to 0.4.0"));
            }
            _ => {}
        }
        gateway(&format!("ips[{place}]"), &ip["gateway"], wrong);
        let index = &ip["interface"];
        let is_valid =
            |index: u64| usize::try_from(index).is_ok_and(|index| index < interfaces.len());
        if !index.is_null() && !index.as_u64().is_some_and(is_valid) {
            wrong.push(format!(
                "ips[{place}].interface is {index}, of {} interfaces",
                interfaces.len()
            ));
        }
    }
    routes("routes", list(result, "routes"), wrong);
}

fn gateway(of: &str, gateway: &Value, wrong: &mut Vec<String>) {
    if !gateway.is_null() && ip(gateway).is_none() {
        wrong.push(format!("{of}.gateway is {gateway}, no address"));
    }
}

fn routes(of: &str, routes: &[Value], wrong: &mut Vec<String>) {
    for (place, route) in routes.iter().enumerate() {
        if net(&route["dst"]).is_none() {
            wrong.push(format!("{of}[{place}].dst is {}, no network", route["dst"]));
        }
        if !route["gw"].is_null() && ip(&route["gw"]).is_none() {
            wrong.push(format!("{of}[{place}].gw is {}, no address", route["gw"]));
        }
    }
}

/// An address with its prefix length.
pub(crate) fn net(value: &Value) -> Option<IpNet> {
    value.as_str()?.parse().ok()
}

/// An address.
pub(crate) fn ip(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rscni_test::result_in;
    use serde_json::json;

    #[test]
    fn results_of_every_version_are_what_they_should_be_in_it_alone() {
        for version in VERSIONS {
            let result = result_in(version);
            assert_eq!(complaints(version, &result), [""; 0], "{version}");
            for other in ["0.2.0", "0.4.0", "1.0.0"].iter().filter(|other| **other != version) {
                assert!(!complaints(other, &result).is_empty(), "{version} as {other}");
            }
        }
    }

    #[test]
    fn each_part_is_looked_at() {
        for (path, value, complaint) in [
            ("/ips/0/address", json!("10.1.0.5"), "prefix length"),
            ("/ips/0/gateway", json!("x"), "gateway"),
            ("/ips/0/interface", json!(2), "of 2 interfaces"),
            ("/interfaces/0/name", json!(""), "has no name"),
            ("/interfaces/0/mac", json!(1), "mac"),
            ("/routes/0/dst", json!("10.0.0.1"), "dst"),
            ("/routes/0/gw", json!("10.0.0.1/8"), "gw"),
            ("/routes", json!({}), "no list"),
            ("/dns/search", json!("a"), "dns.search"),
        ] {
            let mut result = result_in("1.1.0");
            *result.pointer_mut(path).unwrap() = value;
            let found = complaints("1.1.0", &result);
            assert!(found.len() == 1 && found[0].contains(complaint), "{path}: {found:?}");
        }
    }
}
