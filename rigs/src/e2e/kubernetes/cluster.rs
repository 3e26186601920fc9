//! The cluster: the control plane and the nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    control_plane::{self, ControlPlane},
    images, kubectl, lan,
    node::{Node, Part},
    pod_network,
};
use crate::daemon::until_ok;

/// Timeout of a change in the cluster on a busy machine, and the pause between two looks at it.
const TIMEOUT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(300);

/// Calls `attempt` until it succeeds. After the timeout, returns its last error.
pub(super) fn eventually<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    until_ok(TIMEOUT, || attempt().inspect_err(|_| std::thread::sleep(PAUSE)))
}

/// A running cluster.
pub(super) struct Cluster {
    control_plane: ControlPlane,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts a cluster whose nodes have no network. `cgroup` is its group.
    pub(super) fn start(nodes: u8, cgroup: &str) -> Result<Self> {
        lan::create()?;
        images::make()?;
        let names: Vec<_> = (1..=nodes).map(Node::name).collect();
        let control_plane = control_plane::start(&names)?;
        println!("  the API server is ready");
        // One after the other, so that podCIDRs are in the order of names.
        let mut started = Vec::new();
        for index in 1..=nodes {
            let node = Node::start(index, cgroup)?;
            eventually(|| pod_network::pod_cidrs(&node))
                .with_context(|| node.log(Part::Kubelet))?;
            println!("  {} is registered", node.name);
            started.push(node);
        }
        Ok(Self { control_plane, nodes: started })
    }

    pub(super) fn stop_api_server(&mut self) {
        self.control_plane.stop_server();
    }

    pub(super) fn start_api_server(&mut self) -> Result<()> {
        self.control_plane.start_server()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter()
    }

    /// A node, counted from 0. There are at least two.
    pub(super) fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    pub(super) fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// Waits until all nodes are Ready.
    pub(super) fn wait_until_ready(&self) -> Result<()> {
        eventually(|| {
            let nodes = kubectl::get("nodes")?;
            let nodes = nodes["items"].as_array().context("a list of nodes")?;
            let ready = nodes.iter().filter(|node| is_ready(node)).count();
            ensure!(ready == self.nodes.len(), "{ready} of {} nodes are Ready", self.nodes.len());
            Ok(())
        })
        .with_context(|| self.logs())
    }

    /// The ends of the logs of all nodes.
    pub(super) fn logs(&self) -> String {
        let logs = self.nodes.iter().flat_map(|node| {
            [Part::Containerd, Part::Kubelet, Part::Proxy].map(|part| node.log(part))
        });
        logs.chain([pod_network::logs()]).collect()
    }
}

/// Whether the condition Ready of a node or pod is true.
pub(super) fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}
