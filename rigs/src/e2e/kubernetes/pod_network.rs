//! The pod network: the manifests of `deploy/`, as a user applies them, or flannel.

use anyhow::{Context, Result};
use serde_json::Value;
use xtask::program;

use super::{CLUSTER, cluster::Cluster, control_plane, flannel::Flannel, kubectl, node::Node};

/// Name of the network.
pub(super) const NAME: &str = "rscni";

/// A pod network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Network {
    /// this one
    Rscnid,
    /// flanneld and the Go plugins
    Flannel,
}

impl Network {
    /// Makes every node ready for pods. Returns the daemons that are not pods.
    pub(super) fn install(self, cluster: &Cluster) -> Result<Option<Flannel>> {
        connect_control_plane(cluster)?;
        match self {
            Self::Rscnid => kubectl::run(&format!("apply -k {CLUSTER}/deploy")).map(|_| None),
            Self::Flannel => {
                let mut flannel = Flannel::new()?;
                cluster.nodes().try_for_each(|node| flannel.install(node))?;
                Ok(Some(flannel))
            }
        }
    }
}

fn connect_control_plane(cluster: &Cluster) -> Result<()> {
    // The API server connects to webhooks and proxies to pods, but its machine is not a Node. It
    // has no tunnel to the nodes behind the router: the first node forwards its packets to them.
    for node in cluster.nodes() {
        let gateway = if node.machine.is_near() { node } else { cluster.node(0) };
        add_routes_of_control_plane(node, gateway)?;
    }
    Ok(())
}

/// The podCIDRs of a node.
pub(super) fn pod_cidrs(node: &Node) -> Result<Vec<String>> {
    let node = kubectl::get(&format!("node {}", node.name))?;
    let networks = node["spec"]["podCIDRs"].as_array().context("the node has no podCIDRs")?;
    Ok(networks.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn add_routes_of_control_plane(node: &Node, gateway: &Node) -> Result<()> {
    for network in pod_cidrs(node)? {
        let [ipv4, ipv6] = gateway.machine.addresses();
        let gateway = if network.contains(':') { ipv6 } else { ipv4 };
        program::output_of(&format!(
            "nsenter {} ip route replace {network} via {gateway}",
            control_plane::NAMESPACE
        ))?;
    }
    Ok(())
}

/// The ends of the logs of all daemons.
pub(super) fn logs() -> String {
    let logs =
        kubectl::run("logs --namespace kube-system --selector app=rscnid --tail 20 --prefix");
    logs.unwrap_or_else(|error| format!("no log of rscnid: {error:#}"))
}

/// The table of `rscnid status` on a node.
pub(super) fn status(node: &Node) -> Result<String> {
    exec("rscnid", node, "/rscnid status")
}

/// Runs a command in the pod of a `DaemonSet` on a node.
pub(super) fn exec(daemon_set: &str, node: &Node, command: &str) -> Result<String> {
    let pods = kubectl::get(&format!(
        "pods --namespace kube-system --selector app={daemon_set} \
         --field-selector spec.nodeName={}",
        node.name
    ))?;
    let name = pods["items"][0]["metadata"]["name"].as_str();
    let name = name.with_context(|| format!("no pod of {daemon_set} is on {}", node.name))?;
    kubectl::run(&format!("exec --namespace kube-system {name} -c {daemon_set} -- {command}"))
}
