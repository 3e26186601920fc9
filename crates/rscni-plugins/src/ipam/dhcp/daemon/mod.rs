//! The daemon: one loop that waits for calls of plugins, messages of servers, and the times of leases.
//!
//! Nothing in it waits for anything else, so a server that does not answer keeps one container waiting and no other.
//! What is heard and when is the client's business; here it gets its sockets, its clock and its file. What is done for a
//! lease is in [`leases`].

mod leases;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use rscni::Error;
use rscni_linux::Termination;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Resource, getrlimit, setrlimit},
};

use self::leases::{CONTAINER_GONE, Holder, NOBODY_WAITS};
use super::{
    client::{Patience, Time},
    listener::{Listener, PidFile},
    log, now,
    request::{Answer, Key, LONGEST, SOCKET, TO_GO},
    store::Store,
};

/// The settings of the dhcp plugin's daemon, named as the Go daemon's options.
#[derive(Clone, Debug)]
pub struct Daemon {
    /// Where it listens, unless systemd hands a socket over. Leases are kept in a directory beside it.
    pub socket_path: PathBuf,
    /// A file for the number of the process.
    pub pidfile: Option<PathBuf>,
    /// What stands before the paths of the socket and of namespaces, for a daemon that sees the host's files elsewhere.
    pub host_prefix: String,
    /// How long an answer to one request is waited for.
    pub timeout: Duration,
    /// The longest pause between two attempts to get a lease.
    pub resend_max: Duration,
    /// When to give up getting a lease.
    pub resend_timeout: Duration,
    /// Whether servers are asked to answer to all stations.
    pub broadcast: bool,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            socket_path: SOCKET.into(),
            pidfile: None,
            host_prefix: String::new(),
            timeout: Duration::from_secs(10),
            resend_max: Duration::from_secs(62),
            resend_timeout: Duration::from_secs(208),
            broadcast: false,
        }
    }
}

/// How often it is looked whether the namespaces of leases are still there.
const SWEEP: Duration = Duration::from_secs(10);
/// How long a plugin may take to say what it wants.
const HEARING: Duration = Duration::from_secs(10);
/// How long nobody is let in when that has failed, such as for want of descriptors.
const CLOSED: Duration = Duration::from_secs(1);

impl Daemon {
    /// Keeps leases until SIGTERM or SIGINT. Leases stay; the next daemon goes on with them.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if it cannot listen, and [`Error::TryAgainLater`] if another daemon does.
    pub fn run(&self) -> std::result::Result<(), Error> {
        let termination = Termination::catch().map_err(crate::plugin::error::Failure::from)?;
        // Every container that waits takes two descriptors.
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(
            Resource::Nofile,
            rustix::process::Rlimit { current: limit.maximum, ..limit },
        );
        let socket = PathBuf::from(format!("{}{}", self.host_prefix, self.socket_path.display()));
        let store = Store::create(&socket)?;
        let listener = Listener::open(&socket)?;
        let _pidfile = self.pidfile.as_deref().map(PidFile::write).transpose()?;
        let mut keeper = Keeper {
            settings: self,
            store,
            holders: BTreeMap::new(),
            wakes: BTreeSet::new(),
            listening: Vec::new(),
            plugins: BTreeMap::new(),
            next_plugin: 0,
            closed_until: Time::ZERO,
            sweep: now() + SWEEP,
            buffer: vec![0; usize::from(u16::MAX)],
        };
        keeper.resume()?;
        log(format_args!(
            "listening at {}, {} leases kept",
            socket.display(),
            keeper.holders.len()
        ));
        keeper.serve(&termination, &listener)
    }

    pub(super) fn patience(&self) -> Patience {
        Patience {
            timeout: self.timeout,
            resend_max: self.resend_max,
            resend_timeout: self.resend_timeout,
        }
    }

    fn on_host(&self, path: &Path) -> PathBuf {
        format!("{}{}", self.host_prefix, path.display()).into()
    }
}

/// A plugin that is connected.
struct Plugin {
    stream: UnixStream,
    heard: Vec<u8>,
    /// Until when it has to have said what it wants; none if it has.
    until: Option<Time>,
    /// The lease that it waits for.
    waits_for: Option<Key>,
}

struct Keeper<'a> {
    settings: &'a Daemon,
    store: Store,
    holders: BTreeMap<Key, Holder>,
    /// When which of them wants to be called, and which of them may be answered: only these are looked at.
    wakes: BTreeSet<(Time, Key)>,
    listening: Vec<Key>,
    plugins: BTreeMap<u64, Plugin>,
    next_plugin: u64,
    closed_until: Time,
    sweep: Time,
    buffer: Vec<u8>,
}

/// What can be ready.
#[derive(Clone)]
enum Source {
    Termination,
    Listener,
    Plugin(u64),
    Holder(Key),
}

impl Keeper<'_> {
    /// Takes over what the last daemon has left.
    fn resume(&mut self) -> std::result::Result<(), Error> {
        for kept in self.store.all()? {
            let client = kept.resume(self.settings.patience(), self.settings.broadcast);
            let key = kept.key;
            self.holders.insert(key.clone(), Holder::new(kept.place, client, None));
            self.schedule(&key);
        }
        self.sweep();
        Ok(())
    }

    fn serve(
        &mut self,
        termination: &Termination,
        listener: &Listener,
    ) -> std::result::Result<(), Error> {
        loop {
            self.elapse();
            for source in self.wait(termination, listener)? {
                match source {
                    Source::Termination => {
                        self.plugins.values_mut().for_each(|plugin| {
                            plugin.answer(
                                &Error::TryAgainLater("the DHCP daemon is ending".into()).into(),
                            );
                        });
                        log(format_args!("ending, {} leases kept", self.holders.len()));
                        return Ok(());
                    }
                    Source::Listener => self.accept(listener),
                    Source::Plugin(id) => self.hear(id),
                    Source::Holder(key) => self.receive(&key),
                }
            }
        }
    }

    /// Waits until something is ready, or it is time for something.
    fn wait(
        &self,
        termination: &Termination,
        listener: &Listener,
    ) -> std::result::Result<Vec<Source>, Error> {
        let now = now();
        let is_open = self.closed_until <= now;
        let mut sources = vec![(Source::Termination, termination.as_fd())];
        if is_open {
            sources.push((Source::Listener, listener.as_fd()));
        }
        sources.extend(
            self.plugins.iter().map(|(id, plugin)| (Source::Plugin(*id), plugin.stream.as_fd())),
        );
        let channel = |key| self.holders.get(key)?.channel.as_ref();
        let channels = self.listening.iter().filter_map(|key| Some((key, channel(key)?)));
        sources
            .extend(channels.map(|(key, channel)| (Source::Holder(key.clone()), channel.as_fd())));

        let wake = self.wakes.first().map(|(wake, _)| *wake);
        let hearings = self.plugins.values().filter_map(|plugin| plugin.until);
        let opening = (!is_open).then_some(self.closed_until);
        let next = wake.into_iter().chain(hearings).chain(opening).fold(self.sweep, Time::min);
        let pause = next.saturating_sub(now);
        let pause = Timespec {
            tv_sec: pause.as_secs().cast_signed(),
            tv_nsec: pause.subsec_nanos().into(),
        };

        let mut fds: Vec<_> =
            sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::Internal(format!("poll: {errno}"))),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        Ok(sources
            .iter()
            .zip(ready)
            .filter(|(_, ready)| *ready)
            .map(|((source, _), _)| source.clone())
            .collect())
    }

    /// Does everything that it is time for.
    fn elapse(&mut self) {
        let now = now();
        if self.sweep <= now {
            self.sweep = now + SWEEP;
            self.sweep();
        }
        self.plugins.retain(|_, plugin| plugin.until.is_none_or(|until| now < until));
        let due = self.wakes.iter().take_while(|(wake, _)| *wake <= now);
        for key in due.map(|(_, key)| key.clone()).collect::<Vec<_>>() {
            self.drive(&key, None);
        }
    }

    /// Ends what belongs to containers that are gone. There is no way left to give their leases back: the servers have
    /// them back when their time is over.
    fn sweep(&mut self) {
        let gone = self.holders.iter().filter(|(_, holder)| !holder.place.exists());
        for key in gone.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.forget(&key, CONTAINER_GONE);
        }
    }

    fn accept(&mut self, listener: &Listener) {
        match listener.accept() {
            Ok(None) => {}
            Ok(Some(stream)) => {
                let until = Some(now() + HEARING);
                let plugin = Plugin { stream, heard: Vec::new(), until, waits_for: None };
                self.plugins.insert(self.next_plugin, plugin);
                self.next_plugin += 1;
            }
            Err(error) => {
                log(format_args!("accept a connection: {error}"));
                self.closed_until = now() + CLOSED;
            }
        }
    }

    /// Reads what a plugin says, and does it once it is complete.
    fn hear(&mut self, id: u64) {
        let Some(plugin) = self.plugins.get_mut(&id) else { return };
        let is_waiting = plugin.until.is_none();
        match plugin.stream.read(&mut self.buffer) {
            Ok(length) if length > 0 && !is_waiting => plugin.heard.extend(&self.buffer[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            // It has gone, or says more than there is to say: nobody waits for the lease any more.
            _ => {
                if let Some(key) = self.plugins.remove(&id).and_then(|plugin| plugin.waits_for) {
                    self.release(&[key], NOBODY_WAITS, None);
                }
                return;
            }
        }
        let Some(end) = plugin.heard.iter().position(|byte| *byte == b'\n') else {
            if plugin.heard.len() > LONGEST {
                self.plugins.remove(&id);
            }
            return;
        };
        let call = serde_json::from_slice(&plugin.heard[..end]);
        plugin.until = None;
        plugin.heard = Vec::new();
        let Ok(call) = call else {
            let _ = plugin.stream.write(TO_GO.as_bytes());
            self.plugins.remove(&id);
            return;
        };
        if let Some(answer) = self.call(call, id) {
            self.answer(id, &answer);
        }
    }

    /// Answers a plugin, which ends the connection. Whether it was still there.
    fn answer(&mut self, plugin: u64, answer: &Answer) -> bool {
        self.plugins.remove(&plugin).is_some_and(|mut plugin| plugin.answer(answer))
    }
}

impl Plugin {
    fn answer(&mut self, answer: &Answer) -> bool {
        let Ok(mut line) = serde_json::to_vec(answer) else { return false };
        line.push(b'\n');
        // It is far less than a socket holds, so nothing is cut off for a plugin that reads late.
        self.stream.write(&line).is_ok_and(|written| written == line.len())
    }
}
