//! Names and signatures of the older crates `rscni` 0.0.x to 0.3 and `rscni-plugin` 0.4 and 0.5
//! (feature `compat`).
//!
//! Replace `rscni::` or `rscni_plugin::` by `rscni::compat::`. The styles of these releases compile
//! then: functions ([`skel`], `async_skel`), and the trait ([`cni`], `async_cni` with
//! `async-trait`). The feature also adds the accessors of 0.4 to [`Args`] and others. The types are
//! those of this release, so code that builds or takes apart results needs changes: `MIGRATING.md`
//! in the repository lists them.

#[cfg(feature = "async")]
pub mod async_cni;
#[cfg(feature = "async")]
pub mod async_skel;
pub mod cni;
pub mod skel;
pub mod version;

use std::{path::PathBuf, sync::LazyLock};

use crate::{Args, Error, NetConf, SpecVersion, name::check_network_name};

/// Errors.
pub mod error {
    pub use crate::Error;
}

/// Types of calls, configurations and results.
pub mod types {
    pub use crate::{
        Args, Attachment as GcAttachment, CNIResult, Command as Cmd, Dns,
        ErrorReply as ErrorResult, Interface, IpConfig, Ipam, NetConf, PortMapping, Route,
        RuntimeConfig as RuntimeConf,
    };

    /// `CNI_CONTAINERID`; validated before the plugin is called.
    pub type ContainerId = str;
    /// `CNI_IFNAME`; validated before the plugin is called.
    pub type InterfaceName = str;

    /// The variable with the command.
    pub const CNI_COMMAND: &str = "CNI_COMMAND";
    /// The variable with the container id.
    pub const CNI_CONTAINERID: &str = "CNI_CONTAINERID";
    /// The variable with the path of the network namespace.
    pub const CNI_NETNS: &str = "CNI_NETNS";
    /// The variable with the interface name.
    pub const CNI_IFNAME: &str = "CNI_IFNAME";
    /// The variable with further arguments.
    pub const CNI_ARGS: &str = "CNI_ARGS";
    /// The variable with the directories of the plugins.
    pub const CNI_PATH: &str = "CNI_PATH";
}

/// Accessors of `rscni-plugin` 0.4.
impl Args {
    /// Returns `CNI_CONTAINERID`, if the command has one.
    pub fn container_id(&self) -> Option<&types::ContainerId> {
        Some(&*self.container_id).filter(|id| !id.is_empty())
    }

    /// Returns `CNI_NETNS`, if it is set.
    pub fn netns(&self) -> Option<&PathBuf> {
        self.netns.as_ref()
    }

    /// Returns `CNI_IFNAME`, if the command has one.
    pub fn ifname(&self) -> Option<&types::InterfaceName> {
        Some(&*self.ifname).filter(|name| !name.is_empty())
    }

    /// Returns `CNI_ARGS`, if it is set.
    pub fn args(&self) -> Option<&str> {
        self.args.as_deref()
    }

    /// Returns the directories of `CNI_PATH`.
    pub fn path(&self) -> &[PathBuf] {
        &self.path
    }

    /// Returns the configuration; an empty one for arguments without.
    pub fn config(&self) -> &NetConf {
        static EMPTY: LazyLock<NetConf> = LazyLock::new(NetConf::default);
        self.config.as_ref().unwrap_or(&EMPTY)
    }
}

/// Methods of `rscni-plugin` 0.4.
impl NetConf {
    /// Returns `cniVersion`, which was validated when the configuration was read.
    ///
    /// # Errors
    /// Never.
    pub fn version(&self) -> Result<SpecVersion, Error> {
        Ok(self.cni_version)
    }

    /// Checks the network's name.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if it is missing or breaks the rules of the specification.
    pub fn validate_name(&self) -> Result<(), Error> {
        check_network_name(&self.name)
    }
}

/// Constructors of `rscni-plugin` 0.4.
impl Error {
    /// Creates [`Error::InvalidNetns`].
    #[expect(non_snake_case, reason = "it was a variant")]
    pub fn InvalidNetNS(details: String) -> Self {
        Self::InvalidNetns(details)
    }

    /// Creates an error about variables that are not set.
    pub fn missing_env(names: &[&str]) -> Self {
        Self::InvalidEnvValue(format!("{} must be set", names.join(", ")))
    }
}
