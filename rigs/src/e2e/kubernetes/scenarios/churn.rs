//! Programs of a node that are killed while pods come and go.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use super::pods::{deployment, wait_for};
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
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos();
    let mut random = Random(seed.into());
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

/// Numbers for delays.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> usize {
        // Constants of Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit).unwrap_or_default()
    }

    fn sleep(&mut self, at_most_milliseconds: u64) {
        let duration = self.below(at_most_milliseconds);
        std::thread::sleep(Duration::from_millis(duration as u64));
    }
}
