//! Network configurations as an administrator writes them (spec: "Section 1: Network configuration format").
//!
//! [`NetConfList`] is one network: its name, its version and the chain of plugins. Where several lie in a directory,
//! that is [`ConfDir`](super::ConfDir). What a plugin's own keys mean is left to the plugin; they pass through here
//! unchanged and in their order.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Unexpected},
};
use serde_json::{Map, Value, json};

use crate::{
    Dns, Error, SpecVersion, any_case,
    fault::{excerpt, join},
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
    /// The keys of every plugin that have wrong types.
    wrong_types: Vec<String>,
}

/// One plugin of a chain: its configuration as it was written, in the order in which it was written.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PluginConf(Map<String, Value>);

impl NetConfList {
    /// Reads a list (`.conflist`). Keys may be spelled in any case; of a key that is there twice, the last value counts.
    ///
    /// A key that a plugin is not called with, such as `capabilities`, may have a wrong value and the list be read:
    /// see [`check_types`](Self::check_types).
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] with line and column if it is not JSON; [`Error::InvalidNetworkConfig`] with the path of
    /// the key if it is not a list of plugins with a valid name; [`Error::IncompatibleVersion`] if no version that it
    /// offers is known.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        Self::read(&parse(bytes, LIST)?, bytes.to_vec(), None)
    }

    /// Reads the configuration of a single plugin (`.conf`, `.json`) as a list of one.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_plugin_json(bytes: &[u8]) -> Result<Self, Error> {
        let plugin = PluginConf::new(parse(bytes, PLUGIN)?, "")?;
        let mut list = Map::new();
        for key in ["cniVersion", "name"] {
            let value = any_case::get(&plugin.0, key);
            list.extend(value.map(|value| (key.to_owned(), value.clone())));
        }
        list.insert("plugins".into(), json!([plugin]));
        let source = serde_json::to_vec(&list)?;
        let mut list = Self::read(&list, source, None)?;
        list.wrong_types = plugin.wrong_types("");
        Ok(list)
    }

    /// Checks the types of the keys that every plugin has: `capabilities`, `ipam`, `dns` and the like. ADD and STATUS
    /// reject a list that has wrong ones. DEL, CHECK and GC do not, since earlier releases attached with such a list.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each wrong key.
    pub fn check_types(&self) -> Result<(), Error> {
        match self.wrong_types.as_slice() {
            [] => Ok(()),
            problems => Err(Error::InvalidNetworkConfig(problems.join("; "))),
        }
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
            parse(&bytes, LIST).and_then(|list| Self::read(&list, bytes, path.parent()))
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
    fn read(list: &Map<String, Value>, source: Vec<u8>, dir: Option<&Path>) -> Result<Self, Error> {
        let written: Written = any_case::section(list, "")?;
        check_network_name(&written.name)?;
        if written.plugins.is_none() && written.load_only_inlined_plugins {
            return Err(Error::InvalidNetworkConfig(
                "plugins: missing, but loadOnlyInlinedPlugins is true".into(),
            ));
        }
        let path = |index: usize| format!("plugins[{index}]");
        let plugins = written.plugins.clone().unwrap_or_default();
        let plugins = plugins.into_iter().enumerate();
        let plugins: Vec<_> = plugins
            .map(|(i, plugin)| PluginConf::new(plugin, &path(i)))
            .collect::<Result<_, _>>()?;
        let mut list = Self {
            cni_version: written.version()?,
            name: written.name,
            disable_check: written.disable_check,
            disable_gc: written.disable_gc,
            load_only_inlined_plugins: written.load_only_inlined_plugins,
            wrong_types: plugins
                .iter()
                .enumerate()
                .flat_map(|(i, plugin)| plugin.wrong_types(&path(i)))
                .collect(),
            plugins,
            source,
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
    fn append(&mut self, plugins: Vec<(PathBuf, PluginConf)>) -> Result<(), Error> {
        if plugins.is_empty() {
            return Ok(());
        }
        for (file, plugin) in plugins {
            let problems = plugin.wrong_types("");
            self.wrong_types.extend(
                problems.into_iter().map(|problem| format!("{}: {problem}", file.display())),
            );
            self.plugins.push(plugin);
        }
        let mut source: Map<String, Value> = serde_json::from_slice(&self.source)?;
        for key in ["loadOnlyInlinedPlugins", "plugins"] {
            any_case::take(&mut source, key);
        }
        source.insert("loadOnlyInlinedPlugins".into(), true.into());
        source.insert("plugins".into(), json!(self.plugins));
        self.source = serde_json::to_vec(&source)?;
        Ok(())
    }
}

impl PluginConf {
    /// Checks that it is the configuration of a plugin. `path` is where it stands in a list.
    fn new(keys: Map<String, Value>, path: &str) -> Result<Self, Error> {
        let invalid = |problem: &str| {
            Err(Error::InvalidNetworkConfig(format!("{}: {problem}", join(path, "type"))))
        };
        match any_case::get(&keys, "type").filter(|name| !name.is_null()) {
            None if any_case::get(&keys, "plugins").is_some() => Err(Error::InvalidNetworkConfig(
                "this is a list of plugins, not the configuration of one: name the file *.conflist"
                    .into(),
            )),
            None => invalid("missing, but required"),
            Some(Value::String(name)) => match check_plugin_type(name) {
                Ok(()) => Ok(Self(keys)),
                Err(error) => invalid(&format!("{name:?}: {}", error.details())),
            },
            Some(other) => invalid(&format!("{} is not a string", excerpt(other))),
        }
    }

    /// What Go's libcni rejects: keys of every plugin that have wrong types.
    fn wrong_types(&self, path: &str) -> Vec<String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Types {
            #[serde(rename = "name")]
            _name: Option<String>,
            #[serde(rename = "cniVersion")]
            _cni_version: Option<String>,
            #[serde(rename = "capabilities")]
            _capabilities: Option<BTreeMap<String, Option<bool>>>,
            #[serde(rename = "ipam")]
            _ipam: Option<Ipam>,
            #[serde(rename = "dns")]
            _dns: Option<Dns>,
            #[serde(rename = "prevResult")]
            _prev_result: Option<Map<String, Value>>,
            #[serde(rename = "cni.dev/valid-attachments")]
            _valid_attachments: Option<Vec<Map<String, Value>>>,
        }

        #[derive(Deserialize)]
        struct Ipam {
            #[serde(rename = "type")]
            _type: Option<String>,
        }

        let entries: Vec<_> = self.0.iter().map(|(key, value)| (key.as_str(), value)).collect();
        any_case::read_entries::<Types>(&entries, path).err().into_iter().collect()
    }

    /// The plugin's name, its `type`.
    pub fn plugin_type(&self) -> &str {
        self.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The capabilities that it declares, in their order.
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        let declared = self.get("capabilities").and_then(Value::as_object);
        declared
            .into_iter()
            .flatten()
            .filter(|(_, on)| **on == Value::Bool(true))
            .map(|(name, _)| name.as_str())
    }

    /// The value of a key, however it is spelled.
    pub fn get(&self, key: &str) -> Option<&Value> {
        any_case::get(&self.0, key)
    }

    /// Every key as it was written.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl<'de> Deserialize<'de> for PluginConf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let keys = Map::deserialize(deserializer)?;
        Self::new(keys, "").map_err(|error| D::Error::custom(error.details()))
    }
}

/// The keys of a list, as they are written.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    name: String,
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default, deserialize_with = "bool_or_text")]
    disable_check: bool,
    #[serde(default, rename = "disableGC", deserialize_with = "bool_or_text")]
    disable_gc: bool,
    #[serde(default, deserialize_with = "bool_or_text")]
    load_only_inlined_plugins: bool,
    plugins: Option<Vec<Map<String, Value>>>,
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
        _ => Err(D::Error::invalid_type(Unexpected::Other("value"), &"true or false")),
    }
}

const LIST: &str = "a list of plugins, an object with \"name\" and \"plugins\"";
const PLUGIN: &str = "the configuration of a plugin, an object with \"type\"";

/// Reads an object. Text that is not JSON is another error than JSON that is not an object.
fn parse(bytes: &[u8], expected: &str) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            Err(Error::InvalidNetworkConfig(format!("{} is not {expected}", excerpt(&other))))
        }
        Err(error) => Err(Error::FailedToDecode(error.to_string())),
    }
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
fn plugins_in(folder: &Path) -> Result<Vec<(PathBuf, PluginConf)>, Error> {
    let files = super::conf_dir::files(folder, &["conf"])?;
    let load = |file: PathBuf| {
        let plugin = parse(&read_file(&file)?, PLUGIN).and_then(|keys| PluginConf::new(keys, ""));
        match plugin {
            Ok(plugin) => Ok((file, plugin)),
            Err(error) => Err(error.context(file.display())),
        }
    };
    files.into_iter().map(load).collect()
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
        for value in [json!("yes"), json!(1)] {
            assert_eq!(
                list(&with("disableCheck", value.clone())).unwrap_err().code(),
                7,
                "{value}"
            );
        }
        assert!(!list(&with("disableCheck", json!(null))).unwrap().disable_check);
    }

    #[test]
    fn only_capabilities_that_are_true_are_declared() {
        let plugin =
            json!([{ "type": "a", "capabilities": { "mac": true, "ips": false, "dns": true } }]);
        let list = list(&with("plugins", plugin)).unwrap();
        assert_eq!(list.plugins[0].capabilities().collect::<Vec<_>>(), ["mac", "dns"]);
    }

    #[test]
    fn errors_name_the_place_or_the_path_of_the_key() {
        let broken = [
            ("{\n \"name\": \"net\",\n oops }", 6, "line 3 column 2"),
            ("{\n \"name\": 1 }", 7, "name: 1 is not a string"),
            (r#"{ "name": "net", "plugins": 5 }"#, 7, "plugins: 5 is not a list"),
            (r#"{ "name": "net", "plugins": [{ "type": "a" }, 5] }"#, 7, "plugins[1]: 5 is not"),
            (r#"{ "name": "net", "plugins": [{}] }"#, 7, "plugins[0].type: missing"),
            (r#"{ "name": "net", "plugins": [{ "type": 5 }] }"#, 7, "plugins[0].type: 5 is not"),
            (r#"{ "name": "net", "plugins": [{ "type": "../sh" }] }"#, 7, "plugins[0].type: \"../"),
            (r#"{ "name": "net", "disableCheck": "no" }"#, 7, "disableCheck: \"no\" is not true"),
            (r#"{ "plugins": [] }"#, 7, "name: missing, but required"),
            (
                r#"{ "name": 1, "cniVersions": 2, "plugins": [] }"#,
                7,
                "cniVersions: 2 is not a list",
            ),
            ("[]", 7, "[] is not a list of plugins"),
        ];
        for (text, code, place) in broken {
            let error = NetConfList::from_json(text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), code, "{text}: {error}");
            assert!(error.details().contains(place), "{text}: {error}");
        }
        let error =
            NetConfList::from_plugin_json(b"{ \"name\": \"net\",\n \"plugins\": [] }").unwrap_err();
        assert!(error.details().ends_with("*.conflist"), "{error}");
        let error = NetConfList::from_plugin_json(br#"{ "name": 1, "type": "a" }"#).unwrap_err();
        assert_eq!(error.details(), "name: 1 is not a string");
    }

    #[test]
    fn keys_of_every_plugin_have_the_types_that_go_wants() {
        for (key, value, problem) in [
            (
                "capabilities",
                json!({ "mac": true, "portMappings": "true" }),
                r#"plugins[0].capabilities.portMappings: "true" is not true or false"#,
            ),
            ("capabilities", json!(["mac"]), r#"plugins[0].capabilities: ["mac"] is not"#),
            ("Capabilities", json!({ "mac": 1 }), "plugins[0].capabilities.mac: 1 is not"),
            ("ipam", json!([]), "plugins[0].ipam: [] is not an object"),
            ("ipam", json!({ "type": 5 }), "plugins[0].ipam.type: 5 is not a string"),
            ("dns", json!("10.0.0.1"), r#"plugins[0].dns: "10.0.0.1" is not"#),
            ("dns", json!({ "search": "a" }), r#"plugins[0].dns.search: "a" is not a list"#),
            ("name", json!(5), "plugins[0].name: 5 is not a string"),
        ] {
            let mut plugin = json!({ "type": "a" });
            plugin[key] = value;
            let read = list(&with("plugins", json!([plugin]))).unwrap();
            let error = read.check_types().unwrap_err();
            assert!(error.code() == 7 && error.details().contains(problem), "{error}");
            assert_eq!(
                list(&with("plugins", json!([{ "type": "a" }]))).unwrap().check_types(),
                Ok(())
            );
        }
        let fine = json!([{ "type": "a", "capabilities": null, "ipam": null, "dns": null },
                          { "type": "a", "capabilities": { "mac": null }, "ipam": {}, "dns": {} }]);
        list(&with("plugins", fine)).unwrap().check_types().unwrap();
        let text = br#"{ "name": "net", "type": "a", "capabilities": [], "ipam": 1 }"#;
        let error = NetConfList::from_plugin_json(text).unwrap().check_types().unwrap_err();
        assert_eq!(error.details(), "capabilities: [] is not an object; ipam: 1 is not an object");
    }

    #[test]
    fn keys_are_read_in_any_case_and_the_last_value_counts() {
        let text = br#"{ "name": "a", "Name": "b", "CNIVERSION": "0.4.0", "cniversions": ["1.0.0"], "name": "c",
            "DisableCheck": true, "Plugins": [{ "Type": "x", "Capabilities": { "mac": true } }] }"#;
        let list = NetConfList::from_json(text).unwrap();
        assert_eq!((&*list.name, list.cni_version), ("c", SpecVersion::V1_0_0));
        assert!(list.disable_check);
        assert_eq!(list.plugins[0].plugin_type(), "x");
        assert_eq!(list.plugins[0].capabilities().collect::<Vec<_>>(), ["mac"]);
        let text = br#"{ "cniversion": "0.3.1", "Name": "net", "Type": "x", "type": "y" }"#;
        let single = NetConfList::from_plugin_json(text).unwrap();
        assert_eq!((&*single.name, single.cni_version), ("net", SpecVersion::V0_3_1));
        assert_eq!(single.plugins[0].plugin_type(), "y");
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
