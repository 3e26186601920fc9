//! The blocking server: threads that accept connections and serve their calls.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::MetadataExt,
            net::{UnixListener, UnixStream},
        },
    },
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, Scope, Thread},
    time::Duration,
};

use rustix::{event::epoll, io::Errno};

use super::{
    server::{Callee, Connection, Daemon, pause_after, server_settings},
    socket::{self, Incoming, deadline},
};
use crate::{Args, CNIResult, Cni, Command, Error, dispatcher};

/// Threads that are kept for later calls.
const IDLE: usize = 16;

/// Serves the calls of shims with `plugin`, on as many threads as there are calls at a time.
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
///
/// A thread serves one call after the other, so a call must restore what it changes of its thread.
/// A thread that a call leaves in another network namespace ends.
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
        // Another thread or process may take a connection first.
        listener.set_nonblocking(true)?;
        let events = events(&listener, stop)?;
        let pool = Pool {
            daemon,
            listener: RwLock::new(Some(listener)),
            stop,
            idle: AtomicUsize::new(1),
            outcome: Mutex::new(Ok(())),
        };
        // The scope ends when all calls have ended.
        thread::scope(|scope| pool.work(scope, &events));
        pool.outcome.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads of a server. At least one of them waits for a connection, unless the limit of
/// threads is reached: then the kernel keeps the connections until a call ends.
struct Pool<'a, P> {
    daemon: Daemon<Blocking<P>>,
    /// `None` after the stop, so that connections are refused.
    listener: RwLock<Option<UnixListener>>,
    stop: Option<BorrowedFd<'a>>,
    /// Threads that wait for a connection.
    idle: AtomicUsize,
    outcome: Mutex<io::Result<()>>,
}

impl<P: Cni + Sync> Pool<'_, P> {
    /// Serves calls on this thread until the stop, or until enough other threads wait.
    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, events: &OwnedFd) {
        let home = own_netns();
        while let Some(connection) = self.accept(events).unwrap_or_else(|error| {
            *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
            None
        }) {
            if self.idle.fetch_sub(1, Ordering::SeqCst) == 1 {
                // If it fails, connections wait for the end of a call.
                let _ = self.start(scope);
            }
            block_on(self.daemon.serve(connection));
            let one_more = |idle| (idle < IDLE).then_some(idle + 1);
            if own_netns() != home
                || self.idle.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_err()
            {
                return;
            }
        }
    }

    /// Starts a thread that waits for a connection.
    fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> io::Result<()> {
        let listener = self.listener.read().unwrap_or_else(PoisonError::into_inner);
        let Some(listener) = &*listener else { return Ok(()) };
        let events = events(listener, self.stop)?;
        self.idle.fetch_add(1, Ordering::SeqCst);
        let work = move || self.work(scope, &events);
        let started = thread::Builder::new().spawn_scoped(scope, work);
        started.map(drop).inspect_err(|_| {
            self.idle.fetch_sub(1, Ordering::SeqCst);
        })
    }

    /// Waits for a connection; `None` after the stop.
    fn accept(&self, events: &OwnedFd) -> io::Result<Option<UnixStream>> {
        let mut buffer = [MaybeUninit::uninit(); 2];
        loop {
            let (ready, _) = match epoll::wait(events, &mut buffer, None) {
                Err(Errno::INTR) => continue,
                ready => ready?,
            };
            if ready.iter().any(|event| event.data.u64() == STOP) {
                *self.listener.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            let accepted = match &*self.listener.read().unwrap_or_else(PoisonError::into_inner) {
                Some(listener) => listener.accept(),
                None => return Ok(None),
            };
            match accepted {
                Ok((connection, _)) => return Ok(Some(connection)),
                Err(error) => thread::sleep(pause_after(error)?),
            }
        }
    }
}

const CONNECTION: u64 = 0;
const STOP: u64 = 1;

/// The events that a thread waits for. The kernel wakes one thread for a connection, and all of
/// them for `stop`.
fn events(listener: &UnixListener, stop: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let events = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let add = |fd, data, flags| {
        epoll::add(&events, fd, epoll::EventData::new_u64(data), epoll::EventFlags::IN | flags)
    };
    add(listener.as_fd(), CONNECTION, epoll::EventFlags::EXCLUSIVE)?;
    if let Some(stop) = stop {
        add(stop, STOP, epoll::EventFlags::empty())?;
    }
    Ok(events)
}

/// The inode of this thread's network namespace.
fn own_netns() -> Option<u64> {
    fs::metadata("/proc/thread-self/ns/net").ok().map(|netns| netns.ino())
}

/// A plugin that blocks.
#[derive(Debug)]
pub(super) struct Blocking<P>(P);

impl<P: Cni + Sync> Callee for Blocking<P> {
    async fn call(&self, command: Command, args: Args) -> Result<Option<CNIResult>, Error> {
        dispatcher::call(&self.0, command, args)
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
