//! The event loop: waits for Nodes, notifications and questions.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures_util::StreamExt;
use kube::Client;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};
use tracing::{error, info, warn};

use crate::{
    kube::{Change, annotate, watch},
    metrics::Metrics,
    podnet::daemon::{Daemon, Settings},
    status::{Query, Question, serve},
};

/// The pause before a failed synchronization is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// Questions that may wait.
const QUESTIONS: usize = 16;

/// Runs the pod network until a signal ends it. Ending changes nothing on the node.
///
/// # Errors
///
/// If the sockets cannot be opened or the address cannot be used.
pub async fn run(client: Client, settings: Settings, listen: SocketAddr) -> anyhow::Result<()> {
    let node = settings.node.clone();
    let mut daemon = Daemon::open(settings).context("open the sockets of the pod network")?;
    let [links, tables] = [daemon.links.as_fd(), daemon.tables.as_fd()]
        .map(|fd| fd.try_clone_to_owned().and_then(readable));
    let (links, tables) = (links?, tables?);
    let (sender, mut queries) = mpsc::channel(QUESTIONS);
    let mut server = pin!(serve(listen, sender));
    let mut nodes = pin!(watch(client.clone()));
    let [mut terminated, mut interrupted] =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let metrics = Metrics::default();
    let mut published = None;
    let mut failed = false;
    loop {
        let begin;
        let outcome = tokio::select! {
            Some(change) = nodes.next() => {
                begin = Instant::now();
                match change {
                    Change::Replace(nodes) => daemon.replace(nodes),
                    Change::Set(node) => daemon.set(node),
                    Change::Remove(name) => daemon.remove(&name),
                }
            }
            ready = links.readable() => {
                begin = Instant::now();
                ready?.clear_ready();
                daemon.notice()
            }
            ready = tables.readable() => {
                begin = Instant::now();
                ready?.clear_ready();
                daemon.notice()
            }
            () = pause(failed) => {
                begin = Instant::now();
                daemon.retry()
            }
            Some(query) = queries.recv() => {
                answer(&mut daemon, &metrics, query);
                continue;
            }
            ended = &mut server => return ended,
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
        };
        metrics.record(begin.elapsed());
        failed = outcome.is_err();
        if let Err(error) = outcome {
            error!("{error}; trying again in {RETRY:?}");
        }
        let annotations = daemon.annotations();
        if annotations.is_some() && annotations != published {
            publish(client.clone(), &node, annotations.clone().unwrap_or_default());
            published = annotations;
        }
    }
    info!("ended; the pod network stays");
    Ok(())
}

#[expect(
    deprecated,
    reason = "its replacement is unsafe; a descriptor that the AsyncFd owns stays valid"
)]
fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Waits only after a failure: otherwise there is no timer.
async fn pause(failed: bool) {
    if failed { sleep(RETRY).await } else { pending().await }
}

/// Publishes the tunnels of this node in the background, until it succeeds.
fn publish(client: Client, node: &str, annotations: std::collections::BTreeMap<String, String>) {
    let node = node.to_owned();
    tokio::spawn(async move {
        while let Err(error) = annotate(client.clone(), &node, &annotations).await {
            warn!(node, "publish the tunnels of this node: {error}; trying again in {RETRY:?}");
            sleep(RETRY).await;
        }
    });
}

fn answer(daemon: &mut Daemon, metrics: &Metrics, (question, reply): Query) {
    let answer = match question {
        Question::Ready if daemon.is_ready() => (true, "ok\n".to_owned()),
        Question::Ready => (false, "the first synchronization is not complete\n".to_owned()),
        Question::Metrics => (true, metrics.text(daemon)),
        Question::Status => match daemon.status() {
            Ok(text) => (true, text),
            Err(error) => (false, format!("{error}\n")),
        },
    };
    // The connection may be closed.
    let _ = reply.send(answer);
}
