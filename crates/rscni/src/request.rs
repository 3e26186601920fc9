//! Input and output of a plugin as plain values (spec: "Section 2: Execution Protocol").
//!
//! Only this file reads the environment and stdin of the process and writes its streams.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{IsTerminal, Read, Write},
    path::Path,
    sync::OnceLock,
};

#[cfg(unix)]
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::fcntl_dupfd_cloexec,
    stdio::dup2_stdout,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::{
    Error, TraceContext,
    invoke::{AnyExec, Exec},
};

/// The command of a call (`CNI_COMMAND`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Adds a container to a network.
    #[default]
    Add,
    /// Removes a container from a network.
    Del,
    /// Compares an attachment with the result of ADD.
    Check,
    /// Removes what stale attachments left.
    Gc,
    /// Reports whether the plugin can service ADD.
    Status,
    /// Reports the supported versions.
    Version,
}

impl Command {
    /// Returns the value of `CNI_COMMAND`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// Returns the required variables, other than `CNI_COMMAND`.
    pub const fn required_variables(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }

    /// Whether it operates on one attachment, given by container id and interface name.
    pub const fn has_attachment(self) -> bool {
        matches!(self, Self::Add | Self::Del | Self::Check)
    }
}

impl std::str::FromStr for Command {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version]
            .into_iter()
            .find(|command| command.as_str() == text)
            .ok_or_else(|| {
                Error::InvalidEnvValue(format!(
                    "CNI_COMMAND={text:?} must be ADD, DEL, CHECK, GC, STATUS or VERSION"
                ))
            })
    }
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let names = &["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"];
        text.parse().map_err(|_| D::Error::unknown_variant(&text, names))
    }
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A call of a plugin: the `CNI_*` variables and stdin.
///
/// A test makes one, and [`Plugin::reply`](crate::Plugin::reply) answers it:
///
/// ```
/// use rscni::{CNIResult, Plugin, PluginInfo, Request};
///
/// let vars = [
///     ("CNI_COMMAND", "ADD"),
///     ("CNI_CONTAINERID", "a"),
///     ("CNI_NETNS", "/run/netns/a"),
///     ("CNI_IFNAME", "eth0"),
/// ];
/// let vars = vars.map(|(name, value)| (name.to_owned(), value.into())).into();
/// let request = Request::new(vars, br#"{ "cniVersion": "1.1.0", "name": "net" }"#.to_vec());
///
/// let nothing = |_| Ok(CNIResult::default());
/// let reply = Plugin::new(nothing, nothing, nothing, PluginInfo::default(), "").reply(&request);
/// assert_eq!((reply.exit_code(), reply.error), (0, None));
/// assert_eq!(CNIResult::from_json(&reply.stdout)?, CNIResult::default());
/// # Ok::<(), rscni::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// The variables whose names start with `CNI_`, and those of a trace.
    pub vars: BTreeMap<String, OsString>,
    /// The configuration.
    pub stdin: Vec<u8>,
    /// Whether `CNI_NETNS` is the network namespace of the plugin itself.
    pub netns_is_own: bool,
    /// Calls the plugins that this one delegates to.
    pub exec: AnyExec,
}

impl Request {
    /// Reads the call that this process was started with; without a command, stdin is not read.
    ///
    /// The stdin of VERSION only contains the version of the reply. It is optional: it is not read
    /// from a terminal, and times out after a second.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if stdin cannot be read.
    pub fn from_process() -> Result<Self, Error> {
        let mut vars = BTreeMap::new();
        for (name, value) in std::env::vars_os() {
            if let Ok(name) = name.into_string()
                && (name.starts_with("CNI_") || TraceContext::VARIABLES.contains(&name.as_str()))
            {
                vars.insert(name, value);
            }
        }
        let mut request = Self::new(vars, Vec::new());
        let stdin = &mut request.stdin;
        let outcome = match request.vars.get("CNI_COMMAND").and_then(|command| command.to_str()) {
            None | Some("") => Ok(0),
            Some("VERSION") => read_with_timeout(stdin),
            Some(_) => {
                // Large enough for nearly all configurations, since a growing buffer costs more
                // reads.
                stdin.reserve(8192);
                std::io::stdin().lock().read_to_end(stdin)
            }
        };
        outcome.map_err(|e| {
            Error::IOFailure(format!("cannot read the network configuration from stdin: {e}"))
        })?;
        Ok(request)
    }

    /// A call with these variables and this configuration, made from this process.
    pub fn new(vars: BTreeMap<String, OsString>, stdin: Vec<u8>) -> Self {
        let netns_is_own = vars.get("CNI_NETNS").is_some_and(|path| is_own_netns(Path::new(path)));
        Self { vars, stdin, netns_is_own, exec: AnyExec::default() }
    }

    /// Sets the way in which the plugin calls other plugins; for an [`Exec`] that calls plugins in
    /// this process.
    #[must_use]
    pub fn with_exec(self, exec: impl Exec + Send + Sync + 'static) -> Self {
        Self { exec: AnyExec::new(exec), ..self }
    }
}

/// Timeout of VERSION for each read of stdin.
#[cfg(unix)]
const VERSION_TIMEOUT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Reads stdin to its end or until the timeout; reads nothing from a terminal.
fn read_with_timeout(bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(0);
    }
    #[cfg(not(unix))]
    return stdin.lock().read_to_end(bytes);
    #[cfg(unix)]
    read_while_ready(&stdin, bytes)
}

#[cfg(unix)]
fn read_while_ready(stdin: &std::io::Stdin, bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    let mut chunk = [0; 256];
    while poll(&mut [PollFd::new(stdin, PollFlags::IN)], Some(&VERSION_TIMEOUT))? > 0 {
        match stdin.lock().read(&mut chunk)? {
            0 => break,
            some => bytes.extend_from_slice(&chunk[..some]),
        }
    }
    Ok(bytes.len())
}

/// The original stdout of this process, once it is reserved for the reply.
static RESERVED_STDOUT: OnceLock<File> = OnceLock::new();

/// Reserves stdout for the reply: other output of this process and its children goes to stderr.
///
/// Children do not inherit the reserved descriptor, so that the caller sees the end of the reply
/// even if a child lives longer.
#[cfg(unix)]
pub(crate) fn reserve_stdout() {
    const LOWEST: i32 = 3;
    if RESERVED_STDOUT.get().is_some() {
        return;
    }
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    // If this fails, such as without free descriptors, the reply goes to the normal stdout.
    if let Ok(reserved) = fcntl_dupfd_cloexec(&stdout, LOWEST)
        && dup2_stdout(&stderr).is_ok()
    {
        let _ = RESERVED_STDOUT.set(File::from(reserved));
    }
}

/// Only Unix can redirect the stdout of a process in safe code.
#[cfg(not(unix))]
pub(crate) fn reserve_stdout() {}

/// Whether `path` is the network namespace of this thread; false on systems without namespaces.
#[cfg(not(unix))]
fn is_own_netns(_: &Path) -> bool {
    false
}

/// Whether `path` is the network namespace of this thread; false on systems without namespaces.
#[cfg(unix)]
fn is_own_netns(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(path), std::fs::metadata("/proc/thread-self/ns/net")) {
        (Ok(theirs), Ok(own)) => (theirs.dev(), theirs.ino()) == (own.dev(), own.ino()),
        _ => false,
    }
}

/// The reply of a plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// The result or the error reply; empty if the command has no result.
    pub stdout: Vec<u8>,
    /// Text for the user.
    pub stderr: String,
    /// The error, if the call failed.
    pub error: Option<Error>,
}

impl Reply {
    /// Returns the exit status: 0 for success, 1 for failure.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.error.is_some())
    }

    /// Writes the reply to the original stdout of this process, even if
    /// [`Plugin::run`](crate::Plugin::run) has reserved it, and to stderr.
    ///
    /// # Errors
    /// The call's own error, or [`Error::IOFailure`] if a stream cannot be written.
    pub fn emit(self) -> Result<(), Error> {
        // Ignores a closed stderr, since the call itself succeeded.
        let _ = std::io::stderr().write_all(self.stderr.as_bytes());
        let written = if let Some(mut stdout) = RESERVED_STDOUT.get() {
            stdout.write_all(&self.stdout)
        } else {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&self.stdout).and_then(|()| stdout.flush())
        };
        match self.error {
            Some(error) => Err(error),
            None => written
                .map_err(|e| Error::IOFailure(format!("cannot write the reply to stdout: {e}"))),
        }
    }
}
