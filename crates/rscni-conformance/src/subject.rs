//! The subject of a run: a plugin, its configuration, and the plugins before it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The options of a run.
#[derive(Clone, Debug, Default)]
pub struct SubjectOptions {
    /// The plugin's name, or the path of its program.
    pub plugin: String,
    /// Directories with plugins.
    pub path: Vec<PathBuf>,
    /// The text of the configuration: of a plugin, or a network list.
    pub config: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Interfaces to create on the private host.
    pub host_interfaces: Vec<String>,
    /// Shell commands that set up the private host.
    pub setup: Vec<String>,
    /// Timeout of a call; 30 seconds by default.
    pub time_limit: Option<Duration>,
}

/// Default timeout of a call.
const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A plugin to check, with everything that its calls need.
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
    /// The programs before it, with their configurations.
    pub before: Vec<(PathBuf, Map<String, Value>)>,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Interfaces to create on the private host.
    pub host_interfaces: Vec<String>,
    /// Shell commands that set up the private host.
    pub setup: Vec<String>,
    /// Timeout of a call.
    pub time_limit: Duration,
}

/// An error of [`Subject::find`].
#[derive(Debug)]
pub struct SubjectError(String);

impl std::fmt::Display for SubjectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SubjectError {}

fn invalid<T>(text: impl Into<String>) -> Result<T, SubjectError> {
    Err(SubjectError(text.into()))
}

impl Subject {
    /// Finds the plugin and its part of the configuration.
    ///
    /// # Errors
    ///
    /// If the plugin is not found, with the paths that were tried, or if the configuration is
    /// invalid or does not contain the plugin.
    pub fn find(options: SubjectOptions) -> Result<Self, SubjectError> {
        let program = find_program(&options.plugin, &options.path)?;
        let name = Path::new(&options.plugin)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut path = options.path;
        if let Some(directory) = program.parent().filter(|_| options.plugin.contains('/')) {
            path.insert(0, directory.to_owned());
        }
        let Ok(Value::Object(file)) = serde_json::from_str(&options.config) else {
            return invalid("the configuration is not a JSON object");
        };
        let version = file.get("cniVersion").and_then(Value::as_str).unwrap_or("1.1.0").to_owned();
        let network = file.get("name").and_then(Value::as_str).unwrap_or("conformance").to_owned();
        let mut plugins = match file.get("plugins") {
            None => vec![file],
            Some(Value::Array(plugins)) => {
                plugins.iter().filter_map(Value::as_object).cloned().collect()
            }
            Some(_) => return invalid("`plugins` of the configuration is not an array"),
        };
        let Some(index) = plugins.iter().position(|plugin| is_for(plugin, &name)) else {
            return invalid(format!(
                "the configuration has no plugin and no `ipam` with the type {name}"
            ));
        };
        plugins.truncate(index + 1);
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
        Ok(Self {
            name,
            program,
            path,
            config,
            version,
            prev_result,
            before,
            ifname: options.ifname,
            host_interfaces: options.host_interfaces,
            setup: options.setup,
            time_limit: options.time_limit.unwrap_or(TIME_LIMIT),
        })
    }

    /// Returns the IPAM plugin of the configuration.
    pub(crate) fn ipam(&self) -> Option<&str> {
        self.config.get("ipam")?.get("type")?.as_str()
    }

    /// Whether the plugin is an IPAM plugin.
    pub(crate) fn is_ipam(&self) -> bool {
        self.ipam() == Some(&self.name)
    }

    /// Whether the plugin passes on the result of a previous one. The plugins before an IPAM plugin
    /// only stand in for its caller.
    pub(crate) fn is_chained(&self) -> bool {
        !self.is_ipam() && (!self.before.is_empty() || self.prev_result.is_some())
    }
}

/// Whether a configuration has the plugin as its `type` or `ipam.type`.
fn is_for(config: &Map<String, Value>, name: &str) -> bool {
    let named = |value: Option<&Value>| value.and_then(Value::as_str) == Some(name);
    named(config.get("type")) || named(config.get("ipam").and_then(|ipam| ipam.get("type")))
}

fn find_program(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, SubjectError> {
    if plugin.is_empty() {
        return invalid("a plugin of the configuration has no `type`");
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
        let tried: Vec<_> = candidates.iter().map(|file| file.display().to_string()).collect();
        SubjectError(format!("plugin {plugin} not found: tried {}", tried.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(plugin: &str, config: &str) -> Result<Subject, SubjectError> {
        let (plugin, config) = (plugin.into(), config.into());
        let path = vec!["/nowhere".into(), "/bin".into()];
        Subject::find(SubjectOptions { plugin, path, config, ..SubjectOptions::default() })
    }

    #[test]
    fn the_subject_of_a_list_is_the_plugin_and_those_before_it() {
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
    fn an_ipam_plugin_has_the_configuration_of_its_caller() {
        let subject =
            find("sh", r#"{ "name": "net", "type": "bridge", "ipam": { "type": "sh" } }"#).unwrap();
        assert!(subject.is_ipam());
    }

    #[test]
    fn errors_name_the_paths_that_were_tried_and_the_type() {
        let error = find("no-such-plugin", "{}").unwrap_err().to_string();
        assert!(
            error.contains("/nowhere/no-such-plugin") && error.contains("/bin/no-such-plugin"),
            "{error}"
        );
        let error = find("sh", r#"{ "type": "cat" }"#).unwrap_err().to_string();
        assert!(error.contains("with the type sh"), "{error}");
        assert!(find("sh", "[]").unwrap_err().to_string().contains("JSON object"));
    }
}
