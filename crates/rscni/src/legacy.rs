//! The shapes that results had before 1.0.0: `ip4` and `ip6` up to 0.2.0, a `version` in each address up to 0.4.0.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::result::{CNIResult, IpConfig, Route, address_or_empty, object};

/// `ip4` or `ip6` of a result up to 0.2.0.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ip {
    #[serde(rename = "ip")]
    address: IpNet,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "address_or_empty"
    )]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<Route>>,
}

impl Ip {
    pub(crate) fn add_to(self, result: &mut CNIResult) {
        result.ips.push(IpConfig { interface: None, address: self.address, gateway: self.gateway });
        result.routes.extend(self.routes.into_iter().flatten());
    }

    /// The first address of the family, which is all that the shape can hold, with the family's routes.
    fn of_family(result: &CNIResult, v4: bool) -> Option<Self> {
        let is_family = |net: &IpNet| net.addr().is_ipv4() == v4;
        let ip = result.ips.iter().find(|ip| is_family(&ip.address))?;
        let routes: Vec<_> = result
            .routes
            .iter()
            .filter(|r| is_family(&r.dst))
            .map(|r| Route::new(r.dst, r.gw))
            .collect();
        Some(Self {
            address: ip.address,
            gateway: ip.gateway,
            routes: Some(routes).filter(|r| !r.is_empty()),
        })
    }
}

/// The members of a result of 0.1.0 and 0.2.0.
pub(crate) fn shape(result: &CNIResult) -> Map<String, Value> {
    let mut json = Map::new();
    for (key, v4) in [("ip4", true), ("ip6", false)] {
        if let Some(ip) = Ip::of_family(result, v4) {
            json.insert(key.into(), object(&ip).into());
        }
    }
    if let Some(dns) = &result.dns {
        json.insert("dns".into(), object(dns).into());
    }
    json
}

/// Puts `version` into each entry of `ips`, as 0.3.0 to 0.4.0 want it.
pub(crate) fn insert_ip_version(json: &mut Map<String, Value>, ips: &[IpConfig]) {
    let entries = json.get_mut("ips").and_then(Value::as_array_mut);
    for (entry, ip) in entries.into_iter().flatten().zip(ips) {
        if let Some(entry) = entry.as_object_mut() {
            let version = if ip.address.addr().is_ipv4() { "4" } else { "6" };
            entry.shift_insert(0, "version".into(), version.into());
        }
    }
}
