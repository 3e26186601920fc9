//! Ports of nodes that lead to pods: node ports of Services, and host ports.

use anyhow::{Context, Result, ensure};
use rscni_test::Namespace;
use serde_json::{Value, json};

use super::{services, world};
use crate::e2e::kubernetes::{
    cluster::Cluster,
    kubectl,
    pods::{self, PACKET, Pod},
};

/// Port of the pod, and the same port on its node.
const TARGET: u16 = 8080;
const HOST: u16 = 18080;

/// Both kinds are reached from the world, from both nodes and from pods. Only host ports are
/// reached over localhost: kube-proxy does not serve it with nftables.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    let port =
        |protocol: &str| json!({"containerPort": TARGET, "hostPort": HOST, "protocol": protocol});
    let container = pods::container(&json!([port("TCP"), port("UDP")]));
    kubectl::apply(&[
        services::service("web", json!({"type": "NodePort"})),
        pods::object("web", node, json!({"containers": [container]})),
        pods::object("near", node, json!({})),
        pods::object("far", other, json!({})),
    ])?;
    let web = Pod::wait("web", node)?;
    let (near, far) = (Pod::wait("near", node)?, Pod::wait("far", other)?);
    let _servers = [web.network.serve_tcp(TARGET), web.network.serve_udp(TARGET)];
    let (world, here, there) = (world(), node.network(), other.network());
    let clients = [&world, &here, &there, &web.network, &near.network, &far.network];
    let node_ports = node_ports("web")?;
    for node in [node, other] {
        for address in node.machine.addresses() {
            for client in clients {
                for (protocol, port) in &node_ports {
                    leads_to(&web, client, protocol, &pods::socket(address, *port))
                        .with_context(|| format!("a node port from {}", client.name()))?;
                }
            }
        }
    }
    for protocol in ["TCP", "UDP"] {
        for address in node.machine.addresses() {
            for client in clients {
                leads_to(&web, client, protocol, &pods::socket(address, HOST))
                    .with_context(|| format!("a host port from {}", client.name()))?;
            }
        }
        leads_to(&web, &here, protocol, &format!("127.0.0.1:{HOST}"))
            .context("a host port over localhost")?;
    }
    Ok(())
}

fn leads_to(pod: &Pod, client: &Namespace, protocol: &str, to: &str) -> Result<()> {
    let answer = match protocol {
        "UDP" => client.try_udp(to, PACKET)?,
        _ => client.try_tcp(to, PACKET)?,
    };
    ensure!(answer.server == pod.network.name(), "{} answered at {to}", answer.server);
    Ok(())
}

/// The protocols and node ports of a Service.
fn node_ports(name: &str) -> Result<Vec<(String, u16)>> {
    let service = kubectl::get(&format!("service {name}"))?;
    let ports = service["spec"]["ports"].as_array().context("it has no ports")?;
    let read = |port: &Value| {
        let number = port["nodePort"].as_u64()?;
        Some((port["protocol"].as_str()?.to_owned(), u16::try_from(number).ok()?))
    };
    ports.iter().map(|port| read(port).context("a port without a node port")).collect()
}
