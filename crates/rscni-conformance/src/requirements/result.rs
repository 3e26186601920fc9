//! "ADD Success": the result matches the kernel.

use rscni_linux::{Link, Route};
use serde_json::{Value, json};

use super::add::require_interface_plugin;
use crate::{
    host::PrivateHost,
    sample::Sample,
    shape::{ip, is_since, list, net},
    verdict::{CheckResult, fail, fail_with_call, not_applicable},
};

/// Returns an attachment of a plugin whose result lists interfaces.
fn sample(host: &PrivateHost) -> CheckResult<&Sample> {
    require_interface_plugin(host)?;
    if !is_since(host.version, "0.3.0") {
        return not_applicable("interfaces are listed from 0.3.0 on");
    }
    host.sample()
}

/// Fails if there are faults.
fn expect_none(faults: &[String], expected: &str) -> CheckResult {
    if faults.is_empty() { Ok(()) } else { fail(expected, faults.join("\n")) }
}

/// Fails unless all objects are valid.
fn expect_each(
    objects: &[Value],
    expected: &str,
    is_valid: impl Fn(&Value) -> bool,
) -> CheckResult {
    let invalid = objects.iter().filter(|object| !is_valid(object));
    expect_none(&invalid.map(Value::to_string).collect::<Vec<_>>(), expected)
}

pub(super) fn lists(host: &PrivateHost, _: &str) -> CheckResult {
    let result = &sample(host)?.result;
    let ifname = &host.subject.ifname;
    let is_in_container =
        |i: &&Value| i["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty());
    let mut in_container = list(result, "interfaces").iter().filter(is_in_container);
    if in_container.any(|interface| interface["name"] == **ifname) {
        return Ok(());
    }
    fail(format!("interfaces contains {ifname} with a sandbox"), result["interfaces"].to_string())
}

pub(super) fn sandbox(host: &PrivateHost, _: &str) -> CheckResult {
    let sample = sample(host)?;
    let expected = format!("each sandbox is {}", sample.netns);
    expect_each(list(&sample.result, "interfaces"), &expected, |interface| {
        let sandbox = interface["sandbox"].as_str();
        sandbox.is_none_or(|sandbox| sandbox.is_empty() || sandbox == sample.netns)
    })
}

pub(super) fn exist(host: &PrivateHost, _: &str) -> CheckResult {
    let sample = sample(host)?;
    let expected = "each interface is in the container, or without sandbox on the host";
    expect_each(list(&sample.result, "interfaces"), expected, |interface| {
        let name = interface["name"].as_str();
        name.is_some_and(|name| sample.namespace_of(interface).link(name).is_some())
    })
}

/// Returns the existing interfaces of the result, each with its link.
fn links(sample: &Sample) -> impl Iterator<Item = (&Value, &Link)> {
    list(&sample.result, "interfaces").iter().filter_map(|interface| {
        Some((interface, sample.namespace_of(interface).link(interface["name"].as_str()?)?))
    })
}

pub(super) fn mac(host: &PrivateHost, _: &str) -> CheckResult {
    let mut faults = Vec::new();
    for (interface, link) in links(sample(host)?) {
        let found = interface["mac"].as_str().unwrap_or_default();
        let actual = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let is_correct = if found.is_empty() {
            // Interfaces without an address, such as lo, need no mac.
            actual.is_empty() || actual == "00:00:00:00:00:00"
        } else {
            // The address of a bridge may have changed since.
            link.kind.as_deref() == Some("bridge") || found.eq_ignore_ascii_case(&actual)
        };
        if !is_correct {
            faults.push(format!("{} has {actual:?}, not {found:?}", link.name));
        }
    }
    expect_none(&faults, "each mac is that of the interface")
}

pub(super) fn mtu(host: &PrivateHost, _: &str) -> CheckResult {
    if !is_since(host.version, "1.1.0") {
        return not_applicable("mtu is in results from 1.1.0 on");
    }
    let wrong = links(sample(host)?)
        .filter(|(interface, link)| interface["mtu"].as_u64() != Some(link.mtu.into()));
    let faults: Vec<_> = wrong
        .map(|(interface, link)| {
            format!("{} has {}, not {}", link.name, link.mtu, interface["mtu"])
        })
        .collect();
    expect_none(&faults, "each mtu is that of the interface")
}

pub(super) fn ip_interface(host: &PrivateHost, _: &str) -> CheckResult {
    if !is_since(host.version, "0.3.0") {
        return not_applicable("addresses have interfaces from 0.3.0 on");
    }
    let result = &host.sample()?.result;
    let ips = list(result, "ips");
    if ips.is_empty() {
        return not_applicable("it assigns no address");
    }
    if host.subject.is_ipam() {
        let interfaces = &result["interfaces"];
        if !interfaces.is_null() {
            let expected = "the result of an IPAM plugin has no interfaces";
            return fail(expected, interfaces.to_string());
        }
        let expected = "addresses of an IPAM plugin have no interface";
        return expect_each(ips, expected, |ip| ip["interface"].is_null());
    }
    let count = list(result, "interfaces").len() as u64;
    expect_each(ips, "each address has the index of its interface", |ip| {
        ip["interface"].as_u64().is_some_and(|index| index < count)
    })
}

pub(super) fn addresses(host: &PrivateHost, _: &str) -> CheckResult {
    let sample = sample(host)?;
    let interfaces = list(&sample.result, "interfaces");
    let ips = list(&sample.result, "ips");
    if ips.is_empty() {
        return not_applicable("it assigns no address");
    }
    expect_each(ips, "each address is on its interface", |entry| {
        let Some(address) = net(&entry["address"]) else { return false };
        let index = entry["interface"].as_u64().and_then(|index| usize::try_from(index).ok());
        // A missing interface fails `result-ip-interface`.
        let Some(interface) = index.and_then(|index| interfaces.get(index)) else { return true };
        let namespace = sample.namespace_of(interface);
        let link = interface["name"].as_str().and_then(|name| namespace.link(name));
        link.is_some_and(|link| namespace.addresses.contains(&(link.index, address)))
    })
}

pub(super) fn routes(host: &PrivateHost, _: &str) -> CheckResult {
    let sample = sample(host)?;
    let routes = list(&sample.result, "routes");
    if routes.is_empty() {
        return not_applicable("it makes no route");
    }
    expect_each(routes, "each route is in the container", |route| {
        let (dst, gw) = (net(&route["dst"]), ip(&route["gw"]));
        let is_it = |actual: &Route| {
            Some(actual.dst) == dst.map(|dst| dst.trunc()) && (gw.is_none() || actual.gateway == gw)
        };
        sample.container.routes.iter().any(is_it)
    })
}

pub(super) fn dns(host: &PrivateHost, _: &str) -> CheckResult {
    require_interface_plugin(host)?;
    if host.subject.is_chained() {
        return not_applicable("it passes on the result of a previous plugin");
    }
    if host.facts()?.modifies_existing {
        return not_applicable("its interface does not lead to a name server");
    }
    let mut made = host.prepare_first(host.version)?;
    let dns = json!({
        "nameservers": ["192.0.2.53"], "domain": "example.net", "search": ["example.org"]
    });
    let mut config = host.config(host.version, None);
    config["dns"] = dns.clone();
    let outcome = host.call("ADD", &made, None).config(&config).run();
    host.record_result(&mut made, &outcome, "ADD with dns")?;
    let result = made.result.clone().unwrap_or_default();
    if ["nameservers", "domain", "search"].iter().all(|key| result["dns"][key] == dns[key]) {
        return Ok(());
    }
    fail_with_call(&outcome, format!("dns is {dns}"), result["dns"].to_string())
}
