//! Calling plugins: find one, call it, read its answer; and delegation, where a plugin calls another on its own
//! behalf (spec: "Section 4: Plugin Delegation").
//!
//! A call is an [`Invocation`], its end an [`Outcome`]; making the first and reading the second is pure. What lies
//! between is the trait [`Exec`]: [`Process`] starts a program; whoever has plugins linked in turns the invocation
//! into a [`Request`] instead, and the [`Reply`] into an outcome.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ffi::OsString,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "async")]
pub use crate::async_exec::{AsyncExec, AsyncProcess, OnThread};
pub use crate::process::Process;
use crate::{
    Args, CNIResult, Error,
    error::ErrorReply,
    name::check_plugin_type,
    process::MAX_OUTPUT,
    request::{Command, Reply, Request},
};

/// One call of a plugin, ready to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The plugin's name, its `type`.
    pub plugin: String,
    /// The program.
    pub program: PathBuf,
    /// The `CNI_*` variables, and those of a trace.
    pub vars: BTreeMap<String, OsString>,
    /// Which others a process has.
    pub inherits: Inherits,
    /// The configuration.
    pub stdin: Vec<u8>,
    /// How long it may take; none for as long as it likes.
    pub time_limit: Option<Duration>,
}

/// What a plugin that is a process has of the environment of its caller, besides the variables of the call.
///
/// Never are `CNI_*` variables that the call does not set among them, nor those of another trace than its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inherits {
    /// All of it: that of a runtime was set up for its plugins too.
    #[default]
    Everything,
    /// `PATH`, for the programs that a plugin runs, and the trace that the caller is in (`TRACEPARENT`, `TRACESTATE`,
    /// `BAGGAGE`). So plugins call plugins: what the specification has a delegated plugin get is the environment of
    /// the protocol.
    PathAndTrace,
}

impl From<&Invocation> for Request {
    fn from(invocation: &Invocation) -> Self {
        Self::new(invocation.vars.clone(), invocation.stdin.clone())
    }
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the plugin ended.
    pub exit: Exit,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// How a plugin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status.
    Status(i32),
    /// It was ended by this signal.
    Signal(i32),
    /// It was ended by the caller, since it took longer than this.
    TimedOut(Duration),
    /// It was ended by the caller, since it printed more than any answer is long.
    Flooded,
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        Self {
            exit: Exit::Status(reply.exit_code().into()),
            stdout: reply.stdout,
            stderr: reply.stderr.into_bytes(),
        }
    }
}

impl Outcome {
    /// The result of an ADD, in whatever version it is written.
    ///
    /// # Errors
    /// The plugin's own error as it came, or one that says in what way the answer is none.
    pub fn into_result(self, plugin: &str) -> Result<CNIResult, Error> {
        self.check_exit(plugin)?;
        if self.stdout.trim_ascii().is_empty() {
            return Err(Error::FailedToDecode(format!(
                "plugin {plugin} succeeded, but printed no result"
            )));
        }
        CNIResult::from_json(&self.stdout)
            .map_err(|error| error.context(format!("plugin {plugin}")))
    }

    /// The end of a command that has no result.
    ///
    /// # Errors
    /// The plugin's own error as it came, or one that says in what way the answer is none.
    pub fn into_success(self, plugin: &str) -> Result<(), Error> {
        self.check_exit(plugin)
    }

    fn check_exit(&self, plugin: &str) -> Result<(), Error> {
        if self.exit == Exit::Status(0) {
            return Ok(());
        }
        if let (Exit::Status(_) | Exit::Signal(_), Some(reply)) =
            (self.exit, ErrorReply::from_json(&self.stdout))
        {
            return Err(reply.into());
        }
        let how = match self.exit {
            Exit::Status(status) => format!("ended with status {status} and gave no error reply"),
            Exit::Signal(signal) => format!("was ended by signal {signal} and gave no error reply"),
            Exit::TimedOut(limit) => format!("was ended since it took longer than {limit:?}"),
            Exit::Flooded => {
                format!("was ended since it printed more than {} MiB", MAX_OUTPUT >> 20)
            }
        };
        let said: Vec<_> = [("stdout", excerpt(&self.stdout)), ("stderr", excerpt(&self.stderr))]
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(stream, text)| format!("; {stream}: {text}"))
            .collect();
        Err(Error::Internal(format!("plugin {plugin} {how}{}", said.concat())))
    }
}

/// The end of what a plugin printed, short enough for a message.
fn excerpt(bytes: &[u8]) -> Cow<'_, str> {
    const LENGTH: usize = 1024;
    let bytes = bytes.trim_ascii();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LENGTH)..])
}

/// A way from an invocation to its outcome.
pub trait Exec {
    /// Where the plugin named `plugin` is.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if the name is none or there is no such plugin.
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        find_plugin(plugin, path)
    }

    /// Makes the call and waits for its end.
    ///
    /// # Errors
    /// If the plugin could not be started, or its streams not be read.
    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome>;

    /// The same with a limit for each call, as far as it can end a plugin; [`Process`] can.
    fn with_time_limit(self, limit: Duration) -> TimeLimited<Self>
    where
        Self: Sized,
    {
        TimeLimited { exec: self, limit }
    }
}

/// Finds an executable file named `plugin` in the directories of `CNI_PATH`; the first one wins.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if the name is no plain file name, or no directory has such a file.
pub fn find_plugin(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
    use std::os::unix::fs::PermissionsExt;
    check_plugin_type(plugin)?;
    let is_executable = |file: &Path| {
        std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    path.iter().map(|dir| dir.join(plugin)).find(|file| is_executable(file)).ok_or_else(|| {
        let dirs = path.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
        let place = if dirs.is_empty() { "CNI_PATH, which is empty".to_owned() } else { dirs };
        Error::InvalidNetworkConfig(format!(
            "plugin {plugin} is not installed: no executable of that name in {place}"
        ))
    })
}

/// A way to call plugins with a limit; made by [`Exec::with_time_limit`].
#[derive(Clone, Copy, Debug)]
pub struct TimeLimited<E> {
    exec: E,
    limit: Duration,
}

impl<E: Exec> Exec for TimeLimited<E> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.exec.find(plugin, path)
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let limit = invocation.time_limit.map_or(self.limit, |limit| limit.min(self.limit));
        self.exec.exec(&Invocation { time_limit: Some(limit), ..invocation.clone() })
    }
}

/// Another plugin, called with the `CNI_*` variables and the configuration of this call. A process has nothing else of
/// this one's environment but [what it needs to work](Inherits::PathAndTrace).
///
/// ```no_run
/// # fn add(args: &rscni::Args) -> Result<(), rscni::Error> {
/// use rscni::invoke::{Delegate, Process};
///
/// let ipam = Delegate::new(&Process, args, "host-local");
/// let addresses = ipam.add()?; // a failure is undone with DEL, and told as it came
/// # let make_interface = |_: &rscni::CNIResult| Ok::<(), rscni::Error>(());
/// if let Err(error) = make_interface(&addresses) {
///     ipam.del()?;
///     return Err(error);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Delegate<'a> {
    exec: &'a dyn Exec,
    args: &'a Args,
    plugin: &'a str,
    config: Option<Vec<u8>>,
}

impl<'a> Delegate<'a> {
    /// The plugin of that name, with the configuration that came on stdin.
    pub fn new(exec: &'a dyn Exec, args: &'a Args, plugin: &'a str) -> Self {
        Self { exec, args, plugin, config: None }
    }

    /// The same with another configuration.
    #[must_use]
    pub fn with_config(mut self, config: Vec<u8>) -> Self {
        self.config = Some(config);
        self
    }

    /// ADD. If it fails, DEL is called before the error is returned, as the spec asks.
    ///
    /// # Errors
    /// The plugin's error as it came; [`Error::InvalidNetworkConfig`] if there is no such plugin,
    /// [`Error::IOFailure`] if it cannot be started, [`Error::FailedToDecode`] if it gives no result, and
    /// [`Error::Internal`] if it fails without an error reply.
    pub fn add(&self) -> Result<CNIResult, Error> {
        let invocation = self.invocation(Command::Add)?;
        self.exec(&invocation).and_then(|outcome| outcome.into_result(self.plugin)).inspect_err(
            |_| {
                // The first error is the one to tell.
                let _ = self.del();
            },
        )
    }

    /// DEL.
    ///
    /// # Errors
    /// As [`add`](Delegate::add), but there is no result to be given.
    pub fn del(&self) -> Result<(), Error> {
        self.call(Command::Del)
    }

    /// CHECK.
    ///
    /// # Errors
    /// As [`add`](Delegate::add), but there is no result to be given.
    pub fn check(&self) -> Result<(), Error> {
        self.call(Command::Check)
    }

    /// GC.
    ///
    /// # Errors
    /// As [`add`](Delegate::add), but there is no result to be given.
    pub fn gc(&self) -> Result<(), Error> {
        self.call(Command::Gc)
    }

    /// STATUS.
    ///
    /// # Errors
    /// As [`add`](Delegate::add), but there is no result to be given.
    pub fn status(&self) -> Result<(), Error> {
        self.call(Command::Status)
    }

    fn call(&self, command: Command) -> Result<(), Error> {
        self.exec(&self.invocation(command)?)?.into_success(self.plugin)
    }

    fn exec(&self, invocation: &Invocation) -> Result<Outcome, Error> {
        let outcome = self.exec.exec(invocation).map_err(|error| {
            Error::IOFailure(format!(
                "start plugin {} ({}): {error}",
                self.plugin,
                invocation.program.display()
            ))
        })?;
        // What a delegated plugin says to people goes where this plugin's words go.
        let _ = io::stderr().write_all(&outcome.stderr);
        Ok(outcome)
    }

    /// The call of `command`, as it will be made.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if there is no such plugin.
    pub fn invocation(&self, command: Command) -> Result<Invocation, Error> {
        Ok(Invocation {
            plugin: self.plugin.to_owned(),
            program: self.exec.find(self.plugin, &self.args.path)?,
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
}

/// The `CNI_*` variables that say `args` to another plugin.
pub(crate) fn variables(command: Command, args: &Args) -> BTreeMap<String, OsString> {
    let path = args
        .path
        .iter()
        .map(|dir| dir.as_os_str())
        .collect::<Vec<_>>()
        .join(std::ffi::OsStr::new(":"));
    let mut vars = BTreeMap::from([
        ("CNI_COMMAND".to_owned(), command.as_str().into()),
        ("CNI_PATH".into(), path),
    ]);
    let mut set = |name: &str, value: Option<OsString>| {
        vars.extend(value.map(|value| (name.to_owned(), value)));
    };
    set("CNI_CONTAINERID", Some(&args.container_id).filter(|id| !id.is_empty()).map(Into::into));
    set("CNI_IFNAME", Some(&args.ifname).filter(|name| !name.is_empty()).map(Into::into));
    set("CNI_NETNS", args.netns.clone().map(Into::into));
    set("CNI_ARGS", args.args.clone().map(Into::into));
    set("CNI_NETNS_OVERRIDE", args.netns_override.then(|| "1".into()));
    vars
}
