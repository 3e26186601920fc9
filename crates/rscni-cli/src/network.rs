//! Operations on a network by its name, shared by `rscni` and `cnitool`.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};

use rscni::{
    CNIResult, Error, SpecVersion,
    invoke::{Exec, Invocation, Outcome, Process},
    runtime::{AttachmentParams, Cache, ConfDir, NetConfList, Runtime},
};
use rscni_plugins::Linked;
use serde_json::{Map, Value};
use sha2::{Digest, Sha512};

/// The default directory of network configurations.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";

/// An operation without a result, on an attachment or its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Del,
    Check,
    Gc,
    Status,
}

/// An attachment with the directories and limits of its operations.
pub(crate) struct Target {
    pub(crate) network: String,
    pub(crate) netns: PathBuf,
    pub(crate) params: AttachmentParams,
    pub(crate) conf_dir: PathBuf,
    pub(crate) plugin_path: Vec<PathBuf>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) cache: Cache,
}

/// The outcome of an ADD.
pub(crate) struct Added {
    pub(crate) result: CNIResult,
    /// The network's version, which is also that of the printed result.
    pub(crate) version: SpecVersion,
    /// The plugin calls in their order.
    pub(crate) calls: Vec<TimedCall>,
}

/// A plugin call and its duration.
#[derive(Clone, Debug)]
pub(crate) struct TimedCall {
    pub(crate) plugin: String,
    pub(crate) time: Duration,
}

impl Target {
    /// Attaches the namespace to the network.
    pub(crate) fn add(&self) -> Result<Added, Error> {
        let list = self.list(None)?;
        let exec = TimedExec::default();
        let result = self.runtime(&exec).add(&list, &self.params)?;
        Ok(Added { result, version: list.cni_version, calls: exec.calls() })
    }

    /// Runs an operation without a result.
    pub(crate) fn run(&self, action: Action) -> Result<(), Error> {
        let list = self.list(Some(action))?;
        let exec = TimedExec::default();
        let runtime = self.runtime(&exec);
        match action {
            Action::Del => runtime.del(&list, &self.params).map_err(Error::from),
            Action::Check => runtime.check(&list, &self.params),
            // As in cnitool, no attachment is valid.
            Action::Gc => runtime.gc(&list, &[]).map_err(Error::from),
            Action::Status => runtime.status(&list),
        }
    }

    fn runtime<'a>(&self, exec: &'a TimedExec) -> Runtime<&'a TimedExec> {
        runtime(exec, &self.plugin_path, self.cache.clone(), self.timeout)
    }

    /// Returns the network's configuration. DEL falls back to the cached one.
    fn list(&self, action: Option<Action>) -> Result<NetConfList, Error> {
        let missing = match ConfDir::load(&self.conf_dir)?.find(&self.network) {
            Ok(list) => return Ok(list.clone()),
            Err(error) => error,
        };
        let entry = if action == Some(Action::Del) {
            self.cache.load(&self.network, &self.params).ok().flatten()
        } else {
            None
        };
        entry.and_then(|entry| NetConfList::from_json(&entry.config).ok()).ok_or(missing)
    }
}

/// Returns a runtime with an optional time limit for each plugin call.
pub(crate) fn runtime<'a, E>(
    exec: &'a E,
    path: &[PathBuf],
    cache: Cache,
    limit: Option<Duration>,
) -> Runtime<&'a E>
where
    &'a E: Exec,
{
    let runtime = Runtime::new(exec, path).with_cache(cache);
    match limit {
        Some(limit) => runtime.with_time_limit(limit),
        None => runtime,
    }
}

/// Calls plugins and records the duration of each call.
#[derive(Default)]
pub(crate) struct TimedExec(Mutex<Vec<TimedCall>>);

impl TimedExec {
    /// Returns the calls so far.
    fn calls(&self) -> Vec<TimedCall> {
        self.0.lock().map(|calls| calls.clone()).unwrap_or_default()
    }
}

impl Exec for &TimedExec {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        Linked.find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let begin = Instant::now();
        let outcome = match invocation.time_limit {
            None => Linked.exec(invocation)?,
            Some(_) => Process.exec(&as_process(invocation))?,
        };
        if let Ok(mut calls) = self.0.lock() {
            calls.push(TimedCall { plugin: invocation.plugin.clone(), time: begin.elapsed() });
        }
        Ok(outcome)
    }
}

/// Whether the file is this program or an installed copy of it.
pub(crate) fn is_this_program(program: &Path) -> bool {
    let identity = |file: &Path| file.metadata().ok().map(|it| (it.dev(), it.ino()));
    rscni_plugins::is_named_as_this_program(program)
        || identity(program).is_some_and(|it| Some(it) == identity(Path::new("/proc/self/exe")))
}

/// Environment variable that selects a plugin if the program's file name does not.
pub(crate) const PLUGIN_VARIABLE: &str = "RSCNI_PLUGIN";

/// Prepares the call for a separate process, since only a process can be killed at its time limit.
///
/// If the file name is not the plugin's, [`PLUGIN_VARIABLE`] selects the plugin.
fn as_process(invocation: &Invocation) -> Invocation {
    let mut invocation = invocation.clone();
    if invocation.program.file_name() != Some(OsStr::new(&invocation.plugin)) {
        invocation.vars.insert(PLUGIN_VARIABLE.into(), invocation.plugin.clone().into());
    }
    invocation
}

/// Derives the container id from the namespace's path as `cnitool` does, so that either tool can
/// detach what the other attached.
pub(crate) fn container_id(netns: &Path) -> String {
    let digest = Sha512::digest(netns.as_os_str().as_encoded_bytes());
    digest[..10].iter().fold("cnitool-".to_owned(), |mut id, byte| {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// Makes a path absolute and clean without resolving links, as Go's `filepath.Abs` does.
///
/// The container id depends on it, and the namespace may no longer exist.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let from_root = std::path::absolute(path).map_err(|e| {
        Error::InvalidEnvValue(format!("network namespace {:?}: {e}", path.display()))
    })?;
    let mut clean = PathBuf::new();
    for component in from_root.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    Ok(clean)
}

/// Splits the value of `CNI_PATH`.
pub(crate) fn split_path(text: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(text).filter(|dir| !dir.as_os_str().is_empty()).collect()
}

/// Parses the value of `CNI_ARGS`.
pub(crate) fn parse_args(text: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::InvalidEnvValue(format!(
                "CNI_ARGS: {pair:?} must be of the form KEY=VALUE"
            ))),
        })
        .collect()
}

/// Whether the value of a boolean variable is true.
pub(crate) fn is_true(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

/// Parses the value of `CAP_ARGS`.
pub(crate) fn parse_cap_args(text: &str) -> Result<Map<String, Value>, Error> {
    serde_json::from_str(text).map_err(|e| {
        Error::InvalidEnvValue(format!(
            "CAP_ARGS: must be a JSON object that maps capabilities to values: {e}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_id_equals_that_of_cnitool() {
        // From `cnitool add mynet /var/run/netns/testing`.
        assert_eq!(
            container_id(Path::new("/var/run/netns/testing")),
            "cnitool-77383ca0a0715733ca6f"
        );
    }

    #[test]
    fn absolute_cleans_paths_like_go() {
        let clean = |path: &str| absolute(Path::new(path)).unwrap();
        assert_eq!(clean("/var//run/./netns/../netns/a/"), Path::new("/var/run/netns/a"));
        assert_eq!(clean("/../.."), Path::new("/"));
        assert_eq!(clean("a/../b"), std::env::current_dir().unwrap().join("b"));
    }

    #[test]
    fn cni_args_must_be_pairs() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            parse_args("IgnoreUnknown=1;K=a=b;").unwrap(),
            [pair("IgnoreUnknown", "1"), pair("K", "a=b")]
        );
        for bad in ["K", "=v", "a=1;b"] {
            assert_eq!(parse_args(bad).unwrap_err().code(), 4, "{bad}");
        }
    }

    #[test]
    fn cap_args_must_be_an_object() {
        assert_eq!(parse_cap_args(r#"{ "mac": "x" }"#).unwrap()["mac"], "x");
        assert_eq!(parse_cap_args("[]").unwrap_err().code(), 4);
    }
}
