//! The configuration of one plugin on stdin (spec: "Deriving request configuration from plugin
//! configuration").

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::{Map, Value};

use crate::{
    Error, SpecVersion, any_case,
    custom::Custom,
    fault::excerpt,
    json::{self, Json, Problems},
    object::{object, to_map},
    result::{CNIResult, Dns},
};

/// A plugin's configuration: the keys of the protocol, and all others in
/// [`custom`](NetConf::custom).
///
/// Reading and writing it keeps every key; `prevResult` is written in the shape of `cniVersion`.
/// The plugin's own struct may use `deny_unknown_fields`: `custom` never contains a key of the
/// protocol.
///
/// ```
/// use rscni::NetConf;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "camelCase")]
/// struct Mine { cni_output: std::path::PathBuf }
///
/// let text = r#"{ "name": "net", "type": "debug", "cniOutput": "/tmp/cni" }"#;
/// let conf: NetConf = serde_json::from_str(text)?;
/// assert_eq!(conf.custom_as::<Mine>()?.cni_output.to_str(), Some("/tmp/cni"));
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetConf {
    /// The version of the configuration and of the reply.
    pub cni_version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// The plugin's own name.
    pub r#type: String,
    /// The capabilities that the plugin accepts in `runtimeConfig`.
    pub capabilities: Map<String, Value>,
    /// Capability arguments from the runtime; typed by
    /// [`Args::runtime_config`](crate::Args::runtime_config).
    pub runtime_config: Map<String, Value>,
    /// `args` of the CNI conventions; arguments for all plugins are in `cni`.
    pub args: Map<String, Value>,
    /// Whether the host masquerades the traffic of this network.
    pub ip_masq: Option<bool>,
    /// Address management.
    pub ipam: Option<Ipam>,
    /// DNS settings for the result; they override those of the IPAM plugin. `{}` counts as absent;
    /// an empty list is a setting.
    pub dns: Option<Dns>,
    /// The result of the previous plugin in the chain (ADD), or of the whole ADD (DEL, CHECK).
    pub prev_result: Option<CNIResult>,
    /// GC: the valid attachments (`cni.dev/valid-attachments`, otherwise `cni.dev/attachments`).
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Keys of the protocol for runtimes, such as `disableCheck`, and all others with the prefix
    /// `cni.dev/`.
    pub protocol: Map<String, Value>,
    /// All other keys, in their order.
    pub custom: Custom,
}

/// The `ipam` object of a configuration. `{}` means no IPAM.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ipam {
    /// The IPAM plugin; empty for none.
    pub r#type: String,
    /// All other keys, in their order.
    pub custom: Map<String, Value>,
}

/// An attachment to a network: a container and an interface in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// `CNI_CONTAINERID` of the ADD.
    pub container_id: String,
    /// `CNI_IFNAME` of the ADD.
    pub ifname: String,
}

const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";
/// The key's name in an earlier text of the spec.
const ATTACHMENTS: &str = "cni.dev/attachments";

/// Prefix of keys that are reserved for the protocol.
pub(crate) const RESERVED: &str = "cni.dev/";

/// Keys of network lists that a runtime may leave in the configuration of a plugin.
const LIST_KEYS: [&str; 4] = ["cniVersions", "disableCheck", "disableGC", "loadOnlyInlinedPlugins"];

impl NetConf {
    /// Reads a configuration from JSON.
    ///
    /// ```
    /// use rscni::NetConf;
    ///
    /// let error = NetConf::from_json(br#"{ "name": 5, "dns": { "search": "x" } }"#).unwrap_err();
    /// assert_eq!(error.code(), 6);
    /// assert!(error.details().contains("dns.search"), "{error}");
    /// ```
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] with line and column if it is not JSON, or with the path of each
    /// key of the protocol that has a wrong value; [`Error::IncompatibleVersion`] if `cniVersion`
    /// is not a version of the spec.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        let problem = match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) => return Self::try_from(map),
            Ok(other) => excerpt(&other),
            Err(error) => error.to_string(),
        };
        Err(Error::FailedToDecode(format!("network configuration is not a JSON object: {problem}")))
    }

    /// Reads the keys of [`custom`](NetConf::custom) into a plugin's own struct. A null key counts
    /// as absent.
    ///
    /// ```
    /// #[derive(Debug, serde::Deserialize)]
    /// struct Mine { mtu: u16 }
    ///
    /// let conf = rscni::NetConf::from_json(br#"{ "type": "mine", "mtu": 70000 }"#)?;
    /// let error = conf.custom_as::<Mine>().unwrap_err();
    /// assert_eq!(error.code(), 7);
    /// assert!(error.details().starts_with("mine: mtu: "), "{error}");
    /// # Ok::<(), rscni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each key that is missing or has a wrong
    /// value.
    pub fn custom_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let entries: Vec<_> =
            self.custom.iter().map(|(key, value)| (key.as_str(), value)).collect();
        any_case::read_entries(&entries, "").map_err(|problem| {
            let owner = if self.r#type.is_empty() { "configuration" } else { &self.r#type };
            Error::InvalidNetworkConfig(format!("{owner}: {problem}"))
        })
    }

    /// Reads the keys of `ipam`, without its `type`, into an IPAM plugin's own struct.
    ///
    /// ```
    /// # let text = br#"{ "name": "net", "ipam": { "type": "mine", "subnet": "10.1.0.0/40" } }"#;
    /// #[derive(Debug, serde::Deserialize)]
    /// struct Mine { subnet: rscni::IpNet }
    ///
    /// let conf = rscni::NetConf::from_json(text)?;
    /// let error = conf.ipam_as::<Mine>().unwrap_err();
    /// assert!(error.details().starts_with("mine: ipam.subnet: "), "{error}");
    /// # Ok::<(), rscni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each key that is missing or has a wrong
    /// value.
    pub fn ipam_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let entries = self.ipam.iter().flat_map(|ipam| &ipam.custom);
        let entries: Vec<_> = entries.map(|(key, value)| (key.as_str(), value)).collect();
        any_case::read_entries(&entries, "ipam").map_err(|problem| {
            let plugin = self.ipam_type().unwrap_or("IPAM plugin");
            Error::InvalidNetworkConfig(format!("{plugin}: {problem}"))
        })
    }

    /// Returns the versions that the network offers (`cniVersions`), if the runtime passes them.
    pub fn cni_versions(&self) -> impl Iterator<Item = &str> {
        let versions = any_case::get(&self.protocol, "cniVersions").and_then(Value::as_array);
        versions.into_iter().flatten().filter_map(Value::as_str)
    }

    /// Whether the network sets `disableCheck`, if the runtime passes it.
    pub fn disable_check(&self) -> bool {
        self.is_true("disableCheck")
    }

    /// Whether the network sets `disableGC`, if the runtime passes it.
    pub fn disable_gc(&self) -> bool {
        self.is_true("disableGC")
    }

    fn is_true(&self, key: &str) -> bool {
        match any_case::get(&self.protocol, key) {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => text.eq_ignore_ascii_case("true"),
            _ => false,
        }
    }

    /// Returns the name of the IPAM plugin, if one is configured.
    ///
    /// ```
    /// let conf = rscni::NetConf::from_json(br#"{ "ipam": { "type": "host-local" } }"#)?;
    /// assert_eq!(conf.ipam_type(), Some("host-local"));
    /// # Ok::<(), rscni::Error>(())
    /// ```
    pub fn ipam_type(&self) -> Option<&str> {
        self.ipam.as_ref().map(|ipam| ipam.r#type.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns `args.cni`: structured arguments for all plugins.
    pub fn args_cni(&self) -> Option<&Map<String, Value>> {
        any_case::get(&self.args, "cni").and_then(Value::as_object)
    }

    /// Returns this configuration as a JSON object.
    ///
    /// ```
    /// let conf = rscni::NetConf::from_json(br#"{ "Name": "net", "type": "mine", "mtu": 1400 }"#)?;
    /// let json = conf.to_json();
    /// assert_eq!((&json["name"], &json["mtu"]), (&"net".into(), &1400.into()));
    /// # Ok::<(), rscni::Error>(())
    /// ```
    pub fn to_json(&self) -> Map<String, Value> {
        let mut map = Map::new();
        map.insert("cniVersion".into(), self.cni_version.as_str().into());
        for (key, text) in [("name", &self.name), ("type", &self.r#type)] {
            if !text.is_empty() {
                map.insert(key.into(), text.as_str().into());
            }
        }
        for (key, part) in [
            ("capabilities", &self.capabilities),
            ("runtimeConfig", &self.runtime_config),
            ("args", &self.args),
        ] {
            if !part.is_empty() {
                map.insert(key.into(), part.clone().into());
            }
        }
        map.extend(self.ip_masq.map(|masq| ("ipMasq".to_owned(), masq.into())));
        map.extend(self.ipam.as_ref().map(|ipam| ("ipam".to_owned(), to_map(ipam).into())));
        map.extend(self.dns.as_ref().map(|dns| ("dns".to_owned(), dns_object(dns))));
        map.extend(self.custom.to_map());
        map.extend(self.protocol.clone());
        map.extend(
            self.prev_result
                .as_ref()
                .map(|prev| ("prevResult".to_owned(), prev.to_json(self.cni_version))),
        );
        if let Some(valid) = &self.valid_attachments {
            map.insert(VALID_ATTACHMENTS.into(), valid.write());
        }
        map
    }
}

impl TryFrom<Map<String, Value>> for Ipam {
    type Error = Error;

    fn try_from(map: Map<String, Value>) -> Result<Self, Error> {
        json::read(&Value::Object(map), "").map_err(Error::FailedToDecode)
    }
}

object! {
    Ipam: "an object",
    keys: { "type": r#type },
    omitted_if_empty: ["type"],
    rest: custom
}

object! {
    Attachment: "an object",
    keys: { "containerID": container_id, "ifname": ifname },
    required: ["containerID", "ifname"]
}

impl TryFrom<Map<String, Value>> for NetConf {
    type Error = Error;

    fn try_from(map: Map<String, Value>) -> Result<Self, Error> {
        let cni_version = version_of(&map)?;
        let mut keys = Keys::new(map);
        any_case::take(&mut keys.map, "cniVersion");
        let conf = Self {
            cni_version,
            name: keys.take("name"),
            r#type: keys.take("type"),
            capabilities: keys.take("capabilities"),
            runtime_config: keys.take("runtimeConfig"),
            args: keys.take("args"),
            ip_masq: keys.take("ipMasq"),
            ipam: keys.take("ipam"),
            dns: keys.take_dns(),
            prev_result: keys.take("prevResult"),
            valid_attachments: keys.take_valid_attachments(),
            protocol: keys.take_protocol(),
            custom: std::mem::take(&mut keys.map).into(),
        };
        keys.problems.finish(Some(conf)).map_err(Error::FailedToDecode)
    }
}

/// The keys of a configuration that are not read yet, and the problems of the others.
struct Keys {
    map: Map<String, Value>,
    problems: Problems,
}

impl Keys {
    fn new(map: Map<String, Value>) -> Self {
        Self { map, problems: Problems::default() }
    }

    /// Reads and removes a key; the default if it is absent or null.
    fn take<T: Json + Default>(&mut self, key: &str) -> T {
        match any_case::take(&mut self.map, key) {
            None | Some(Value::Null) => None,
            Some(value) => self.problems.below(key, |problems| T::read(&value, problems)),
        }
        .unwrap_or_default()
    }

    /// Reads the DNS settings, if any: see [`NetConf::dns`].
    fn take_dns(&mut self) -> Option<Dns> {
        let dns: Map<String, Value> = self.take::<Option<_>>("dns")?;
        let any_is_set = dns.values().any(|value| !value.is_null() && value != "");
        let dns = self.problems.below("dns", |problems| Json::read(&dns.into(), problems));
        dns.filter(|_| any_is_set)
    }

    fn take_valid_attachments(&mut self) -> Option<Vec<Attachment>> {
        if any_case::get(&self.map, VALID_ATTACHMENTS).is_some_and(Value::is_null) {
            // Go's libcni writes an empty list as null; an absent key means something else.
            any_case::take(&mut self.map, VALID_ATTACHMENTS);
            return Some(Vec::new());
        }
        let valid: Option<Vec<Attachment>> = self.take(VALID_ATTACHMENTS);
        // The key with the second name stays in place and is passed on unchanged.
        valid.or_else(|| {
            let list = any_case::get(&self.map, ATTACHMENTS).filter(|list| !list.is_null())?;
            self.problems.below(ATTACHMENTS, |problems| Json::read(list, problems))
        })
    }

    /// Removes the other keys of the protocol.
    fn take_protocol(&mut self) -> Map<String, Value> {
        let is_protocol = |key: &str| {
            LIST_KEYS.iter().any(|known| known.eq_ignore_ascii_case(key))
                || key
                    .get(..RESERVED.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(RESERVED))
        };
        let (mut protocol, mut others) = (Map::new(), Map::new());
        for (key, value) in std::mem::take(&mut self.map) {
            let part = if is_protocol(&key) { &mut protocol } else { &mut others };
            part.insert(key, value);
        }
        self.map = others;
        protocol
    }
}

impl<'de> Deserialize<'de> for NetConf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(Map::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl Serialize for NetConf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// Returns the version of a configuration; 0.1.0 if not set (spec: "Version considerations").
pub(crate) fn version_of(map: &Map<String, Value>) -> Result<SpecVersion, Error> {
    match any_case::get(map, "cniVersion") {
        None | Some(Value::Null) => Ok(SpecVersion::default()),
        Some(Value::String(text)) if text.is_empty() => Ok(SpecVersion::default()),
        Some(Value::String(text)) => text.parse(),
        Some(other) => {
            Err(Error::FailedToDecode(format!("cniVersion: {} is not a string", excerpt(other))))
        }
    }
}

/// Returns the version for an error reply: that of `stdin` if it can be read, otherwise the newest.
pub(crate) fn version_for_error(stdin: &[u8]) -> SpecVersion {
    match serde_json::from_slice(stdin) {
        Ok(Value::Object(map)) => version_of(&map).unwrap_or(SpecVersion::LATEST),
        _ => SpecVersion::LATEST,
    }
}

/// Writes DNS settings so that they are read back as settings even if they are empty.
fn dns_object(dns: &Dns) -> Value {
    let mut settings = to_map(dns);
    if settings.is_empty() {
        settings.insert("nameservers".into(), Value::Array(Vec::new()));
    }
    settings.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: &Value) -> NetConf {
        NetConf::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn numbers_keep_all_digits() {
        let text = r#"{"cniVersion":"1.1.0","name":"net",
            "own":{"x":2.666666666666666e117,"y":[0.1,18446744073709551615]}}"#;
        let conf = NetConf::from_json(text.as_bytes()).unwrap();
        let written = serde_json::to_string(&conf).unwrap();
        assert_eq!(NetConf::from_json(written.as_bytes()).unwrap(), conf);
        assert!(
            written.contains("2.666666666666666e+117") && written.contains("18446744073709551615"),
            "{written}"
        );
    }

    #[test]
    fn other_spellings_of_a_present_key_are_dropped() {
        let text = r#"{ "name": "", "Name": "x", "runtimeConfig": {},
            "RuntimeConfig": { "mac": 1 }, "CNIVERSION": "0.4.0" }"#;
        let conf = NetConf::from_json(text.as_bytes()).unwrap();
        assert_eq!((conf.name.as_str(), conf.runtime_config.len(), conf.custom.len()), ("", 0, 0));
        assert_eq!(NetConf::try_from(conf.to_json()).unwrap(), conf);
    }

    #[test]
    fn all_keys_are_kept_and_unknown_ones_keep_their_order() {
        let json = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "bridge", "capabilities": { "mac": true },
            "runtimeConfig": { "mac": "00:11:22:33:44:55", "x": [1] },
            "args": { "cni": { "ips": [] }, "other": 1 }, "ipMasq": true,
            "ipam": { "type": "host-local", "z": 1, "a": 2 }, "dns": { "search": ["x"] },
            "zebra": 1, "ape": { "b": 1, "a": 2 }, "big": 18_446_744_073_709_551_615_u64,
            "half": 0.5,
            "prevResult": { "cniVersion": "1.1.0", "ips": [{ "address": "10.0.0.2/24" }] },
            "cni.dev/valid-attachments": [{ "containerID": "a", "ifname": "eth0" }],
        });
        let conf = read(&json);
        assert_eq!(Value::Object(conf.to_json()), json);
        assert_eq!(
            conf.custom.iter().map(|(key, _)| key).collect::<Vec<_>>(),
            ["zebra", "ape", "big", "half"]
        );
        let text = serde_json::to_string(&conf).unwrap();
        assert!(text.find("zebra") < text.find("ape"));
        assert!(text.contains(r#"{"type":"host-local","z":1,"a":2}"#));
    }

    #[test]
    fn prev_result_is_read_and_written_in_all_versions() {
        for version in SpecVersion::ALL {
            let result: CNIResult = serde_json::from_value(json!({
                "ips": [{ "address": "10.0.0.2/24", "gateway": "10.0.0.1" },
                        { "address": "fd00::2/64" }],
                "routes": [{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }], "dns": { "domain": "x" }
            }))
            .unwrap();
            let prev_result = result.to_json(version);
            let json = json!({ "cniVersion": version, "name": "n", "prevResult": prev_result });
            let conf = read(&json);
            assert_eq!(conf.prev_result.as_ref(), Some(&result), "{version}");
            assert_eq!(Value::Object(conf.to_json()), json, "{version}");
        }
    }

    #[test]
    fn absent_empty_and_null_objects_are_accepted() {
        let conf =
            read(&json!({ "name": "n", "ipam": {}, "dns": { "domain": "", "search": null } }));
        assert_eq!((conf.cni_version, conf.ipam_type()), (SpecVersion::V0_1_0, None));
        assert!(conf.ipam.is_some() && conf.dns.is_none());
        let conf = read(
            &json!({ "name": "n", "ipam": null, "dns": null, "prevResult": null, "args": null }),
        );
        assert!(conf.ipam.is_none() && conf.dns.is_none() && conf.prev_result.is_none());
        assert_eq!(conf.valid_attachments, None);
        assert_eq!(read(&json!({ VALID_ATTACHMENTS: null })).valid_attachments, Some(Vec::new()));
    }

    #[test]
    fn an_empty_list_of_dns_settings_is_a_setting() {
        let json = json!({ "cniVersion": "1.1.0", "name": "n", "dns": { "nameservers": [] } });
        let conf = read(&json);
        assert!(conf.dns.as_ref().unwrap().is_empty());
        assert_eq!(Value::Object(conf.to_json()), json);
    }

    #[test]
    fn keys_are_read_in_any_case() {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Keys {
            is_gateway: bool,
        }
        let conf = read(&json!({
            "CNIVersion": "1.0.0", "Name": "n", "ipmasq": true, "RuntimeConfig": { "a": 1 },
            "isgateway": true, "IPAM": { "Type": "static" }, "DNS": { "Domain": "x" },
        }));
        assert_eq!(
            (conf.cni_version, &*conf.name, conf.ip_masq),
            (SpecVersion::V1_0_0, "n", Some(true))
        );
        assert_eq!((conf.ipam_type(), conf.runtime_config.len()), (Some("static"), 1));
        assert_eq!(conf.dns.clone().unwrap().domain.as_deref(), Some("x"));
        assert!(conf.custom_as::<Keys>().unwrap().is_gateway);
    }

    #[test]
    fn an_error_names_the_key_with_the_wrong_type() {
        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(default)]
        struct Own {
            mtu: u32,
            mode: String,
        }
        let error = NetConf::from_json(br#"{ "ipMasq": "yes" }"#).unwrap_err();
        assert_eq!(error.code(), 6);
        assert!(error.details().contains("ipMasq"), "{error}");
        let error = NetConf::from_json(b"{ \"a\": 1,\n oops }").unwrap_err();
        assert!(error.details().contains("line 2 column"), "{error}");

        let conf = read(&json!({ "type": "t", "mtu": "large", "mode": "a" }));
        let error = conf.custom_as::<Own>().map(|own| (own.mtu, own.mode)).unwrap_err();
        assert_eq!(error.details(), "t: mtu: \"large\" is not a whole number from 0 to 4294967295");
    }

    #[test]
    fn an_error_names_each_wrong_key_with_its_path_and_value() {
        let json = json!({
            "name": 5, "capabilities": [], "ipMasq": "yes", "ipam": { "type": ["x"] },
            "dns": { "search": "x" },
            "prevResult": { "ips": [{ "address": "10.0.0.2/24" }, { "address": "10.010.0.2/24" }] },
        });
        let error = NetConf::from_json(json.to_string().as_bytes()).unwrap_err();
        for part in [
            "name: 5 is not a string",
            "capabilities: [] is not an object",
            "ipMasq: \"yes\" is not true or false",
            "ipam.type: [\"x\"] is not a string",
            "dns.search: \"x\" is not a list",
            "prevResult.ips[1].address: \"10.010.0.2/24\" is not a CIDR",
            "remove the leading zeros",
        ] {
            assert!(error.details().contains(part), "{error}");
        }
        assert!(error.code() == 6 && !error.details().contains("line"), "{error}");
    }

    #[test]
    fn custom_contains_no_keys_of_the_protocol() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Own {
            mtu: u32,
        }
        let json = json!({
            "cniVersion": "1.1.0", "name": "n", "type": "t", "args": { "cni": {} }, "mtu": 1,
            "cniVersions": ["1.0.0", "1.1.0"], "disableCheck": true, "disableGC": "true",
            "loadOnlyInlinedPlugins": false, "cni.dev/other": { "x": 1 },
            "cni.dev/attachments": [{ "containerID": "a", "ifname": "eth0" }],
        });
        let conf = read(&json);
        assert_eq!(conf.custom_as::<Own>().unwrap().mtu, 1);
        assert_eq!(conf.cni_versions().collect::<Vec<_>>(), ["1.0.0", "1.1.0"]);
        assert!(conf.disable_check() && conf.disable_gc());
        assert_eq!(conf.valid_attachments.as_ref().map(Vec::len), Some(1));
        let written = Value::Object(conf.to_json());
        for (key, value) in json.as_object().unwrap() {
            assert_eq!(&written[key], value, "{key}");
        }
        assert_eq!(read(&written), conf);
    }

    #[test]
    fn the_second_name_of_valid_attachments_is_read_only_without_the_first() {
        let attachment = |id: &str| json!([{ "containerID": id, "ifname": "eth0" }]);
        let conf = read(&json!({
            "cni.dev/valid-attachments": attachment("a"), "cni.dev/attachments": attachment("b"),
        }));
        assert_eq!(conf.valid_attachments.unwrap()[0].container_id, "a");
        let conf = read(
            &json!({ "cni.dev/valid-attachments": null, "cni.dev/attachments": attachment("b") }),
        );
        assert_eq!(conf.valid_attachments, Some(Vec::new()));
    }

    #[test]
    fn the_last_value_of_a_repeated_key_wins() {
        let text = r#"{ "name": "a", "ipMasq": true, "name": "b", "ipMasq": false,
            "ipam": { "type": "x", "type": "y" } }"#;
        let conf = NetConf::from_json(text.as_bytes()).unwrap();
        assert_eq!((&*conf.name, conf.ip_masq, conf.ipam_type()), ("b", Some(false), Some("y")));
    }

    #[test]
    fn the_parts_of_a_configuration_are_read_as_they_are_written() {
        fn assert_kept<T: Serialize + DeserializeOwned>(json: &Value) {
            let read: T = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(&serde_json::to_value(&read).unwrap(), json);
        }
        assert_kept::<Ipam>(&json!({ "type": "static", "x": 1 }));
        assert_kept::<Attachment>(&json!({ "containerID": "a", "ifname": "eth0" }));
        assert_kept::<Custom>(&json!({ "x": [1] }));
        assert_kept::<SpecVersion>(&json!("1.0.0"));
        assert_kept::<crate::Command>(&json!("CHECK"));
        assert_kept::<crate::Interface>(&json!({ "name": "eth0", "mtu": 1500, "x": 1 }));
        assert_kept::<crate::IpConfig>(&json!({ "address": "10.0.0.2/24", "interface": 0 }));
        assert_kept::<crate::Route>(&json!({ "dst": "10.0.0.0/8", "gw": "10.0.0.1" }));
        assert_kept::<Dns>(&json!({ "nameservers": ["10.0.0.1"], "x": 1 }));
        assert_kept::<crate::Extra>(&json!({ "x": [1] }));
    }

    #[test]
    fn a_configuration_of_a_megabyte_is_read() {
        let json = json!({ "name": "n", "blob": "x".repeat(1 << 20) });
        assert_eq!(read(&json).custom["blob"].as_str().map(str::len), Some(1 << 20));
    }
}
