//! The work of a daemon, written once for the blocking and the async server.
//!
//! A connection and a plugin return futures, as in the operations of a runtime. Those of the
//! blocking server are ready at once; only a call that is queued may have to be awaited.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, ErrorKind},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{io::Errno, net::sockopt::socket_peercred, process::geteuid};
use serde::Deserialize;

use super::{
    call_queue::{CallQueue, Subject},
    netns::Netns,
    socket::{Incoming, is_closed},
    stderr::Stderr,
    wire::{Answer, Call, VERSION, decode, encode},
};
use crate::{
    Args, CNIResult, Command, Error, Reply, Request,
    conf::version_for_error,
    dispatcher::{Identity, Prepared, failure, finish, prepare},
};

/// A connection of a shim.
pub(super) trait Connection: AsFd + Send + Sync {
    fn receive(
        &mut self,
        limit: usize,
        timeout: Duration,
    ) -> impl Future<Output = io::Result<Incoming>> + Send;
    fn send(
        &mut self,
        bytes: &[u8],
        timeout: Duration,
    ) -> impl Future<Output = io::Result<()>> + Send;
}

/// The way to call a plugin.
pub(super) trait Callee {
    fn call(
        &self,
        command: Command,
        args: Args,
    ) -> impl Future<Output = Result<Option<CNIResult>, Error>> + Send;
}

/// A daemon without its listener.
#[derive(Debug)]
pub(super) struct Daemon<P> {
    pub(super) plugin: P,
    pub(super) identity: Identity,
    pub(super) allowed: Vec<u32>,
    pub(super) request_limit: usize,
    pub(super) request_timeout: Duration,
    calls: CallQueue,
}

/// Implements the setters of the blocking and the async server.
macro_rules! server_settings {
    () => {
        /// Allows calls of a user, in addition to root and the user of the daemon.
        pub fn allow_uid(mut self, uid: u32) -> Self {
            self.daemon.allowed.push(uid);
            self
        }

        /// Sets the versions that the plugin supports; all by default. The shim reports its
        /// [own](super::Shim::versions).
        pub fn versions(mut self, info: crate::PluginInfo) -> Self {
            self.daemon.identity.info = info;
            self
        }

        /// Sets the limit of a request in bytes; 4 MiB by default.
        pub fn request_limit(mut self, bytes: usize) -> Self {
            self.daemon.request_limit = bytes;
            self
        }

        /// Sets the timeout for a shim to send its request, and to read the answer; 10 seconds by
        /// default.
        pub fn request_timeout(mut self, timeout: Duration) -> Self {
            self.daemon.request_timeout = timeout;
            self
        }
    };
}
pub(super) use server_settings;

impl<P> Daemon<P> {
    pub(super) fn new(plugin: P) -> Self {
        Self {
            plugin,
            identity: Identity::default(),
            allowed: vec![0, geteuid().as_raw()],
            request_limit: 4 << 20,
            request_timeout: Duration::from_secs(10),
            calls: CallQueue::default(),
        }
    }
}

impl<P: Callee> Daemon<P> {
    /// Serves the call of a connection.
    pub(super) async fn serve<C: Connection>(&self, mut connection: C) {
        let incoming = match self.check_peer(&connection) {
            Ok(()) => connection.receive(self.request_limit, self.request_timeout).await,
            Err(error) => Err(error),
        };
        let call = incoming.map(|incoming| Ok((read(incoming.frame.body())?, incoming.fds)));
        let answer = match call {
            Ok(Ok((call, fds))) => {
                match self.reply(call, fds.into_iter().next(), || is_closed(&connection)).await {
                    Some(reply) => reply.into(),
                    None => return,
                }
            }
            Ok(Err(refusal)) => refusal,
            Err(error) => match self.refused(&error) {
                Some(refusal) => refusal,
                None => return,
            },
        };
        // If the shim is gone, its runtime calls DEL or tries again.
        let _ = connection.send(&encode(&answer), self.request_timeout).await;
    }

    /// Checks the user of the shim.
    fn check_peer(&self, connection: impl AsFd) -> io::Result<()> {
        let uid = socket_peercred(connection)?.uid.as_raw();
        if self.allowed.contains(&uid) {
            return Ok(());
        }
        Err(io::Error::new(
            ErrorKind::PermissionDenied,
            format!("the daemon does not accept calls of uid {uid}; run as root, or allow the uid"),
        ))
    }

    /// Describes a request that was not received; `None` if the shim is gone.
    fn refused(&self, error: &io::Error) -> Option<Answer> {
        match error.kind() {
            ErrorKind::PermissionDenied => Some(Answer::refused(5, error.to_string())),
            ErrorKind::InvalidData => Some(Answer::refused(7, error.to_string())),
            ErrorKind::TimedOut => {
                let timeout = self.request_timeout;
                Some(Answer::refused(11, format!("the request was incomplete after {timeout:?}")))
            }
            _ => None,
        }
    }

    /// Calls the plugin when no earlier call excludes it. `None` if the shim is gone by then: its
    /// runtime no longer knows of the call, so that an ADD would leave an attachment behind.
    pub(super) async fn reply(
        &self,
        call: Call,
        fd: Option<OwnedFd>,
        is_gone: impl Fn() -> bool,
    ) -> Option<Reply> {
        let stdin = call.stdin.into_bytes();
        let is_del = call.vars.get("CNI_COMMAND").is_some_and(|command| command == "DEL");
        let netns = call.netns.map(|path| match fd {
            Some(fd) => Netns::new(fd, path),
            // The kernel drops descriptors that the daemon has no room for.
            None => Err(Error::TryAgainLater(format!(
                "the descriptor of CNI_NETNS={path} did not arrive; too many open files?"
            ))),
        });
        let netns = match netns.transpose() {
            Ok(netns) => netns,
            // The file that the runtime bound a namespace to may outlive the namespace.
            Err(Error::InvalidNetns(_)) if is_del => None,
            Err(error) => return Some(failure(error, version_for_error(&stdin))),
        };
        let mut vars: BTreeMap<_, OsString> =
            call.vars.into_iter().map(|(name, value)| (name, value.into())).collect();
        vars.remove("CNI_NETNS");
        vars.extend(netns.as_ref().map(|netns| ("CNI_NETNS".into(), netns.inside().into())));
        let leave = |outcome| match &netns {
            Some(netns) => netns.leave(outcome),
            None => outcome,
        };
        let request = Request::new(vars, stdin);
        let (command, mut args) = match prepare(&request, &self.identity) {
            Prepared::Call(command, args) => (command, *args),
            Prepared::Done(Reply { error: Some(error), .. }) => {
                return Some(finish(version_for_error(&request.stdin), leave(Err(error))));
            }
            Prepared::Done(reply) => return Some(reply),
        };
        if let Some(netns) = &netns {
            netns.enter(&mut args);
        }
        let queued = subject(command, &args).map(|subject| self.calls.enter(subject));
        if let Some(queued) = &queued {
            queued.await;
        }
        if is_gone() {
            return None;
        }
        let (version, stderr) = (args.version(), Stderr::of_call());
        let outcome = stderr.during(self.plugin.call(command, args)).await;
        let mut reply = finish(version, leave(outcome));
        reply.stderr = match &netns {
            Some(netns) => netns.leave_text(&stderr.take()),
            None => stderr.take(),
        };
        Some(reply)
    }
}

/// Reads the call of a message.
pub(super) fn read(body: &[u8]) -> Result<Call, Answer> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let call: Result<Call, _> = decode(body);
    let version = match &call {
        Ok(call) => call.version,
        Err(_) => decode(body).map_or(VERSION, |Version { version }| version),
    };
    if version != VERSION {
        return Err(Answer::refused(
            11,
            format!(
                "the shim uses version {version} of the wire format, the daemon {VERSION}; \
                 update the daemon"
            ),
        ));
    }
    call.map_err(|error| Answer::refused(6, format!("cannot decode the request: {error}")))
}

/// The subject of a call that must not run beside others.
fn subject(command: Command, args: &Args) -> Option<Subject> {
    let network = args.config.as_ref()?.name.clone();
    match command {
        Command::Add | Command::Del | Command::Check => Some(Subject::Attachment {
            network,
            container_id: args.container_id.clone(),
            ifname: args.ifname.clone(),
        }),
        Command::Gc => Some(Subject::Network(network)),
        Command::Status | Command::Version => None,
    }
}

/// Time to wait before the next attempt to accept a connection.
///
/// # Errors
/// An error of the listener itself.
pub(super) fn pause_after(error: io::Error) -> io::Result<Duration> {
    match Errno::from_io_error(&error) {
        Some(Errno::INTR | Errno::AGAIN | Errno::CONNABORTED) => Ok(Duration::ZERO),
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP) => Err(error),
        // Such as too many open files: the kernel keeps the connections meanwhile.
        _ => Ok(Duration::from_millis(100)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::{
        Cni,
        shim::{blocking::daemon, socket::receive},
    };

    struct Unused;

    impl Cni for Unused {
        fn add(&self, _: Args) -> Result<CNIResult, Error> {
            unreachable!("the call is refused")
        }

        fn del(&self, _: Args) -> Result<(), Error> {
            unreachable!("the call is refused")
        }
    }

    fn call(command: &str) -> Call {
        let vars = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "a"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/run/netns/a"),
        ];
        Call {
            version: VERSION,
            vars: vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            stdin: r#"{"cniVersion":"1.0.0","name":"net","type":"my"}"#.into(),
            netns: Some("/run/netns/a".into()),
        }
    }

    /// The answer to a shim that sends `request` and waits.
    fn refusal_of(mut daemon: Daemon<impl Callee>, request: &[u8]) -> (u32, String) {
        daemon.request_timeout = Duration::from_millis(20);
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::net::send(&ours, request, rustix::net::SendFlags::empty()).unwrap();
        crate::shim::blocking::block_on(daemon.serve(theirs));
        let answer: Answer = decode(receive(&ours, 1000, None).unwrap().frame.body()).unwrap();
        let refusal = answer.refusal.unwrap();
        (refusal.code, refusal.details)
    }

    #[test]
    fn a_user_who_is_not_allowed_is_refused_by_uid() {
        let mut daemon = daemon(Unused);
        daemon.allowed.clear();
        let uid = geteuid().as_raw();
        let text = format!("the daemon does not accept calls of uid {uid}; run as root, or allow");
        let (code, details) = refusal_of(daemon, b"anything");
        assert_eq!(code, 5);
        assert!(details.starts_with(&text), "{details}");
    }

    #[test]
    fn root_and_the_user_of_the_daemon_are_allowed() {
        assert_eq!(daemon(Unused).allowed, [0, geteuid().as_raw()]);
    }

    #[test]
    fn an_incomplete_request_is_refused_at_the_timeout() {
        let text = "the request was incomplete after 20ms".to_owned();
        assert_eq!(refusal_of(daemon(Unused), &[0, 0, 0, 9, b'{']), (11, text));
    }

    #[test]
    fn a_daemon_in_the_namespace_of_the_call_is_code_8_with_the_path_of_the_runtime() {
        let own = crate::shim::netns::open("/proc/thread-self/ns/net".as_ref()).unwrap();
        let reply = crate::shim::blocking::reply(Unused, call("ADD"), Some(own)).unwrap();
        let error = reply.error.unwrap();
        assert_eq!(error.code(), 8);
        assert!(error.details().starts_with("CNI_NETNS=/run/netns/a is the"), "{error}");
        assert!(String::from_utf8(reply.stdout).unwrap().contains("/run/netns/a"));
    }

    #[test]
    fn a_descriptor_that_did_not_arrive_is_retried() {
        for command in ["ADD", "DEL"] {
            let reply = crate::shim::blocking::reply(Unused, call(command), None).unwrap();
            let error = reply.error.unwrap();
            assert_eq!(error.code(), 11);
            assert!(error.details().contains("CNI_NETNS=/run/netns/a did not arrive"), "{error}");
        }
    }

    #[test]
    fn a_lack_of_descriptors_pauses_and_a_broken_listener_ends_the_server() {
        let pause = |errno: Errno| pause_after(errno.into()).ok();
        assert_eq!(pause(Errno::CONNABORTED), Some(Duration::ZERO));
        assert!(pause(Errno::MFILE) > Some(Duration::ZERO));
        assert_eq!(pause(Errno::BADF), None);
    }
}
