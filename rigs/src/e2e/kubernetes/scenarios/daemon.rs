//! The daemon killed, without API server, and beside programs that remove its objects.

use anyhow::{Context, Result, ensure};

use super::pods::start_on_nodes;
use crate::e2e::kubernetes::{
    cluster::{Cluster, eventually},
    kubectl,
    node::Node,
    pod_network,
    pods::Pod,
    traffic::Traffic,
};

/// All pairs in which one pod is on the first node.
fn pairs(pods: &[Pod]) -> Vec<(&Pod, &Pod)> {
    let first = &pods[0];
    pods[1..].iter().flat_map(|other| [(first, other), (other, first)]).collect()
}

fn all_reach(pods: &[Pod]) -> Result<()> {
    pairs(pods).into_iter().try_for_each(|(from, to)| from.reaches(to))
}

/// Kills the daemon of a node, and waits until kubelet has started it again.
fn kill(node: &Node) -> Result<()> {
    let before = node.run("pidof rscnid")?;
    node.run("pkill -KILL -x rscnid")?;
    eventually(|| {
        let now = node.run("pidof rscnid")?;
        ensure!(now != before, "the old process {before} still runs");
        Ok(())
    })
    .context("wait for the daemon after it was killed")
}

/// Kills the daemon of a node, and waits until another process has synchronized.
fn restart(node: &Node) -> Result<()> {
    kill(node)?;
    eventually(|| pod_network::status(node).map(drop)).context("wait for the status")
}

/// A busy machine drops packets too, so one of these attempts must lose none.
const ATTEMPTS: usize = 3;

/// No packet is lost while the daemons are killed and start again.
pub(super) fn killed(cluster: &Cluster) -> Result<()> {
    let pods = start_on_nodes(cluster)?;
    all_reach(&pods)?;
    kill_without_loss(cluster, || Traffic::start(&pairs(&pods), 2))?;
    all_reach(&pods)
}

/// Kills the daemons of all nodes, one after the other. No packet is lost until they have
/// synchronized again.
pub(super) fn kill_without_loss(
    cluster: &Cluster,
    start: impl Fn() -> Result<Traffic>,
) -> Result<()> {
    let mut outcome = Ok(());
    for _ in 0..ATTEMPTS {
        let traffic = start()?;
        let killed = cluster.nodes().try_for_each(restart);
        outcome = traffic.finish();
        killed?;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

/// Objects that another program removes come back.
pub(super) fn restored(cluster: &Cluster) -> Result<()> {
    let pods = start_on_nodes(cluster)?;
    all_reach(&pods)?;
    let node = cluster.node(0);
    let mut lines = vec![
        "ip -4 route flush proto 82",
        "ip -6 route flush proto 82",
        "nft delete table inet rscnid",
    ];
    if cluster.nodes().count() > 2 {
        lines.extend([
            "ip neighbour flush dev flannel.1 nud permanent",
            "bridge fdb flush dev flannel.1",
            "ip link set flannel.1 down",
            "ip link delete flannel.1",
            "ip link delete flannel-v6.1",
        ]);
    }
    for line in lines {
        node.run(line)?;
        eventually(|| complete(node)).with_context(|| line.to_owned())?;
        all_reach(&pods).with_context(|| line.to_owned())?;
    }
    Ok(())
}

/// Checks that the kernel has all objects of the daemon, and that there are some.
fn complete(node: &Node) -> Result<()> {
    let status = pod_network::status(node)?;
    let differs = ["MISSING", "the kernel has", "NOT WANTED"];
    let is_complete = !differs.iter().any(|remark| status.contains(remark));
    ensure!(is_complete && status.contains("route"), "the objects of {}:\n{status}", node.name);
    Ok(())
}

/// Without the API server, pods keep their network, and a daemon that starts changes nothing.
pub(super) fn without_api_server(cluster: &mut Cluster) -> Result<()> {
    let pods = start_on_nodes(cluster)?;
    all_reach(&pods)?;
    cluster.stop_api_server();
    let reached = kill(cluster.node(0)).and_then(|()| all_reach(&pods));
    cluster.start_api_server()?;
    reached?;
    eventually(|| complete(cluster.node(0)))?;
    kubectl::run("get nodes").map(drop)
}
