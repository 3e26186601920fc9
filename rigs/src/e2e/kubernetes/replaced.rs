//! Another network list, or the Go plugins, on a node for a while.

use std::path::Path;

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::Value;

use super::{CLUSTER, GO_PLUGINS, copy, node::Node, pod_network, scenarios::uses_network};

const BIN: &str = "/opt/cni/bin";
const OWN_BIN: &str = "/opt/cni/bin.rscni";
/// containerd uses the first list.
const LIST: &str = "/etc/cni/net.d/00-other.conflist";

/// Runs `work` while containerd of the node uses another list.
pub(super) fn with_list<T>(
    node: &Node,
    list: &Value,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let name = list["name"].as_str().context("a list has a name")?;
    fs::write(node.path(LIST), list.to_string())?;
    let outcome = uses_network(node, name).and_then(|()| work());
    fs::remove_file(node.path(LIST))?;
    uses_network(node, pod_network::NAME)?;
    outcome
}

/// Runs `work` while the node has the Go plugins.
pub(super) fn with_go_plugins<T>(node: &Node, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let bin = node.path(BIN);
    fs::rename(&bin, node.path(OWN_BIN))?;
    let outcome = copy(&Path::new(CLUSTER).join(GO_PLUGINS), &bin).and_then(|()| work());
    fs::remove_dir_all(&bin)?;
    fs::rename(node.path(OWN_BIN), &bin)?;
    outcome
}
