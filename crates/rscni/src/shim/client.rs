//! The shim: the plugin that asks the daemon.

use std::{fmt, io, os::fd::AsFd, path::PathBuf, process::ExitCode, time::Duration};

use super::{
    netns,
    socket::{connect_to, deadline, receive, send},
    wire::{Answer, Call, MAX_ANSWER, VERSION, decode, encode},
};
use crate::{
    Args, Cni, Command, Error, PluginInfo, Reply, Request, SpecVersion,
    dispatcher::{self, Identity, Prepared, answer_abort, deliver, exit_code, failure, prepare},
    request::reserve_stdout,
};

/// A plugin whose work a daemon does.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     rscni::shim::Shim::new("/run/my.sock").about("my network").main()
/// }
/// ```
///
/// It answers VERSION and a call without a command itself, and rejects invalid calls.
pub struct Shim {
    socket: PathBuf,
    identity: Identity,
    timeout: Duration,
    fallback: Option<Box<dyn Cni + Send + Sync>>,
}

/// A call that the daemon did not answer.
pub(super) enum Unanswered {
    /// The daemon did not accept the connection.
    Unreachable(io::Error),
    /// The call cannot be made, or the daemon refused it.
    Failed(Error),
    /// The connection ended, or the deadline was reached.
    Broken(String),
}

impl Shim {
    /// A shim of the daemon that listens on the unix socket at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
            identity: Identity::default(),
            timeout: Duration::from_secs(60),
            fallback: None,
        }
    }

    /// Sets the text about the plugin, as [`Plugin::msg`](crate::Plugin::msg) does.
    #[must_use]
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.identity.about = about.into();
        self
    }

    /// Sets the versions that the plugin supports; all by default.
    #[must_use]
    pub fn versions(mut self, info: PluginInfo) -> Self {
        self.identity.info = info;
        self
    }

    /// Sets the timeout of a call, 60 seconds by default. It must be shorter than that of the
    /// runtime: containerd and CRI-O have minutes.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets a plugin that does the work in this process if the daemon cannot be reached.
    ///
    /// It is not called after the connection is made, because the daemon may have begun the call.
    #[must_use]
    pub fn fallback(mut self, plugin: impl Cni + Send + Sync + 'static) -> Self {
        self.fallback = Some(Box::new(plugin));
        self
    }

    /// Answers the call that this process was started with; the return value of `main`.
    pub fn main(&self) -> ExitCode {
        reserve_stdout();
        let reply = match Request::from_process() {
            Ok(request) => {
                answer_abort(&request);
                self.reply(&request)
            }
            Err(error) => failure(error, SpecVersion::LATEST),
        };
        exit_code(&deliver(reply))
    }

    /// Answers `request`, with the help of the daemon.
    pub fn reply(&self, request: &Request) -> Reply {
        let (command, args) = match prepare(request, &self.identity) {
            Prepared::Call(command, args) => (command, *args),
            Prepared::Done(reply) => return reply,
        };
        let error = match (self.ask(command, &args, request), &self.fallback) {
            (Ok(reply), _) => return reply,
            (Err(Unanswered::Unreachable(_)), Some(fallback)) => {
                return dispatcher::reply(&**fallback, &self.identity, request);
            }
            (Err(Unanswered::Failed(error)), _) => error,
            (Err(Unanswered::Unreachable(error)), None) => {
                self.unavailable(command, &format!("cannot connect: {error}; is it running?"))
            }
            (Err(Unanswered::Broken(text)), _) => self.unavailable(command, &text),
        };
        failure(error, args.version())
    }

    /// The error for a daemon that does not answer. The runtime retries all commands but STATUS.
    fn unavailable(&self, command: Command, text: &str) -> Error {
        let text = format!("daemon at {}: {text}", self.socket.display());
        match command {
            Command::Status => Error::PluginNotAvailable(text),
            _ => Error::TryAgainLater(text),
        }
    }

    /// Asks the daemon.
    fn ask(&self, command: Command, args: &Args, request: &Request) -> Result<Reply, Unanswered> {
        let deadline = deadline(self.timeout);
        let netns = args.netns.as_deref().map(|path| (path, netns::open(path)));
        // Without a descriptor, the container of a DEL is gone.
        let path = netns.as_ref().filter(|(_, fd)| fd.is_ok()).map(|(path, _)| path);
        let vars = request.vars.iter();
        let vars = vars.filter_map(|(name, value)| Some((name.clone(), value.to_str()?.into())));
        let call = encode(&Call {
            version: VERSION,
            vars: vars.collect(),
            stdin: String::from_utf8_lossy(&request.stdin).into_owned(),
            netns: path.map(|path| path.display().to_string()),
        });
        // The daemon wakes up at the connection, and the request follows at once.
        let socket = connect_to(&self.socket, self.timeout).map_err(Unanswered::Unreachable)?;
        let fd = match &netns {
            Some((path, Err(error))) if command != Command::Del => {
                return Err(Unanswered::Failed(Error::InvalidNetns(format!(
                    "cannot open CNI_NETNS={}: {error}",
                    path.display()
                ))));
            }
            Some((_, fd)) => fd.as_ref().ok(),
            None => None,
        };
        // If this fails, the daemon may have refused the call before all of it was sent.
        let _ = send(&socket, &call, fd.map(AsFd::as_fd), deadline);
        let answer = receive(&socket, MAX_ANSWER, deadline).map_err(|error| {
            Unanswered::Broken(match error.kind() {
                io::ErrorKind::TimedOut => format!("no answer after {:?}", self.timeout),
                _ => format!("the connection ended during the call: {error}"),
            })
        })?;
        self.read(command, answer.frame.body())
    }

    /// Reads an answer.
    pub(super) fn read(&self, command: Command, body: &[u8]) -> Result<Reply, Unanswered> {
        let invalid = |text: String| match command {
            Command::Status => self.unavailable(command, &text),
            _ => Error::FailedToDecode(format!("daemon at {}: {text}", self.socket.display())),
        };
        let answer: Answer = decode(body)
            .map_err(|error| Unanswered::Failed(invalid(format!("invalid answer: {error}"))))?;
        if answer.version == 0 {
            return Err(Unanswered::Failed(invalid("an answer without a version".to_owned())));
        }
        if let Some(refusal) = answer.refusal {
            return Err(Unanswered::Failed(match (command, refusal.code) {
                (Command::Status, _) | (_, 11) => self.unavailable(command, &refusal.details),
                (_, 5) => Error::IOFailure(refusal.details),
                (_, 7) => Error::InvalidNetworkConfig(refusal.details),
                _ => Error::FailedToDecode(refusal.details),
            }));
        }
        answer.into_reply().ok_or_else(|| {
            Unanswered::Failed(invalid("a failure without an error reply".to_owned()))
        })
    }
}

impl fmt::Debug for Shim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shim")
            .field("socket", &self.socket)
            .field("identity", &self.identity)
            .field("timeout", &self.timeout)
            .field("has_fallback", &self.fallback.is_some())
            .finish()
    }
}
