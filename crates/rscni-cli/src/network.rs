//! The operations on a network by its name, as `rscni` and `cnitool` both do it.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{self, Write as _},
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

/// Where network configurations are, unless said otherwise.
pub(crate) const CONF_DIR: &str = "/etc/cni/net.d";

/// What is to be done with an attachment, or with the network that it is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Del,
    Check,
    Gc,
    Status,
}

/// An attachment to a network, and where all that belongs to it is found.
pub(crate) struct Target {
    pub(crate) network: String,
    pub(crate) netns: PathBuf,
    pub(crate) params: AttachmentParams,
    pub(crate) conf_dir: PathBuf,
    pub(crate) plugin_path: Vec<PathBuf>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) cache: Cache,
}

/// What an ADD gave.
pub(crate) struct Added {
    pub(crate) result: CNIResult,
    /// The network's version, in which the result is to be written.
    pub(crate) version: SpecVersion,
    /// The plugins that were called, in their order.
    pub(crate) steps: Vec<Step>,
}

/// One call of a plugin.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) plugin: String,
    pub(crate) time: Duration,
}

impl Target {
    /// Attaches.
    pub(crate) fn add(&self) -> Result<Added, Error> {
        let list = self.list(None)?;
        let watched = Watched::default();
        let result = self.runtime(&watched).add(&list, &self.params)?;
        Ok(Added { result, version: list.cni_version, steps: watched.steps() })
    }

    /// Does what has no result.
    pub(crate) fn run(&self, action: Action) -> Result<(), Error> {
        let list = self.list(Some(action))?;
        let watched = Watched::default();
        let runtime = self.runtime(&watched);
        match action {
            Action::Del => runtime.del(&list, &self.params).map_err(Error::from),
            Action::Check => runtime.check(&list, &self.params),
            // As cnitool does it: it knows of no attachment that is to be kept.
            Action::Gc => runtime.gc(&list, &[]).map_err(Error::from),
            Action::Status => runtime.status(&list),
        }
    }

    fn runtime<'a>(&self, exec: &'a Watched) -> Runtime<&'a Watched> {
        runtime(exec, &self.plugin_path, self.cache.clone(), self.timeout)
    }

    /// The network's configuration. One whose file is gone is still good for a DEL, from the cache.
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

/// A runtime that ends plugins at the limit, if there is one.
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

/// Calls plugins, passes on to this program's stderr what they say there, and notes how long each takes.
#[derive(Default)]
pub(crate) struct Watched(Mutex<Vec<Step>>);

impl Watched {
    /// The calls so far.
    fn steps(&self) -> Vec<Step> {
        self.0.lock().map(|steps| steps.clone()).unwrap_or_default()
    }
}

impl Exec for &Watched {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        Linked.find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let begin = Instant::now();
        let outcome = match invocation.time_limit {
            None => Linked.exec(invocation)?,
            Some(_) => Process.exec(&apart(invocation))?,
        };
        if let Ok(mut steps) = self.0.lock() {
            steps.push(Step { plugin: invocation.plugin.clone(), time: begin.elapsed() });
        }
        // What plugins say to people is no part of their answer.
        let _ = io::stderr().write_all(&outcome.stderr);
        Ok(outcome)
    }
}

/// Whether a file is this program, here or as it was installed.
pub(crate) fn is_this_program(program: &Path) -> bool {
    let identity = |file: &Path| file.metadata().ok().map(|it| (it.dev(), it.ino()));
    rscni_plugins::is_named_as_this_program(program)
        || identity(program).is_some_and(|it| Some(it) == identity(Path::new("/proc/self/exe")))
}

/// Names the plugin of this program that a process is to be, where its own name does not say it.
pub(crate) const PLUGIN_VARIABLE: &str = "RSCNI_PLUGIN";

/// The call as one of a process: only that can be ended at its limit. Where the plugin is inside this program and no
/// file has its name, a variable tells it.
fn apart(invocation: &Invocation) -> Invocation {
    let mut invocation = invocation.clone();
    if invocation.program.file_name() != Some(OsStr::new(&invocation.plugin)) {
        invocation.vars.insert(PLUGIN_VARIABLE.into(), invocation.plugin.clone().into());
    }
    invocation
}

/// The container id that `cnitool` derives from the path of a network namespace, so that one tool can detach what
/// another attached.
pub(crate) fn container_id(netns: &Path) -> String {
    let digest = Sha512::digest(netns.as_os_str().as_encoded_bytes());
    digest[..10].iter().fold("cnitool-".to_owned(), |mut id, byte| {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// A path made absolute by its text alone, as Go does it: the container id depends on it, and the namespace may be
/// gone.
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

/// The directories of `CNI_PATH`.
pub(crate) fn split_path(text: &OsStr) -> Vec<PathBuf> {
    std::env::split_paths(text).filter(|dir| !dir.as_os_str().is_empty()).collect()
}

/// The pairs of `CNI_ARGS`.
pub(crate) fn parse_args(text: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::InvalidEnvValue(format!(
                "CNI_ARGS: {pair:?} is not a pair of the form KEY=VALUE"
            ))),
        })
        .collect()
}

/// A variable's text that says yes.
pub(crate) fn is_true(text: &str) -> bool {
    text == "1" || text.eq_ignore_ascii_case("true")
}

/// The object of `CAP_ARGS`.
pub(crate) fn parse_cap_args(text: &str) -> Result<Map<String, Value>, Error> {
    serde_json::from_str(text).map_err(|e| {
        Error::InvalidEnvValue(format!(
            "CAP_ARGS: must be a JSON object of capabilities and their values: {e}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_id_is_cnitools() {
        // From `cnitool add mynet /var/run/netns/testing`.
        assert_eq!(
            container_id(Path::new("/var/run/netns/testing")),
            "cnitool-77383ca0a0715733ca6f"
        );
    }

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        let clean = |path: &str| absolute(Path::new(path)).unwrap();
        assert_eq!(clean("/var//run/./netns/../netns/a/"), Path::new("/var/run/netns/a"));
        assert_eq!(clean("/../.."), Path::new("/"));
        assert_eq!(clean("a/../b"), std::env::current_dir().unwrap().join("b"));
    }

    #[test]
    fn arguments_are_pairs() {
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
    fn capability_arguments_are_an_object() {
        assert_eq!(parse_cap_args(r#"{ "mac": "x" }"#).unwrap()["mac"], "x");
        assert_eq!(parse_cap_args("[]").unwrap_err().code(), 4);
    }
}
