//! What attachments leave when the runtime does not call DEL with their network.

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::json;

use super::tutorial::uses_network;
use crate::e2e::kubernetes::{
    cluster::Cluster,
    kubectl, leaks,
    node::Node,
    pod_network,
    pods::{self, Pod},
};

const LIST: &str = "/etc/cni/net.d/00-other.conflist";
const OTHER: &str = "other";

/// A network list that replaces the one of a pod, so that containerd calls DEL with the wrong list.
/// The garbage collection removes what the pod leaves, and nothing of a pod that runs.
pub(super) fn replaced_list(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    let pods = pods::start(&[("stays", node), ("leaves", node), ("far", other)])?;
    pods[0].reaches(&pods[2])?;
    let deleted = replace_list(node).and_then(|()| delete(&pods[1]));
    fs::remove_file(node.path(LIST))?;
    uses_network(node, pod_network::NAME)?;
    deleted?;

    let before = leaks::list(node)?;
    let names_address = |left: &[String]| {
        let addresses = &pods[1].addresses;
        left.iter().any(|item| addresses.iter().any(|ip| item.contains(&format!(" {ip} "))))
    };
    ensure!(names_address(&before), "DEL with another list left nothing: {before:?}");
    let report = collect(node, " --dry-run")?;
    ensure!(report.contains("stale"), "the garbage collection finds nothing:\n{report}");
    ensure!(leaks::list(node)? == before, "--dry-run changed something:\n{report}");
    let report = collect(node, "")?;
    let after = leaks::list(node)?;
    ensure!(!names_address(&after), "still there: {after:?}; the report:\n{report}");
    pods[0].reaches(&pods[2])?;
    pods[2].reaches(&pods[0])
}

fn replace_list(node: &Node) -> Result<()> {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": OTHER,
        "plugins": [
            {"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}},
        ],
    });
    fs::write(node.path(LIST), list.to_string())?;
    uses_network(node, OTHER)
}

fn delete(pod: &Pod) -> Result<()> {
    kubectl::run(&format!("delete pod {} --wait", pod.name)).map(drop)
}

/// Collects garbage without the pause that protects calls in progress, as there are none.
fn collect(node: &Node, option: &str) -> Result<String> {
    pod_network::exec(node, &format!("/rscnid gc --once --gc-grace 0{option}"))
        .context("collect garbage")
}
