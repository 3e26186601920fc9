//! Parts of results, and ages of versions.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_test::VERSIONS;
use serde_json::Value;

/// Returns the index of a version among all versions.
pub(crate) fn age(version: &str) -> usize {
    VERSIONS.iter().position(|known| *known == version).unwrap_or_default()
}

/// Whether `version` is `since` or later.
pub(crate) fn is_since(version: &str, since: &str) -> bool {
    age(version) >= age(since)
}

/// Returns the elements of an array; none if the key is not an array.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Returns the addresses of a result of any version.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = list(result, "ips").iter().filter_map(|ip| ip["address"].as_str());
    let legacy = ["ip4", "ip6"].iter().filter_map(|family| result[family]["ip"].as_str());
    ips.chain(legacy).map(str::to_owned).collect()
}

/// Parses an address with its prefix length.
pub(crate) fn net(value: &Value) -> Option<IpNet> {
    value.as_str()?.parse().ok()
}

/// Parses an address.
pub(crate) fn ip(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}
