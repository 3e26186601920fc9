//! The pod network: a network list for each node's podCIDRs, routes between the nodes, and
//! masquerading of packets to the world.
//!
//! [`install`] is the only place that knows which pod network the cluster has.

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::{Value, json};
use xtask::program;

use super::{
    cluster::Cluster,
    control_plane::{self, PODS},
    kubectl,
    node::Node,
};

/// Name of the network.
pub(super) const NAME: &str = "pods";

/// Makes every node ready for pods.
pub(super) fn install(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        let networks = pod_cidrs(node)?;
        program::capture(node.command("/mnt/plugins/rscni").args(["install", "/opt/cni/bin"]))?;
        for other in cluster.nodes().filter(|other| other.name != node.name) {
            let inside = format!("--net={}", other.network().path().display());
            add_routes(&inside, node, &networks)?;
        }
        // The API server connects to webhooks and proxies to pods.
        add_routes(control_plane::NAMESPACE, node, &networks)?;
        masquerade(node)?;
        let list = node.path("/etc/cni/net.d/10-pods.conflist");
        fs::write(list, list_of(&networks).to_string())?;
    }
    Ok(())
}

/// Restores what a node has lost in a reboot.
pub(super) fn restore(cluster: &Cluster, node: &Node) -> Result<()> {
    for other in cluster.nodes().filter(|other| other.name != node.name) {
        let inside = format!("--net={}", node.network().path().display());
        add_routes(&inside, other, &pod_cidrs(other)?)?;
    }
    masquerade(node)
}

/// The podCIDRs of a node.
pub(super) fn pod_cidrs(node: &Node) -> Result<Vec<String>> {
    let node = kubectl::get(&format!("node {}", node.name))?;
    let networks = node["spec"]["podCIDRs"].as_array().context("the node has no podCIDRs")?;
    Ok(networks.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn list_of(networks: &[String]) -> Value {
    let ranges: Vec<_> = networks.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    json!({
        "cniVersion": "1.1.0",
        "name": NAME,
        "plugins": [
            {
                "type": "ptp",
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ],
    })
}

/// Adds routes to the pods of a node in the namespace that `inside` names for `nsenter`.
fn add_routes(inside: &str, node: &Node, networks: &[String]) -> Result<()> {
    for network in networks {
        let [ipv4, ipv6] = node.machine.addresses();
        let gateway = if network.contains(':') { ipv6 } else { ipv4 };
        program::output_of(&format!("nsenter {inside} ip route replace {network} via {gateway}"))?;
    }
    Ok(())
}

/// Packets of pods to the world get the address of the node. Packets within the cluster, which
/// includes the nodes, keep theirs.
fn masquerade(node: &Node) -> Result<()> {
    let [ipv4, ipv6] = PODS;
    let rules = format!(
        "table inet pod-network\n\
         delete table inet pod-network\n\
         table inet pod-network {{\n\
           chain postrouting {{\n\
             type nat hook postrouting priority srcnat\n\
             ip saddr {ipv4} ip daddr != {{ {ipv4}, 10.200.0.0/24 }} oifname eth0 masquerade\n\
             ip6 saddr {ipv6} ip6 daddr != {{ {ipv6}, fd00:200::/64 }} oifname eth0 masquerade\n\
           }}\n\
         }}\n"
    );
    let file = node.path("/run/pod-network.nft");
    fs::write(file, rules)?;
    node.run("nft -f /run/pod-network.nft").map(drop)
}
