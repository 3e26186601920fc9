//! A plugin as a type, and its settings. The [`dispatcher`](crate::dispatcher) calls it.

use std::process::ExitCode;

use crate::{
    args::Args,
    dispatcher::{Identity, exit_code, reply, run},
    error::Error,
    request::{Reply, Request},
    result::CNIResult,
    version::PluginInfo,
};

/// A plugin as a type with state.
///
/// The dispatcher calls it with validated [`Args`] and turns the return value into the reply. Only
/// ADD has a result.
///
/// ```
/// use rscni::{Args, CNIResult, Cni, Command, Error};
///
/// /// A chained plugin that refuses containers without an address.
/// struct Addressed;
///
/// impl Cni for Addressed {
///     fn add(&self, args: Args) -> Result<CNIResult, Error> {
///         let result = args.conf()?.prev_result.clone().unwrap_or_default();
///         if result.container_ips(&args.ifname).next().is_none() {
///             let text = format!("{} has no address", args.ifname);
///             return Err(Error::InvalidNetworkConfig(text));
///         }
///         Ok(result)
///     }
///
///     fn del(&self, _: Args) -> Result<(), Error> {
///         Ok(())
///     }
/// }
///
/// let args = Args::new(Command::Add)
///     .with_attachment("a", "/run/netns/a", "eth0")
///     .with_config(rscni::NetConf::default());
/// assert_eq!(Addressed.add(args).unwrap_err().details(), "eth0 has no address");
/// ```
pub trait Cni {
    /// ADD: attaches the container, or changes the attachment made by the previous plugins.
    fn add(&self, args: Args) -> Result<CNIResult, Error>;

    /// DEL: removes what ADD made and still exists. A second DEL, or one without a network
    /// namespace, succeeds.
    fn del(&self, args: Args) -> Result<(), Error>;

    /// CHECK: compares the attachment with the result of ADD. Succeeds by default.
    fn check(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// GC: removes what attachments left that are not in
    /// [`NetConf::valid_attachments`](crate::NetConf::valid_attachments). Does nothing by default.
    fn gc(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }

    /// STATUS: fails if the plugin cannot service ADD. Succeeds by default.
    fn status(&self, args: Args) -> Result<(), Error> {
        let _ = args;
        Ok(())
    }
}

/// Implements [`Cni`] for a pointer to a plugin.
macro_rules! cni_by_pointer {
    ($($pointer:ty),*) => {$(
        impl<C: Cni + ?Sized> Cni for $pointer {
            fn add(&self, args: Args) -> Result<CNIResult, Error> {
                (**self).add(args)
            }

            fn del(&self, args: Args) -> Result<(), Error> {
                (**self).del(args)
            }

            fn check(&self, args: Args) -> Result<(), Error> {
                (**self).check(args)
            }

            fn gc(&self, args: Args) -> Result<(), Error> {
                (**self).gc(args)
            }

            fn status(&self, args: Args) -> Result<(), Error> {
                (**self).status(args)
            }
        }
    )*};
}
cni_by_pointer!(&C, Box<C>, std::sync::Arc<C>);

/// A plugin with the versions that it supports and a text about it.
///
/// With functions:
///
/// ```no_run
/// use rscni::{Args, CNIResult, Error, Plugin, PluginInfo};
///
/// fn add(args: Args) -> Result<CNIResult, Error> {
///     Ok(args.config.and_then(|conf| conf.prev_result).unwrap_or_default())
/// }
/// fn nothing(_: Args) -> Result<CNIResult, Error> {
///     Ok(CNIResult::default())
/// }
///
/// fn main() -> Result<(), Error> {
///     let about = "passes on the result of the previous plugin";
///     Plugin::new(add, nothing, nothing, PluginInfo::default(), about).run()
/// }
/// ```
///
/// With the trait [`Cni`]:
///
/// ```no_run
/// use rscni::{Args, CNIResult, Cni, Error, Plugin};
///
/// struct Mine;
/// impl Cni for Mine {
///     fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
///     fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
/// }
///
/// fn main() -> Result<(), Error> {
///     Plugin::default().msg("my plugin").run(&Mine)
/// }
/// ```
///
/// Functions may be closures, and there are setters for [`gc`](Plugin::gc) and
/// [`status`](Plugin::status).
///
/// `run` writes the error reply before it returns the error. A `main` that returns the error, as
/// above, prints it to stderr too; [`main`](Plugin::main) returns only the exit code.
#[derive(Clone, Debug)]
pub struct Plugin<F = ()> {
    pub(crate) functions: F,
    pub(crate) identity: Identity,
}

/// Implements the default and the setters of the blocking and the async `Plugin`.
macro_rules! plugin_settings {
    () => {
        impl Default for Plugin<()> {
            /// A plugin that supports all versions, without a text about itself.
            fn default() -> Self {
                Self { functions: (), identity: Identity::default() }
            }
        }

        impl Plugin<()> {
            /// Sets the text about the plugin, written to stderr when it is started without
            /// `CNI_COMMAND`. A line with the supported versions of the protocol follows.
            ///
            /// Programs that look for the version of a plugin expect `CNI <name> plugin v<version>`
            /// as the first line: `concat!("CNI mine plugin v", env!("CARGO_PKG_VERSION"))`.
            #[must_use]
            pub fn msg(mut self, about: impl Into<String>) -> Self {
                self.identity.about = about.into();
                self
            }

            /// Sets the versions that the plugin supports.
            #[must_use]
            pub fn versions(mut self, info: PluginInfo) -> Self {
                self.identity.info = info;
                self
            }
        }
    };
}
#[cfg(feature = "async")]
pub(crate) use plugin_settings;

plugin_settings!();

impl Plugin<()> {
    /// Answers, with `plugin`, the call that this process was started with.
    ///
    /// Reserves stdout for the reply: output of the plugin and its children to stdout goes to
    /// stderr.
    ///
    /// # Errors
    /// The error of the error reply, which is already written; `main` only has to exit with a
    /// non-zero status.
    pub fn run<C: Cni + ?Sized>(&self, plugin: &C) -> Result<(), Error> {
        run(plugin, &self.identity)
    }

    /// Answers, with `plugin`, the call that this process was started with.
    ///
    /// ```no_run
    /// # use rscni::{Args, CNIResult, Cni, Error};
    /// # struct Mine;
    /// # impl Cni for Mine {
    /// #     fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
    /// #     fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
    /// # }
    /// fn main() -> std::process::ExitCode {
    ///     rscni::Plugin::default().msg("my plugin").main(&Mine)
    /// }
    /// ```
    pub fn main<C: Cni + ?Sized>(&self, plugin: &C) -> ExitCode {
        exit_code(&self.run(plugin))
    }

    /// Answers `request` with `plugin`, without I/O of its own.
    ///
    /// ```
    /// # use rscni::{Args, CNIResult, Cni, Error};
    /// # struct Mine;
    /// # impl Cni for Mine {
    /// #     fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
    /// #     fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
    /// # }
    /// use rscni::{Plugin, Request};
    ///
    /// let vars = [("CNI_COMMAND".to_owned(), "DEL".into())];
    /// let reply = Plugin::default().reply(&Mine, &Request::new(vars.into(), b"{}".to_vec()));
    /// let error = reply.error.unwrap();
    /// assert_eq!(error.code(), 4);
    /// assert_eq!(error.details(), "DEL requires CNI_CONTAINERID, CNI_IFNAME");
    /// ```
    pub fn reply<C: Cni + ?Sized>(&self, plugin: &C, request: &Request) -> Reply {
        reply(plugin, &self.identity, request)
    }
}
