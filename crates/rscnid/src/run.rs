//! Runs the parts. The event loop waits for Nodes, notifications and questions.

use std::{
    future::pending,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    pin::pin,
    time::Duration,
};

use anyhow::Context;
use futures_util::StreamExt;
use kube::Client;
use tokio::{
    io::{
        Interest,
        unix::{AsyncFd, AsyncFdReadyGuard},
    },
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use tracing::{debug, info};

use crate::{
    gc,
    kube::{Change, keep_annotations, keep_condition, record, watch_nodes},
    metrics::Metrics,
    podnet::daemon::{Daemon, Settings},
    report::Reports,
    status::{Query, Question, serve},
};

/// The pause before a failed synchronization is repeated.
const RETRY: Duration = Duration::from_secs(1);
/// Questions that may wait.
const QUESTIONS: usize = 16;

/// The parts that run; `None` for one that is disabled.
pub struct Parts {
    /// The pod network, with the API server.
    pub podnet: Option<(Client, Settings)>,
    /// The garbage collection, with the time between its passes.
    pub gc: Option<(gc::collector::Settings, Duration)>,
    /// The address of probes, metrics and status.
    pub status: Option<SocketAddr>,
}

/// Runs the parts until a signal ends them. Ending changes nothing on the node.
///
/// # Errors
///
/// If the sockets cannot be opened or the address cannot be used.
pub async fn run(parts: Parts) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let gc = match parts.gc {
        Some((settings, interval)) => Some(gc::start(settings, interval, metrics.gc.clone())?),
        None => None,
    };
    let others = Others { metrics, gc };
    let (sender, queries) = mpsc::channel(QUESTIONS);
    let server = async {
        match parts.status {
            Some(listen) => serve(listen, sender).await,
            None => pending().await,
        }
    };
    match parts.podnet {
        Some((client, settings)) => podnet(client, settings, &others, queries, server).await,
        None => wait(&others, queries, server).await,
    }
}

/// The parts besides the pod network that answer questions.
struct Others {
    metrics: Metrics,
    gc: Option<gc::Thread>,
}

/// Answers questions without a pod network.
async fn wait(
    others: &Others,
    mut queries: mpsc::Receiver<Query>,
    server: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let mut server = pin!(server);
    let [mut terminated, mut interrupted] =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    loop {
        tokio::select! {
            Some(query) = queries.recv() => others.answer(None, query),
            ended = &mut server => return ended,
            _ = terminated.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
        }
    }
}

async fn podnet(
    client: Client,
    settings: Settings,
    others: &Others,
    mut queries: mpsc::Receiver<Query>,
    server: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let node = settings.node.clone();
    let mut daemon = Daemon::open(settings).context("open the sockets of the pod network")?;
    let [links, tables] = [daemon.links.as_fd(), daemon.tables.as_fd()]
        .map(|fd| fd.try_clone_to_owned().and_then(readable));
    let (links, tables) = (links?, tables?);
    let probes = daemon.probe_socket().map(|fd| fd.try_clone_to_owned().and_then(readable));
    let probes = probes.transpose()?;
    let mut server = pin!(server);
    let mut nodes = pin!(watch_nodes(client.clone()));
    let [mut terminated, mut interrupted] =
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?];
    let (annotations, wanted) = watch::channel(None);
    tokio::spawn(keep_annotations(client.clone(), node.clone(), wanted));
    let (condition, wanted) = watch::channel(None);
    tokio::spawn(keep_condition(client.clone(), node.clone(), wanted));
    let mut reports = Reports::new(&node);
    let start = Instant::now();
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
            () = pause(daemon.is_behind().then_some(RETRY)) => {
                begin = Instant::now();
                daemon.retry()
            }
            ready = arrival(probes.as_ref()) => {
                begin = Instant::now();
                ready?.clear_ready();
                daemon.answer_probes(start.elapsed());
                Ok(())
            }
            () = pause(daemon.probe_in(start.elapsed())) => {
                begin = Instant::now();
                daemon.probe(start.elapsed());
                Ok(())
            }
            () = pause(reports.wait(start.elapsed())) => {
                begin = Instant::now();
                Ok(())
            }
            Some(query) = queries.recv() => {
                others.answer(Some(&mut daemon), query);
                continue;
            }
            ended = &mut server => return ended,
            _ = terminated.recv() => break,
            _ = interrupted.recv() => break,
        };
        others.metrics.record(begin.elapsed());
        if let Err(error) = outcome {
            debug!("{error}; trying again in {RETRY:?}");
        }
        condition.send_if_modified(|last| {
            let now = daemon.condition();
            let is_new = now != *last;
            *last = now;
            is_new
        });
        for report in reports.update(daemon.take_changed(), start.elapsed()) {
            tokio::spawn(record(client.clone(), node.clone(), report));
        }
        if let Some(wanted) = daemon.annotations() {
            let was_overwritten = daemon.take_overwritten();
            annotations.send_if_modified(|last| {
                let is_new = last.as_ref() != Some(&wanted) || was_overwritten;
                *last = Some(wanted);
                is_new
            });
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

/// Waits until a socket is readable, or for ever without one.
async fn arrival(socket: Option<&AsyncFd<OwnedFd>>) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
    match socket {
        Some(socket) => socket.readable().await,
        None => pending().await,
    }
}

/// Waits for ever without a duration: then there is no timer.
async fn pause(duration: Option<Duration>) {
    match duration {
        Some(duration) => sleep(duration).await,
        None => pending().await,
    }
}

impl Others {
    fn answer(&self, daemon: Option<&mut Daemon>, (question, reply): Query) {
        let answer = match (question, daemon) {
            (Question::Metrics, daemon) => (true, self.metrics.text(daemon.as_deref())),
            (Question::Alive, _) => match self.gc.as_ref().and_then(gc::Thread::fault) {
                Some(fault) => (false, format!("gc: {fault}\n")),
                None => (true, "ok\n".to_owned()),
            },
            (Question::Ready, Some(daemon)) if !daemon.is_ready() => {
                (false, "the first synchronization is not complete\n".to_owned())
            }
            (Question::Ready, _) => (true, "ok\n".to_owned()),
            (Question::Status, Some(daemon)) => match daemon.status() {
                Ok(text) => (true, text),
                Err(error) => (false, format!("{error}\n")),
            },
            (Question::Status, None) => (false, "the pod network is disabled\n".to_owned()),
        };
        // The connection may be closed.
        let _ = reply.send(answer);
    }
}
