//! The result of ADD (spec: "ADD Success"), as a plugin writes it and as it comes back in `prevResult`.
//!
//! There is one type, [`CNIResult`], whatever the version: reading takes every shape that the spec ever had, and
//! [`CNIResult::to_json`] writes the shape of the version that is asked for. What an old shape cannot hold is left
//! out, as the spec of that version demands.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{Error, SpecVersion, legacy};

/// What an ADD gave to a container: interfaces, addresses, routes, DNS.
///
/// An IPAM plugin fills `ips`, `routes` and `dns` only.
///
/// Text that is optional may be empty or none: neither is written, and both are read as none.
///
/// Serde reads every version's shape and writes the newest one, without `cniVersion`;
/// [`to_json`](CNIResult::to_json) writes that of a given version.
///
/// ```
/// use rscni::{CNIResult, SpecVersion};
///
/// let old: CNIResult = serde_json::from_str(r#"{ "ip4": { "ip": "10.1.0.5/16", "gateway": "10.1.0.1" } }"#)?;
/// assert_eq!(old.ips[0].address.to_string(), "10.1.0.5/16");
/// assert_eq!(old.to_json(SpecVersion::V0_4_0)["ips"][0]["version"], "4");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct CNIResult {
    /// The interfaces that the attachment made, those on the host included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// The addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<IpConfig>,
    /// The routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// DNS settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
}

/// An interface that an attachment made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its hardware address, if it has one.
    #[serde(default, skip_serializing_if = "no_text", deserialize_with = "empty_is_none")]
    pub mac: Option<String>,
    /// Its MTU in bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The isolation domain that it is in, `CNI_NETNS` as it was given; none on the host.
    #[serde(default, skip_serializing_if = "no_text", deserialize_with = "empty_is_none")]
    pub sandbox: Option<String>,
    /// Absolute path of a socket that belongs to it (1.1.0).
    #[serde(default, skip_serializing_if = "no_text", deserialize_with = "empty_is_none")]
    pub socket_path: Option<String>,
    /// The platform's identifier of the PCI device behind it (1.1.0).
    #[serde(
        default,
        rename = "pciID",
        skip_serializing_if = "no_text",
        deserialize_with = "empty_is_none"
    )]
    pub pci_id: Option<String>,
}

/// An address of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpConfig {
    /// Index into [`CNIResult::interfaces`] of the interface that has it.
    ///
    /// Up to 0.4.0 some plugins write -1 for "unknown"; that is read as none.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "negative_is_none"
    )]
    pub interface: Option<u32>,
    /// The address with its prefix length.
    pub address: IpNet,
    /// The default gateway of its subnet.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "address_or_empty"
    )]
    pub gateway: Option<IpAddr>,
}

impl IpConfig {
    /// An address without gateway, on no interface yet.
    pub fn new(address: IpNet) -> Self {
        Self { interface: None, address, gateway: None }
    }
}

/// A route of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// The destination.
    pub dst: IpNet,
    /// The next hop; without it the gateway of the addresses may be used.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "address_or_empty"
    )]
    pub gw: Option<IpAddr>,
    /// Path MTU in bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// TCP's maximal segment size to advertise, in bytes (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Priority, lower is preferred (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope: 0 global, 253 link, 254 host (1.1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route to `dst` by way of `gw`.
    pub fn new(dst: IpNet, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: None, advmss: None, priority: None, table: None, scope: None }
    }
}

/// DNS settings, in a result and in a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Addresses of name servers, most preferred first. Text, since a scoped address has a zone.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub nameservers: Vec<String>,
    /// The local domain for short names.
    #[serde(default, skip_serializing_if = "no_text", deserialize_with = "empty_is_none")]
    pub domain: Option<String>,
    /// Search domains, most preferred first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub search: Vec<String>,
    /// Options for the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        let Self { nameservers, domain, search, options } = self;
        no_text(domain) && [nameservers, search, options].into_iter().all(Vec::is_empty)
    }
}

impl CNIResult {
    /// Reads a result of any version.
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] if it is no JSON object of any version's shape.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        serde_json::from_slice(bytes)
            .map_err(|e| Error::FailedToDecode(format!("result of a plugin: {e}")))
    }

    /// This result in the shape of `version`, with its `cniVersion`.
    pub fn to_json(&self, version: SpecVersion) -> Value {
        let mut json = Map::new();
        json.insert("cniVersion".into(), version.as_str().into());
        json.extend(self.shape(version));
        Value::Object(json)
    }

    /// The members of this result in the shape of `version`.
    fn shape(&self, version: SpecVersion) -> Map<String, Value> {
        if version.has_legacy_result() {
            return legacy::shape(self);
        }
        let mut json = object(self);
        if version < SpecVersion::V1_1_0 {
            remove_from_each(&mut json, "interfaces", &["mtu", "socketPath", "pciID"]);
            remove_from_each(&mut json, "routes", &["mtu", "advmss", "priority", "table", "scope"]);
        }
        if version < SpecVersion::V1_0_0 {
            legacy::insert_ip_version(&mut json, &self.ips);
        }
        json
    }

    /// The addresses on interfaces named `ifname` in the container, and those on no known interface.
    ///
    /// Results may hold addresses of the host's side too, so a chained plugin that wants the container's asks here.
    pub fn container_ips<'a>(&'a self, ifname: &'a str) -> impl Iterator<Item = &'a IpConfig> {
        self.ips.iter().filter(move |ip| {
            ip.interface
                .and_then(|index| self.interfaces.get(index as usize))
                .is_none_or(|interface| interface.name == ifname && interface.sandbox.is_some())
        })
    }
}

/// Serialises a type of this crate, all of which are JSON objects with string keys.
pub(crate) fn object<T: Serialize>(value: &T) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

fn remove_from_each(json: &mut Map<String, Value>, list: &str, keys: &[&str]) {
    let entries = json.get_mut(list).and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten().filter_map(Value::as_object_mut) {
        for key in keys {
            entry.shift_remove(*key);
        }
    }
}

/// The union of all shapes, for reading.
#[derive(Deserialize)]
struct AnyShape {
    #[serde(default, deserialize_with = "objects")]
    interfaces: Vec<Interface>,
    #[serde(default, deserialize_with = "objects")]
    ips: Vec<IpConfig>,
    #[serde(default, deserialize_with = "objects")]
    routes: Vec<Route>,
    #[serde(default, deserialize_with = "object_or_null")]
    dns: Option<Dns>,
    #[serde(default)]
    ip4: Option<legacy::Ip>,
    #[serde(default)]
    ip6: Option<legacy::Ip>,
}

impl TryFrom<Map<String, Value>> for CNIResult {
    type Error = serde_json::Error;

    fn try_from(map: Map<String, Value>) -> Result<Self, serde_json::Error> {
        let any = AnyShape::deserialize(Value::Object(map))?;
        let mut result =
            Self { interfaces: any.interfaces, ips: any.ips, routes: any.routes, dns: any.dns };
        for ip in any.ip4.into_iter().chain(any.ip6) {
            ip.add_to(&mut result);
        }
        Ok(result)
    }
}

/// Serde takes a list for a struct, its members in order. Where the spec wants an object, nothing else will do.
fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Vec<T>, D::Error> {
    let entries = Option::<Vec<Map<String, Value>>>::deserialize(d)?.unwrap_or_default();
    entries
        .into_iter()
        .map(|entry| T::deserialize(entry).map_err(serde::de::Error::custom))
        .collect()
}

/// As [`objects`], for one.
fn object_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Option<T>, D::Error> {
    let object = Option::<Map<String, Value>>::deserialize(d)?;
    object.map(|object| T::deserialize(object).map_err(serde::de::Error::custom)).transpose()
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn empty_is_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(d)?.filter(|text| !text.is_empty()))
}

/// What [`empty_is_none`] would read as none is not written either.
#[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn no_text(text: &Option<String>) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

fn negative_is_none<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u32>, D::Error> {
    match Option::<i64>::deserialize(d)? {
        Some(index) if index >= 0 => {
            u32::try_from(index).map(Some).map_err(serde::de::Error::custom)
        }
        _ => Ok(None),
    }
}

/// Go writes an absent address as an empty string in places.
pub(crate) fn address_or_empty<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<Option<IpAddr>, D::Error> {
    empty_is_none(d)?.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
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
                { "name": "eth0", "mac": "00:11:22:33:44:57", "mtu": 1400, "sandbox": "/run/netns/a",
                  "socketPath": "/run/vhost.sock", "pciID": "0000:04:00.5" }
            ],
            "ips": [
                { "interface": 2, "address": "10.1.0.5/16", "gateway": "10.1.0.1" },
                { "interface": 2, "address": "fd00::5/64" }
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360, "priority": 10, "table": 100, "scope": 253 },
                { "dst": "::/0" }
            ],
            "dns": { "nameservers": ["10.1.0.1"], "domain": "local", "search": ["a", "b"], "options": ["ndots:2"] }
        })
    }

    fn read(json: &Value) -> CNIResult {
        serde_json::from_value(json.clone()).unwrap()
    }

    #[test]
    fn newest_shape_survives_the_round_trip() {
        assert_eq!(read(&full()).to_json(SpecVersion::V1_1_0), full());
    }

    #[test]
    fn members_of_1_1_0_stand_only_there() {
        let json = read(&full()).to_json(SpecVersion::V1_0_0);
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
    fn ip4_and_ip6_hold_the_routes_of_their_family_up_to_0_2_0() {
        for version in [SpecVersion::V0_1_0, SpecVersion::V0_2_0] {
            let json = read(&full()).to_json(version);
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
    fn an_empty_result_is_empty_in_every_version() {
        for version in SpecVersion::ALL {
            assert_eq!(CNIResult::default().to_json(version), json!({ "cniVersion": version }));
        }
    }

    #[test]
    fn habits_of_go_are_understood() {
        let result = read(&json!({
            "interfaces": null, "routes": null, "dns": { "nameservers": null },
            "ips": [{ "version": "4", "interface": -1, "address": "10.0.0.2/24", "gateway": "" }]
        }));
        assert_eq!(result.ips, [IpConfig::new("10.0.0.2/24".parse().unwrap())]);
        assert!(result.dns.unwrap().is_empty());
    }

    #[test]
    fn a_container_has_its_own_addresses_not_the_hosts() {
        let result = read(&json!({
            "interfaces": [{ "name": "eth0" }, { "name": "eth0", "sandbox": "/run/netns/a" }, { "name": "net1", "sandbox": "/run/netns/a" }],
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
    fn what_is_no_result_is_refused() {
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
