//! A validated call, as a plugin receives it (spec: "Parameters").

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::{
    Error, SpecVersion,
    capability::RuntimeConfig,
    cni_args::CniArgs,
    conf::NetConf,
    invoke::{AnyExec, Delegate},
};

/// The arguments of a call. They are validated: names follow the rules of the spec, and everything
/// that the command requires is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Args {
    /// `CNI_CONTAINERID`; empty for GC and STATUS.
    pub container_id: String,
    /// `CNI_NETNS`; `None` for GC and STATUS, and for a DEL whose container is gone or whose path
    /// now leads to the plugin's own namespace.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`; empty for GC and STATUS.
    pub ifname: String,
    /// `CNI_ARGS` unparsed; see [`cni_args`](Args::cni_args).
    pub args: Option<String>,
    /// `CNI_PATH`: the directories with plugins.
    pub path: Vec<PathBuf>,
    /// The configuration from stdin; set for every command.
    pub config: Option<NetConf>,
    /// The bytes of stdin, passed unchanged to a delegated plugin.
    pub stdin: Vec<u8>,
    /// Whether `CNI_NETNS_OVERRIDE` allows the plugin's own network namespace.
    pub netns_override: bool,
    /// Calls other plugins for [`delegate`](Args::delegate), as the caller of this plugin does.
    pub exec: AnyExec,
}

impl Args {
    /// Returns the configuration.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if there is none; never for a call made through
    /// [`Plugin`](crate::Plugin).
    pub fn conf(&self) -> Result<&NetConf, Error> {
        self.config
            .as_ref()
            .ok_or_else(|| Error::InvalidNetworkConfig("there is no network configuration".into()))
    }

    /// Returns the version of the configuration; 0.1.0 without one.
    pub fn version(&self) -> SpecVersion {
        self.config.as_ref().map_or_else(SpecVersion::default, |conf| conf.cni_version)
    }

    /// Returns `CNI_NETNS`, for commands that need it.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if it is not set.
    pub fn require_netns(&self) -> Result<&std::path::Path, Error> {
        self.netns.as_deref().ok_or_else(|| Error::InvalidEnvValue("CNI_NETNS must be set".into()))
    }

    /// Parses `CNI_ARGS`.
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if a pair is not of the form `KEY=VALUE`, or `IgnoreUnknown` is
    /// not a boolean.
    pub fn cni_args(&self) -> Result<CniArgs, Error> {
        self.args.as_deref().map_or_else(|| Ok(CniArgs::default()), CniArgs::parse)
    }

    /// Returns another plugin, to be called with these arguments.
    pub fn delegate<'a>(&'a self, plugin: &'a str) -> Delegate<'a> {
        Delegate::new(&self.exec, self, plugin)
    }

    /// Returns another plugin, to be called with these arguments without blocking.
    #[cfg(feature = "async")]
    pub fn delegate_async<'a>(&'a self, plugin: &'a str) -> crate::invoke::AsyncDelegate<'a> {
        crate::invoke::AsyncDelegate::new(self.exec.clone(), self, plugin)
    }

    /// Returns `args.cni` of the configuration: structured arguments for all plugins.
    pub fn args_cni(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref().and_then(NetConf::args_cni)
    }

    /// Reads `runtimeConfig` into typed capabilities.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each key that has a wrong type.
    pub fn runtime_config(&self) -> Result<RuntimeConfig, Error> {
        let Some(conf) = &self.config else { return Ok(RuntimeConfig::default()) };
        RuntimeConfig::from_json(&conf.runtime_config)
    }
}
