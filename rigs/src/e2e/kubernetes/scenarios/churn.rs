//! Sandboxes that come and go while the container runtime and the garbage collection are killed.
//!
//! kubelet does not run, so that it removes no sandbox: the runtime is called as kubelet calls it,
//! at a higher rate.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rscni_test::Container;

use super::random::Random;
use crate::{
    daemon::{Daemon, until_ok},
    e2e::{
        cri::{Cri, PodSandboxConfig, PodSandboxMetadata},
        kubernetes::{
            CLUSTER, RSCNID,
            cluster::Cluster,
            leaks,
            node::{Node, Part},
            pods::PACKET,
        },
    },
};

/// Sandboxes that start or stop at a time.
const AT_ONCE: usize = 8;
/// Longest pause between two kills, in milliseconds.
const PAUSE: u64 = 16_000;
/// One of this many kills is that of the garbage collection. After each start, it waits before it
/// removes anything, so more kills would keep it from its work.
const KILLS: u64 = 8;
/// Sandboxes between two lines of progress.
const PROGRESS: u32 = 1000;
/// Pause after an interrupted call.
const RETRY: Duration = Duration::from_millis(300);
/// Longest life of a sandbox, in milliseconds.
const LIFE: u64 = 1000;
/// Timeout of a call, which is repeated while the runtime starts.
const CALL: Duration = Duration::from_secs(120);

/// Arguments of the garbage collection. A sandbox on this machine starts well within the pause.
const COLLECTION: &str =
    "run --disable podnet --listen 127.0.0.1:9473 --gc-interval 1 --gc-grace 30";

/// Starts `pods` sandboxes. Each has its network until it is stopped, and nothing of them is left
/// at the end, though calls were interrupted.
pub(super) fn run(cluster: &mut Cluster, pods: u32) -> Result<()> {
    let mut random = Random::new()?;
    let seed = random.seed();
    let node = cluster.node_mut(0);
    node.kill(Part::Kubelet);
    let outcome = with_kills(node, pods, &mut random).and_then(|()| leaks::none(node));
    node.start_part(Part::Kubelet)?;
    outcome.with_context(|| format!("with the seed {seed}"))
}

fn with_kills(node: &mut Node, pods: u32, random: &mut Random) -> Result<()> {
    let churn = Churn {
        socket: node.path("/run/containerd/containerd.sock"),
        node: node.network(),
        pods,
        started: AtomicU32::new(0),
        interrupted: AtomicU32::new(0),
    };
    let mut collection = start_collection(node)?;
    let mut kills = 0;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| {
                let (churn, random) = (&churn, random.split());
                scope.spawn(move || churn.work(worker, random))
            })
            .collect();
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            random.sleep(PAUSE);
            if random.below(KILLS) > 0 {
                node.kill(Part::Containerd);
                node.start_part(Part::Containerd)?;
            } else {
                collection.kill();
                collection = start_collection(node)?;
            }
            kills += 1;
        }
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    println!(
        "  {} sandboxes, {} interrupted calls, {kills} programs killed",
        churn.started.into_inner(),
        churn.interrupted.into_inner()
    );
    let cri = Cri::at(&churn.socket)?;
    (0..AT_ONCE).try_for_each(|worker| remove_all(&cri, &namespace(worker)))?;
    leaks::none(node).with_context(|| collection.log())
}

fn start_collection(node: &Node) -> Result<Daemon> {
    let mut command = node.command("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(Path::new(CLUSTER).join(RSCNID));
    let log = Path::new(CLUSTER).join("collection.log");
    Daemon::start("rscnid", command.args(COLLECTION.split(' ')), log)
}

/// The state that all threads share.
struct Churn {
    socket: PathBuf,
    /// The network of the node.
    node: Container,
    /// Sandboxes to start, and those that started.
    pods: u32,
    started: AtomicU32,
    interrupted: AtomicU32,
}

impl Churn {
    fn work(&self, worker: usize, mut random: Random) -> Result<()> {
        let cri = Cri::at(&self.socket)?;
        let namespace = namespace(worker);
        for number in 0.. {
            if self.started.load(Ordering::Relaxed) >= self.pods {
                break;
            }
            let name = format!("churn-{worker}-{number}");
            let Ok(id) = cri.run_pod_sandbox(configuration(&namespace, &name)) else {
                self.interrupted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(RETRY);
                remove_all(&cri, &namespace)?;
                continue;
            };
            let started = self.started.fetch_add(1, Ordering::Relaxed) + 1;
            if started.is_multiple_of(PROGRESS) {
                println!("  {started} sandboxes have started");
            }
            let addresses = until_ok(CALL, || cri.pod_sandbox_status(&id))?.addresses;
            self.reaches(&name, &addresses)?;
            random.sleep(LIFE);
            self.reaches(&name, &addresses)?;
            until_ok(CALL, || cri.stop_pod_sandbox(&id))?;
            until_ok(CALL, || cri.remove_pod_sandbox(&id))?;
        }
        Ok(())
    }

    /// Checks that a running sandbox answers.
    fn reaches(&self, name: &str, addresses: &[IpAddr]) -> Result<()> {
        ensure!(addresses.len() == 2, "{name} has the addresses {addresses:?}");
        addresses.iter().try_for_each(|address| {
            self.node.try_ping(address, PACKET).with_context(|| name.to_owned())
        })
    }
}

/// Removes the sandboxes of interrupted calls, as kubelet does.
fn remove_all(cri: &Cri, namespace: &str) -> Result<()> {
    for id in until_ok(CALL, || cri.all_pod_sandboxes(namespace))? {
        until_ok(CALL, || cri.stop_pod_sandbox(&id))?;
        until_ok(CALL, || cri.remove_pod_sandbox(&id))?;
    }
    Ok(())
}

/// The namespace of a worker's sandboxes.
fn namespace(worker: usize) -> String {
    format!("churn-{worker}")
}

fn configuration(namespace: &str, name: &str) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: name.to_owned(),
            namespace: namespace.to_owned(),
        }),
        hostname: name.to_owned(),
        ..PodSandboxConfig::default()
    }
}
