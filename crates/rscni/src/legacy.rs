//! The shapes of results before 1.0.0: `ip4` and `ip6` up to 0.2.0, `version` in each address from
//! 0.3.0 to 0.4.0.

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::{
    object::{Object, object, to_map},
    result::{CNIResult, IpConfig, Route, remove_newer_keys},
};

/// `ip4` or `ip6` of a result up to 0.2.0.
#[derive(Default)]
pub(crate) struct Ip {
    ip: IpConfig,
    routes: Vec<Route>,
}

object! {
    Ip: "an address with its routes, an object",
    keys: { "ip": ip.address, "gateway": ip.gateway, "routes": routes },
    required: ["ip"],
    rest: ip.extra
}

impl Ip {
    /// Appends the address and its routes to a result.
    pub(crate) fn add_to(self, result: &mut CNIResult) {
        let Self { ip, routes } = self;
        result.ips.push(IpConfig { extra: ip.extra.without(&IpConfig::SHAPE), ..ip });
        result.routes.extend(routes);
    }
}

/// The first address of a family, the only one that this shape can hold, with the routes of the
/// family.
fn of_family(result: &CNIResult, v4: bool) -> Option<Map<String, Value>> {
    let is_family = |net: &IpNet| net.addr().is_ipv4() == v4;
    let ip = result.ips.iter().find(|ip| is_family(&ip.address))?;
    let mut json = Map::new();
    json.insert("ip".into(), ip.address.to_string().into());
    json.extend(ip.gateway.map(|gateway| ("gateway".into(), gateway.to_string().into())));
    let routes = result.routes.iter().filter(|route| is_family(&route.dst));
    let routes: Vec<Value> = routes
        .map(|route| {
            let mut json = to_map(route);
            remove_newer_keys::<Route>(&mut json, &route.extra);
            json.into()
        })
        .collect();
    if !routes.is_empty() {
        json.insert("routes".into(), routes.into());
    }
    json.extend(ip.extra.clone().without(&Ip::SHAPE).iter().map(|(k, v)| (k.clone(), v.clone())));
    Some(json)
}

/// The members of a result in 0.1.0 and 0.2.0.
pub(crate) fn shape(result: &CNIResult) -> Map<String, Value> {
    let mut json = Map::new();
    for (key, v4) in [("ip4", true), ("ip6", false)] {
        if let Some(ip) = of_family(result, v4) {
            json.insert(key.into(), ip.into());
        }
    }
    if let Some(dns) = &result.dns {
        json.insert("dns".into(), to_map(dns).into());
    }
    json.extend(result.extra.iter().map(|(key, value)| (key.clone(), value.clone())));
    json
}

/// Adds `version` to each entry of `ips`, for 0.3.0 to 0.4.0.
pub(crate) fn insert_ip_version(json: &mut Map<String, Value>, ips: &[IpConfig]) {
    let entries = json.get_mut("ips").and_then(Value::as_array_mut);
    for (entry, ip) in entries.into_iter().flatten().zip(ips) {
        if let Some(entry) = entry.as_object_mut() {
            let version = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            let others = std::mem::take(entry);
            entry.insert("version".into(), version.into());
            entry.extend(others);
        }
    }
}
