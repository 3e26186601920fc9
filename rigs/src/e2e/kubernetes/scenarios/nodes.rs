//! Nodes that are deleted, come back, or are false.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use super::pods::{on_nodes, start_on_nodes};
use crate::e2e::kubernetes::{
    cluster::{Cluster, eventually},
    kubectl,
    node::{Node, Part},
    pod_network::{self, pod_cidrs},
    pods::{PACKET, Pod},
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

/// The others forget a Node that is deleted. Once it is back, its pods are reached from all nodes.
pub(super) fn returning(cluster: &mut Cluster) -> Result<()> {
    let pods = start_on_nodes(cluster)?;
    let last = cluster.nodes().count() - 1;
    // kubelet would register its Node.
    cluster.node_mut(last).kill(Part::Kubelet);
    let outcome = delete_and_return(cluster, cluster.node(last), &pods);
    cluster.node_mut(last).start_part(Part::Kubelet)?;
    cluster.wait_until_ready()?;
    outcome
}

fn delete_and_return(cluster: &Cluster, node: &Node, pods: &[Pod]) -> Result<()> {
    let (others, own): (Vec<_>, Vec<_>) =
        pods.iter().partition(|pod| pod.name != format!("on-{}", node.name));
    for other in &others {
        other.reaches(own[0])?;
    }
    let mut object = kubectl::get(&format!("node {}", node.name))?;
    let status = json!({"status": {"addresses": object["status"]["addresses"].take()}});
    let networks = pod_cidrs(node)?;
    kubectl::run(&format!("delete node {}", node.name))?;
    for other in cluster.nodes().filter(|other| other.name != node.name) {
        eventually(|| {
            let routes = other.run("ip -4 route show proto 82")?
                + &other.run("ip -6 route show proto 82")?;
            let has_route = networks.iter().any(|network| routes.contains(network));
            ensure!(!has_route, "{} keeps a route to {}:\n{routes}", other.name, node.name);
            Ok(())
        })?;
    }
    let metadata = &object["metadata"];
    let start = Instant::now();
    kubectl::apply(&[json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": metadata["name"],
            "labels": metadata["labels"],
            "annotations": metadata["annotations"],
        },
        "spec": {"podCIDR": networks[0], "podCIDRs": networks},
    })])?;
    kubectl::patch_status(&node.name, &status)?;
    for other in &others {
        for address in &own[0].addresses {
            other.network.try_ping(address, PACKET)?;
        }
    }
    println!("  its pods are reached after {:.2?}, with two calls of kubectl", start.elapsed());
    others.into_iter().try_for_each(|other| other.reaches(own[0]))
}
