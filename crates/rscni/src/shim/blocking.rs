//! The blocking server: a thread for each call.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    server::{Callee, Connection, Daemon, pause_after, server_settings},
    socket::{self, Incoming, deadline},
};
use crate::{Args, CNIResult, Cni, Command, Error, plugin};

/// Serves the calls of shims with `plugin`, a thread for each call.
///
/// ```no_run
/// # use rscni::{Args, CNIResult, Cni, Error};
/// # struct MyPlugin;
/// # impl Cni for MyPlugin {
/// #     fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
/// #     fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
/// # }
/// use rscni::shim;
///
/// fn main() -> std::io::Result<()> {
///     let listener = shim::listen("/run/my.sock")?;
///     shim::serve_blocking(listener, MyPlugin).run()
/// }
/// ```
pub fn serve_blocking<P: Cni + Sync>(listener: UnixListener, plugin: P) -> BlockingServer<P> {
    BlockingServer { listener, daemon: daemon(plugin) }
}

pub(super) fn daemon<P: Cni + Sync>(plugin: P) -> Daemon<Blocking<P>> {
    Daemon::new(Blocking(plugin))
}

/// A server that is not running yet; made by [`serve_blocking`].
#[derive(Debug)]
#[must_use = "`run` starts the server"]
pub struct BlockingServer<P> {
    listener: UnixListener,
    daemon: Daemon<Blocking<P>>,
}

impl<P: Cni + Sync> BlockingServer<P> {
    server_settings!();

    /// Serves calls for ever.
    ///
    /// # Errors
    /// An error of the listener. Errors of a connection or a call end only that.
    pub fn run(self) -> io::Result<()> {
        self.run_while(None)
    }

    /// Serves calls until `stop` is readable or closed; then refuses connections, waits for the
    /// running calls and returns.
    ///
    /// `stop` is one end of a socket pair whose other end is dropped, the pipe of a signal handler,
    /// or a signalfd.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_until(self, stop: impl AsFd) -> io::Result<()> {
        self.run_while(Some(stop.as_fd()))
    }

    fn run_while(self, stop: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Self { listener, daemon } = self;
        // Another process may share the listener and take a connection first.
        listener.set_nonblocking(true)?;
        let daemon = &daemon;
        // The scope ends when all calls have ended.
        thread::scope(move |scope| {
            loop {
                if wait(Some(&listener), stop, None)? {
                    return Ok(());
                }
                // If no thread can be started, the connection is closed and the runtime retries.
                let started = listener.accept().and_then(|(connection, _)| {
                    thread::Builder::new()
                        .spawn_scoped(scope, || block_on(daemon.serve(connection)))
                        .map(drop)
                });
                if let Err(error) = started {
                    let pause = pause_after(error)?;
                    if !pause.is_zero() && wait(None, stop, Some(pause))? {
                        return Ok(());
                    }
                }
            }
        })
    }
}

/// Waits for a connection, for `stop` or for the timeout; returns whether to stop.
fn wait(
    listener: Option<&UnixListener>,
    stop: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<bool> {
    let watched = stop.into_iter().chain(listener.map(AsFd::as_fd));
    let mut fds: Vec<_> = watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => Ok(stop.is_some() && !fds[0].revents().is_empty()),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A plugin that blocks.
#[derive(Debug)]
pub(super) struct Blocking<P>(P);

impl<P: Cni + Sync> Callee for Blocking<P> {
    async fn call(&self, command: Command, args: Args) -> Result<Option<CNIResult>, Error> {
        plugin::call(&self.0, command, args)
    }
}

impl Connection for UnixStream {
    async fn receive(&mut self, limit: usize, timeout: Duration) -> io::Result<Incoming> {
        socket::receive(self, limit, deadline(timeout))
    }

    async fn send(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        socket::send(self, bytes, None, deadline(timeout))
    }
}

/// Runs a future on this thread, which sleeps while the future waits.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let (mut future, mut context) = (pin!(future), Context::from_waker(&waker));
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

/// Answers a call without a connection.
#[cfg(any(test, fuzzing))]
pub(super) fn reply(
    plugin: impl Cni + Sync,
    call: super::wire::Call,
    fd: Option<std::os::fd::OwnedFd>,
) -> Option<crate::Reply> {
    block_on(daemon(plugin).reply(call, fd, || false))
}
