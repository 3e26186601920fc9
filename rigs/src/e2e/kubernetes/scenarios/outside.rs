//! Packets that leave their node, and their limits.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::world;
use crate::e2e::kubernetes::{
    cluster::Cluster,
    kubectl,
    lan::WORLD,
    node::Node,
    pods::{self, PACKET, Pod},
};

/// The world sees the node's address, other nodes see the pod's address.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    let pods = pods::start(&[("inside", node), ("far", other)])?;
    leaves_with_right_source(&pods[0], node, other)?;
    pods[0].reaches(&pods[1])
}

/// Checks that packets of a pod to the world have the address of its node, and those to another
/// node that of the pod.
pub(super) fn leaves_with_right_source(pod: &Pod, node: &Node, other: &Node) -> Result<()> {
    let (world, there) = (world(), other.network());
    let outside = world.serve_tcp(0);
    for (address, expected) in WORLD.iter().zip(node.machine.addresses()) {
        let to = pods::socket(address.parse()?, outside.port());
        let seen = pod.network.try_tcp(&to, PACKET).context("to the world")?.seen_as;
        ensure!(seen == expected, "the world sees {seen} and not {expected}");
    }
    let on_node = there.serve_tcp(0);
    for (address, own) in other.machine.addresses().into_iter().zip(&pod.addresses) {
        let to = pods::socket(address, on_node.port());
        let seen = pod.network.try_tcp(&to, PACKET).context("to another node")?.seen_as;
        ensure!(seen == *own, "another node sees {seen} and not {own}");
    }
    Ok(())
}

/// Limits into and out of the pod, in megabits per second.
const LIMITS: [u64; 2] = [40, 20];

/// A pod with annotations has a token bucket in each direction, through which its packets pass.
pub(super) fn bandwidth(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    let mut limited = pods::object("limited", node, json!({}));
    limited["metadata"]["annotations"] = json!({
        "kubernetes.io/ingress-bandwidth": format!("{}M", LIMITS[0]),
        "kubernetes.io/egress-bandwidth": format!("{}M", LIMITS[1]),
    });
    kubectl::apply(&[limited, pods::object("far", other, json!({}))])?;
    let (limited, far) = (Pod::wait("limited", node)?, Pod::wait("far", other)?);
    let before = buckets(&node.run("tc -json -statistics qdisc show")?)?;
    // Bytes per second.
    let expected = LIMITS.map(|limit| limit * 1_000_000 / 8);
    let rates: Vec<_> = before.iter().map(|(rate, _)| *rate).collect();
    ensure!(rates == expected, "the token buckets have the rates {rates:?}, not {expected:?}");
    limited.reaches(&far)?;
    far.reaches(&limited)?;
    let after = buckets(&node.run("tc -json -statistics qdisc show")?)?;
    for ((rate, before), (_, after)) in before.iter().zip(&after) {
        ensure!(after > before, "no packet passed the token bucket with the rate {rate}");
    }
    Ok(())
}

/// Rates and passed bytes of the token buckets on a node, the highest rate first.
fn buckets(qdiscs: &str) -> Result<Vec<(u64, u64)>> {
    let qdiscs: Value = serde_json::from_str(qdiscs)?;
    let buckets = qdiscs.as_array().into_iter().flatten().filter(|qdisc| qdisc["kind"] == "tbf");
    let read = |qdisc: &Value| Some((qdisc["options"]["rate"].as_u64()?, qdisc["bytes"].as_u64()?));
    let mut buckets: Vec<_> = buckets.filter_map(read).collect();
    buckets.sort_unstable_by(|a, b| b.cmp(a));
    Ok(buckets)
}
