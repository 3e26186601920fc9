//! Pods that reach pods.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::daemon::kill_without_loss;
use crate::e2e::kubernetes::{
    cluster::{Cluster, eventually},
    kubectl,
    pods::{self, PACKET, Pod},
    traffic::Traffic,
};

/// Starts a pod on each node, and a second one on the first.
pub(super) fn start_on_nodes(cluster: &Cluster) -> Result<Vec<Pod>> {
    let names: Vec<_> = cluster.nodes().map(|node| format!("on-{}", node.name)).collect();
    let mut wanted: Vec<_> = names.iter().map(String::as_str).zip(cluster.nodes()).collect();
    wanted.push(("second", cluster.node(0)));
    pods::start(&wanted)
}

/// Two pods on a node and one on each other node: every one reaches every other.
pub(super) fn on_nodes(cluster: &Cluster) -> Result<()> {
    let pods = start_on_nodes(cluster)?;
    for from in &pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            from.reaches(to)?;
        }
    }
    Ok(())
}

/// A pod with `hostNetwork` has the addresses of its node and is reached there.
pub(super) fn of_the_host(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    kubectl::apply(&[
        pods::object("host", node, json!({"hostNetwork": true})),
        pods::object("near", node, json!({})),
        pods::object("far", other, json!({})),
    ])?;
    let host = Pod::wait("host", node)?;
    let (near, far) = (Pod::wait("near", node)?, Pod::wait("far", other)?);
    ensure!(
        host.addresses == node.machine.addresses(),
        "the pod has the addresses {:?}",
        host.addresses
    );
    host.reaches(&far)?;
    far.reaches(&host)?;
    near.reaches(&host)?;
    // The node's packets to its own pods have the address of their gateway.
    for address in &near.addresses {
        host.network.try_ping(address, PACKET)?;
    }
    Ok(())
}

const PODS: usize = 100;
/// Pods that receive packets while daemons are killed, and the pause between two packets for a pod:
/// a thousand packets in a second.
const RECEIVERS: usize = 50;
const PAUSE: Duration = Duration::from_millis(50);

/// A hundred pods on a node have different addresses, and all of them answer. Half of them lose no
/// packet while the daemons are killed.
pub(super) fn hundred(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    kubectl::apply(&[
        deployment("hundred", PODS, &pods::spec(node)),
        pods::object("probe", other, json!({})),
    ])?;
    let probe = Pod::wait("probe", other)?;
    wait_for(&["hundred"], PODS)?;
    let running = pods::ready_pods(cluster, 0)?;
    let addresses: BTreeSet<_> = running.values().flat_map(pods::addresses).collect();
    ensure!(addresses.len() == 2 * PODS, "{PODS} pods have {} addresses", addresses.len());
    for address in addresses {
        probe.network.try_ping(address, PACKET).with_context(|| format!("a pod at {address}"))?;
    }
    let receivers: Vec<_> = running
        .keys()
        .filter(|name| name.starts_with("hundred"))
        .take(RECEIVERS)
        .map(|name| Pod::wait(name, node))
        .collect::<Result<_>>()?;
    let pairs: Vec<_> = receivers.iter().map(|receiver| (&probe, receiver)).collect();
    kill_without_loss(cluster, || Traffic::with_pause(PAUSE, &pairs, 1))
}

/// A Deployment of pods with a specification.
pub(in super::super) fn deployment(name: &str, replicas: usize, spec: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

/// Waits until all pods of Deployments are Ready.
pub(in super::super) fn wait_for(names: &[&str], replicas: usize) -> Result<()> {
    for name in names {
        eventually(|| {
            let status = kubectl::get(&format!("deployment {name}"))?["status"].take();
            let is_complete = status["readyReplicas"] == replicas && status["replicas"] == replicas;
            ensure!(is_complete, "the Deployment {name} is not complete: {status}");
            Ok(())
        })?;
    }
    Ok(())
}
