//! Lists what is in one network namespace, other than its nftables rules: links, addresses, routes,
//! policy rules, permanent neighbours, queueing disciplines and sysctls.
//!
//! Objects that the kernel creates and removes by itself are left out, since they come at no fixed
//! time: local routes, link-local addresses, learnt neighbours, default queueing.

use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    net::{IpAddr, Ipv6Addr},
    path::Path,
};

use netlink_sys::protocols::NETLINK_ROUTE;

use crate::{
    netlink::{Attributes, attributes, dump, hex, text, u16_at, u32_at},
    snapshot::{End, Items},
};

const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const GET_NEIGHBOUR: u16 = 30;
const GET_RULE: u16 = 34;
const GET_QDISC: u16 = 38;

const FAMILY_INET: u8 = 2;
const FAMILY_INET6: u8 = 10;
const TABLE_LOCAL: u32 = 255;
const ROUTE_CLONED: u32 = 0x200;
const NEIGHBOUR_PERMANENT: u16 = 0x80;

/// Names of interfaces by their index.
type Names = BTreeMap<u32, String>;

/// Adds what is in the calling thread's network namespace, with `namespace` as its name.
pub(crate) fn list(namespace: &str, items: &mut Items) -> io::Result<()> {
    let links = dump(NETLINK_ROUTE, GET_LINK, &[0; 16])?;
    let names: Names = links
        .iter()
        .filter_map(|link| Some((u32_at(link, 4)?, text(attributes(link.get(16..)?).get(&3)?))))
        .collect();
    let mut add = |found: Option<(String, String)>| {
        if let Some((what, how)) = found {
            items.add(format!("{namespace}: {what}"), how);
        }
    };
    for message in &links {
        add(link(message, &names));
    }
    for (kind, length, read) in [
        (GET_ADDRESS, 8, address as fn(&[u8], &Names) -> Option<(String, String)>),
        (GET_ROUTE, 12, route),
        (GET_RULE, 12, rule),
        (GET_NEIGHBOUR, 12, neighbour),
        (GET_QDISC, 20, qdisc),
    ] {
        for message in dump(NETLINK_ROUTE, kind, &vec![0; length])? {
            add(read(&message, &names));
        }
    }
    for (name, value) in sysctls() {
        add(Some((format!("sysctl {name}"), value)));
    }
    items.ends.extend(links.iter().filter_map(|link| end(namespace, link)));
    Ok(())
}

fn link(message: &[u8], names: &Names) -> Option<(String, String)> {
    let attributes = attributes(message.get(16..)?);
    let flags = u32_at(message, 8)?;
    let kind = attributes
        .get(&18)
        .and_then(|info| crate::netlink::attributes(info).get(&1).map(|kind| text(kind)));
    let kind = kind.unwrap_or_else(|| "device".to_owned());
    let mut how = kind.clone();
    for (bit, name) in [(0x1, "up"), (0x100, "promisc"), (0x200, "allmulti"), (0x80, "noarp")] {
        if flags & bit != 0 {
            how = how + " " + name;
        }
    }
    for (number, name) in [(4, "mtu"), (13, "qlen"), (30, "promiscuity")] {
        match attributes.get(&number).and_then(|value| u32_at(value, 0)) {
            Some(0) if number == 30 => {}
            Some(value) => write!(how, " {name} {value}").ok()?,
            None => {}
        }
    }
    // A bridge takes its address from its ports as they come and go.
    if let Some(address) = attributes.get(&1).filter(|_| kind != "bridge") {
        let address: Vec<_> = address.iter().map(|byte| format!("{byte:02x}")).collect();
        write!(how, " {}", address.join(":")).ok()?;
    }
    if let Some(master) = attributes.get(&10).and_then(|index| u32_at(index, 0)) {
        write!(how, " master {}", name(names, master)).ok()?;
    }
    if let Some(alias) = attributes.get(&20) {
        write!(how, " alias {}", text(alias)).ok()?;
    }
    Some((format!("link {}", text(attributes.get(&3)?)), how))
}

/// The end of a veth pair whose other end is in another namespace, or already removed (index 0).
fn end(namespace: &str, message: &[u8]) -> Option<End> {
    let attributes = attributes(message.get(16..)?);
    let kind = text(crate::netlink::attributes(attributes.get(&18)?).get(&1)?);
    let peer = number(&attributes, 5).filter(|_| ["veth", "netkit"].contains(&kind.as_str()))?;
    let link = format!("{namespace}: link {}", text(attributes.get(&3)?));
    let is_end = peer == 0 || attributes.contains_key(&37);
    is_end.then_some(End { link, index: u32_at(message, 4)?, peer })
}

fn address(message: &[u8], names: &Names) -> Option<(String, String)> {
    let attributes = attributes(message.get(8..)?);
    let address = ip(attributes.get(&2).or_else(|| attributes.get(&1))?)?;
    if is_link_local(address) {
        return None;
    }
    let dev = name(names, u32_at(message, 4)?);
    Some((format!("address {address}/{} on {dev}", message.get(1)?), String::new()))
}

fn route(message: &[u8], names: &Names) -> Option<(String, String)> {
    let attributes = attributes(message.get(12..)?);
    let table = number(&attributes, 15).unwrap_or_else(|| u32::from(message[4]));
    let destination = destination(message[0], &attributes, 1)?;
    let kernels_own = table == TABLE_LOCAL
        || u32_at(message, 8)? & ROUTE_CLONED != 0
        || is_link_local(destination)
        || destination.is_multicast();
    if kernels_own {
        return None;
    }
    let mut what = format!("route {destination}/{}", message.get(1)?);
    if let Some(gateway) = attributes.get(&5).and_then(|gateway| ip(gateway)) {
        write!(what, " via {gateway}").ok()?;
    }
    if let Some(dev) = number(&attributes, 4) {
        write!(what, " dev {}", name(names, dev)).ok()?;
    }
    write!(what, " table {table}").ok()?;
    if let Some(metric) = number(&attributes, 6) {
        write!(what, " metric {metric}").ok()?;
    }
    let mut how = format!("type {} scope {} protocol {}", message[7], message[6], message[5]);
    if let Some(source) = attributes.get(&7).and_then(|source| ip(source)) {
        write!(how, " src {source}").ok()?;
    }
    for (number, name) in [(8, "metrics"), (9, "nexthops"), (18, "via")] {
        if let Some(bytes) = attributes.get(&number) {
            write!(how, " {name} {}", hex(bytes)).ok()?;
        }
    }
    Some((what, how))
}

fn rule(message: &[u8], _: &Names) -> Option<(String, String)> {
    let attributes = attributes(message.get(12..)?);
    let family = match message[0] {
        FAMILY_INET => "IPv4",
        FAMILY_INET6 => "IPv6",
        _ => return None,
    };
    let mut what = format!("{family} policy rule {}:", number(&attributes, 6).unwrap_or_default());
    for (kind, name, length) in [(2, "from", message[2]), (1, "to", message[1])] {
        if let Some(address) = attributes.get(&kind).and_then(|address| ip(address)) {
            write!(what, " {name} {address}/{length}").ok()?;
        }
    }
    for (kind, name) in [(3, "iif"), (17, "oif")] {
        if let Some(device) = attributes.get(&kind) {
            write!(what, " {name} {}", text(device)).ok()?;
        }
    }
    if let Some(mark) = number(&attributes, 10) {
        write!(what, " fwmark {mark:#x}").ok()?;
    }
    let table = number(&attributes, 15).unwrap_or_else(|| u32::from(message[4]));
    Some((what, format!("action {} table {table}", message[7])))
}

fn neighbour(message: &[u8], names: &Names) -> Option<(String, String)> {
    if u16_at(message, 8)? & NEIGHBOUR_PERMANENT == 0 {
        return None;
    }
    let attributes = attributes(message.get(12..)?);
    let dev = name(names, u32_at(message, 4)?);
    let address = ip(attributes.get(&1)?)?;
    let hardware = attributes.get(&2).map(|address| hex(address)).unwrap_or_default();
    Some((format!("neighbour {address} on {dev}"), hardware))
}

fn qdisc(message: &[u8], names: &Names) -> Option<(String, String)> {
    // The kernel's default qdiscs have no handle.
    if u32_at(message, 8)? == 0 {
        return None;
    }
    let kind = text(attributes(message.get(20..)?).get(&1)?);
    Some((format!("qdisc {kind} on {}", name(names, u32_at(message, 4)?)), String::new()))
}

fn name(names: &Names, index: u32) -> String {
    names.get(&index).cloned().unwrap_or_else(|| format!("interface {index}"))
}

fn number(attributes: &Attributes<'_>, kind: u16) -> Option<u32> {
    attributes.get(&kind).and_then(|value| u32_at(value, 0))
}

fn destination(family: u8, attributes: &Attributes<'_>, kind: u16) -> Option<IpAddr> {
    match (attributes.get(&kind), family) {
        (Some(address), _) => ip(address),
        (None, FAMILY_INET) => Some([0; 4].into()),
        (None, FAMILY_INET6) => Some([0; 16].into()),
        _ => None,
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address))
}

/// The settings of this namespace, by their path below `/proc/sys`.
fn sysctls() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for directory in ["net/core", "net/ipv4", "net/ipv6"] {
        read_settings(directory, &mut found);
    }
    for directory in ["net/ipv4/conf", "net/ipv6/conf"] {
        let interfaces = std::fs::read_dir(Path::new("/proc/sys").join(directory));
        for interface in interfaces.into_iter().flatten().flatten() {
            read_settings(
                &format!("{directory}/{}", interface.file_name().to_string_lossy()),
                &mut found,
            );
        }
    }
    found
}

fn read_settings(directory: &str, found: &mut Vec<(String, String)>) {
    let settings = std::fs::read_dir(Path::new("/proc/sys").join(directory));
    for setting in settings.into_iter().flatten().flatten() {
        let name = setting.file_name().to_string_lossy().into_owned();
        // Lists of available modules change. Secrets and triggers cannot be read.
        if !name.contains("available")
            && let Ok(value) = std::fs::read_to_string(setting.path())
        {
            found.push((format!("{directory}/{name}"), value.trim().replace('\t', " ")));
        }
    }
}
