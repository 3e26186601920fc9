//! Where networks, plugins and what is remembered of attachments are, and how long plugins may take: the options that
//! several commands share.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use rscni::runtime::{Cache, Runtime};

use crate::{
    duration::duration,
    network::{CONF_DIR, Watched, runtime, split_path},
};

pub(crate) const PLUGIN_DIR: &str = "/opt/cni/bin";
pub(crate) const CACHE_DIR: &str = "/var/lib/cni";

/// Where networks and plugins are, and how long these may take.
#[derive(clap::Args)]
pub(crate) struct Places {
    /// Directory of network configurations
    #[arg(long, value_name = "DIR", env = "NETCONFPATH", hide_env_values = true, default_value = CONF_DIR)]
    conf_dir: OsString,
    /// Directories of plugins, divided by ':'; those inside this program need not be there
    #[arg(long, value_name = "DIRS", env = "CNI_PATH", hide_env_values = true, default_value = PLUGIN_DIR)]
    plugin_dir: OsString,
    /// End a plugin that takes longer than this, such as 10s, with all that it has started
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
}

impl Places {
    /// The limit for each call of a plugin.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The directory of network configurations.
    pub(crate) fn conf_dir(&self) -> &Path {
        Path::new(or(&self.conf_dir, CONF_DIR))
    }

    /// The directories of plugins.
    pub(crate) fn plugin_path(&self) -> Vec<PathBuf> {
        split_path(or(&self.plugin_dir, PLUGIN_DIR))
    }

    /// A runtime for these places, which calls plugins through `exec`.
    pub(crate) fn runtime<'a>(&self, exec: &'a Watched, cache: Cache) -> Runtime<&'a Watched> {
        runtime(exec, &self.plugin_path(), cache, self.timeout)
    }
}

/// Where attachments are remembered.
#[derive(clap::Args)]
pub(crate) struct Memory {
    /// Directory where attachments are remembered
    #[arg(long, value_name = "DIR", default_value = CACHE_DIR)]
    cache_dir: PathBuf,
}

impl Memory {
    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.cache_dir
    }

    /// What is remembered there.
    pub(crate) fn cache(&self) -> Cache {
        Cache::new(&self.cache_dir)
    }
}

/// The value, unless it is empty: a variable that is set to nothing is not set.
fn or<'a, T: AsRef<OsStr> + ?Sized>(value: &'a T, default: &'a str) -> &'a OsStr {
    if value.as_ref().is_empty() { default.as_ref() } else { value.as_ref() }
}
