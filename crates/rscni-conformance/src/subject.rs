//! What is tested: a plugin, its configuration, and the plugins before it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What somebody wants tested.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The plugin's name, or the path of its program.
    pub plugin: String,
    /// Directories in which plugins are looked for.
    pub path: Vec<PathBuf>,
    /// The text of the configuration: a plugin's, or a network list.
    pub config: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Interfaces that the private host is to have.
    pub host_interfaces: Vec<String>,
    /// Commands of a shell that furnish the private host.
    pub setup: Vec<String>,
    /// How long a call may take; half a minute unless said otherwise.
    pub time_limit: Option<Duration>,
}

/// How long a call may take by itself.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A plugin to be tested, with all that its calls need.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Subject {
    /// The plugin's name.
    pub name: String,
    /// Its file.
    pub program: PathBuf,
    /// `CNI_PATH`.
    pub path: Vec<PathBuf>,
    /// Its configuration, with `name` and without `cniVersion`.
    pub config: Map<String, Value>,
    /// The version of the configuration.
    pub version: String,
    /// `prevResult` of the configuration.
    pub prev_result: Option<Value>,
    /// The plugins before it, with their configurations.
    pub before: Vec<(PathBuf, Map<String, Value>)>,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Interfaces that the private host is to have.
    pub host_interfaces: Vec<String>,
    /// Commands of a shell that furnish the private host.
    pub setup: Vec<String>,
    /// How long a call may take.
    pub time_limit: Duration,
}

/// Why there is nothing to test.
#[derive(Debug)]
pub struct SubjectError(String);

impl std::fmt::Display for SubjectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SubjectError {}

fn wrong<T>(text: impl Into<String>) -> Result<T, SubjectError> {
    Err(SubjectError(text.into()))
}

impl Subject {
    /// Finds the plugin, and its part of the configuration.
    ///
    /// # Errors
    ///
    /// If there is no such plugin, which says where it was looked for, and if the configuration is none or has no
    /// place for it.
    pub fn find(wanted: Wanted) -> Result<Self, SubjectError> {
        let program = find_program(&wanted.plugin, &wanted.path)?;
        let name = Path::new(&wanted.plugin)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut path = wanted.path;
        if let Some(directory) = program.parent().filter(|_| wanted.plugin.contains('/')) {
            path.insert(0, directory.to_owned());
        }
        let Ok(Value::Object(file)) = serde_json::from_str(&wanted.config) else {
            return wrong("the configuration is no JSON object");
        };
        let version = file.get("cniVersion").and_then(Value::as_str).unwrap_or("1.1.0").to_owned();
        let network = file.get("name").and_then(Value::as_str).unwrap_or("conformance").to_owned();
        let mut plugins = match file.get("plugins") {
            None => vec![file],
            Some(Value::Array(plugins)) => {
                plugins.iter().filter_map(Value::as_object).cloned().collect()
            }
            Some(_) => return wrong("`plugins` of the configuration is no array"),
        };
        let Some(place) = plugins.iter().position(|plugin| is_for(plugin, &name)) else {
            return wrong(format!(
                "the configuration has no plugin of the type {name}, and no `ipam` of it"
            ));
        };
        plugins.truncate(place + 1);
        for plugin in &mut plugins {
            plugin.retain(|key, _| key != "cniVersion" && key != "capabilities");
            plugin.insert("name".to_owned(), network.clone().into());
        }
        let mut config = plugins.pop().unwrap_or_default();
        let prev_result = config.remove("prevResult");
        let before = plugins.into_iter().map(|plugin| {
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            Ok((find_program(kind, &path)?, plugin))
        });
        let before = before.collect::<Result<_, _>>()?;
        let (ifname, host_interfaces, setup) =
            (wanted.ifname, wanted.host_interfaces, wanted.setup);
        let time_limit = wanted.time_limit.unwrap_or(TIME_LIMIT);
        Ok(Self {
            name,
            program,
            path,
            config,
            version,
            prev_result,
            before,
            ifname,
            host_interfaces,
            setup,
            time_limit,
        })
    }

    /// The IPAM plugin that the configuration names.
    pub(crate) fn ipam(&self) -> Option<&str> {
        self.config.get("ipam")?.get("type")?.as_str()
    }

    /// Whether it is an IPAM plugin itself, which makes no interface.
    pub(crate) fn is_ipam(&self) -> bool {
        self.ipam() == Some(&self.name)
    }

    /// Whether others come before it, whose result it passes on. Those before an IPAM plugin stand for its caller.
    pub(crate) fn is_chained(&self) -> bool {
        !self.is_ipam() && (!self.before.is_empty() || self.prev_result.is_some())
    }
}

/// Whether this configuration calls the plugin, itself or for addresses.
fn is_for(config: &Map<String, Value>, name: &str) -> bool {
    let named = |value: Option<&Value>| value.and_then(Value::as_str) == Some(name);
    named(config.get("type")) || named(config.get("ipam").and_then(|ipam| ipam.get("type")))
}

fn find_program(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, SubjectError> {
    if plugin.is_empty() {
        return wrong("a plugin of the configuration has no `type`");
    }
    let candidates: Vec<_> = if plugin.contains('/') {
        vec![PathBuf::from(plugin)]
    } else {
        path.iter().map(|directory| directory.join(plugin)).collect()
    };
    let found = candidates
        .iter()
        .find(|file| file.is_file())
        .and_then(|file| std::path::absolute(file).ok());
    found.ok_or_else(|| {
        let looked: Vec<_> = candidates.iter().map(|file| file.display().to_string()).collect();
        SubjectError(format!("plugin {plugin} not found: looked for {}", looked.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(plugin: &str, config: &str) -> Result<Subject, SubjectError> {
        let path = vec!["/nowhere".into(), "/bin".into()];
        Subject::find(Wanted {
            plugin: plugin.into(),
            path,
            config: config.into(),
            ..Wanted::default()
        })
    }

    #[test]
    fn of_a_list_the_plugin_and_those_before_it_are_taken() {
        let list = r#"{ "cniVersion": "1.0.0", "name": "net", "plugins":
            [{ "type": "cat" }, { "type": "sh", "capabilities": {}, "a": 1 }, { "type": "ls" }] }"#;
        let subject = find("sh", list).unwrap();
        assert_eq!(
            serde_json::to_string(&subject.config).unwrap(),
            r#"{"type":"sh","a":1,"name":"net"}"#
        );
        assert_eq!(subject.before.len(), 1);
        assert_eq!((subject.version.as_str(), subject.is_chained()), ("1.0.0", true));
    }

    #[test]
    fn an_ipam_plugin_has_the_configuration_of_who_calls_it() {
        let subject =
            find("sh", r#"{ "name": "net", "type": "bridge", "ipam": { "type": "sh" } }"#).unwrap();
        assert!(subject.is_ipam());
    }

    #[test]
    fn a_plugin_that_is_not_there_was_looked_for_in_places_that_are_named() {
        let error = find("no-such-plugin", "{}").unwrap_err().to_string();
        assert!(
            error.contains("/nowhere/no-such-plugin") && error.contains("/bin/no-such-plugin"),
            "{error}"
        );
        assert!(
            find("sh", r#"{ "type": "cat" }"#)
                .unwrap_err()
                .to_string()
                .contains("no plugin of the type sh")
        );
        assert!(find("sh", "[]").unwrap_err().to_string().contains("JSON object"));
    }
}
