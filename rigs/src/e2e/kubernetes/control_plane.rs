//! etcd, the API server, the controller manager and the scheduler, in one network namespace.
//!
//! Users have tokens, and the API server authorizes them with RBAC as a production cluster does.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::json;
use xtask::program;

use super::{
    CLUSTER, PROGRAMS, kubectl,
    lan::{self, CONTROL_PLANE},
};
use crate::daemon::Daemon;

/// Networks of pods and Services, of both families.
pub(super) const PODS: [&str; 2] = ["10.244.0.0/16", "fd00:244::/56"];
const SERVICES: [&str; 2] = ["10.96.0.0/16", "fd00:96::/112"];

/// Timeout of a start on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Names of users, and their Kubernetes names with their groups. Nodes have one each.
const USERS: [(&str, &str); 4] = [
    ("admin", "admin,1,system:masters"),
    ("manager", "system:kube-controller-manager,2"),
    ("scheduler", "system:kube-scheduler,3"),
    ("proxy", "system:kube-proxy,4"),
];

/// The running control plane.
pub(super) struct ControlPlane {
    server: Option<Daemon>,
    _others: Vec<Daemon>,
}

impl ControlPlane {
    pub(super) fn stop_server(&mut self) {
        self.server = None;
    }

    pub(super) fn start_server(&mut self) -> Result<()> {
        self.server = Some(start_server()?);
        Ok(())
    }
}

/// The options of `nsenter` for the namespace.
pub(super) const NAMESPACE: &str = "--net=/run/netns/control-plane";

/// Starts the control plane for these nodes, and waits until the API server is ready.
pub(super) fn start(nodes: &[String]) -> Result<ControlPlane> {
    program::output_of("ip netns add control-plane")?;
    lan::connect(CONTROL_PLANE, "control-plane", NAMESPACE)?;
    let cluster = Path::new(CLUSTER);
    write_users(cluster, nodes)?;
    make_key(cluster)?;
    let etcd = daemon(
        "etcd",
        "--data-dir CLUSTER/etcd --unsafe-no-fsync \
         --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
         --listen-peer-urls http://127.0.0.1:2380",
    )?;
    let server = start_server()?;
    let manager = daemon(
        "kube-controller-manager",
        &format!(
            "--kubeconfig CLUSTER/manager.conf --allocate-node-cidrs --cluster-cidr {} \
             --service-cluster-ip-range {} --node-cidr-mask-size-ipv4 24 \
             --node-cidr-mask-size-ipv6 64 --use-service-account-credentials \
             --service-account-private-key-file CLUSTER/service-accounts.key \
             --root-ca-file CLUSTER/pki/apiserver.crt --leader-elect=false",
            PODS.join(","),
            SERVICES.join(",")
        ),
    )?;
    let scheduler =
        daemon("kube-scheduler", "--kubeconfig CLUSTER/scheduler.conf --leader-elect=false")?;
    Ok(ControlPlane { server: Some(server), _others: vec![etcd, manager, scheduler] })
}

/// Starts the API server, and waits until it is ready.
fn start_server() -> Result<Daemon> {
    let address = CONTROL_PLANE.ipv4();
    let mut server = daemon(
        "kube-apiserver",
        &format!(
            "--etcd-servers http://127.0.0.1:2379 --bind-address {address} \
             --advertise-address {address} --secure-port 6443 --cert-dir CLUSTER/pki \
             --service-cluster-ip-range {} --token-auth-file CLUSTER/tokens.csv \
             --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
             --service-account-key-file CLUSTER/service-accounts.pub \
             --service-account-signing-key-file CLUSTER/service-accounts.key \
             --service-account-issuer https://kubernetes.default.svc --allow-privileged \
             --kubelet-preferred-address-types InternalIP",
            SERVICES.join(",")
        ),
    )?;
    server.wait_until(TIMEOUT, || {
        let state = kubectl::run("get --raw /readyz")?;
        ensure!(state.trim() == "ok", "the API server is not ready: {state}");
        Ok(())
    })?;
    Ok(server)
}

/// Starts a program of the control plane. `CLUSTER` in its options is the cluster's directory.
fn daemon(program: &str, options: &str) -> Result<Daemon> {
    let mut command = Command::new("nsenter");
    command.arg(NAMESPACE).arg(Path::new(PROGRAMS).join(program));
    command.args(options.replace("CLUSTER", CLUSTER).split_whitespace());
    Daemon::start(program, &mut command, Path::new(CLUSTER).join(format!("{program}.log")))
}

/// Writes the tokens of all users, and a configuration file for each.
fn write_users(cluster: &Path, nodes: &[String]) -> Result<()> {
    let mut tokens = String::new();
    let mut write = |name: &str, user: &str| {
        let token = format!("token-of-{name}");
        tokens += &[&token, ",", user, "\n"].concat();
        write_configuration(name, &token)
    };
    for (name, user) in USERS {
        write(name, user)?;
    }
    for (index, node) in nodes.iter().enumerate() {
        write(node, &format!("system:node:{node},{},system:nodes", 10 + index))?;
    }
    Ok(fs::write(cluster.join("tokens.csv"), tokens)?)
}

/// Writes the configuration of a client, `NAME.conf` in the cluster's directory.
pub(super) fn write_configuration(name: &str, token: &str) -> Result<()> {
    Ok(fs::write(Path::new(CLUSTER).join(format!("{name}.conf")), configuration(token))?)
}

fn configuration(token: &str) -> String {
    let server = format!("https://{}:6443", CONTROL_PLANE.ipv4());
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [
            {"name": "test", "cluster": {"server": server, "insecure-skip-tls-verify": true}},
        ],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    })
    .to_string()
}

/// Makes the key with which tokens of service accounts are signed.
fn make_key(cluster: &Path) -> Result<()> {
    let [private, public] =
        ["key", "pub"].map(|kind| format!("{}/service-accounts.{kind}", cluster.display()));
    program::output_of(&format!("openssl genrsa -out {private} 2048"))
        .and_then(|_| {
            program::output_of(&format!("openssl rsa -in {private} -pubout -out {public}"))
        })
        .context("make the key of service accounts")?;
    Ok(())
}
