//! The configuration of tuning, from its keys, `CNI_ARGS`, `runtimeConfig` and `args.cni`.

use std::path::PathBuf;

use rscni::{NetConf, any_case, name::check_path};
use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor},
};

use super::attributes::Attributes;
use crate::{
    attach::mac::{BY_VARIABLE, parse_mac},
    plugin::{Call, Result, invalid},
};

/// The default directory of the original attributes.
pub(crate) const DATA_DIR: &str = "/run/cni/tuning";

/// The placeholder for the interface name in a sysctl.
const IFNAME: &str = "IFNAME";

/// The keys of the Go plugin, in the configuration and in its `args.cni`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    sysctl: Option<Pairs>,
    mac: Option<String>,
    promisc: Option<bool>,
    mtu: Option<u32>,
    allmulti: Option<bool>,
    tx_q_len: Option<u32>,
    /// See [`data_dir`].
    #[serde(rename = "dataDir")]
    _data_dir: Option<String>,
}

/// Finds a sysctl that the configuration has twice, which the Go plugin rejects, and ignores
/// everything else.
struct Twice(Option<String>);

impl<'de> Deserialize<'de> for Twice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        /// Reads the configuration, or its sysctls.
        struct Reader {
            of_sysctls: bool,
        }

        impl<'de> DeserializeSeed<'de> for Reader {
            type Value = Option<String>;

            fn deserialize<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> std::result::Result<Option<String>, D::Error> {
                deserializer.deserialize_any(self)
            }
        }

        impl<'de> Visitor<'de> for Reader {
            type Value = Option<String>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            // A wrong type is reported when the key itself is read.
            fn visit_unit<E>(self) -> std::result::Result<Option<String>, E> {
                Ok(None)
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Option<String>, A::Error> {
                let (mut seen, mut twice) = (Vec::new(), None);
                while let Some(key) = map.next_key::<String>()? {
                    if !self.of_sysctls && key.eq_ignore_ascii_case("sysctl") {
                        twice = map.next_value_seed(Reader { of_sysctls: true })?;
                        continue;
                    }
                    map.next_value::<IgnoredAny>()?;
                    if self.of_sysctls && twice.is_none() && seen.contains(&key) {
                        twice = Some(key);
                    } else {
                        seen.push(key);
                    }
                }
                Ok(twice)
            }
        }
        deserializer.deserialize_map(Reader { of_sysctls: false }).map(Self)
    }
}

/// A JSON object of texts, in order.
#[derive(Debug, Default)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Pairs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of sysctls and their values, which are strings")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs, A::Error> {
                let mut pairs: Vec<(String, String)> = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// A sysctl to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sysctl {
    pub(super) key: String,
    /// The path below `/proc/sys`, with the interface name.
    pub(super) path: String,
    pub(super) value: String,
}

/// A validated configuration.
#[derive(Debug)]
pub(super) struct Config {
    /// The sysctls, in the order in which they are set.
    pub(super) sysctls: Vec<Sysctl>,
    pub(super) attributes: Attributes,
    pub(super) data_dir: PathBuf,
}

impl Config {
    /// Reads and validates the configuration of a call.
    pub(super) fn new(call: &Call<'_>) -> Result<Self> {
        // Read from stdin, because the parsed configuration has each sysctl once.
        if let Ok(Twice(Some(key))) = serde_json::from_slice(&call.args.stdin) {
            return Err(invalid("tuning", format!("sysctl.{key}: duplicated sysctl: set it once")));
        }
        let keys: Keys = call.conf.custom_as()?;
        let by_args: Keys = match call.conf.args_cni() {
            Some(map) => {
                any_case::section(map, "args.cni").map_err(|error| error.context("tuning"))?
            }
            None => Keys::default(),
        };
        let promisc = by_args.promisc.or(keys.promisc);
        Ok(Self {
            attributes: Attributes {
                mac: mac(&keys, &by_args, call)?,
                // `false` means the same as a missing key.
                promisc: promisc.filter(|on| *on),
                mtu: by_args.mtu.or(keys.mtu).filter(|mtu| *mtu != 0),
                allmulti: by_args.allmulti.or(keys.allmulti),
                txqlen: by_args.tx_q_len.or(keys.tx_q_len),
            },
            sysctls: sysctls(
                keys.sysctl.unwrap_or_default(),
                by_args.sysctl.unwrap_or_default(),
                &call.args.ifname,
            )?,
            data_dir: data_dir(call.conf)?,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sysctls.is_empty() && self.attributes.is_empty()
    }
}

/// The directory of the original attributes. DEL and GC need nothing else of a configuration, which
/// may be invalid.
pub(super) fn data_dir(conf: &NetConf) -> Result<PathBuf> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Key {
        data_dir: String,
    }
    let Key { data_dir } = conf.custom_as().unwrap_or_default();
    check_path("dataDir", &data_dir)?;
    Ok(if data_dir.is_empty() { DATA_DIR.into() } else { data_dir.into() })
}

/// The directory for DEL. An invalid one counts as missing, since no ADD has used it.
pub(super) fn data_dir_of_del(conf: &NetConf) -> PathBuf {
    data_dir(conf).unwrap_or_else(|_| DATA_DIR.into())
}

/// Returns the requested MAC address: `args.cni`, then `runtimeConfig`, then `CNI_ARGS`, then the
/// key. An empty one in `args.cni` requests none.
fn mac(keys: &Keys, by_args: &Keys, call: &Call<'_>) -> Result<Option<rscni_linux::MacAddr>> {
    let cni_args = call.args.cni_args()?;
    cni_args.refuse_unknown(&["MAC"])?;
    let runtime = call.args.runtime_config()?.mac;
    let given = |path: &'static str, text: Option<String>| {
        text.filter(|text| !text.is_empty()).map(|text| (path, text))
    };
    let (path, text) = match &by_args.mac {
        Some(text) => ("args.cni.mac", text.clone()),
        None => given("runtimeConfig.mac", runtime)
            .or_else(|| given(BY_VARIABLE, cni_args.get("MAC").map(Into::into)))
            .or_else(|| given("mac", keys.mac.clone()))
            .unwrap_or_default(),
    };
    Some(text)
        .filter(|text| !text.is_empty())
        .map(|text| parse_mac("tuning", path, &text))
        .transpose()
}

/// Returns the sysctls of the configuration, replaced and extended by those of `args.cni`.
fn sysctls(configured: Pairs, by_args: Pairs, ifname: &str) -> Result<Vec<Sysctl>> {
    let mut sysctls: Vec<Sysctl> = Vec::new();
    for (pairs, replaces) in [(configured, false), (by_args, true)] {
        for (key, value) in pairs.0 {
            let path = path(&key, ifname)?;
            match sysctls.iter_mut().find(|other| other.path == path) {
                None => sysctls.push(Sysctl { key, path, value }),
                Some(other) if replaces => *other = Sysctl { key, path, value },
                Some(other) if other.value == value => {}
                Some(other) => {
                    return Err(invalid(
                        "tuning",
                        format!(
                            "sysctl.{key}: {value:?}, but {} is the same sysctl with another value",
                            other.key
                        ),
                    ));
                }
            }
        }
    }
    Ok(sysctls)
}

/// Returns the path of a sysctl below `/proc/sys`. Dots and slashes separate alike, so no component
/// can be `..`.
fn path(key: &str, ifname: &str) -> Result<String> {
    let mut names: Vec<String> =
        key.split(['.', '/']).filter(|name| !name.is_empty()).map(Into::into).collect();
    let is_elsewhere = key.split('/').any(|name| name == "..");
    if is_elsewhere || names.len() < 2 || names[0] != "net" {
        return Err(invalid(
            "tuning",
            format!("sysctl.{key}: {key:?} is none of the network: it must begin with net."),
        ));
    }
    // Replaced last, because an interface name may contain dots. GC and STATUS have none.
    if let Some(name) =
        names.iter_mut().find(|name| name.contains(IFNAME)).filter(|_| !ifname.is_empty())
    {
        *name = name.replacen(IFNAME, ifname, 1);
    }
    let path = names.join("/");
    rscni_linux::sysctl::path(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use rscni::{Args, Error, NetConf};
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use crate::plugin::call::testing::with_call;

    fn read(text: &str, cni_args: &str) -> Result<Config> {
        let conf = NetConf::from_json(text.as_bytes()).unwrap();
        let mut args = Args::default();
        args.ifname = "eth0.5".into();
        args.args = Some(cni_args.into());
        args.stdin = text.into();
        with_call(args, conf, Config::new)
    }

    #[test]
    fn defaults_are_those_of_the_go_plugin() {
        let config = read("{}", "").unwrap();
        assert!(config.is_empty());
        assert_eq!(config.data_dir.to_str(), Some("/run/cni/tuning"));
        let config = read(
            r#"{ "promisc": false, "mtu": 0, "mac": "", "sysctl": null, "dataDir": "/x" }"#,
            "",
        )
        .unwrap();
        assert!(config.is_empty());
        assert_eq!(config.data_dir.to_str(), Some("/x"));
    }

    #[rstest]
    #[case("net.ipv4.ip_forward", "net/ipv4/ip_forward")]
    #[case("net/ipv4/ip_forward", "net/ipv4/ip_forward")]
    #[case("/net/ipv4/ip_forward", "net/ipv4/ip_forward")]
    #[case("net.ipv4/ip_forward", "net/ipv4/ip_forward")]
    #[case("net.ipv4.conf.IFNAME.forwarding", "net/ipv4/conf/eth0.5/forwarding")]
    #[case("net..ipv4.conf.all.x", "net/ipv4/conf/all/x")]
    #[case("net.x.IFNAME.IFNAME", "net/x/eth0.5/IFNAME")]
    fn sysctl_paths_are_those_of_the_go_plugin(#[case] key: &str, #[case] expected: &str) {
        let config = read(&json!({ "sysctl": { key: "1" } }).to_string(), "").unwrap();
        let wanted = Sysctl { key: key.into(), path: expected.into(), value: "1".into() };
        assert_eq!(config.sysctls, [wanted]);
    }

    #[test]
    fn a_sysctl_that_is_given_twice_is_rejected() {
        let text = r#"{ "sysctl": { "net.a": "1", "net.b": "2", "net.a": "1" } }"#;
        let error = Error::from(read(text, "").unwrap_err());
        assert_eq!(error.code(), 7, "{error}");
        assert!(error.details().contains("sysctl.net.a: duplicated sysctl"), "{error}");
    }

    #[test]
    fn the_mac_comes_from_args_before_the_runtime_before_cni_args_before_the_key() {
        let mut keys = json!({
            "mac": "02:00:00:00:00:01", "runtimeConfig": { "mac": "02:00:00:00:00:03" },
            "args": { "cni": { "mac": "02:00:00:00:00:04" } }
        });
        let mac = |keys: &serde_json::Value, args: &str| {
            read(&keys.to_string(), args).unwrap().attributes.mac.map(|mac| mac.to_string())
        };
        let by_variable = "IgnoreUnknown=1;K8S_POD_NAME=x;MAC=02:00:00:00:00:02";
        assert_eq!(mac(&keys, by_variable).as_deref(), Some("02:00:00:00:00:04"));
        keys["args"]["cni"]["mac"] = "".into();
        assert_eq!(mac(&keys, by_variable), None);
        keys["args"] = json!({});
        assert_eq!(mac(&keys, by_variable).as_deref(), Some("02:00:00:00:00:03"));
        keys["runtimeConfig"]["mac"] = "".into();
        assert_eq!(mac(&keys, by_variable).as_deref(), Some("02:00:00:00:00:02"));
        assert_eq!(mac(&keys, "MAC=").as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(Error::from(read(&keys.to_string(), "OTHER=1").unwrap_err()).code(), 4);
    }

    #[test]
    fn args_override_keys_and_keep_the_order_of_sysctls() {
        let text = json!({
            "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 5,
            "sysctl": { "net.a.z": "1", "net.a.b": "2" },
            "args": { "cni": {
                "promisc": false, "mtu": 1300, "allmulti": false, "txQLen": 0,
                "sysctl": { "net/a/z": "9", "net.a.c": "3" },
            } }
        });
        let config = read(&text.to_string(), "").unwrap();
        let expected = Attributes {
            mtu: Some(1300),
            allmulti: Some(false),
            txqlen: Some(0),
            ..Attributes::default()
        };
        assert_eq!(config.attributes, expected);
        let sysctls: Vec<_> =
            config.sysctls.iter().map(|s| (s.path.as_str(), s.value.as_str())).collect();
        assert_eq!(sysctls, [("net/a/z", "9"), ("net/a/b", "2"), ("net/a/c", "3")]);
    }
}
