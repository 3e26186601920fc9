//! Settings of hosts that pods depend on.

use anyhow::{Context, Result};

use super::{pods::on_nodes, ports};
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
    set_filter(cluster, 1)?;
    let outcome = on_nodes(cluster);
    set_filter(cluster, 0)?;
    outcome
}

fn set_filter(cluster: &Cluster, value: u8) -> Result<()> {
    for node in cluster.nodes() {
        let script = format!(
            "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {value} > $file; done"
        );
        let mut shell = node.command("sh");
        xtask::program::capture(shell.args(["-c", &script])).context("set rp_filter")?;
    }
    Ok(())
}
