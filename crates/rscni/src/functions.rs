//! A plugin as functions or closures.

use std::process::ExitCode;

use crate::{
    args::Args,
    dispatcher::{Identity, exit_code, reply, run},
    error::Error,
    plugin::{Cni, Plugin},
    request::{Reply, Request},
    result::CNIResult,
    version::PluginInfo,
};

/// A function for ADD, DEL or CHECK. The result of DEL and CHECK is not written.
pub type CmdFn = fn(Args) -> Result<CNIResult, Error>;

/// A function for GC or STATUS.
pub type NodeFn = fn(Args) -> Result<(), Error>;

/// Functions or closures as a plugin; made by [`Plugin::new`].
#[derive(Clone, Copy, Debug)]
pub struct Functions<A = CmdFn, D = CmdFn, C = CmdFn, G = NodeFn, S = NodeFn> {
    pub(crate) add: A,
    pub(crate) del: D,
    pub(crate) check: C,
    pub(crate) gc: G,
    pub(crate) status: S,
}

impl<A, D, C, G, S> Cni for Functions<A, D, C, G, S>
where
    A: Fn(Args) -> Result<CNIResult, Error>,
    D: Fn(Args) -> Result<CNIResult, Error>,
    C: Fn(Args) -> Result<CNIResult, Error>,
    G: Fn(Args) -> Result<(), Error>,
    S: Fn(Args) -> Result<(), Error>,
{
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        (self.add)(args)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        (self.del)(args).map(drop)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        (self.check)(args).map(drop)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        (self.gc)(args)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        (self.status)(args)
    }
}

impl<A, D, C> Plugin<Functions<A, D, C>>
where
    A: Fn(Args) -> Result<CNIResult, Error>,
    D: Fn(Args) -> Result<CNIResult, Error>,
    C: Fn(Args) -> Result<CNIResult, Error>,
{
    /// A plugin made of three functions or closures; GC and STATUS succeed without doing anything.
    ///
    /// ```
    /// use rscni::{CNIResult, Plugin, PluginInfo, SpecVersion};
    ///
    /// let network = "my network".to_owned();
    /// let plugin = Plugin::new(
    ///     |args| args.delegate("host-local").add(),
    ///     |args| args.delegate("host-local").del().map(|()| CNIResult::default()),
    ///     |args| args.delegate("host-local").check().map(|()| CNIResult::default()),
    ///     PluginInfo::since(SpecVersion::V0_4_0),
    ///     network,
    /// );
    /// # let _ = plugin;
    /// ```
    pub fn new(add: A, del: D, check: C, info: PluginInfo, about: impl Into<String>) -> Self {
        let nothing: NodeFn = |_| Ok(());
        Self {
            functions: Functions { add, del, check, gc: nothing, status: nothing },
            identity: Identity { info, about: about.into() },
        }
    }
}

impl<A, D, C, G, S> Plugin<Functions<A, D, C, G, S>> {
    /// Sets the function for GC.
    ///
    /// ```
    /// # use rscni::{Args, CNIResult, Error, Plugin, PluginInfo};
    /// # fn nothing(_: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
    /// let plugin = Plugin::new(nothing, nothing, nothing, PluginInfo::default(), "my plugin")
    ///     .gc(|args| {
    ///         let valid = args.conf()?.valid_attachments.clone().unwrap_or_default();
    ///         eprintln!("{} attachments are valid", valid.len());
    ///         Ok(())
    ///     })
    ///     .status(|_| Err(Error::PluginNotAvailable("the uplink is down".into())));
    /// # let _ = plugin;
    /// ```
    #[must_use]
    pub fn gc<F: Fn(Args) -> Result<(), Error>>(self, gc: F) -> Plugin<Functions<A, D, C, F, S>> {
        let Functions { add, del, check, status, .. } = self.functions;
        let functions = Functions { add, del, check, gc, status };
        Plugin { functions, identity: self.identity }
    }

    /// Sets the function for STATUS.
    #[must_use]
    pub fn status<F: Fn(Args) -> Result<(), Error>>(
        self,
        status: F,
    ) -> Plugin<Functions<A, D, C, G, F>> {
        let Functions { add, del, check, gc, .. } = self.functions;
        let functions = Functions { add, del, check, gc, status };
        Plugin { functions, identity: self.identity }
    }
}

impl<A, D, C, G, S> Plugin<Functions<A, D, C, G, S>>
where
    Functions<A, D, C, G, S>: Cni,
{
    /// Answers the call that this process was started with.
    ///
    /// Reserves stdout for the reply: output of the plugin and its children to stdout goes to
    /// stderr.
    ///
    /// # Errors
    /// The error of the error reply, which is already written; `main` only has to exit with a
    /// non-zero status.
    pub fn run(&self) -> Result<(), Error> {
        run(&self.functions, &self.identity)
    }

    /// Answers the call that this process was started with; for a `main` that returns an exit code.
    ///
    /// ```no_run
    /// use rscni::{Args, CNIResult, Error, Plugin, PluginInfo};
    ///
    /// fn nothing(_: Args) -> Result<CNIResult, Error> {
    ///     Ok(CNIResult::default())
    /// }
    ///
    /// fn main() -> std::process::ExitCode {
    ///     Plugin::new(nothing, nothing, nothing, PluginInfo::default(), "does nothing").main()
    /// }
    /// ```
    pub fn main(&self) -> ExitCode {
        exit_code(&self.run())
    }

    /// Answers `request`, without I/O of its own.
    pub fn reply(&self, request: &Request) -> Reply {
        reply(&self.functions, &self.identity, request)
    }
}
