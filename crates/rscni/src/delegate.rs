//! Calls from a plugin to another plugin (spec: "Section 4: Plugin Delegation").

use std::io::{self, Write};

#[cfg(not(all(feature = "shim", target_os = "linux")))]
use std::io::stderr;

#[cfg(all(feature = "async", unix))]
use crate::invoke::{AnyExec, AsyncExec, AsyncProcess, OnThread};
#[cfg(all(feature = "shim", target_os = "linux"))]
use crate::shim::stderr;
use crate::{
    Args, CNIResult, Error, NetConf,
    invoke::{Exec, Inherits, Invocation, Outcome, variables},
    request::Command,
    span::Traced,
};

/// Another plugin, called with the `CNI_*` variables and the configuration of this call; made by
/// [`Args::delegate`].
///
/// ```no_run
/// use rscni::{Args, CNIResult, Error};
///
/// fn add(args: Args) -> Result<CNIResult, Error> {
///     args.delegate("host-local").add_then(|addresses| {
///         // Configure the interface here. If this fails, the addresses are released.
///         Ok(addresses)
///     })
/// }
///
/// fn del(args: Args) -> Result<(), Error> {
///     args.delegate("host-local").del()
/// }
/// ```
///
/// The stderr of the plugin goes to stderr. An error is the plugin's error reply
/// unchanged, as the variant of its code, and knows the [`plugin`](Error::plugin) and the
/// [`command`](Error::command).
pub struct Delegate<'a> {
    exec: &'a dyn Exec,
    call: Call<'a>,
}

/// The call of a plugin with the arguments of another call.
struct Call<'a> {
    args: &'a Args,
    plugin: &'a str,
    config: Option<Vec<u8>>,
}

impl<'a> Delegate<'a> {
    /// The plugin of this name, called through `exec` with the configuration from stdin.
    pub fn new(exec: &'a dyn Exec, args: &'a Args, plugin: &'a str) -> Self {
        Self { exec, call: Call { args, plugin, config: None } }
    }

    /// Calls ADD, then `then` with its result. If `then` fails, calls DEL.
    ///
    /// ```no_run
    /// # fn add(args: rscni::Args) -> Result<rscni::CNIResult, rscni::Error> {
    /// args.delegate("host-local").add_then(|addresses| match addresses.ips.as_slice() {
    ///     [] => Err(rscni::Error::InvalidNetworkConfig("host-local: no address".into())),
    ///     _ => Ok(addresses),
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// That of [`add`](Self::add) or of `then`. If DEL fails too, its error goes to stderr.
    pub fn add_then<T>(
        &self,
        then: impl FnOnce(CNIResult) -> Result<T, Error>,
    ) -> Result<T, Error> {
        then(self.add()?).inspect_err(|_| self.call.report(self.del()))
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        Traced::plugin(invocation).run(|| self.exec.exec(invocation))
    }

    /// Returns the invocation of `command`.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] if the plugin is not found.
    pub fn invocation(&self, command: Command) -> Result<Invocation, Error> {
        self.call.invocation(self.exec, command)
    }
}

/// Another plugin, called without blocking; made by [`Args::delegate_async`].
///
/// A plugin that is a process is awaited. If this call came through another [`Exec`], such as that
/// of a program with linked plugins, the plugin is called on a thread of tokio for blocking work.
#[cfg(all(feature = "async", unix))]
pub struct AsyncDelegate<'a> {
    exec: AnyExec,
    call: Call<'a>,
}

#[cfg(all(feature = "async", unix))]
impl<'a> AsyncDelegate<'a> {
    /// The plugin of this name, called through `exec` with the configuration from stdin.
    pub fn new(exec: AnyExec, args: &'a Args, plugin: &'a str) -> Self {
        Self { exec, call: Call { args, plugin, config: None } }
    }

    /// Calls ADD, then `then` with its result. If `then` fails, calls DEL.
    ///
    /// # Errors
    /// As [`Delegate::add_then`].
    pub async fn add_then<T, F>(&self, then: impl FnOnce(CNIResult) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let outcome = then(self.add().await?).await;
        if outcome.is_err() {
            self.call.report(self.del().await);
        }
        outcome
    }

    async fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let call = async {
            if self.exec.is_process() {
                AsyncProcess.exec(invocation.clone()).await
            } else {
                OnThread(self.exec.clone()).exec(invocation.clone()).await
            }
        };
        Traced::plugin(invocation).wait(call).await
    }
}

/// Implements the setters and the calls of the blocking and the async delegate.
macro_rules! delegate {
    ($delegate:ident, $($async:ident, .$await:ident)?) => {
        impl $delegate<'_> {
            /// Replaces the configuration.
            ///
            /// ```no_run
            /// # fn add(args: rscni::Args) -> Result<rscni::CNIResult, rscni::Error> {
            /// let mut conf = args.conf()?.clone();
            /// conf.custom.insert("mtu", 1400);
            /// args.delegate("bridge").with_conf(&conf)?.add()
            /// # }
            /// ```
            ///
            /// # Errors
            /// [`Error::FailedToDecode`] if it cannot be written as JSON.
            pub fn with_conf(self, conf: &NetConf) -> Result<Self, Error> {
                Ok(self.with_config(serde_json::to_vec(conf)?))
            }

            /// Replaces the configuration by these bytes.
            #[must_use]
            pub fn with_config(mut self, config: Vec<u8>) -> Self {
                self.call.config = Some(config);
                self
            }

            /// Calls ADD. If it fails, calls DEL before it returns the error, as the spec requires.
            ///
            /// # Errors
            /// The plugin's error reply; [`Error::NotInstalled`] if the plugin is not found,
            /// [`Error::IOFailure`] if it cannot be started, [`Error::FailedToDecode`] if its
            /// result is invalid, and [`Error::Internal`] if it fails without an error reply.
            pub $($async)? fn add(&self) -> Result<CNIResult, Error> {
                // A plugin that could not be called has nothing to undo.
                let invocation = self.call.invocation(&self.exec, Command::Add)?;
                let ended = self.exec(&invocation)$(.$await)?;
                let result = self.call.result(ended, &invocation);
                if result.is_err() {
                    // Returns the error of ADD, whether DEL succeeds or not.
                    let _ = self.del()$(.$await)?;
                }
                result
            }

            /// Calls DEL.
            ///
            /// # Errors
            /// As [`add`](Self::add), except for results.
            pub $($async)? fn del(&self) -> Result<(), Error> {
                self.call(Command::Del)$(.$await)?
            }

            /// Calls CHECK.
            ///
            /// # Errors
            /// As [`del`](Self::del).
            pub $($async)? fn check(&self) -> Result<(), Error> {
                self.call(Command::Check)$(.$await)?
            }

            /// Calls GC.
            ///
            /// # Errors
            /// As [`del`](Self::del).
            pub $($async)? fn gc(&self) -> Result<(), Error> {
                self.call(Command::Gc)$(.$await)?
            }

            /// Calls STATUS.
            ///
            /// # Errors
            /// As [`del`](Self::del).
            pub $($async)? fn status(&self) -> Result<(), Error> {
                self.call(Command::Status)$(.$await)?
            }

            $($async)? fn call(&self, command: Command) -> Result<(), Error> {
                let invocation = self.call.invocation(&self.exec, command)?;
                let ended = self.exec(&invocation)$(.$await)?;
                self.call.success(ended, &invocation, command)
            }
        }
    };
}
delegate!(Delegate,);
#[cfg(all(feature = "async", unix))]
delegate!(AsyncDelegate, async, .await);

impl Call<'_> {
    fn invocation(
        &self,
        exec: &(impl Exec + ?Sized),
        command: Command,
    ) -> Result<Invocation, Error> {
        let program = exec.find(self.plugin, &self.args.path);
        Ok(Invocation {
            plugin: self.plugin.to_owned(),
            program: program.map_err(|error| error.in_call(self.plugin, command))?,
            vars: variables(command, self.args),
            inherits: Inherits::PathAndTrace,
            stdin: match (&self.config, &self.args.config) {
                (Some(config), _) => config.clone(),
                (None, Some(config)) if self.args.stdin.is_empty() => serde_json::to_vec(config)?,
                (None, _) => self.args.stdin.clone(),
            },
            time_limit: None,
        })
    }

    fn result(&self, ended: io::Result<Outcome>, of: &Invocation) -> Result<CNIResult, Error> {
        self.outcome(ended, of)
            .and_then(|outcome| outcome.into_result(self.plugin))
            .map_err(|error| error.in_call(self.plugin, Command::Add))
    }

    fn success(
        &self,
        ended: io::Result<Outcome>,
        of: &Invocation,
        command: Command,
    ) -> Result<(), Error> {
        self.outcome(ended, of)
            .and_then(|outcome| outcome.into_success(self.plugin))
            .map_err(|error| error.in_call(self.plugin, command))
    }

    fn outcome(&self, ended: io::Result<Outcome>, of: &Invocation) -> Result<Outcome, Error> {
        let outcome = ended.map_err(|error| {
            let (plugin, program) = (self.plugin, of.program.display());
            Error::IOFailure(format!("cannot start plugin {plugin} ({program}): {error}"))
                .with_source(error)
        })?;
        // The log output of a delegated plugin goes to the same place as ours.
        let _ = stderr().write_all(outcome.log());
        Ok(outcome)
    }

    /// Reports a failed rollback, whose error is not returned.
    fn report(&self, rollback: Result<(), Error>) {
        if let Err(error) = rollback {
            let _ = writeln!(stderr(), "rollback: DEL of {}: {error}", self.plugin);
        }
    }
}
