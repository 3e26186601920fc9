//! Calls of plugins: find a plugin, call it, read its reply. Includes delegation, where one plugin
//! calls another (spec: "Section 4: Plugin Delegation").
//!
//! An [`Invocation`] describes a call, an [`Outcome`] how it ended. The trait [`Exec`] turns one
//! into the other: [`Process`] starts a program, while a caller with linked-in plugins converts the
//! invocation to a [`Request`] and the [`Reply`] to an outcome.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    Args, CNIResult, Error,
    error::ErrorReply,
    name::check_plugin_type,
    request::{Command, Reply, Request},
};
#[cfg(all(feature = "async", unix))]
pub use crate::{
    async_exec::{AsyncExec, AsyncProcess, OnThread},
    delegate::AsyncDelegate,
};
pub use crate::{delegate::Delegate, process::Process};

/// Limit of a plugin's output per stream, in bytes.
pub(crate) const MAX_OUTPUT: usize = 16 << 20;

/// A call of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Invocation {
    /// The plugin's name, its `type`.
    pub plugin: String,
    /// The program.
    pub program: PathBuf,
    /// The `CNI_*` variables and those of a trace.
    pub vars: BTreeMap<String, OsString>,
    /// Which other variables a process inherits.
    pub inherits: Inherits,
    /// The configuration.
    pub stdin: Vec<u8>,
    /// Timeout; `None` for no limit.
    pub time_limit: Option<Duration>,
}

/// The variables that a plugin process inherits from its caller, besides those of the call.
///
/// `CNI_*` variables are never inherited, nor are those of a trace if the call sets its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Inherits {
    /// All variables: the environment of a runtime is also meant for its plugins.
    #[default]
    Everything,
    /// `PATH`, for the programs that the plugin runs, and the caller's trace (`TRACEPARENT`,
    /// `TRACESTATE`, `BAGGAGE`). For delegated plugins, since the spec only gives them the
    /// environment of the protocol.
    PathAndTrace,
}

impl Invocation {
    /// A call of `program` without variables, configuration and timeout.
    ///
    /// ```no_run
    /// use rscni::invoke::{Exec, Invocation, Process};
    ///
    /// let mut version = Invocation::new("bridge", "/opt/cni/bin/bridge");
    /// version.vars.insert("CNI_COMMAND".into(), "VERSION".into());
    /// let outcome = Process.exec(&version)?;
    /// assert_eq!(outcome.into_success("bridge"), Ok(()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(plugin: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self {
            plugin: plugin.into(),
            program: program.into(),
            vars: BTreeMap::new(),
            inherits: Inherits::Everything,
            stdin: Vec::new(),
            time_limit: None,
        }
    }
}

impl From<&Invocation> for Request {
    fn from(invocation: &Invocation) -> Self {
        Self::new(invocation.vars.clone(), invocation.stdin.clone())
    }
}

/// The exit and the output of a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outcome {
    /// How the plugin ended.
    pub exit: Exit,
    /// Its stdout.
    pub stdout: Vec<u8>,
    /// Its stderr.
    pub stderr: Vec<u8>,
}

/// How a plugin ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// It was killed by this signal.
    Signal(i32),
    /// The caller killed it after this timeout.
    TimedOut(Duration),
    /// The caller killed it because its output exceeded the limit of 16 MiB.
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
    /// The end of a plugin that printed `stdout`, and nothing to stderr; for an [`Exec`] of a test.
    ///
    /// ```
    /// use rscni::invoke::{Exit, Outcome};
    ///
    /// let added = Outcome::new(Exit::Status(0), r#"{ "ips": [{ "address": "10.0.0.5/24" }] }"#);
    /// assert_eq!(added.into_result("host-local")?.ips.len(), 1);
    /// # Ok::<(), rscni::Error>(())
    /// ```
    pub fn new(exit: Exit, stdout: impl Into<Vec<u8>>) -> Self {
        Self { exit, stdout: stdout.into(), stderr: Vec::new() }
    }

    /// Reads the result of an ADD, in any version.
    ///
    /// # Errors
    /// The plugin's error reply, unchanged, or an error describing why the output is invalid.
    pub fn into_result(self, plugin: &str) -> Result<CNIResult, Error> {
        self.check_exit(plugin)?;
        if self.stdout.trim_ascii().is_empty() {
            let text = format!("plugin {plugin} succeeded but printed no result");
            return Err(Error::FailedToDecode(text));
        }
        CNIResult::from_json(&self.stdout)
            .map_err(|error| error.context(format!("plugin {plugin}")))
    }

    /// Returns the log output to forward; empty if the plugin was killed for its amount. The error
    /// then contains its end.
    pub(crate) fn log(&self) -> &[u8] {
        if self.exit == Exit::Flooded { &[] } else { &self.stderr }
    }

    /// Checks the success of a command without a result.
    ///
    /// # Errors
    /// The plugin's error reply, unchanged, or an error describing how it ended.
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
            Exit::Status(status) => format!("exited with status {status} without an error reply"),
            Exit::Signal(signal) => format!("was killed by signal {signal}"),
            Exit::TimedOut(limit) => format!("was killed because it took longer than {limit:?}"),
            Exit::Flooded => {
                format!("was killed because it printed more than {} MiB", MAX_OUTPUT >> 20)
            }
        };
        let output: Vec<_> = [("stdout", excerpt(&self.stdout)), ("stderr", excerpt(&self.stderr))]
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(stream, text)| format!("; {stream}: {text}"))
            .collect();
        let text = format!("plugin {plugin} {how}{}", output.concat());
        Err(match self.exit {
            Exit::TimedOut(_) => Error::TimedOut(text),
            _ => Error::Internal(text),
        })
    }
}

/// The end of a plugin's output, for a message.
fn excerpt(bytes: &[u8]) -> Cow<'_, str> {
    const LENGTH: usize = 1024;
    let bytes = bytes.trim_ascii();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LENGTH)..])
}

/// Executes invocations.
pub trait Exec {
    /// Finds the program of a plugin.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if the name is invalid, [`Error::NotInstalled`] if there is
    /// no such plugin.
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        find_plugin(plugin, path)
    }

    /// Makes the call and waits for its end.
    ///
    /// # Errors
    /// If the plugin cannot be started or its streams cannot be read.
    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome>;

    /// Sets a timeout for each call. It only applies to an `Exec` that can kill plugins, such as
    /// [`Process`].
    fn with_time_limit(self, limit: Duration) -> TimeLimited<Self>
    where
        Self: Sized,
    {
        TimeLimited { exec: self, limit }
    }
}

/// Finds the first executable file named `plugin` in the directories of `CNI_PATH`.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if the name is not a plain file name, [`Error::NotInstalled`] if
/// there is no such file.
pub fn find_plugin(plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
    check_plugin_type(plugin)?;
    path.iter().map(|dir| dir.join(plugin)).find(|file| is_executable(file)).ok_or_else(|| {
        let dirs = path.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
        let dirs = if dirs.is_empty() { "CNI_PATH, which is empty" } else { &dirs };
        Error::NotInstalled(format!(
            "plugin {plugin} is not installed: no executable of that name in {dirs}"
        ))
    })
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(file: &Path) -> bool {
    file.is_file()
}

/// An [`Exec`] with a timeout; made by [`Exec::with_time_limit`].
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

/// An [`Exec`] of any type, shared by all clones; [`Process`] by default.
#[derive(Clone, Default)]
pub struct AnyExec(Option<Arc<dyn Exec + Send + Sync>>);

impl AnyExec {
    /// Shares `exec`.
    pub fn new(exec: impl Exec + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(exec)))
    }

    /// Whether plugins are processes that can be awaited instead of blocking a thread.
    #[cfg(all(feature = "async", unix))]
    pub(crate) fn is_process(&self) -> bool {
        self.0.is_none()
    }
}

impl Exec for AnyExec {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.0.as_ref().map_or_else(|| Process.find(plugin, path), |exec| exec.find(plugin, path))
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        self.0.as_ref().map_or_else(|| Process.exec(invocation), |exec| exec.exec(invocation))
    }
}

impl PartialEq for AnyExec {
    /// Whether both are the same value.
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}

impl Eq for AnyExec {}

impl std::fmt::Debug for AnyExec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "AnyExec(..)" } else { "AnyExec(Process)" })
    }
}

/// Implements [`Exec`] for a pointer to one.
macro_rules! exec_by_pointer {
    ($($pointer:ty),*) => {$(
        impl<E: Exec + ?Sized> Exec for $pointer {
            fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
                (**self).find(plugin, path)
            }

            fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
                (**self).exec(invocation)
            }
        }
    )*};
}
exec_by_pointer!(&E, Box<E>, Arc<E>);

/// Returns the variables that pass `args` to another plugin.
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
    if let Some(trace) = &args.trace {
        trace.set(&mut vars);
    }
    vars
}
