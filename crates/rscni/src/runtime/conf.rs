//! Network configurations as an administrator writes them (spec: "Section 1: Network configuration format").
//!
//! [`NetConfList`] is one network: its name, its version and the chain of plugins. Where several lie in a directory,
//! that is [`ConfDir`](super::ConfDir). What a plugin's own keys mean is left to the plugin; they pass through here
//! unchanged and in their order.

use std::{fs::OpenOptions, io::Read, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::fs::OFlags;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value, error::Category, json};

use crate::{
    Error, SpecVersion,
    name::{check_network_name, check_plugin_type},
};

/// A network: a chain of plugins with a name.
///
/// ```
/// use rscni::runtime::NetConfList;
///
/// let list = NetConfList::from_json(
///     br#"{ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "bridge" }, { "type": "portmap" }] }"#,
/// )?;
/// assert_eq!(list.plugins[1].plugin_type(), "portmap");
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct NetConfList {
    /// The network's name.
    pub name: String,
    /// The version that its plugins are called in: the highest known one of `cniVersions` and `cniVersion`.
    pub cni_version: SpecVersion,
    /// Whether CHECK is not to be called (`disableCheck`).
    pub disable_check: bool,
    /// Whether GC is not to be called (`disableGC`).
    pub disable_gc: bool,
    /// Whether the folder with the network's name is not looked at (`loadOnlyInlinedPlugins`).
    pub load_only_inlined_plugins: bool,
    /// The chain, in the order of ADD.
    pub plugins: Vec<PluginConf>,
    source: Vec<u8>,
}

/// One plugin of a chain: its configuration as it was written, in the order in which it was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PluginConf(Map<String, Value>);

impl NetConfList {
    /// Reads a list (`.conflist`).
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] if it is no JSON, [`Error::InvalidNetworkConfig`] if it is no list of plugins with a
    /// valid name, both with line and column; [`Error::IncompatibleVersion`] if no version that it offers is known.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        Self::read(bytes, None)
    }

    /// Reads the configuration of a single plugin (`.conf`, `.json`) as a list of one.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_plugin_json(bytes: &[u8]) -> Result<Self, Error> {
        let plugin: PluginConf = parse(bytes)?;
        let mut list = Map::new();
        for key in ["cniVersion", "name"] {
            list.extend(plugin.0.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        list.insert("plugins".into(), json!([plugin]));
        Self::from_json(&serde_json::to_vec(&list)?)
    }

    /// Reads a file, by its extension a list (`.conflist`) or a single plugin (anything else).
    ///
    /// A list that does not say `loadOnlyInlinedPlugins` is completed with the `*.conf` files of the folder beside it
    /// that carries the network's name.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if it cannot be read, and those of [`from_json`](Self::from_json); all name the file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bytes = read_file(path)?;
        if path.extension().is_some_and(|extension| extension == "conflist") {
            Self::read(&bytes, path.parent())
        } else {
            Self::from_plugin_json(&bytes)
        }
        .map_err(|error| error.context(path.display()))
    }

    /// The list as it was written; what a runtime keeps to be able to undo the ADD when the file is gone.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Reads a list, and the plugins that a folder in `dir` adds to it.
    fn read(bytes: &[u8], dir: Option<&Path>) -> Result<Self, Error> {
        let written: Written = parse(bytes)?;
        check_network_name(&written.name)?;
        if written.plugins.is_none() && written.load_only_inlined_plugins {
            return Err(Error::InvalidNetworkConfig(
                "loadOnlyInlinedPlugins is true, so the list needs \"plugins\"".into(),
            ));
        }
        let mut list = Self {
            cni_version: written.version()?,
            name: written.name,
            disable_check: written.disable_check,
            disable_gc: written.disable_gc,
            load_only_inlined_plugins: written.load_only_inlined_plugins,
            plugins: written.plugins.unwrap_or_default(),
            source: bytes.to_vec(),
        };
        if let Some(dir) = dir.filter(|_| !list.load_only_inlined_plugins) {
            list.append(plugins_in(&dir.join(&list.name))?)?;
        }
        if list.plugins.is_empty() {
            return Err(Error::InvalidNetworkConfig(format!(
                "network {} has no plugins",
                list.name
            )));
        }
        Ok(list)
    }

    /// Appends plugins from elsewhere. The source then holds them too, so that it stays the whole list.
    fn append(&mut self, plugins: Vec<PluginConf>) -> Result<(), Error> {
        if plugins.is_empty() {
            return Ok(());
        }
        self.plugins.extend(plugins);
        let mut source: Map<String, Value> = serde_json::from_slice(&self.source)?;
        source.insert("loadOnlyInlinedPlugins".into(), true.into());
        source.insert("plugins".into(), json!(self.plugins));
        self.source = serde_json::to_vec(&source)?;
        Ok(())
    }
}

impl PluginConf {
    /// The plugin's name, its `type`.
    pub fn plugin_type(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The capabilities that it declares, in their order.
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        let declared = self.0.get("capabilities").and_then(Value::as_object);
        declared
            .into_iter()
            .flatten()
            .filter(|(_, on)| **on == Value::Bool(true))
            .map(|(name, _)| name.as_str())
    }

    /// Every key as it was written.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PluginConf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A visitor, and not a map that is looked at afterwards, since errors from within it get line and column.
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = PluginConf;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the configuration of a plugin, an object with \"type\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<PluginConf, A::Error> {
                let mut keys = Map::new();
                while let Some((key, value)) = access.next_entry()? {
                    keys.insert(key, value);
                }
                match keys.get("type") {
                    None if keys.contains_key("plugins") => Err(A::Error::custom(
                        "this is a list of plugins, not the configuration of one: name the file *.conflist",
                    )),
                    None => Err(A::Error::missing_field("type")),
                    Some(Value::String(name)) => match check_plugin_type(name) {
                        Ok(()) => Ok(PluginConf(keys)),
                        Err(error) => Err(A::Error::custom(error.details())),
                    },
                    Some(other) => {
                        Err(A::Error::custom(format!("type must be a string, not {other}")))
                    }
                }
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// The keys of a list, as they are written.
#[derive(Deserialize)]
#[serde(
    rename_all = "camelCase",
    expecting = "a list of plugins, an object with \"name\" and \"plugins\""
)]
struct Written {
    name: String,
    #[serde(default)]
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default, deserialize_with = "bool_or_text")]
    disable_check: bool,
    #[serde(default, rename = "disableGC", deserialize_with = "bool_or_text")]
    disable_gc: bool,
    #[serde(default, deserialize_with = "bool_or_text")]
    load_only_inlined_plugins: bool,
    plugins: Option<Vec<PluginConf>>,
}

impl Written {
    /// The highest version that is offered and known (spec: "Version considerations").
    fn version(&self) -> Result<SpecVersion, Error> {
        let single = self.cni_version.as_deref().filter(|text| !text.is_empty());
        let offered: Vec<_> = self.cni_versions.iter().map(String::as_str).chain(single).collect();
        if offered.is_empty() {
            return Ok(SpecVersion::default());
        }
        offered.iter().filter_map(|text| text.parse().ok()).max().ok_or_else(|| {
            let known = SpecVersion::ALL.map(SpecVersion::as_str).join(", ");
            Error::IncompatibleVersion(format!(
                "none of the cniVersions {} is a known version of the CNI spec; known are {known}",
                offered.join(", ")
            ))
        })
    }
}

/// A boolean, or its name in a string in any case, as libcni takes it.
fn bool_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Bool(on) => Ok(on),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(D::Error::custom(format!("must be true or false, not {other}"))),
    }
}

/// Tells text that is no JSON from JSON that is not what it should be; either way with line and column.
fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        Category::Data => Error::InvalidNetworkConfig(error.to_string()),
        _ => Error::FailedToDecode(error.to_string()),
    })
}

/// Longer than any configuration. What is in its place may have no end, as a device.
const LONGEST: u64 = 1 << 24;

/// What is in a file; a pipe in its place does not make anybody wait.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |e: std::io::Error| Error::IOFailure(format!("read {}: {e}", path.display()));
    let mut options = OpenOptions::new();
    let file = options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let mut bytes = Vec::new();
    if file.take(LONGEST).read_to_end(&mut bytes).map_err(failed)? as u64 == LONGEST {
        return Err(Error::InvalidNetworkConfig(format!(
            "{} is too long for a configuration",
            path.display()
        )));
    }
    Ok(bytes)
}

/// The plugins that a folder adds to a network; none if there is no such folder.
fn plugins_in(folder: &Path) -> Result<Vec<PluginConf>, Error> {
    let files = super::conf_dir::files(folder, &["conf"])?;
    let load = |file: &std::path::PathBuf| {
        parse(&read_file(file)?).map_err(|error| error.context(file.display()))
    };
    files.iter().map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(json: &Value) -> Result<NetConfList, Error> {
        NetConfList::from_json(json.to_string().as_bytes())
    }

    fn with(key: &str, value: Value) -> Value {
        let mut json =
            json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [{ "type": "noop" }] });
        json[key] = value;
        json
    }

    #[test]
    fn what_has_no_end_is_no_configuration_and_a_pipe_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (long, pipe) = (dir.path().join("long.conflist"), dir.path().join("pipe.conflist"));
        std::fs::File::create(&long).unwrap().set_len(1 << 40).unwrap();
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        for file in [long, pipe] {
            assert!(NetConfList::from_file(&file).is_err());
        }
    }

    #[test]
    fn plugins_keep_every_key_in_its_order() {
        let text = r#"{"name":"net","plugins":[{"zebra":1,"type":"a","ape":{"y":[2],"b":null}},{"type":"b"}]}"#;
        let list = NetConfList::from_json(text.as_bytes()).unwrap();
        assert_eq!(
            serde_json::to_string(&list.plugins[0]).unwrap(),
            r#"{"zebra":1,"type":"a","ape":{"y":[2],"b":null}}"#
        );
        assert_eq!(
            list.plugins.iter().map(PluginConf::plugin_type).collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!((list.cni_version, list.source()), (SpecVersion::V0_1_0, text.as_bytes()));
    }

    #[test]
    fn the_highest_known_version_wins() {
        let version = |offered: Value| list(&with("cniVersions", offered)).unwrap().cni_version;
        assert_eq!(version(json!(["0.3.1", "1.1.0", "0.4.0"])), SpecVersion::V1_1_0);
        assert_eq!(version(json!(["0.3.1", "9.0.0"])), SpecVersion::V1_0_0);
        assert_eq!(version(json!([])), SpecVersion::V1_0_0);
        let error = list(&with("cniVersion", json!("9.0.0"))).unwrap_err();
        assert_eq!(error.code(), 1);
        assert!(error.details().contains("9.0.0"), "{error}");
    }

    #[test]
    fn booleans_may_be_text() {
        for (value, on) in [
            (json!(true), true),
            (json!("TRUE"), true),
            (json!("false"), false),
            (json!(false), false),
        ] {
            assert_eq!(
                list(&with("disableCheck", value.clone())).unwrap().disable_check,
                on,
                "{value}"
            );
            assert_eq!(list(&with("disableGC", value.clone())).unwrap().disable_gc, on, "{value}");
        }
        for value in [json!("yes"), json!(1), json!(null)] {
            assert_eq!(
                list(&with("disableCheck", value.clone())).unwrap_err().code(),
                7,
                "{value}"
            );
        }
    }

    #[test]
    fn only_capabilities_that_are_true_are_declared() {
        let plugin =
            json!([{ "type": "a", "capabilities": { "mac": true, "ips": false, "dns": true } }]);
        let list = list(&with("plugins", plugin)).unwrap();
        assert_eq!(list.plugins[0].capabilities().collect::<Vec<_>>(), ["mac", "dns"]);
    }

    #[test]
    fn errors_say_line_and_column() {
        let broken = [
            ("{\n \"name\": \"net\",\n oops }", 6, "line 3 column 2"),
            ("{\n \"name\": 1 }", 7, "line 2 column 10"),
            ("{\n \"name\": \"net\", \"plugins\": 5 }", 7, "line 2"),
            ("{\n \"name\": \"net\",\n \"plugins\": [{}] }", 7, "line 3"),
            ("{\n \"name\": \"net\",\n \"plugins\": [{\"type\":\"../sh\"}] }", 7, "line 3"),
            ("{\n \"name\": \"net\",\n \"disableCheck\": \"no\", \"plugins\": [] }", 7, "line 3"),
            ("{\n \"plugins\": [] }", 7, "missing field `name` at line 2"),
            ("[]", 7, "line 1"),
        ];
        for (text, code, place) in broken {
            let error = NetConfList::from_json(text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), code, "{text}: {error}");
            assert!(error.details().contains(place), "{text}: {error}");
        }
        let error =
            NetConfList::from_plugin_json(b"{ \"name\": \"net\",\n \"plugins\": [] }").unwrap_err();
        assert!(error.details().contains("*.conflist at line 2"), "{error}");
    }

    #[test]
    fn a_network_needs_a_valid_name_and_plugins() {
        for (key, value) in [("name", json!("")), ("name", json!("../x")), ("plugins", json!([]))] {
            assert_eq!(list(&with(key, value)).unwrap_err().code(), 7, "{key}");
        }
        assert_eq!(
            list(&json!({ "name": "net", "loadOnlyInlinedPlugins": true })).unwrap_err().code(),
            7
        );
        assert_eq!(list(&json!({ "name": "net" })).unwrap_err().code(), 7);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let text = br#"{ "type": "ptp", "name": "net", "cniVersion": "0.4.0", "mtu": 1 }"#;
        let list = NetConfList::from_plugin_json(text).unwrap();
        assert_eq!((list.name.as_str(), list.cni_version), ("net", SpecVersion::V0_4_0));
        assert_eq!(list.plugins[0].as_map()["mtu"], 1);
        assert_eq!(NetConfList::from_json(list.source()).unwrap(), list);
    }

    #[test]
    fn plugins_of_the_networks_folder_are_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("10-net.conflist");
        std::fs::create_dir(dir.path().join("net")).unwrap();
        for (file, plugin) in [("2.conf", "third"), ("1.conf", "second"), ("3.txt", "never")] {
            std::fs::write(
                dir.path().join("net").join(file),
                json!({ "type": plugin }).to_string(),
            )
            .unwrap();
        }
        std::fs::write(&path, with("plugins", json!([{ "type": "first" }])).to_string()).unwrap();
        let list = NetConfList::from_file(&path).unwrap();
        assert_eq!(
            list.plugins.iter().map(PluginConf::plugin_type).collect::<Vec<_>>(),
            ["first", "second", "third"]
        );
        assert_eq!(NetConfList::from_json(list.source()).unwrap().plugins, list.plugins);

        std::fs::write(&path, with("loadOnlyInlinedPlugins", json!("true")).to_string()).unwrap();
        assert_eq!(NetConfList::from_file(&path).unwrap().plugins.len(), 1);
    }
}
