//! False Nodes.

use anyhow::{Result, ensure};
use serde_json::json;

use super::pods::on_nodes;
use crate::e2e::kubernetes::{
    cluster::{Cluster, eventually},
    kubectl,
    pod_network::{self, pod_cidrs},
};

/// Names of the false Nodes.
pub(super) const COPY: &str = "copy";
const COVER: &str = "cover";

/// A Node with the podCIDRs of another one, and one whose podCIDR has the addresses of nodes,
/// change no route and are reported.
pub(super) fn invalid(cluster: &Cluster) -> Result<()> {
    let outcome = with_invalid(cluster);
    kubectl::run(&format!("delete node {COPY} {COVER} --ignore-not-found"))?;
    outcome
}

fn with_invalid(cluster: &Cluster) -> Result<()> {
    add_copy(cluster)?;
    add(COVER, &["10.200.0.0/16".to_owned()])?;
    for node in cluster.nodes() {
        eventually(|| {
            let status = pod_network::status(node)?;
            for name in [COPY, COVER] {
                let is_reported =
                    status.lines().any(|line| line.starts_with(name) && line.contains("PROBLEM"));
                ensure!(is_reported, "{} does not report {name}:\n{status}", node.name);
            }
            Ok(())
        })?;
    }
    on_nodes(cluster)
}

/// Adds a Node with the podCIDRs of another one.
pub(super) fn add_copy(cluster: &Cluster) -> Result<()> {
    add(COPY, &pod_cidrs(cluster.node(1))?)
}

fn add(name: &str, networks: &[String]) -> Result<()> {
    kubectl::apply(&[json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": networks[0], "podCIDRs": networks, "unschedulable": true},
    })])?;
    let addresses = json!({"status": {"addresses": [
        {"type": "InternalIP", "address": "10.200.0.99"},
        {"type": "InternalIP", "address": "fd00:200::99"},
    ]}});
    kubectl::patch_status(name, &addresses)
}
