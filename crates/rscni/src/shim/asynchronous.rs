//! The async server: a tokio task for each call.

use std::{
    fmt,
    future::pending,
    io::{self, ErrorKind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time,
};

use super::{
    server::{Callee, Connection, Daemon, pause_after, server_settings},
    socket::{Incoming, write},
};
use crate::{
    Args, CNIResult, Command, Error,
    async_cni::{self, Cni},
};

type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Serves the calls of shims with an async plugin, a tokio task for each call.
///
/// ```no_run
/// # use rscni::{Args, CNIResult, Error, async_cni::Cni};
/// # struct MyPlugin;
/// # impl Cni for MyPlugin {
/// #     async fn add(&self, _: Args) -> Result<CNIResult, Error> { Ok(CNIResult::default()) }
/// #     async fn del(&self, _: Args) -> Result<(), Error> { Ok(()) }
/// # }
/// use rscni::shim;
///
/// #[tokio::main]
/// async fn main() -> std::io::Result<()> {
///     let listener = shim::listen("/run/my.sock")?;
///     shim::serve(listener, MyPlugin).allow_uid(1000).await
/// }
/// ```
///
/// A task must not move its thread to another namespace, because other tasks run on the thread too.
pub fn serve<P>(listener: std::os::unix::net::UnixListener, plugin: P) -> Server<P>
where
    P: Cni + Send + Sync + 'static,
{
    Server { listener, daemon: Daemon::new(Async(plugin)), stop: Box::pin(pending()) }
}

/// A server that is not running yet; made by [`serve`]. It runs while it is awaited, for ever.
///
/// If the future is dropped, running calls are cancelled. To let them finish, use
/// [`with_graceful_shutdown`](Self::with_graceful_shutdown).
///
/// # Errors
/// An error of the listener. Errors of a connection or a call end only that.
#[must_use = "awaiting it starts the server"]
pub struct Server<P> {
    listener: std::os::unix::net::UnixListener,
    daemon: Daemon<Async<P>>,
    stop: Stop,
}

impl<P: Cni + Send + Sync + 'static> Server<P> {
    server_settings!();

    /// Serves calls until `signal` is ready; then refuses connections, waits for the running calls
    /// and returns.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.stop = Box::pin(signal);
        self
    }

    async fn run(self) -> io::Result<()> {
        let Self { listener, daemon, mut stop } = self;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let daemon = Arc::new(daemon);
        let mut calls = JoinSet::new();
        let outcome = loop {
            let accepted = tokio::select! {
                () = &mut stop => break Ok(()),
                Some(_) = calls.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let pause = match accepted {
                Ok((connection, _)) => {
                    let daemon = Arc::clone(&daemon);
                    calls.spawn(async move { daemon.serve(connection).await });
                    continue;
                }
                Err(error) => match pause_after(error) {
                    Ok(pause) => pause,
                    Err(error) => break Err(error),
                },
            };
            tokio::select! {
                () = &mut stop => break Ok(()),
                () = time::sleep(pause) => {}
            }
        };
        drop(listener);
        while calls.join_next().await.is_some() {}
        outcome
    }
}

impl<P: Cni + Send + Sync + 'static> IntoFuture for Server<P> {
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl<P: fmt::Debug> fmt::Debug for Server<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("daemon", &self.daemon)
            .finish_non_exhaustive()
    }
}

/// A plugin that yields its thread.
#[derive(Debug)]
struct Async<P>(P);

impl<P: Cni + Sync> Callee for Async<P> {
    fn call(
        &self,
        command: Command,
        args: Args,
    ) -> impl Future<Output = Result<Option<CNIResult>, Error>> + Send {
        async_cni::call(&self.0, command, args)
    }
}

impl Connection for UnixStream {
    async fn receive(&mut self, limit: usize, timeout: Duration) -> io::Result<Incoming> {
        let mut incoming = Incoming::new(limit);
        let all = async {
            while !self.async_io(Interest::READABLE, || incoming.read(&*self)).await? {}
            Ok(())
        };
        within(timeout, all).await?;
        Ok(incoming)
    }

    async fn send(&mut self, mut bytes: &[u8], timeout: Duration) -> io::Result<()> {
        within(timeout, async {
            while !bytes.is_empty() {
                let part = || write(&*self, bytes, None);
                bytes = &bytes[self.async_io(Interest::WRITABLE, part).await?..];
            }
            Ok(())
        })
        .await
    }
}

async fn within<T>(
    timeout: Duration,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    time::timeout(timeout, future).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}
