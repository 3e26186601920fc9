//! What goes into a plugin and what comes out of it, as plain values (spec: "Section 2: Execution Protocol").
//!
//! [`Request`] and [`Reply`] are all that the dispatcher knows of the world; the process's environment and streams
//! are read and written here, and nowhere else.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::File,
    io::{IsTerminal, Read, Write},
    path::Path,
    sync::OnceLock,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::fcntl_dupfd_cloexec,
    stdio::dup2_stdout,
};

use crate::Error;

/// The operation that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Add a container to a network.
    Add,
    /// Remove it.
    Del,
    /// See that it is as ADD left it.
    Check,
    /// Remove what belongs to attachments that are no longer valid.
    Gc,
    /// Say whether ADD could be serviced.
    Status,
    /// Say which versions are supported.
    Version,
}

impl Command {
    /// As it stands in `CNI_COMMAND`.
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

    /// The variables, other than `CNI_COMMAND`, without which the command cannot be run.
    pub const fn required_variables(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Self::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Self::Gc => &["CNI_PATH"],
            Self::Status | Self::Version => &[],
        }
    }

    /// Whether it concerns one attachment, and so has a container id and an interface name.
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

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A call of a plugin: the `CNI_*` variables and the bytes of stdin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The variables whose names start with `CNI_`.
    pub vars: BTreeMap<String, OsString>,
    /// The configuration.
    pub stdin: Vec<u8>,
    /// Whether `CNI_NETNS` is the network namespace that the plugin itself runs in.
    pub netns_is_own: bool,
}

impl Request {
    /// The call that this process was started with. Stdin is read to its end where there is a command. That of VERSION
    /// is no more than the version that the reply is to be in: nobody at a terminal is asked for it, and who writes nothing
    /// is waited for no longer than a second.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if stdin cannot be read.
    pub fn from_process() -> Result<Self, Error> {
        let vars = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with("CNI_"))
            .collect();
        let mut request = Self::new(vars, Vec::new());
        // Room for nearly every configuration: what grows while it is read is read in small pieces.
        let stdin = &mut request.stdin;
        let outcome = match request.vars.get("CNI_COMMAND").and_then(|command| command.to_str()) {
            None | Some("") => Ok(0),
            Some("VERSION") => read_in_time(stdin),
            Some(_) => {
                stdin.reserve(STDIN_ROOM);
                std::io::stdin().lock().read_to_end(stdin)
            }
        };
        outcome.map_err(|e| {
            Error::IOFailure(format!("read the network configuration from stdin: {e}"))
        })?;
        Ok(request)
    }

    /// A call with these variables and this configuration, made from this process.
    pub fn new(vars: BTreeMap<String, OsString>, stdin: Vec<u8>) -> Self {
        let netns_is_own = vars.get("CNI_NETNS").is_some_and(|path| is_own_netns(Path::new(path)));
        Self { vars, stdin, netns_is_own }
    }
}

/// How long VERSION waits for its input.
const VERSION_PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Reads the input of VERSION: to its end, or as far as it comes in time.
fn read_in_time(bytes: &mut Vec<u8>) -> std::io::Result<usize> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(0);
    }
    let mut chunk = [0; 256];
    while poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&VERSION_PATIENCE))? > 0 {
        match stdin.lock().read(&mut chunk)? {
            0 => break,
            some => bytes.extend_from_slice(&chunk[..some]),
        }
    }
    Ok(bytes.len())
}

const STDIN_ROOM: usize = 8192;

/// The stdout that this process was started with, once it is reserved for the reply.
static RESERVED_STDOUT: OnceLock<File> = OnceLock::new();

/// Reserves stdout for the reply: whatever else this process or its children write there goes to stderr. Children do not
/// inherit the reserved one, so that the caller sees the end of the reply although a child may live longer.
pub(crate) fn reserve_stdout() {
    const LOWEST: i32 = 3;
    if RESERVED_STDOUT.get().is_some() {
        return;
    }
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    // If that fails, as without free descriptors, the reply goes where it always went.
    if let Ok(reserved) = fcntl_dupfd_cloexec(&stdout, LOWEST)
        && dup2_stdout(&stderr).is_ok()
    {
        let _ = RESERVED_STDOUT.set(File::from(reserved));
    }
}

/// Whether `path` is the network namespace of this thread. Where there are none, on other systems, it is not.
fn is_own_netns(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (std::fs::metadata(path), std::fs::metadata("/proc/thread-self/ns/net")) {
        (Ok(theirs), Ok(own)) => (theirs.dev(), theirs.ino()) == (own.dev(), own.ino()),
        _ => false,
    }
}

/// What a plugin answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The result or the error reply; empty where the spec wants silence.
    pub stdout: Vec<u8>,
    /// Text for people.
    pub stderr: String,
    /// The error, if the call failed.
    pub error: Option<Error>,
}

impl Reply {
    /// The exit status: 0 for success, 1 for failure.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.error.is_some())
    }

    /// Writes the reply to this process's streams: to the stdout that it was started with, also if
    /// [`Plugin::run`](crate::Plugin::run) has reserved that for the reply.
    ///
    /// # Errors
    /// The call's own error, or [`Error::IOFailure`] if a stream cannot be written.
    pub fn emit(self) -> Result<(), Error> {
        // A plugin whose stderr is closed has still done its work.
        let _ = std::io::stderr().write_all(self.stderr.as_bytes());
        let written = if let Some(mut stdout) = RESERVED_STDOUT.get() {
            stdout.write_all(&self.stdout)
        } else {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&self.stdout).and_then(|()| stdout.flush())
        };
        match self.error {
            Some(error) => Err(error),
            None => {
                written.map_err(|e| Error::IOFailure(format!("write the reply to stdout: {e}")))
            }
        }
    }
}
