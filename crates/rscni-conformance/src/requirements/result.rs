//! "ADD Success": the result is what the kernel has.

use serde_json::{Value, json};

use super::add::makes_interface;
use crate::{
    sample::Sample,
    shape::{ip, is_since, list, net},
    verdict::{Checked, not_applicable, not_met, shown},
    world::World,
};

/// An attachment of a plugin whose results list interfaces.
fn sample(world: &World) -> Checked<&Sample> {
    makes_interface(world)?;
    if !is_since(world.version, "0.3.0") {
        return not_applicable("interfaces are listed from 0.3.0 on");
    }
    world.sample()
}

/// What is wrong, or nothing.
fn none(expected: &str, wrong: &[String]) -> Checked {
    if wrong.is_empty() { Ok(()) } else { not_met(expected, wrong.join("\n")) }
}

pub(super) fn lists(world: &World, _: &str) -> Checked {
    let sample = sample(world)?;
    let ifname = &world.subject.ifname;
    let in_container =
        |i: &&Value| i["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty());
    let mut inside = list(&sample.result, "interfaces").iter().filter(in_container);
    if inside.any(|interface| interface["name"] == **ifname) {
        return Ok(());
    }
    not_met(
        format!("interfaces has {ifname}, with a sandbox"),
        sample.result["interfaces"].to_string(),
    )
}

pub(super) fn sandbox(world: &World, _: &str) -> Checked {
    let sample = sample(world)?;
    let interfaces = list(&sample.result, "interfaces").iter();
    let wrong: Vec<_> = interfaces
        .filter(|i| {
            i["sandbox"]
                .as_str()
                .is_some_and(|sandbox| !sandbox.is_empty() && sandbox != sample.netns)
        })
        .map(Value::to_string)
        .collect();
    none(&format!("each sandbox is {}", sample.netns), &wrong)
}

pub(super) fn exist(world: &World, _: &str) -> Checked {
    let sample = sample(world)?;
    let is_there = |interface: &&Value| {
        interface["name"]
            .as_str()
            .is_some_and(|name| sample.place_of(interface).link(name).is_some())
    };
    let wrong: Vec<_> = list(&sample.result, "interfaces")
        .iter()
        .filter(|i| !is_there(i))
        .map(Value::to_string)
        .collect();
    none("each interface is in the container, or without sandbox on the host", &wrong)
}

/// The interfaces of the result that there are, with the kernel's link of each.
fn links(sample: &Sample) -> impl Iterator<Item = (&Value, &rscni_linux::Link)> {
    list(&sample.result, "interfaces").iter().filter_map(|interface| {
        Some((interface, sample.place_of(interface).link(interface["name"].as_str()?)?))
    })
}

pub(super) fn mac(world: &World, _: &str) -> Checked {
    let mut wrong = Vec::new();
    for (interface, link) in links(sample(world)?) {
        let said = interface["mac"].as_str().unwrap_or_default();
        let is = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
        // Those that have none, as lo, need not say so. What has changed since, such as a bridge's, was right once.
        let has_none = is.is_empty() || is == "00:00:00:00:00:00";
        let moves = link.kind.as_deref() == Some("bridge");
        let is_right =
            if said.is_empty() { has_none } else { moves || said.eq_ignore_ascii_case(&is) };
        if !is_right {
            wrong.push(format!("{} has {is:?}, not {said:?}", link.name));
        }
    }
    none("each mac is the interface's", &wrong)
}

pub(super) fn mtu(world: &World, _: &str) -> Checked {
    if !is_since(world.version, "1.1.0") {
        return not_applicable("mtu is in results from 1.1.0 on");
    }
    let links = links(sample(world)?);
    let wrong =
        links.filter(|(interface, link)| interface["mtu"].as_u64() != Some(link.mtu.into()));
    let wrong: Vec<_> = wrong
        .map(|(interface, link)| {
            format!("{} has {}, not {}", link.name, link.mtu, interface["mtu"])
        })
        .collect();
    none("each mtu is the interface's", &wrong)
}

pub(super) fn ip_interface(world: &World, _: &str) -> Checked {
    if !is_since(world.version, "0.3.0") {
        return not_applicable("addresses have interfaces from 0.3.0 on");
    }
    let sample = world.sample()?;
    let ips = list(&sample.result, "ips");
    if ips.is_empty() {
        return not_applicable("it gives no address");
    }
    if world.subject.is_ipam() {
        let wrong: Vec<_> =
            ips.iter().filter(|ip| !ip["interface"].is_null()).map(Value::to_string).collect();
        if !sample.result["interfaces"].is_null() {
            return not_met(
                "an IPAM plugin's result has no interfaces",
                sample.result["interfaces"].to_string(),
            );
        }
        return none("an IPAM plugin's addresses have no interface", &wrong);
    }
    let count = list(&sample.result, "interfaces").len() as u64;
    let is_valid = |ip: &&Value| ip["interface"].as_u64().is_some_and(|index| index < count);
    let wrong: Vec<_> = ips.iter().filter(|ip| !is_valid(ip)).map(Value::to_string).collect();
    none("each address has the index of its interface", &wrong)
}

pub(super) fn addresses(world: &World, _: &str) -> Checked {
    let sample = sample(world)?;
    let interfaces = list(&sample.result, "interfaces");
    let ips = list(&sample.result, "ips");
    if ips.is_empty() {
        return not_applicable("it gives no address");
    }
    let has = |entry: &&Value| {
        let Some(address) = net(&entry["address"]) else { return false };
        let index = entry["interface"].as_u64().and_then(|index| usize::try_from(index).ok());
        // Which interface it is on, is a requirement of its own.
        let Some(interface) = index.and_then(|index| interfaces.get(index)) else { return true };
        let place = sample.place_of(interface);
        let link = interface["name"].as_str().and_then(|name| place.link(name));
        link.is_some_and(|link| place.addresses.contains(&(link.index, address)))
    };
    let wrong: Vec<_> = ips.iter().filter(|ip| !has(ip)).map(Value::to_string).collect();
    none("each address is on its interface", &wrong)
}

pub(super) fn routes(world: &World, _: &str) -> Checked {
    let sample = sample(world)?;
    let wanted = list(&sample.result, "routes");
    if wanted.is_empty() {
        return not_applicable("it makes no route");
    }
    let has = |route: &&Value| {
        let (dst, gw) = (net(&route["dst"]), ip(&route["gw"]));
        let is_it = |there: &rscni_linux::Route| {
            Some(there.dst) == dst.map(|dst| dst.trunc()) && (gw.is_none() || there.gateway == gw)
        };
        sample.container.routes.iter().any(is_it)
    };
    let wrong: Vec<_> = wanted.iter().filter(|route| !has(route)).map(Value::to_string).collect();
    none("each route is in the container", &wrong)
}

pub(super) fn dns(world: &World, _: &str) -> Checked {
    makes_interface(world)?;
    if world.subject.is_chained() {
        return not_applicable("it passes on what it gets");
    }
    if world.facts()?.adjusts {
        return not_applicable("the interface that it changes leads to no name server");
    }
    let mut made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, world.version)?;
    let dns = json!({ "nameservers": ["192.0.2.53"], "domain": "example.net", "search": ["example.org"] });
    let mut config = world.config(world.version, None);
    config["dns"] = dns.clone();
    let outcome = world.call("ADD", &made, None).config(&config).run();
    world.note(&mut made, &outcome, "ADD with dns")?;
    let result = made.result.clone().unwrap_or_default();
    let is_there = |key: &str| result["dns"][key] == dns[key];
    if ["nameservers", "domain", "search"].into_iter().all(is_there) {
        return Ok(());
    }
    shown(&outcome, format!("dns is {dns}"), result["dns"].to_string())
}
