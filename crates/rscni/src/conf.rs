//! The configuration of one plugin, as it arrives on stdin (spec: "Deriving request configuration from plugin
//! configuration").

use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::{
    Error, SpecVersion, any_case,
    custom::Custom,
    result::{CNIResult, Dns, object},
};

/// A plugin's configuration: the keys that the protocol knows, typed, and all others in [`custom`](NetConf::custom).
///
/// Reading and writing it keeps every key; `prevResult` is written in the shape of `cniVersion`.
///
/// ```
/// use rscni::NetConf;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// #[serde(rename_all = "camelCase")]
/// struct Mine { cni_output: std::path::PathBuf }
///
/// let conf: NetConf = serde_json::from_str(r#"{ "name": "net", "type": "debug", "cniOutput": "/tmp/cni" }"#)?;
/// assert_eq!(conf.custom_as::<Mine>()?.cni_output.to_str(), Some("/tmp/cni"));
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct NetConf {
    /// The version of the configuration, and so of the reply.
    pub cni_version: SpecVersion,
    /// The network's name.
    pub name: String,
    /// The plugin's own name.
    pub r#type: String,
    /// What the plugin says that it can take in `runtimeConfig`.
    pub capabilities: Map<String, Value>,
    /// Capability arguments from the runtime; typed by [`Args::runtime_config`](crate::Args::runtime_config).
    pub runtime_config: Map<String, Value>,
    /// Arguments by convention; those of all plugins in `cni`.
    pub args: Map<String, Value>,
    /// Whether the host masquerades for this network.
    pub ip_masq: Option<bool>,
    /// Address management.
    pub ipam: Option<Ipam>,
    /// DNS settings to put into the result, over those of the IPAM plugin. An object without a list or a domain, as
    /// `{}`, is none; one with an empty list is settings, which say that there are no servers.
    pub dns: Option<Dns>,
    /// The result of the plugin before in the chain (ADD), or of the whole ADD (DEL, CHECK).
    pub prev_result: Option<CNIResult>,
    /// GC: the attachments that are still wanted (`cni.dev/valid-attachments`).
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Every other key, in the order in which they stood.
    pub custom: Custom,
}

/// The `ipam` part of a configuration. `{}` means: none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Ipam {
    /// The IPAM plugin; empty for none.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub r#type: String,
    /// Every other key, in the order in which they stood.
    #[serde(flatten)]
    pub custom: Map<String, Value>,
}

/// One attachment of a network: a container and an interface in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// `CNI_CONTAINERID` of the ADD.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// `CNI_IFNAME` of the ADD.
    pub ifname: String,
}

const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

impl NetConf {
    /// Reads a configuration from JSON.
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] with line and column if it is no JSON object or a known key has the wrong type;
    /// [`Error::IncompatibleVersion`] if `cniVersion` is none of the spec's.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        let map: Map<String, Value> = serde_json::from_slice(bytes).map_err(|e| {
            Error::FailedToDecode(format!("network configuration is not a JSON object: {e}"))
        })?;
        Self::try_from(map)
    }

    /// Reads the keys of [`custom`](NetConf::custom) into a plugin's own struct. A key that is null counts as absent.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`], naming the key that is missing or has the wrong type.
    pub fn custom_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        read_as(self.custom.iter(), &self.r#type)
    }

    /// The IPAM plugin's name, if there is one.
    pub fn ipam_type(&self) -> Option<&str> {
        self.ipam.as_ref().map(|ipam| ipam.r#type.as_str()).filter(|name| !name.is_empty())
    }

    /// `args.cni`, the arguments by convention that are meant for every plugin.
    pub fn args_cni(&self) -> Option<&Map<String, Value>> {
        any_case::get(&self.args, "cni").and_then(Value::as_object)
    }

    /// This configuration as a JSON object.
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
        map.extend(self.ipam.as_ref().map(|ipam| ("ipam".to_owned(), object(ipam).into())));
        map.extend(self.dns.as_ref().map(|dns| ("dns".to_owned(), dns_object(dns))));
        map.extend(self.custom.to_map());
        map.extend(
            self.prev_result
                .as_ref()
                .map(|prev| ("prevResult".to_owned(), prev.to_json(self.cni_version))),
        );
        if let Some(valid) = &self.valid_attachments {
            map.insert(VALID_ATTACHMENTS.into(), valid.iter().map(object).collect::<Value>());
        }
        map
    }
}

impl TryFrom<Map<String, Value>> for Ipam {
    type Error = Error;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, Error> {
        Ok(Self { r#type: take(&mut map, "type")?, custom: map })
    }
}

impl TryFrom<Map<String, Value>> for NetConf {
    type Error = Error;

    fn try_from(mut map: Map<String, Value>) -> Result<Self, Error> {
        Ok(Self {
            cni_version: version_of(&map)?,
            name: take(&mut map, "name")?,
            r#type: take(&mut map, "type")?,
            capabilities: take(&mut map, "capabilities")?,
            runtime_config: take(&mut map, "runtimeConfig")?,
            args: take(&mut map, "args")?,
            ip_masq: take(&mut map, "ipMasq")?,
            ipam: take(&mut map, "ipam")?,
            dns: take_dns(&mut map)?,
            prev_result: take(&mut map, "prevResult")?,
            valid_attachments: match map.get(VALID_ATTACHMENTS) {
                // Go's libcni writes an empty list so. That the key is absent means something else.
                Some(Value::Null) => {
                    map.shift_remove(VALID_ATTACHMENTS);
                    Some(Vec::new())
                }
                _ => take(&mut map, VALID_ATTACHMENTS)?,
            },
            custom: {
                any_case::take(&mut map, "cniVersion");
                map.into()
            },
        })
    }
}

impl Serialize for NetConf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

/// The version of a configuration: 0.1.0 where it says nothing (spec: "Version considerations").
pub(crate) fn version_of(map: &Map<String, Value>) -> Result<SpecVersion, Error> {
    match any_case::get(map, "cniVersion") {
        None | Some(Value::Null) => Ok(SpecVersion::default()),
        Some(Value::String(text)) if text.is_empty() => Ok(SpecVersion::default()),
        Some(Value::String(text)) => text.parse(),
        Some(other) => {
            Err(Error::FailedToDecode(format!("cniVersion must be a string, not {other}")))
        }
    }
}

/// The version in which an error is told, which may be that `stdin` is no configuration: the one that it names, if
/// that much can be read, and the newest otherwise.
pub(crate) fn version_for_error(stdin: &[u8]) -> SpecVersion {
    serde_json::from_slice(stdin)
        .ok()
        .and_then(|map| version_of(&map).ok())
        .unwrap_or(SpecVersion::LATEST)
}

/// Takes a known key out of the map; absent and null are the default.
fn take<T: DeserializeOwned + Default>(
    map: &mut Map<String, Value>,
    key: &str,
) -> Result<T, Error> {
    match any_case::take(map, key) {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => any_case::from_value(value)
            .map_err(|e| Error::FailedToDecode(format!("key {key:?}: {e}"))),
    }
}

/// Takes the DNS settings, if there are any: see [`NetConf::dns`].
fn take_dns(map: &mut Map<String, Value>) -> Result<Option<Dns>, Error> {
    let dns: Map<String, Value> = take(map, "dns")?;
    let any_is_set = dns.values().any(|value| !value.is_null() && value != "");
    let dns = any_case::from_value(dns)
        .map_err(|e| Error::FailedToDecode(format!("key \"dns\": {e}")))?;
    Ok(Some(dns).filter(|_| any_is_set))
}

/// The DNS settings as they are read again.
fn dns_object(dns: &Dns) -> Value {
    let mut settings = object(dns);
    if settings.is_empty() {
        settings.insert("nameservers".into(), Value::Array(Vec::new()));
    }
    settings.into()
}

/// Reads a struct from a part of the configuration of plugin `owner`. A key that is null counts as absent.
pub(crate) fn read_as<'a, T: DeserializeOwned>(
    part: impl IntoIterator<Item = (&'a String, &'a Value)>,
    owner: &str,
) -> Result<T, Error> {
    let given: Vec<_> = part.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let read = |without: Option<&String>| {
        let rest = given.iter().filter(|(key, _)| Some(*key) != without);
        any_case::from_value(
            rest.map(|(key, value)| ((*key).clone(), (*value).clone())).collect::<Map<_, _>>(),
        )
    };
    read(None).map_err(|error| {
        // serde names a key that is missing or unknown, but not one whose value has the wrong type.
        let culprit = given.iter().find(|(key, _)| read(Some(key)).is_ok());
        let key = culprit.map(|(key, _)| format!("{key}: ")).unwrap_or_default();
        Error::InvalidNetworkConfig(format!("{owner}: {key}{error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(json: &Value) -> NetConf {
        NetConf::from_json(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn numbers_are_passed_on_to_the_last_digit() {
        let text = r#"{"cniVersion":"1.1.0","name":"net","own":{"x":2.666666666666666e117,"y":[0.1,18446744073709551615]}}"#;
        let conf = NetConf::from_json(text.as_bytes()).unwrap();
        let written = serde_json::to_string(&conf).unwrap();
        assert_eq!(NetConf::from_json(written.as_bytes()).unwrap(), conf);
        assert!(
            written.contains("2.666666666666666e+117") && written.contains("18446744073709551615"),
            "{written}"
        );
    }

    #[test]
    fn another_spelling_of_a_key_that_was_passed_over_is_not_taken_for_it_later() {
        let text = r#"{ "name": "", "Name": "x", "runtimeConfig": {}, "RuntimeConfig": { "mac": 1 }, "CNIVERSION": "0.4.0" }"#;
        let conf = NetConf::from_json(text.as_bytes()).unwrap();
        assert_eq!((conf.name.as_str(), conf.runtime_config.len(), conf.custom.len()), ("", 0, 0));
        assert_eq!(NetConf::try_from(conf.to_json()).unwrap(), conf);
    }

    #[test]
    fn every_key_survives_and_unknown_ones_keep_their_order() {
        let json = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "bridge", "capabilities": { "mac": true },
            "runtimeConfig": { "mac": "00:11:22:33:44:55", "x": [1] }, "args": { "cni": { "ips": [] }, "other": 1 },
            "ipMasq": true, "ipam": { "type": "host-local", "z": 1, "a": 2 }, "dns": { "search": ["x"] },
            "zebra": 1, "ape": { "b": 1, "a": 2 }, "big": 18_446_744_073_709_551_615_u64, "half": 0.5,
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
    fn prev_result_keeps_the_shape_of_each_version() {
        for version in SpecVersion::ALL {
            let result: CNIResult = serde_json::from_value(json!({
                "ips": [{ "address": "10.0.0.2/24", "gateway": "10.0.0.1" }, { "address": "fd00::2/64" }],
                "routes": [{ "dst": "0.0.0.0/0", "gw": "10.0.0.1" }], "dns": { "domain": "x" }
            }))
            .unwrap();
            let json = json!({ "cniVersion": version, "name": "n", "type": "t", "prevResult": result.to_json(version) });
            let conf = read(&json);
            assert_eq!(conf.prev_result.as_ref(), Some(&result), "{version}");
            assert_eq!(Value::Object(conf.to_json()), json, "{version}");
        }
    }

    #[test]
    fn absent_empty_and_null_parts_are_fine() {
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
            "CNIVersion": "1.0.0", "Name": "n", "ipmasq": true, "RuntimeConfig": { "a": 1 }, "isgateway": true,
            "IPAM": { "Type": "static" }, "DNS": { "Domain": "x" },
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
    fn a_wrong_type_is_named() {
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
        assert!(error.details().starts_with("t: mtu: invalid type"), "{error}");
    }

    #[test]
    fn a_megabyte_of_configuration_is_fine() {
        let json = json!({ "name": "n", "blob": "x".repeat(1 << 20) });
        assert_eq!(read(&json).custom["blob"].as_str().map(str::len), Some(1 << 20));
    }
}
