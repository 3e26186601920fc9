//! The daemon on tokio.

use rscni::{
    Args, CNIResult, Cni, Error, async_cni,
    shim::{self, stderr},
};
use rscni_linux::Background;
use thick::{Cable, SOCKET};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

const CABLE: Cable = Cable(Background::Thread);

/// The plugin, whose requests to the kernel block.
struct AsyncCable;

impl async_cni::Cni for AsyncCable {
    async fn add(&self, args: Args) -> Result<CNIResult, Error> {
        blocking(move || CABLE.add(args)).await
    }

    async fn del(&self, args: Args) -> Result<(), Error> {
        blocking(move || CABLE.del(args)).await
    }

    async fn check(&self, args: Args) -> Result<(), Error> {
        blocking(move || CABLE.check(args)).await
    }

    async fn gc(&self, args: Args) -> Result<(), Error> {
        blocking(move || CABLE.gc(args)).await
    }
}

/// Runs `f` on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let log = stderr();
    let outcome = spawn_blocking(move || log.scope(f)).await;
    outcome.unwrap_or_else(|error| Err(Error::Internal(error.to_string())))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let mut sigterm = signal(SignalKind::terminate())?;
    let listener = shim::listen(SOCKET)?;
    shim::serve(listener, AsyncCable)
        .with_graceful_shutdown(async move {
            sigterm.recv().await;
        })
        .await
}
