//! The result of ADD (spec: "ADD Success"), on stdout and in `prevResult`.
//!
//! [`CNIResult`] is the type for all versions: reading accepts the shapes of all versions, and
//! [`CNIResult::to_json`] writes the shape of one. Members that an old shape does not have are
//! omitted, as the spec of that version requires.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::{
    Error, SpecVersion, any_case,
    extra::Extra,
    json::{self, Json, Problems},
    legacy,
    object::{Object, object, to_map},
};

/// The result of ADD: interfaces, addresses, routes, DNS settings.
///
/// An IPAM plugin only sets `ips`, `routes` and `dns`. An empty optional string counts as `None`.
/// Unknown keys are kept in `extra`, here and in the parts, so that a plugin passes them on.
///
/// Serde reads the shapes of all versions, with keys in any case, and writes the newest without
/// `cniVersion`; [`to_json`](CNIResult::to_json) writes the shape of a given version.
///
/// ```
/// use rscni::{CNIResult, SpecVersion};
///
/// let old = r#"{ "ip4": { "ip": "10.1.0.5/16", "gateway": "10.1.0.1" } }"#;
/// let old: CNIResult = serde_json::from_str(old)?;
/// assert_eq!(old.ips[0].address.to_string(), "10.1.0.5/16");
/// assert_eq!(old.to_json(SpecVersion::V0_4_0)["ips"][0]["version"], "4");
/// # Ok::<(), serde_json::Error>(())
/// ```
///
/// A plugin fills it from defaults:
///
/// ```
/// use rscni::{CNIResult, Interface, IpConfig, Route};
///
/// let result = CNIResult {
///     interfaces: vec![Interface {
///         name: "eth0".into(),
///         sandbox: Some("/run/netns/a".into()),
///         ..Interface::default()
///     }],
///     ips: vec![IpConfig { interface: Some(0), ..IpConfig::new("10.1.0.5/16".parse()?) }],
///     routes: vec![Route::new("0.0.0.0/0".parse()?, Some("10.1.0.1".parse()?))],
///     ..CNIResult::default()
/// };
/// assert_eq!(result.container_ips("eth0").count(), 1);
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CNIResult {
    /// The interfaces that the attachment made, including host interfaces.
    pub interfaces: Vec<Interface>,
    /// The addresses.
    pub ips: Vec<IpConfig>,
    /// The routes.
    pub routes: Vec<Route>,
    /// DNS settings.
    pub dns: Option<Dns>,
    /// All other keys.
    pub extra: Extra,
}

/// An interface that an attachment made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address, if it has one.
    pub mac: Option<String>,
    /// Its MTU in bytes (1.1.0).
    pub mtu: Option<u32>,
    /// `CNI_NETNS` of the container that it is in; `None` on the host.
    pub sandbox: Option<String>,
    /// Absolute path of its socket (1.1.0).
    pub socket_path: Option<String>,
    /// The platform's identifier of its PCI device (1.1.0).
    pub pci_id: Option<String>,
    /// All other keys.
    pub extra: Extra,
}

/// An address of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpConfig {
    /// Index into [`CNIResult::interfaces`] of its interface.
    ///
    /// Up to 0.4.0 some plugins write -1 for "unknown"; it is read as `None`.
    pub interface: Option<u32>,
    /// The address with its prefix length.
    pub address: IpNet,
    /// The default gateway of its subnet.
    pub gateway: Option<IpAddr>,
    /// All other keys.
    pub extra: Extra,
}

impl IpConfig {
    /// An address without gateway and interface.
    pub fn new(address: IpNet) -> Self {
        Self { address, ..Self::default() }
    }
}

/// A route of an attachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    /// The destination.
    pub dst: IpNet,
    /// The next hop; without it, plugins may use the gateway of an address.
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes (1.1.0).
    pub mtu: Option<u32>,
    /// TCP maximum segment size to advertise, in bytes (1.1.0).
    pub advmss: Option<u32>,
    /// Priority, lower is preferred (1.1.0).
    pub priority: Option<u32>,
    /// Routing table (1.1.0).
    pub table: Option<u32>,
    /// Scope: 0 global, 253 link, 254 host (1.1.0).
    pub scope: Option<u8>,
    /// All other keys.
    pub extra: Extra,
}

impl Route {
    /// A route to `dst` via `gw`.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, ..Self::default() }
    }
}

/// DNS settings, in a result and in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers, most preferred first. Strings, since a scoped address has a zone.
    pub nameservers: Vec<String>,
    /// The local domain for short names.
    pub domain: Option<String>,
    /// Search domains, most preferred first.
    pub search: Vec<String>,
    /// Options for the resolver.
    pub options: Vec<String>,
    /// All other keys.
    pub extra: Extra,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        let Self { nameservers, domain, search, options, extra } = self;
        domain.as_ref().is_none_or(String::is_empty)
            && [nameservers, search, options].into_iter().all(Vec::is_empty)
            && extra.is_empty()
    }
}

impl CNIResult {
    /// Reads a result of any version.
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] if it is not a JSON object with the shape of a version.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes)
            .map_err(|error| error.to_string())
            .and_then(|json| json::read(&json, ""))
            .map_err(|problem| Error::FailedToDecode(format!("result of a plugin: {problem}")))
    }

    /// Returns this result in the shape of `version`, with `cniVersion`.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        Value::Object(self.with_version(version))
    }

    /// Returns the text of [`to_json`](Self::to_json).
    pub(crate) fn to_text(&self, version: SpecVersion) -> Vec<u8> {
        json::to_text(self.with_version(version))
    }

    fn with_version(&self, version: SpecVersion) -> Map<String, Value> {
        let mut json = Map::new();
        json.insert("cniVersion".into(), version.as_str().into());
        for (key, value) in self.shape(version) {
            json.insert(key, value);
        }
        json
    }

    /// Returns the members in the shape of `version`.
    fn shape(&self, version: SpecVersion) -> Map<String, Value> {
        if version.has_legacy_result() {
            return legacy::shape(self);
        }
        let mut json = to_map(self);
        if version < SpecVersion::V1_1_0 {
            let extras = self.interfaces.iter().map(|interface| &interface.extra);
            remove_newer::<Interface>(&mut json, "interfaces", extras);
            let extras = self.routes.iter().map(|route| &route.extra);
            remove_newer::<Route>(&mut json, "routes", extras);
        }
        if version < SpecVersion::V1_0_0 {
            legacy::insert_ip_version(&mut json, &self.ips);
        }
        json
    }

    /// Returns the addresses of the container interface `ifname`, and those without an interface.
    ///
    /// For chained plugins, since a result may also contain addresses of host interfaces.
    ///
    /// ```
    /// # fn add(args: rscni::Args) -> Result<(), rscni::Error> {
    /// let result = args.conf()?.prev_result.clone().unwrap_or_default();
    /// for ip in result.container_ips(&args.ifname) {
    ///     println!("{} via {:?}", ip.address, ip.gateway);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn container_ips<'a>(&'a self, ifname: &'a str) -> impl Iterator<Item = &'a IpConfig> {
        self.ips.iter().filter(move |ip| {
            ip.interface
                .and_then(|index| self.interfaces.get(index as usize))
                .is_none_or(|interface| interface.name == ifname && interface.sandbox.is_some())
        })
    }
}

/// Removes the keys of 1.1.0 from the objects of a list, except those set by a previous plugin.
fn remove_newer<'a, T: Object>(
    json: &mut Map<String, Value>,
    list: &str,
    extras: impl Iterator<Item = &'a Extra>,
) {
    let entries = json.get_mut(list).and_then(Value::as_array_mut);
    for (entry, extra) in entries.into_iter().flatten().zip(extras) {
        if let Some(entry) = entry.as_object_mut() {
            remove_newer_keys::<T>(entry, extra);
        }
    }
}

/// Removes the keys of 1.1.0 from an object, except those set by a previous plugin.
pub(crate) fn remove_newer_keys<T: Object>(json: &mut Map<String, Value>, extra: &Extra) {
    for (_, key) in T::SHAPE.newer.iter().enumerate().filter(|(i, _)| !extra.has_given(*i)) {
        any_case::remove(json, key);
    }
}

/// Moves the address and the routes of a family, as results up to 0.2.0 have them.
fn add_legacy(result: &mut CNIResult, problems: &mut Problems) {
    for key in ["ip4", "ip6"] {
        if let Some(value) = result.extra.take(key).filter(|value| !value.is_null()) {
            let ip: Option<legacy::Ip> =
                problems.below(key, |problems| Json::read(&value, problems));
            if let Some(ip) = ip {
                ip.add_to(result);
            }
        }
    }
}

object! {
    CNIResult: "the result of a plugin, an object",
    keys: { "interfaces": interfaces, "ips": ips, "routes": routes, "dns": dns },
    ignored: ["cniVersion"],
    rest: extra,
    complete: add_legacy
}

object! {
    Interface: "an interface, an object",
    keys: {
        "name": name, "mac": mac, "mtu": mtu, "sandbox": sandbox, "socketPath": socket_path,
        "pciID": pci_id
    },
    newer: ["mtu", "socketPath", "pciID"],
    rest: extra
}

// `version` follows from the address, and is written in the versions that require it.
object! {
    IpConfig: "an address of a result, an object",
    keys: { "interface": interface, "address": address, "gateway": gateway },
    required: ["address"],
    ignored: ["version"],
    indices: ["interface"],
    rest: extra
}

object! {
    Route: "a route, an object",
    keys: {
        "dst": dst, "gw": gw, "mtu": mtu, "advmss": advmss, "priority": priority, "table": table,
        "scope": scope
    },
    required: ["dst"],
    newer: ["mtu", "advmss", "priority", "table", "scope"],
    rest: extra
}

object! {
    Dns: "DNS settings, an object",
    keys: { "nameservers": nameservers, "domain": domain, "search": search, "options": options },
    rest: extra
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn full() -> Value {
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "cni0", "mac": "00:11:22:33:44:55", "mtu": 1500 },
                { "name": "veth1", "mac": "00:11:22:33:44:56" },
                { "name": "eth0", "mac": "00:11:22:33:44:57", "mtu": 1400,
                  "sandbox": "/run/netns/a", "socketPath": "/run/vhost.sock",
                  "pciID": "0000:04:00.5" }
            ],
            "ips": [
                { "interface": 2, "address": "10.1.0.5/16", "gateway": "10.1.0.1" },
                { "interface": 2, "address": "fd00::5/64" }
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360,
                  "priority": 10, "table": 100, "scope": 253 },
                { "dst": "::/0" }
            ],
            "dns": { "nameservers": ["10.1.0.1"], "domain": "local", "search": ["a", "b"],
                     "options": ["ndots:2"] }
        })
    }

    fn read(json: &Value) -> CNIResult {
        serde_json::from_value(json.clone()).unwrap()
    }

    /// The result as if a plugin had made it, instead of passing it on.
    fn made_by_plugin(mut result: CNIResult) -> CNIResult {
        for interface in &mut result.interfaces {
            interface.extra = Extra::default();
        }
        for route in &mut result.routes {
            route.extra = Extra::default();
        }
        result
    }

    #[test]
    fn unchanged_keys_are_passed_on_in_all_versions() {
        for version in SpecVersion::ALL.into_iter().filter(|version| !version.has_legacy_result()) {
            let mut json = full();
            json["cniVersion"] = version.as_str().into();
            json["x"] = json!({ "y": [1.5, null] });
            json["dns"]["timeout"] = json!(null);
            for (list, i) in [("interfaces", 2), ("ips", 0), ("routes", 1)] {
                json[list][i]["x-key"] = json!("kept");
            }
            if version < SpecVersion::V1_0_0 {
                json["ips"][0]["version"] = "4".into();
                json["ips"][1]["version"] = "6".into();
            }
            assert_eq!(read(&json).to_json(version), json, "{version}");
        }
        for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
            let json = json!({
                "cniVersion": version, "x": 1, "dns": { "search": ["a"], "y": 2 },
                "ip4": {
                    "ip": "10.1.0.5/16", "z": 3,
                    "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "w": [] }]
                },
                "ip6": { "ip": "fd00::5/64", "gateway": "fd00::1", "v": {} },
            });
            assert_eq!(read(&json).to_json(version), json, "{version}");
        }
    }

    #[test]
    fn an_unknown_key_is_dropped_in_a_shape_that_gives_it_a_meaning() {
        let json = json!({ "ips": [{ "address": "10.1.0.5/16", "routes": 5, "ip": "x", "y": 1 }] });
        let legacy = read(&json).to_json(SpecVersion::V0_2_0);
        assert_eq!(legacy["ip4"], json!({ "ip": "10.1.0.5/16", "y": 1 }));
        let json =
            json!({ "ip4": { "ip": "10.1.0.5/16", "interface": "x", "Address": 1, "y": 1 } });
        let newest = read(&json).to_json(SpecVersion::V1_1_0);
        assert_eq!(newest["ips"], json!([{ "address": "10.1.0.5/16", "y": 1 }]));
    }

    #[test]
    fn a_value_changed_by_a_plugin_is_written() {
        let mut result = read(&full());
        result.interfaces[2].mtu = Some(9000);
        result.interfaces[2].socket_path = None;
        let json = result.to_json(SpecVersion::V0_4_0);
        assert_eq!(json["interfaces"][2]["mtu"], 9000);
        assert!(json["interfaces"][2].get("socketPath").is_none());
    }

    #[test]
    fn results_are_read_with_keys_in_any_case_and_numbers_in_any_notation() {
        let text = br#"{
            "CNIVersion": "1.0.0",
            "Interfaces": [{ "Name": "eth0", "MTU": 1.5e3, "sandbox": "/a" }], "IPS": [],
            "ips": [{ "Address": "10.1.0.5/16", "address": "10.1.0.6/16", "Interface": 0.0 }],
            "Routes": [{ "DST": "0.0.0.0/0", "Table": 1e2 }], "DNS": { "Search": ["a"] }
        }"#;
        let result = CNIResult::from_json(text).unwrap();
        assert_eq!((&*result.interfaces[0].name, result.interfaces[0].mtu), ("eth0", Some(1500)));
        assert_eq!(result.ips[0].address.to_string(), "10.1.0.6/16");
        assert_eq!((result.ips[0].interface, result.routes[0].table), (Some(0), Some(100)));
        assert_eq!(result.dns.unwrap().search, ["a"]);
        assert!(result.extra.is_empty() && result.ips[0].extra.is_empty());
    }

    #[test]
    fn errors_name_the_path_and_the_value() {
        for (text, problem) in [
            (
                r#"{ "ips": [{ "address": "10.1.0.5/16" }, { "address": "10.01.0.5/16" }] }"#,
                r#"ips[1].address: "10.01.0.5/16" is not a CIDR"#,
            ),
            (r#"{ "routes": [{ "gw": "10.1.0.1" }] }"#, "routes[0].dst: missing"),
            (
                r#"{ "routes": [{ "dst": "::/0", "gw": "010.1.0.1" }] }"#,
                r#"routes[0].gw: "010.1.0.1""#,
            ),
            (r#"{ "ip4": { "ip": "10.1.0.5/33" } }"#, r#"ip4.ip: "10.1.0.5/33""#),
            (
                r#"{ "interfaces": [{ "mtu": -1 }], "dns": [] }"#,
                "interfaces[0].mtu: -1 is not a whole",
            ),
            (r#"{ "interfaces": [{ "mtu": -1 }], "dns": [] }"#, "dns: [] is not DNS settings"),
        ] {
            let error = CNIResult::from_json(text.as_bytes()).unwrap_err();
            assert!(error.details().contains(problem), "{error}");
        }
    }

    #[test]
    fn the_newest_shape_survives_the_round_trip() {
        assert_eq!(read(&full()).to_json(SpecVersion::V1_1_0), full());
    }

    #[test]
    fn members_of_1_1_0_made_by_a_plugin_are_written_only_in_1_1_0() {
        let json = made_by_plugin(read(&full())).to_json(SpecVersion::V1_0_0);
        assert_eq!(
            json["interfaces"][2],
            json!({ "name": "eth0", "mac": "00:11:22:33:44:57", "sandbox": "/run/netns/a" })
        );
        assert_eq!(json["routes"][0], json!({ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }));
        assert!(json["ips"][0].get("version").is_none());
        assert_eq!(read(&json).to_json(SpecVersion::V1_0_0), json);
    }

    #[test]
    fn addresses_carry_their_version_from_0_3_0_to_0_4_0() {
        for version in [SpecVersion::V0_3_0, SpecVersion::V0_3_1, SpecVersion::V0_4_0] {
            let json = read(&full()).to_json(version);
            assert_eq!(json["ips"][0]["version"], "4");
            assert_eq!(json["ips"][1]["version"], "6");
            assert_eq!(json["cniVersion"], version.as_str());
            assert_eq!(read(&json).to_json(version), json);
        }
    }

    #[test]
    fn ip4_and_ip6_contain_the_routes_of_their_family_up_to_0_2_0() {
        for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
            let json = made_by_plugin(read(&full())).to_json(version);
            assert_eq!(
                json["ip4"],
                json!({ "ip": "10.1.0.5/16", "gateway": "10.1.0.1",
                        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }] })
            );
            assert_eq!(json["ip6"], json!({ "ip": "fd00::5/64", "routes": [{ "dst": "::/0" }] }));
            assert_eq!(json["dns"], full()["dns"]);
            assert!(json.get("ips").is_none() && json.get("interfaces").is_none());
            assert_eq!(read(&json).to_json(version), json);
        }
    }

    #[test]
    fn an_empty_result_is_empty_in_all_versions() {
        for version in SpecVersion::ALL {
            assert_eq!(CNIResult::default().to_json(version), json!({ "cniVersion": version }));
        }
    }

    #[test]
    fn null_lists_and_unknown_interfaces_of_go_plugins_are_read() {
        let result = read(&json!({
            "interfaces": null, "routes": null, "dns": { "nameservers": null },
            "ips": [{ "version": "4", "interface": -1, "address": "10.0.0.2/24", "gateway": "" }]
        }));
        assert_eq!(result.ips, [IpConfig::new("10.0.0.2/24".parse().unwrap())]);
        assert!(result.dns.unwrap().is_empty());
    }

    #[test]
    fn container_ips_excludes_addresses_of_host_interfaces() {
        let result = read(&json!({
            "interfaces": [{ "name": "eth0" }, { "name": "eth0", "sandbox": "/run/netns/a" },
                           { "name": "net1", "sandbox": "/run/netns/a" }],
            "ips": [
                { "interface": 0, "address": "10.0.0.1/24" },
                { "interface": 1, "address": "10.0.0.2/24" },
                { "interface": 2, "address": "10.0.0.3/24" },
                { "address": "10.0.0.4/24" }
            ]
        }));
        let addresses: Vec<_> =
            result.container_ips("eth0").map(|ip| ip.address.addr().to_string()).collect();
        assert_eq!(addresses, ["10.0.0.2", "10.0.0.4"]);
    }

    #[test]
    fn json_that_is_not_a_result_is_rejected() {
        for text in [
            "",
            "[]",
            "1",
            "{\"ips\":[{}]}",
            "{\"ips\":[[null,\"10.0.0.2/24\"]]}",
            "{\"dns\":[]}",
            "{\"routes\":[[]]}",
            "{\"ips\":[{\"address\":\"10.0.0.300/24\"}]}",
            "{} {}",
        ] {
            assert_eq!(CNIResult::from_json(text.as_bytes()).unwrap_err().code(), 6, "{text:?}");
        }
    }
}
