//! Options that several commands share: directories and the time limit of plugin calls.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use rscni::{
    invoke::Exec,
    runtime::{Cache, Runtime},
};

use crate::{
    duration::duration,
    network::{CONF_DIR, runtime, split_path},
};

pub(crate) const PLUGIN_DIR: &str = "/opt/cni/bin";
pub(crate) const CACHE_DIR: &str = "/var/lib/cni";

/// The directories of network configurations and plugins, and the time limit of plugin calls.
#[derive(clap::Args)]
pub(crate) struct PluginOptions {
    /// Directory of network configurations
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    #[arg(env = "NETCONFPATH", hide_env_values = true)]
    conf_dir: OsString,
    /// Directories of plugins, separated by ':'; this program's own are always found
    #[arg(long, value_name = "DIRS", default_value = PLUGIN_DIR)]
    #[arg(env = "CNI_PATH", hide_env_values = true)]
    plugin_dir: OsString,
    /// Kill a plugin that runs longer than this, such as 10s, with every process that it started
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

impl PluginOptions {
    /// Returns the time limit of each plugin call.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// Returns the directory of network configurations.
    pub(crate) fn conf_dir(&self) -> &Path {
        Path::new(or(&self.conf_dir, CONF_DIR))
    }

    /// Returns the directories of plugins.
    pub(crate) fn plugin_path(&self) -> Vec<PathBuf> {
        split_path(or(&self.plugin_dir, PLUGIN_DIR))
    }

    /// Returns a runtime with these options that calls plugins through `exec`.
    pub(crate) fn runtime<'a, E>(&self, exec: &'a E, cache: Cache) -> Runtime<&'a E>
    where
        &'a E: Exec,
    {
        runtime(exec, &self.plugin_path(), cache, self.timeout)
    }
}

/// The directory of libcni's result cache.
#[derive(clap::Args)]
pub(crate) struct CacheOptions {
    /// Directory of the cache that records attachments
    #[arg(long, value_name = "DIR", default_value = CACHE_DIR)]
    cache_dir: PathBuf,
}

impl CacheOptions {
    /// Returns the directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.cache_dir
    }

    /// Returns the cache in the directory.
    pub(crate) fn cache(&self) -> Cache {
        Cache::new(&self.cache_dir)
    }
}

/// The options of commands that call plugins and use the cache.
#[derive(clap::Args)]
pub(crate) struct RuntimeOptions {
    #[command(flatten)]
    pub(crate) plugins: PluginOptions,
    #[command(flatten)]
    pub(crate) cache: CacheOptions,
}

/// Returns the value, or the default if it is empty: an empty variable counts as unset.
fn or<'a>(value: &'a OsStr, default: &'a str) -> &'a OsStr {
    if value.is_empty() { default.as_ref() } else { value }
}
