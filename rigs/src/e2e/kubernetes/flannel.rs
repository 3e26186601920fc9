//! flanneld, flannel's plugin and the Go plugins on a node, as kube-flannel.yml runs them.
//!
//! flanneld is a process in the namespaces of the node, with the service account of its pods.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use fs_err as fs;
use serde_json::{Value, json};
use xtask::go::{Module, PLUGINS};

use super::{
    CLUSTER, GO_PLUGINS,
    control_plane::{PODS, write_configuration},
    kubectl,
    node::Node,
};
use crate::daemon::Daemon;

/// Its own program, without the backends that need C or modules that are not available.
const FLANNELD: Module = Module {
    path: "github.com/flannel-io/flannel",
    version: "v0.28.10",
    packages: &["."],
    tags: &[],
    variables: &["github.com/flannel-io/flannel/pkg/version.Version=v0.28.10"],
    omitted: &["pkg/backend/tencentvpc", "pkg/backend/udp"],
};

/// The last version of the Go plugins that has flannel's.
const PLUGIN: Module = Module {
    version: "v1.0.0-rc1",
    packages: &["./plugins/meta/flannel"],
    variables: &[],
    ..PLUGINS
};

/// Directory of the programs in the cluster's directory.
pub(super) const DIRECTORY: &str = "flannel";

/// Name of flannel's network, of its list and of the file that flanneld writes.
pub(super) const NETWORK: &str = "cbr0";
const LIST: &str = "/etc/cni/net.d/10-flannel.conflist";
const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const BIN: &str = "/opt/cni/bin";

/// Timeout of a start on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Builds the programs, and returns their names and paths.
pub(super) fn build() -> Result<Vec<(&'static str, PathBuf)>> {
    Ok(vec![
        ("flanneld", FLANNELD.build()?.join("flannel")),
        ("flannel", PLUGIN.build()?.join("flannel")),
    ])
}

/// flannel in the cluster, with the daemons of nodes.
pub(super) struct Flannel {
    daemons: BTreeMap<String, Daemon>,
}

impl Flannel {
    /// Creates the service account and the configuration. No node uses flannel yet.
    pub(super) fn new() -> Result<Self> {
        kubectl::apply(&service_account())?;
        let token = kubectl::run("create token flannel --namespace kube-flannel --duration 24h")?;
        write_configuration("flannel", token.trim())?;
        let configuration = json!({
            "Network": PODS[0],
            "IPv6Network": PODS[1],
            "EnableIPv6": true,
            // flannel subtracts the overhead of IPv4 for both families, so packets of IPv6 would be
            // too large.
            "Backend": {"Type": "vxlan", "MTU": 1480},
        });
        fs::write(in_directory("net-conf.json"), configuration.to_string())?;
        Ok(Self { daemons: BTreeMap::new() })
    }

    /// Removes the service account.
    pub(super) fn delete() -> Result<()> {
        kubectl::run("delete namespace kube-flannel --ignore-not-found --wait")?;
        kubectl::run("delete clusterrole,clusterrolebinding flannel --ignore-not-found").map(drop)
    }

    /// Replaces all plugins of a node with the Go plugins, and starts flanneld.
    pub(super) fn install(&mut self, node: &Node) -> Result<()> {
        install_go_plugins(node)?;
        self.start(node)
    }

    /// Starts flanneld on a node, installs its plugin, and writes the network list.
    pub(super) fn start(&mut self, node: &Node) -> Result<()> {
        let subnet_file = node.path(SUBNET_FILE);
        if subnet_file.exists() {
            fs::remove_file(&subnet_file)?;
        }
        let mut command = node.command("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(in_directory("flanneld"));
        command.args(["--kube-subnet-mgr", "--ip-masq", "--kubeconfig-file"]);
        command.arg(Path::new(CLUSTER).join("flannel.conf"));
        command.arg("--net-config-path").arg(in_directory("net-conf.json"));
        command.env("NODE_NAME", &node.name);
        let log = Path::new(CLUSTER).join(&node.name).join("flanneld.log");
        let mut daemon = Daemon::start(&format!("flanneld of {}", node.name), &mut command, log)?;
        daemon.wait_until(TIMEOUT, || {
            ensure!(subnet_file.exists(), "it has not written {SUBNET_FILE}");
            Ok(())
        })?;
        self.daemons.insert(node.name.clone(), daemon);
        let plugin = node.path(BIN).join("flannel");
        // A link to another program must not be written through.
        if plugin.is_symlink() {
            fs::remove_file(&plugin)?;
        }
        fs::copy(in_directory("flannel"), plugin)?;
        Ok(fs::write(node.path(LIST), list().to_string())?)
    }

    /// Ends flanneld on a node. Everything else stays.
    pub(super) fn stop(&mut self, node: &Node) {
        self.daemons.remove(&node.name);
    }

    /// The ends of the logs.
    pub(super) fn logs(&self) -> String {
        self.daemons.values().map(Daemon::log).collect()
    }
}

/// Removes the network list from a node.
pub(super) fn remove_list(node: &Node) -> Result<()> {
    Ok(fs::remove_file(node.path(LIST))?)
}

fn install_go_plugins(node: &Node) -> Result<()> {
    let bin = node.path(BIN);
    for entry in fs::read_dir(&bin)? {
        fs::remove_file(entry?.path())?;
    }
    for entry in fs::read_dir(Path::new(CLUSTER).join(GO_PLUGINS))? {
        let entry = entry?;
        fs::copy(entry.path(), bin.join(entry.file_name()))?;
    }
    Ok(())
}

fn in_directory(name: &str) -> PathBuf {
    Path::new(CLUSTER).join(DIRECTORY).join(name)
}

/// `cni-conf.json` of kube-flannel.yml.
fn list() -> Value {
    json!({
        "name": NETWORK,
        "cniVersion": "1.0.0",
        "plugins": [
            {
                "type": "flannel",
                "delegate": {"hairpinMode": true, "isDefaultGateway": true},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The service account of kube-flannel.yml with its rights.
fn service_account() -> Vec<Value> {
    let rbac = |kind: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": "flannel"},
        })
    };
    let mut role = rbac("ClusterRole");
    role["rules"] = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
    ]);
    let mut binding = rbac("ClusterRoleBinding");
    binding["roleRef"] = json!({
        "apiGroup": "rbac.authorization.k8s.io",
        "kind": "ClusterRole",
        "name": "flannel",
    });
    binding["subjects"] =
        json!([{"kind": "ServiceAccount", "name": "flannel", "namespace": "kube-flannel"}]);
    let core = |kind: &str, metadata: Value| {
        json!({
            "apiVersion": "v1",
            "kind": kind,
            "metadata": metadata,
        })
    };
    vec![
        core("Namespace", json!({"name": "kube-flannel"})),
        core("ServiceAccount", json!({"name": "flannel", "namespace": "kube-flannel"})),
        role,
        binding,
    ]
}
