//! Settings of hosts that pods depend on.

use anyhow::{Context, Result};

use super::{pods::on_nodes, ports, services};
use crate::e2e::kubernetes::{cluster::Cluster, pods};

/// Pods are reached, over the ports of all nodes too, if the host drops forwarded packets by
/// default.
pub(super) fn dropping(cluster: &Cluster) -> Result<()> {
    set_policies(cluster, "DROP")?;
    let outcome =
        on_nodes(cluster).and_then(|()| pods::delete_all()).and_then(|()| ports::run(cluster));
    set_policies(cluster, "ACCEPT")?;
    outcome
}

fn set_policies(cluster: &Cluster, policy: &str) -> Result<()> {
    for node in cluster.nodes() {
        for iptables in ["iptables", "ip6tables"] {
            node.run(&format!("{iptables} --policy FORWARD {policy}"))?;
        }
    }
    Ok(())
}

/// Pods reach each other if the host drops packets whose source it would reach by another link.
pub(super) fn strict(cluster: &Cluster) -> Result<()> {
    const RP_FILTER: &str = "ipv4/conf/*/rp_filter";
    set(cluster, RP_FILTER, 1)?;
    let outcome = on_nodes(cluster);
    set(cluster, RP_FILTER, 0)?;
    outcome
}

/// Pods reach Services with pods on the same node if bridged packets skip netfilter, as they do
/// without `br_netfilter`.
pub(super) fn unfiltered(cluster: &Cluster) -> Result<()> {
    const BRIDGES: &str = "bridge/bridge-nf-call-ip*tables";
    set(cluster, BRIDGES, 0)?;
    let outcome = services::run(cluster);
    set(cluster, BRIDGES, 1)?;
    outcome
}

/// Sets sysctls below `net` on all nodes.
fn set(cluster: &Cluster, files: &str, value: u8) -> Result<()> {
    for node in cluster.nodes() {
        let script = format!("for file in /proc/sys/net/{files}; do echo {value} > $file; done");
        let mut shell = node.command("sh");
        xtask::program::capture(shell.args(["-ec", &script]))
            .with_context(|| format!("set {files}"))?;
    }
    Ok(())
}
