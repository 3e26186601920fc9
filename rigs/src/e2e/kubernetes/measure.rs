//! How long containerd waits for the network of a pod, with these plugins and the Go plugins, and
//! what the daemon does while nothing happens.

use std::fmt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xtask::program;

use super::{
    cluster::{Cluster, eventually},
    kubectl,
    node::Node,
    pods,
    replaced::{with_go_plugins, with_list},
    scenarios::{deployment, wait_for},
};

/// Pods that start at once.
const PODS: u32 = 60;
/// Each set of plugins has its turn this many times.
const ROUNDS: usize = 2;

const LIST: &str = "/etc/cni/net.d/10-rscni.conflist";

/// Seconds without events.
const IDLE: u32 = 60;

/// Seconds and number of calls.
#[derive(Clone, Copy, Default)]
struct Calls {
    seconds: f64,
    count: f64,
}

impl Calls {
    fn mean(self) -> f64 {
        self.seconds / self.count
    }
}

/// kubelet may delete a sandbox more than once. Later calls find nothing and are short, so the
/// number of calls belongs to the mean.
impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({} calls)", self.mean(), self.count)
    }
}

/// Prints all figures.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    idle(cluster.node(0))?;
    pods_at_once(cluster.node(0))
}

/// Prints the system calls of the daemon on a node without events.
fn idle(node: &Node) -> Result<()> {
    let pid = node.run("pidof rscnid")?;
    let trace = format!("timeout --signal INT {IDLE} strace --follow-forks --summary-only -p");
    let mut strace = node.command("sh");
    strace.arg("-c").arg(format!("{trace} {} 2>&1 || [ $? = 124 ]", pid.trim()));
    println!("system calls of rscnid in {IDLE} seconds:\n{}", program::capture(&mut strace)?);
    Ok(())
}

/// Starts and deletes pods with both sets of plugins in turn, and with a plugin that changes
/// nothing, and prints the means.
fn pods_at_once(node: &Node) -> Result<()> {
    // That of the pod network, with a name of its own.
    let mut go_list: Value = serde_json::from_str(&node.run(&format!("cat {LIST}"))?)?;
    go_list["name"] = json!("go");
    // One process that changes nothing.
    let least = json!({"cniVersion": "1.0.0", "name": "least", "plugins": [
        {"type": "static", "ipam": {"type": "static", "addresses": [{"address": "10.99.0.1/32"}]}},
    ]});
    let [mut ours, mut go, mut floor] = [[Calls::default(); 2]; 3];
    for _ in 0..ROUNDS {
        measure(node, &mut ours)?;
        with_list(node, &least, || measure(node, &mut floor))?;
        with_go_plugins(node, || with_list(node, &go_list, || measure(node, &mut go)))?;
    }
    println!("{PODS} pods at once, {ROUNDS} times; mean of containerd's histogram in seconds");
    for (index, name) in HISTOGRAMS.iter().enumerate() {
        let [ours, go, floor] = [ours, go, floor].map(|calls| calls[index]);
        println!(
            "{name}: {ours}, Go {go}, ratio {:.3}; nothing {floor}, ratio {:.3}",
            ours.mean() / go.mean(),
            floor.mean() / go.mean()
        );
    }
    Ok(())
}

fn measure(node: &Node, calls: &mut [Calls; 2]) -> Result<()> {
    let before = histograms(node)?;
    kubectl::apply(&[deployment("measured", PODS as usize, &pods::spec(node))])?;
    wait_for(&["measured"], PODS as usize)?;
    kubectl::run("delete deployment measured --cascade=foreground --timeout=300s")?;
    // The API server forgets pods without grace period before kubelet has stopped them.
    let after = eventually(|| {
        let after = histograms(node)?;
        for (after, before) in after.iter().zip(&before) {
            let calls = after.count - before.count;
            ensure!(calls >= f64::from(PODS), "containerd has counted only {calls} calls");
        }
        Ok(after)
    })?;
    for ((calls, before), after) in calls.iter_mut().zip(before).zip(after) {
        calls.seconds += after.seconds - before.seconds;
        calls.count += after.count - before.count;
    }
    Ok(())
}

const HISTOGRAMS: [&str; 2] = [
    "containerd_cri_sandbox_create_network_seconds",
    "containerd_cri_sandbox_delete_network_seconds",
];

fn histograms(node: &Node) -> Result<[Calls; 2]> {
    let text = node.run("busybox wget -q -O - http://127.0.0.1:1338/v1/metrics")?;
    let value = |name: String| {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        line.map_or(Ok(0.0), |value| value.parse().context(name))
    };
    let mut calls = [Calls::default(); 2];
    for (calls, name) in calls.iter_mut().zip(HISTOGRAMS) {
        calls.seconds = value(format!("{name}_sum"))?;
        calls.count = value(format!("{name}_count"))?;
    }
    Ok(calls)
}
