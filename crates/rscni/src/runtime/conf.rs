//! Network configurations as an administrator writes them (spec: "Section 1: Network configuration
//! format").
//!
//! The keys of plugins are passed on unchanged and in their order.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, Unexpected},
    ser::Error as _,
};
use serde_json::{Map, Value, json};

use super::conf_dir::{cannot_list, files, has_extension};
use crate::{
    Dns, Error, SpecVersion, any_case,
    fault::{excerpt, join},
    name::{check_network_name, check_plugin_type},
};

/// A network: a name, a version and a chain of plugins.
///
/// ```
/// use rscni::runtime::NetConfList;
///
/// let list = NetConfList::from_json(
///     br#"{ "cniVersion": "1.0.0", "name": "net",
///           "plugins": [{ "type": "bridge" }, { "type": "portmap" }] }"#,
/// )?;
/// assert_eq!(list.plugins[1].plugin_type(), "portmap");
/// # Ok::<(), rscni::Error>(())
/// ```
///
/// Serde reads a list as [`from_json`](NetConfList::from_json) and writes its
/// [`source`](NetConfList::source), which has every key.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
#[non_exhaustive]
pub struct NetConfList {
    /// The network's name.
    pub name: String,
    /// The version for its plugins: the highest known one of `cniVersions` and `cniVersion`.
    pub cni_version: SpecVersion,
    /// Whether CHECK is disabled (`disableCheck`).
    pub disable_check: bool,
    /// Whether GC is disabled (`disableGC`).
    pub disable_gc: bool,
    /// Whether the folder with the network's name is ignored (`loadOnlyInlinedPlugins`).
    pub load_only_inlined_plugins: bool,
    /// The chain, in the order of ADD.
    pub plugins: Vec<PluginConf>,
    source: Vec<u8>,
    /// The problems of plugin keys with wrong types.
    wrong_types: Vec<String>,
}

/// The configuration of a plugin in a chain, with all keys in their order.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct PluginConf(Map<String, Value>);

impl NetConfList {
    /// Reads a list (`.conflist`). Keys may have any case; the last value of a repeated key wins.
    ///
    /// Wrong types of keys such as `capabilities` are only reported by
    /// [`check_types`](Self::check_types).
    ///
    /// # Errors
    /// [`Error::FailedToDecode`] with line and column if it is not JSON;
    /// [`Error::InvalidNetworkConfig`] with the path of the key if it is not a list of plugins with
    /// a valid name; [`Error::IncompatibleVersion`] if none of its versions is known.
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
        list.wrong_types = plugin.wrong_types("").into_iter().collect();
        Ok(list)
    }

    /// Checks the types of keys that are common to all plugins, such as `capabilities`, `ipam` and
    /// `dns`. ADD and STATUS reject a list with wrong types. DEL, CHECK and GC do not, since
    /// earlier releases attached with such a list.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each wrong key.
    pub fn check_types(&self) -> Result<(), Error> {
        match self.wrong_types.as_slice() {
            [] => Ok(()),
            problems => Err(Error::InvalidNetworkConfig(problems.join("; "))),
        }
    }

    /// Reads a file: a list if its extension is `.conflist`, otherwise a single plugin.
    ///
    /// Adds the plugins in the `*.conf` files of the folder beside it that has the network's name,
    /// unless the list sets `loadOnlyInlinedPlugins`.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if it cannot be read, and those of [`from_json`](Self::from_json); all
    /// name the file.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let bytes = read_file(path)?;
        if has_extension(path, "conflist") {
            parse(&bytes, LIST).and_then(|list| Self::read(&list, bytes, path.parent()))
        } else {
            Self::from_plugin_json(&bytes)
        }
        .map_err(|error| error.context(path.display()))
    }

    /// Returns the list as it was written, for the DEL after its file is gone.
    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Reads a list, and the plugins of the folder in `dir` with the network's name.
    fn read(list: &Map<String, Value>, source: Vec<u8>, dir: Option<&Path>) -> Result<Self, Error> {
        let mut keys: ListKeys = any_case::section(list, "")?;
        check_network_name(&keys.name)?;
        if keys.plugins.is_none() && keys.load_only_inlined_plugins {
            return Err(Error::InvalidNetworkConfig(
                "plugins: missing, but loadOnlyInlinedPlugins is true".into(),
            ));
        }
        let (mut plugins, mut wrong_types) = (Vec::new(), Vec::new());
        for (index, plugin) in keys.plugins.take().into_iter().flatten().enumerate() {
            let path = format!("plugins[{index}]");
            let plugin = PluginConf::new(plugin, &path)?;
            wrong_types.extend(plugin.wrong_types(&path));
            plugins.push(plugin);
        }
        let mut list = Self {
            cni_version: keys.version()?,
            name: keys.name,
            disable_check: keys.disable_check,
            disable_gc: keys.disable_gc,
            load_only_inlined_plugins: keys.load_only_inlined_plugins,
            wrong_types,
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

    /// Appends plugins, also to the source, so that the source is complete.
    fn append(&mut self, plugins: Vec<(PathBuf, PluginConf)>) -> Result<(), Error> {
        if plugins.is_empty() {
            return Ok(());
        }
        for (file, plugin) in plugins {
            let problem = plugin.wrong_types("");
            self.wrong_types
                .extend(problem.map(|problem| format!("{}: {problem}", file.display())));
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

impl TryFrom<Map<String, Value>> for NetConfList {
    type Error = Error;

    fn try_from(list: Map<String, Value>) -> Result<Self, Error> {
        let source = serde_json::to_vec(&list)?;
        Self::read(&list, source, None)
    }
}

impl Serialize for NetConfList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let list: Map<String, Value> =
            serde_json::from_slice(&self.source).map_err(S::Error::custom)?;
        list.serialize(serializer)
    }
}

impl NetConfList {
    /// Iterates over the plugins in the order of ADD.
    pub fn iter(&self) -> std::slice::Iter<'_, PluginConf> {
        self.plugins.iter()
    }
}

impl<'a> IntoIterator for &'a NetConfList {
    type Item = &'a PluginConf;
    type IntoIter = std::slice::Iter<'a, PluginConf>;

    /// Iterates over the plugins in the order of ADD.
    fn into_iter(self) -> Self::IntoIter {
        self.plugins.iter()
    }
}

impl IntoIterator for NetConfList {
    type Item = PluginConf;
    type IntoIter = std::vec::IntoIter<PluginConf>;

    fn into_iter(self) -> Self::IntoIter {
        self.plugins.into_iter()
    }
}

impl PluginConf {
    /// Checks the `type` of the plugin at `path` of a list.
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

    /// Describes keys with wrong types, as Go's libcni rejects them.
    fn wrong_types(&self, path: &str) -> Option<String> {
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
        any_case::read_entries::<Types>(&entries, path).err()
    }

    /// Returns the plugin's name, its `type`.
    pub fn plugin_type(&self) -> &str {
        self.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns the capabilities that the plugin declares, in order.
    pub fn capabilities(&self) -> impl Iterator<Item = &str> {
        let declared = self.get("capabilities").and_then(Value::as_object);
        declared
            .into_iter()
            .flatten()
            .filter(|(_, on)| **on == Value::Bool(true))
            .map(|(name, _)| name.as_str())
    }

    /// Returns the value of a key in any case.
    pub fn get(&self, key: &str) -> Option<&Value> {
        any_case::get(&self.0, key)
    }

    /// Returns all keys as they were written.
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

/// The keys of a list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListKeys {
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

impl ListKeys {
    /// Returns the highest offered version that is known (spec: "Version considerations").
    fn version(&self) -> Result<SpecVersion, Error> {
        let single = self.cni_version.as_deref().filter(|text| !text.is_empty());
        let offered: Vec<_> = self.cni_versions.iter().map(String::as_str).chain(single).collect();
        if offered.is_empty() {
            return Ok(SpecVersion::default());
        }
        offered.iter().filter_map(|text| text.parse().ok()).max().ok_or_else(|| {
            let known = SpecVersion::ALL.map(SpecVersion::as_str).join(", ");
            Error::IncompatibleVersion(format!(
                "no cniVersion of {} is a version of the CNI spec; supported are {known}",
                offered.join(", ")
            ))
        })
    }
}

/// Reads a boolean, or its name in a string in any case, as libcni does.
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

/// Reads a JSON object: code 6 if the text is not JSON, code 7 if it is not an object.
fn parse(bytes: &[u8], expected: &str) -> Result<Map<String, Value>, Error> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            Err(Error::InvalidNetworkConfig(format!("{} is not {expected}", excerpt(&other))))
        }
        Err(error) => Err(Error::FailedToDecode(error.to_string())),
    }
}

/// Size limit of a file, since a device in its place may be endless.
const MAX_SIZE: u64 = 1 << 24;

/// Reads a file. Does not block on a pipe.
fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .and_then(|file| file.take(MAX_SIZE).read_to_end(&mut bytes))
        .map_err(|e| {
            Error::IOFailure(format!("cannot read {}: {e}", path.display())).with_source(e)
        })?;
    if bytes.len() as u64 == MAX_SIZE {
        let text = format!("{} is too long for a configuration", path.display());
        return Err(Error::InvalidNetworkConfig(text));
    }
    Ok(bytes)
}

/// Reads the plugins that a folder adds to a network; none if it does not exist.
fn plugins_in(folder: &Path) -> Result<Vec<(PathBuf, PluginConf)>, Error> {
    let files = files(folder, |file| has_extension(file, "conf") && !file.is_dir())
        .map_err(|error| cannot_list(folder, error))?;
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
    fn a_too_long_file_and_a_pipe_are_rejected() {
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
    fn a_list_is_written_with_every_key() {
        let json = json!({
            "cniVersion": "1.0.0", "cniVersions": ["1.0.0", "1.1.0"], "name": "net", "own": [1],
            "plugins": [{ "type": "a", "x": 1 }, { "type": "b" }],
        });
        let read: NetConfList = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(read, list(&json).unwrap());
        assert_eq!(serde_json::to_value(&read).unwrap(), json);
        let mut types = Vec::new();
        for plugin in &read {
            types.push(plugin.plugin_type());
        }
        assert_eq!(types, ["a", "b"]);
        assert_eq!(read.clone().into_iter().count(), 2);
        let invalid = json!({ "name": "net", "plugins": [{ "type": 1 }] });
        let error = serde_json::from_value::<NetConfList>(invalid).unwrap_err();
        assert!(error.to_string().contains("plugins[0].type"), "{error}");
    }

    #[test]
    fn plugins_keep_all_keys_in_order() {
        let text = r#"{"name":"net","plugins":[{"zebra":1,"type":"a","ape":{"y":[2],"b":null}},
            {"type":"b"}]}"#;
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
    fn the_highest_known_version_is_used() {
        let version = |offered: Value| list(&with("cniVersions", offered)).unwrap().cni_version;
        assert_eq!(version(json!(["0.3.1", "1.1.0", "0.4.0"])), SpecVersion::V1_1_0);
        assert_eq!(version(json!(["0.3.1", "9.0.0"])), SpecVersion::V1_0_0);
        assert_eq!(version(json!([])), SpecVersion::V1_0_0);
        let error = list(&with("cniVersion", json!("9.0.0"))).unwrap_err();
        assert_eq!(error.code(), 1);
        assert!(error.details().contains("9.0.0"), "{error}");
    }

    #[test]
    fn booleans_may_be_strings() {
        let check = |value: &Value| list(&with("disableCheck", value.clone()));
        let texts = [json!("TRUE"), json!("false")];
        for (value, on) in
            [json!(true), json!(false)].iter().chain(&texts).zip([true, false, true, false])
        {
            assert_eq!(check(value).unwrap().disable_check, on, "{value}");
            assert_eq!(list(&with("disableGC", value.clone())).unwrap().disable_gc, on, "{value}");
        }
        for value in [json!("yes"), json!(1)] {
            assert_eq!(check(&value).unwrap_err().code(), 7, "{value}");
        }
        assert!(!check(&json!(null)).unwrap().disable_check);
    }

    #[test]
    fn only_true_capabilities_are_declared() {
        let plugin =
            json!([{ "type": "a", "capabilities": { "mac": true, "ips": false, "dns": true } }]);
        let list = list(&with("plugins", plugin)).unwrap();
        assert_eq!(list.plugins[0].capabilities().collect::<Vec<_>>(), ["mac", "dns"]);
    }

    #[test]
    fn errors_name_the_line_or_the_path_of_the_key() {
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
            (r#"{ "name": 1, "cniVersions": 2 }"#, 7, "cniVersions: 2 is not a list"),
            ("[]", 7, "[] is not a list of plugins"),
        ];
        for (text, code, problem) in broken {
            let error = NetConfList::from_json(text.as_bytes()).unwrap_err();
            assert_eq!(error.code(), code, "{text}: {error}");
            assert!(error.details().contains(problem), "{text}: {error}");
        }
        let error =
            NetConfList::from_plugin_json(b"{ \"name\": \"net\",\n \"plugins\": [] }").unwrap_err();
        assert!(error.details().ends_with("*.conflist"), "{error}");
        let error = NetConfList::from_plugin_json(br#"{ "name": 1, "type": "a" }"#).unwrap_err();
        assert_eq!(error.details(), "name: 1 is not a string");
    }

    #[test]
    fn common_keys_of_plugins_must_have_the_types_that_go_requires() {
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
        }
        list(&with("plugins", json!([{ "type": "a" }]))).unwrap().check_types().unwrap();
        let fine = json!([{ "type": "a", "capabilities": null, "ipam": null, "dns": null },
                          { "type": "a", "capabilities": { "mac": null }, "ipam": {}, "dns": {} }]);
        list(&with("plugins", fine)).unwrap().check_types().unwrap();
        let text = br#"{ "name": "net", "type": "a", "capabilities": [], "ipam": 1 }"#;
        let error = NetConfList::from_plugin_json(text).unwrap().check_types().unwrap_err();
        assert_eq!(error.details(), "capabilities: [] is not an object; ipam: 1 is not an object");
    }

    #[test]
    fn keys_are_read_in_any_case_and_the_last_value_wins() {
        let text = br#"{ "name": "a", "Name": "b", "CNIVERSION": "0.4.0",
            "cniversions": ["1.0.0"], "name": "c", "DisableCheck": true,
            "Plugins": [{ "Type": "x", "Capabilities": { "mac": true } }] }"#;
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
    fn a_network_requires_a_valid_name_and_plugins() {
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
            let text = json!({ "type": plugin }).to_string();
            std::fs::write(dir.path().join("net").join(file), text).unwrap();
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
