//! The daemon: an event loop for requests of plugins, messages of servers, and timers.
//!
//! No event blocks the loop, so a server that does not answer delays only one container. The client
//! decides what to send and when; the daemon provides sockets, clock and files.

mod connections;
mod leases;
mod settings;

use std::{os::fd::AsFd, time::Duration};

use rscni::Error;
use rscni_linux::Termination;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

pub use self::settings::Daemon;
use self::{
    connections::Event,
    leases::{ABANDONED, LeaseTable},
};
use super::{
    client::Time,
    listener::{Listener, PidFile},
    request::Key,
    store::Store,
    system::{log, now},
};
use crate::plugin::Failure;

/// Interval of the search for namespaces that are gone.
const SWEEP: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

impl Daemon {
    /// Keeps leases until SIGTERM or SIGINT. The next daemon continues them.
    ///
    /// # Errors
    /// [`Error::IOFailure`] if it cannot listen, and [`Error::TryAgainLater`] if another daemon
    /// does.
    pub fn run(&self) -> Result<(), Error> {
        let termination = Termination::catch().map_err(Failure::from)?;
        // A container that waits for an answer needs two descriptors.
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        let socket = self.on_host(&self.socket_path);
        let store = Store::create(&socket)?;
        let listener = Listener::open(&socket)?;
        let _pidfile = self.pidfile.as_deref().map(PidFile::write).transpose()?;
        let mut leases = LeaseTable::new(self, store);
        leases.resume()?;
        let count = leases.len();
        log(format_args!("listening at {}, {count} leases kept", socket.display()));
        let buffer = vec![0; usize::from(u16::MAX)];
        let sweep = now() + SWEEP;
        EventLoop { termination, listener, leases, accept_from: Time::ZERO, sweep, buffer }.run()
    }
}

struct EventLoop<'a> {
    termination: Termination,
    listener: Listener,
    leases: LeaseTable<'a>,
    /// When to accept connections again.
    accept_from: Time,
    /// When to search for namespaces that are gone.
    sweep: Time,
    buffer: Vec<u8>,
}

/// An event source.
#[derive(Clone)]
enum Source {
    Termination,
    Listener,
    Connection(u64),
    Lease(Key),
}

impl EventLoop<'_> {
    fn run(&mut self) -> Result<(), Error> {
        loop {
            self.elapse();
            for source in self.wait()? {
                match source {
                    Source::Termination => {
                        let ending = Error::TryAgainLater("the DHCP daemon is ending".into());
                        self.leases.connections.answer_all(&ending.into());
                        log(format_args!("ending, {} leases kept", self.leases.len()));
                        return Ok(());
                    }
                    Source::Listener => self.accept(),
                    Source::Connection(id) => self.read_request(id),
                    Source::Lease(key) => self.leases.receive(&key, &mut self.buffer),
                }
            }
        }
    }

    /// Waits until a source is ready or a timer is due.
    fn wait(&self) -> Result<Vec<Source>, Error> {
        let now = now();
        let mut sources = vec![(Source::Termination, self.termination.as_fd())];
        let accept_at = Some(self.accept_from).filter(|accept_from| now < *accept_from);
        if accept_at.is_none() {
            sources.push((Source::Listener, self.listener.as_fd()));
        }
        let connections = self.leases.connections.descriptors();
        sources.extend(connections.map(|(id, stream)| (Source::Connection(id), stream)));
        let channels = self.leases.channels();
        sources
            .extend(channels.map(|(key, channel)| (Source::Lease(key.clone()), channel.as_fd())));

        let timers = [accept_at, self.leases.next_wake(), self.leases.connections.next_deadline()];
        let next = timers.into_iter().flatten().fold(self.sweep, Time::min);
        let pause = next.saturating_sub(now);
        let pause = Timespec {
            tv_sec: pause.as_secs().cast_signed(),
            tv_nsec: pause.subsec_nanos().into(),
        };
        let mut fds: Vec<_> =
            sources.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&pause)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::Internal(format!("poll: {errno}"))),
        }
        let ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let ready = sources.iter().zip(ready).filter(|(_, is_ready)| *is_ready);
        Ok(ready.map(|((source, _), _)| source.clone()).collect())
    }

    /// Runs the timers that are due.
    fn elapse(&mut self) {
        let now = now();
        if self.sweep <= now {
            self.sweep = now + SWEEP;
            self.leases.sweep();
        }
        self.leases.connections.expire(now);
        self.leases.elapse(now);
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok(stream) => stream.into_iter().for_each(|stream| self.leases.connections.add(stream)),
            Err(error) => {
                log(format_args!("accept a connection: {error}"));
                self.accept_from = now() + ACCEPT_PAUSE;
            }
        }
    }

    fn read_request(&mut self, id: u64) {
        match self.leases.connections.read(id, &mut self.buffer) {
            Some(Event::Request(request)) => self.leases.process(request, id),
            Some(Event::Abandoned(key)) => self.leases.release(&[key], ABANDONED, None),
            None => {}
        }
    }
}
