//! A node that loses power and boots again with its disks.

use anyhow::Result;
use serde_json::json;

use crate::e2e::kubernetes::{
    cluster::{Cluster, eventually},
    kubectl,
    pods::{self, Pod},
};

/// The pods of the node get new namespaces and are reached again.
pub(super) fn run(cluster: &mut Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    kubectl::apply(&[
        pods::with_host_port("first", node, 18080),
        pods::object("second", node, json!({})),
        pods::object("far", other, json!({})),
    ])?;
    let far = Pod::wait("far", other)?;
    for name in ["first", "second"] {
        Pod::wait(name, node)?.reaches(&far)?;
    }
    cluster.node_mut(0).reboot()?;
    cluster.wait_until_ready()?;
    let node = cluster.node(0);
    // The API server has the state from before the reboot for a while.
    eventually(|| {
        let first = Pod::wait("first", node)?;
        let second = Pod::wait("second", node)?;
        first.reaches(&far)?;
        far.reaches(&first)?;
        far.reaches(&second)?;
        second.reaches(&first)
    })
}
