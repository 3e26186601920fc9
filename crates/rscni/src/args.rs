//! A validated call, as a plugin receives it (spec: "Parameters").

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    Command, Error, SpecVersion, TraceContext,
    capability::RuntimeConfig,
    cni_args::CniArgs,
    conf::NetConf,
    invoke::{AnyExec, Delegate},
};

/// The arguments of a call. They are validated: names follow the rules of the spec, and everything
/// that the command requires is set.
///
/// A test of a plugin makes them itself:
///
/// ```
/// use rscni::{Args, Command, NetConf};
///
/// let mut args = Args::new(Command::Add)
///     .with_attachment("my-container", "/run/netns/my-container", "eth0")
///     .with_config(NetConf::from_json(br#"{ "name": "net", "type": "mine" }"#)?);
/// args.args = Some("IP=10.0.0.5".into());
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Args {
    /// `CNI_COMMAND`.
    pub command: Command,
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
    /// The trace of the call, if the runtime passes one.
    pub trace: Option<TraceContext>,
}

impl Args {
    /// A call of `command` without arguments and configuration.
    pub fn new(command: Command) -> Self {
        Self { command, ..Self::default() }
    }

    /// Sets container id, network namespace and interface name.
    #[must_use]
    pub fn with_attachment(
        mut self,
        container_id: impl Into<String>,
        netns: impl Into<PathBuf>,
        ifname: impl Into<String>,
    ) -> Self {
        self.container_id = container_id.into();
        self.netns = Some(netns.into());
        self.ifname = ifname.into();
        self
    }

    /// Sets the configuration.
    #[must_use]
    pub fn with_config(mut self, config: NetConf) -> Self {
        self.config = Some(config);
        self
    }

    /// Returns the configuration.
    ///
    /// ```
    /// use rscni::{Args, Error};
    ///
    /// fn mtu(args: &Args) -> Result<Option<u64>, Error> {
    ///     Ok(args.conf()?.custom.get("mtu").and_then(serde_json::Value::as_u64))
    /// }
    /// # let conf = rscni::NetConf::from_json(br#"{ "mtu": 1400 }"#)?;
    /// # assert_eq!(mtu(&Args::default().with_config(conf))?, Some(1400));
    /// # Ok::<(), rscni::Error>(())
    /// ```
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
    /// ```no_run
    /// # fn add(args: rscni::Args) -> Result<(), rscni::Error> {
    /// let netns = std::fs::File::open(args.require_netns()?)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if it is not set.
    pub fn require_netns(&self) -> Result<&Path, Error> {
        self.netns.as_deref().ok_or_else(|| Error::InvalidEnvValue("CNI_NETNS must be set".into()))
    }

    /// Parses `CNI_ARGS`.
    ///
    /// ```
    /// # let mut args = rscni::Args::default();
    /// args.args = Some("IgnoreUnknown=1;IP=10.0.0.5".into());
    /// assert_eq!(args.cni_args()?.get("IP"), Some("10.0.0.5"));
    /// # Ok::<(), rscni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`] if a pair is not of the form `KEY=VALUE`, or `IgnoreUnknown` is
    /// not a boolean.
    pub fn cni_args(&self) -> Result<CniArgs, Error> {
        self.args.as_deref().map_or_else(|| Ok(CniArgs::default()), CniArgs::parse)
    }

    /// Returns another plugin, to be called with these arguments.
    ///
    /// ```
    /// use rscni::{Args, Error};
    ///
    /// fn del(args: Args) -> Result<(), Error> {
    ///     match args.conf()?.ipam_type() {
    ///         Some(ipam) => args.delegate(ipam).del(),
    ///         None => Ok(()),
    ///     }
    /// }
    /// # del(Args::default().with_config(rscni::NetConf::default()))?;
    /// # Ok::<(), rscni::Error>(())
    /// ```
    pub fn delegate<'a>(&'a self, plugin: &'a str) -> Delegate<'a> {
        Delegate::new(&self.exec, self, plugin)
    }

    /// Returns another plugin, to be called with these arguments without blocking.
    ///
    /// ```
    /// use rscni::{Args, CNIResult, Error};
    ///
    /// async fn add(args: Args) -> Result<CNIResult, Error> {
    ///     args.delegate_async("host-local").add_then(async |addresses| Ok(addresses)).await
    /// }
    /// ```
    #[cfg(all(feature = "async", unix))]
    pub fn delegate_async<'a>(&'a self, plugin: &'a str) -> crate::invoke::AsyncDelegate<'a> {
        crate::invoke::AsyncDelegate::new(self.exec.clone(), self, plugin)
    }

    /// Reads `CNI_ARGS` into a plugin's own struct, as `LoadArgs` of the Go library:
    /// [`CniArgs::read_as`]. [`K8sArgs`](crate::K8sArgs) has the keys of Kubernetes.
    ///
    /// ```
    /// use std::net::IpAddr;
    ///
    /// #[derive(serde::Deserialize)]
    /// #[serde(rename_all = "UPPERCASE")]
    /// struct Mine { ip: Option<IpAddr>, mtu: Option<u32> }
    ///
    /// # let mut args = rscni::Args::default();
    /// args.args = Some("IP=10.0.0.5;IgnoreUnknown=1;OTHER=x".into());
    /// let mine: Mine = args.cni_args_as()?;
    /// assert_eq!((mine.ip, mine.mtu), (Some(IpAddr::from([10, 0, 0, 5])), None));
    /// # Ok::<(), rscni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidEnvValue`], naming the key that is missing, unknown or has a wrong value.
    pub fn cni_args_as<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.cni_args()?.read_as()
    }

    /// Returns `args.cni` of the configuration: structured arguments for all plugins.
    ///
    /// ```
    /// let conf = br#"{ "args": { "cni": { "ips": ["10.0.0.5"] } } }"#;
    /// let args = rscni::Args::default().with_config(rscni::NetConf::from_json(conf)?);
    /// assert_eq!(args.args_cni().unwrap()["ips"][0], "10.0.0.5");
    /// # Ok::<(), rscni::Error>(())
    /// ```
    pub fn args_cni(&self) -> Option<&Map<String, Value>> {
        self.config.as_ref().and_then(NetConf::args_cni)
    }

    /// Reads `runtimeConfig` into typed capabilities.
    ///
    /// ```
    /// let conf = br#"{ "runtimeConfig": { "mac": "02:00:00:00:00:01" } }"#;
    /// let args = rscni::Args::default().with_config(rscni::NetConf::from_json(conf)?);
    /// assert_eq!(args.runtime_config()?.mac.as_deref(), Some("02:00:00:00:00:01"));
    /// # Ok::<(), rscni::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] with the path of each key that has a wrong type.
    pub fn runtime_config(&self) -> Result<RuntimeConfig, Error> {
        let Some(conf) = &self.config else { return Ok(RuntimeConfig::default()) };
        RuntimeConfig::from_json(&conf.runtime_config)
    }
}
