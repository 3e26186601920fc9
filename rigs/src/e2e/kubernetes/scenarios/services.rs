//! Pods behind Services.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::e2e::kubernetes::{
    cluster::Cluster,
    kubectl,
    pods::{self, PACKET},
};

/// Ports of the Services and of the pod.
const PORT: u16 = 80;
const TARGET: u16 = 8080;

/// A pod behind a Service is reached by pods on both nodes, by the nodes, and by itself.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    kubectl::apply(&[service("web", json!({}))])?;
    let pods = pods::start(&[("web", node), ("near", node), ("far", other)])?;
    let web = &pods[0].network;
    let _servers = [web.serve_tcp(TARGET), web.serve_udp(TARGET)];
    let (here, there) = (node.network(), other.network());
    let clients = [web, &pods[1].network, &pods[2].network, &here, &there];
    for address in addresses("web")? {
        for client in clients {
            let what = || format!("{} to the Service at {address}", client.name());
            let to = pods::socket(address, PORT);
            let tcp = client.try_tcp(&to, PACKET).with_context(what)?;
            let udp = client.try_udp(&to, PACKET).with_context(what)?;
            for answer in [tcp, udp] {
                ensure!(answer.server == web.name(), "{} answered {}", answer.server, what());
            }
        }
    }
    Ok(())
}

/// A Service of both families with TCP and UDP. `more` is merged into its specification.
pub(super) fn service(name: &str, more: Value) -> Value {
    let port = |protocol: &str| {
        let name = protocol.to_lowercase();
        json!({"name": name, "protocol": protocol, "port": PORT, "targetPort": TARGET})
    };
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "selector": {"app": name},
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [port("TCP"), port("UDP")],
        },
    });
    if let (Some(spec), Value::Object(more)) = (service["spec"].as_object_mut(), more) {
        spec.extend(more);
    }
    service
}

/// The addresses of a Service.
pub(super) fn addresses(name: &str) -> Result<Vec<std::net::IpAddr>> {
    let service = kubectl::get(&format!("service {name}"))?;
    let addresses = service["spec"]["clusterIPs"].as_array().context("it has no addresses")?;
    addresses
        .iter()
        .map(|address| Ok(address.as_str().context("an address is a string")?.parse()?))
        .collect()
}
