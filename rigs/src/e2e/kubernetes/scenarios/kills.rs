//! Programs of a node that are killed while pods come and go.

use anyhow::{Context, Result};

use super::{
    pods::{deployment, wait_for},
    random::Random,
};
use crate::e2e::kubernetes::{
    cluster::Cluster,
    kubectl,
    node::Part,
    pods::{self, PACKET, Pod},
};

const PODS: usize = 12;
const ROUNDS: usize = 6;

/// Kills containerd or kubelet in each round, once while pods start and once while they stop. Pods
/// that start afterwards are reached.
pub(super) fn run(cluster: &mut Cluster) -> Result<()> {
    let mut random = Random::new()?;
    let seed = random.seed();
    outer(cluster, &mut random).with_context(|| format!("with the seed {seed}"))
}

fn outer(cluster: &mut Cluster, random: &mut Random) -> Result<()> {
    kubectl::apply(&[deployment("churn", 0, &pods::spec(cluster.node(0)))])?;
    for _ in 0..ROUNDS {
        for replicas in [PODS, 0] {
            kubectl::run(&format!("scale deployment churn --replicas={replicas}"))?;
            random.sleep(3000);
            let part = [Part::Containerd, Part::Kubelet][random.below(2)];
            let node = cluster.node_mut(0);
            node.kill(part);
            random.sleep(500);
            node.start_part(part)?;
            random.sleep(1000);
        }
    }
    kubectl::run(&format!("scale deployment churn --replicas={PODS}"))?;
    let far = pods::start(&[("far", cluster.node(1))])?.remove(0);
    wait_for(&["churn"], PODS)?;
    for name in pods::ready_pods(cluster, 0)?.keys() {
        Pod::wait(name, cluster.node(0))?.reaches(&far)?;
    }
    for pod in pods::ready_pods(cluster, 0)?.values() {
        for address in pods::addresses(pod) {
            far.network.try_ping(address, PACKET)?;
        }
    }
    Ok(())
}
