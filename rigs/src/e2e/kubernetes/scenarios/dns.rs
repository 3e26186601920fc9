//! Names of Services, resolved by `CoreDNS`.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    pods::{deployment, wait_for},
    services,
};
use crate::e2e::kubernetes::{
    cluster::{Cluster, eventually},
    images, kubectl,
    node::Node,
    pods,
};

/// Pods on both nodes connect to a Service by its name. `CoreDNS` itself reaches the API server
/// through a Service.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    serve_names(other)?;
    kubectl::apply(&[services::service("web", json!({}))])?;
    let web = &pods::start(&[("web", node)])?[0];
    let _server = web.network.serve_tcp(8080);
    let names = ["web:80", "web.default.svc.cluster.local:80"];
    let mut clients = Vec::new();
    for node in [node, other] {
        for (index, name) in names.iter().enumerate() {
            let client = format!("client-{index}-{}", node.name);
            kubectl::apply(&[client_of(&client, node, name)])?;
            clients.push(client);
        }
    }
    for client in clients {
        eventually(|| {
            let status = kubectl::get(&format!("pod {client}"))?["status"].take();
            ensure!(status["phase"] == "Succeeded", "the pod {client} did not connect: {status}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Runs `CoreDNS` on a node.
pub(in crate::e2e::kubernetes) fn serve_names(node: &Node) -> Result<()> {
    kubectl::apply(&coredns(node))?;
    wait_for(&["coredns"], 1)
}

/// A pod that ends once it has connected.
fn client_of(name: &str, node: &Node, to: &str) -> Value {
    let container = json!({
        "name": "connect",
        "image": images::AGNHOST,
        "imagePullPolicy": "Never",
        "args": ["connect", to, "--timeout=10s"],
    });
    pods::object(name, node, json!({"containers": [container], "restartPolicy": "OnFailure"}))
}

/// The objects of `CoreDNS`, with the address that kubelet writes into pods.
fn coredns(node: &Node) -> Vec<Value> {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "coredns"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["endpoints", "services", "pods", "namespaces"],
                "verbs": ["list", "watch"],
            },
            {
                "apiGroups": ["discovery.k8s.io"],
                "resources": ["endpointslices"],
                "verbs": ["list", "watch"],
            },
        ],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "coredns"},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns",
        },
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "default"}],
    });
    let corefile = ".:53 {\n errors\n health\n ready\n \
                    kubernetes cluster.local in-addr.arpa ip6.arpa\n cache 5\n}\n";
    let container = json!({
        "name": "coredns",
        "image": images::COREDNS,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
    });
    let mut spec = pods::spec(node);
    spec["containers"] = json!([container]);
    spec["volumes"] = json!([{"name": "config", "configMap": {"name": "coredns"}}]);
    spec["serviceAccountName"] = json!("coredns");
    spec["automountServiceAccountToken"] = json!(true);
    spec["dnsPolicy"] = json!("Default");
    let ports = ["UDP", "TCP"]
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 53}));
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "coredns", "labels": {"app": "coredns"}},
        "spec": {"selector": {"app": "coredns"}, "clusterIP": "10.96.0.53", "ports": ports},
    });
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "coredns"}}),
        role,
        binding,
        json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "coredns", "labels": {"app": "coredns"}},
            "data": {"Corefile": corefile},
        }),
        deployment("coredns", 1, &spec),
        service,
    ]
}
