//! Pods of the scenarios. Their containers only sleep: the scenarios send packets from their
//! network namespaces and answer in them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, UdpSocket},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rscni_test::Container;
use serde_json::{Value, json};
use xtask::program;

use super::{
    cluster::{Cluster, eventually, is_ready},
    images, kubectl,
    node::Node,
};
use crate::daemon::until_ok;

/// Timeout of a packet on a busy machine.
pub(super) const PACKET: Duration = Duration::from_secs(60);

/// A running pod.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) name: String,
    /// IPv4 and IPv6.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) network: Container,
}

/// The object of a pod on a node. `more` is merged into its specification.
pub(super) fn object(name: &str, node: &Node, more: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec(node),
    });
    if let (Some(spec), Value::Object(more)) = (pod["spec"].as_object_mut(), more) {
        spec.extend(more);
    }
    pod
}

/// The specification of a pod that sleeps on a node.
pub(super) fn spec(node: &Node) -> Value {
    json!({
        "nodeName": node.name,
        "terminationGracePeriodSeconds": 0,
        "enableServiceLinks": false,
        "automountServiceAccountToken": false,
        "containers": [container(&json!([]))],
    })
}

/// The object of a pod on a node, with a host port for TCP port 8080 of the pod.
pub(super) fn with_host_port(name: &str, node: &Node, port: u16) -> Value {
    let ports = json!([{"containerPort": 8080, "hostPort": port}]);
    object(name, node, json!({"containers": [container(&ports)]}))
}

/// The container of a pod, with ports.
pub(super) fn container(ports: &Value) -> Value {
    json!({
        "name": "sleep",
        "image": images::BUSYBOX,
        "imagePullPolicy": "Never",
        "ports": ports,
    })
}

impl Pod {
    /// Waits until a pod is Ready. `node` is the node that runs it.
    pub(super) fn wait(name: &str, node: &Node) -> Result<Self> {
        let pod = eventually(|| {
            let pod = kubectl::get(&format!("pod {name}"))?;
            ensure!(is_ready(&pod), "the pod {name} is not Ready: {}", pod["status"]);
            Ok(pod)
        });
        let pod = pod.with_context(|| description(name))?;
        Self::of(&pod, node)
    }

    fn of(pod: &Value, node: &Node) -> Result<Self> {
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
        let addresses = addresses(pod);
        ensure!(!addresses.is_empty(), "the pod {name} has no address: {pod}");
        let is_of_node = pod["spec"]["hostNetwork"] == true;
        let network =
            if is_of_node { node.network() } else { Container::at(name, namespace(node, name)?) };
        Ok(Self { name: name.to_owned(), addresses, network })
    }

    /// Checks that all addresses of another pod answer, over ICMP and TCP, and see this pod's own
    /// address.
    pub(super) fn reaches(&self, other: &Self) -> Result<()> {
        let server = other.network.serve_tcp(0);
        for pod in [self, other] {
            let families = pod.addresses.iter().map(IpAddr::is_ipv4);
            ensure!(families.eq([true, false]), "{} has {:?}", pod.name, pod.addresses);
        }
        for (address, own) in other.addresses.iter().zip(&self.addresses) {
            let what = || format!("{} to {} at {address}", self.name, other.name);
            self.network.try_ping(address, PACKET).with_context(what)?;
            let answer =
                self.network.try_tcp(socket(*address, server.port()), PACKET).with_context(what)?;
            ensure!(answer.server == other.network.name(), "{} answered {}", answer.server, what());
            ensure!(answer.seen_as == *own, "{} is seen as {}", what(), answer.seen_as);
            self.sends_full_packets(other, *address).with_context(what)?;
        }
        Ok(())
    }

    /// Checks that packets as large as the MTU of both interfaces arrive, and that none was too
    /// large for a part of the path.
    fn sends_full_packets(&self, other: &Self, address: IpAddr) -> Result<()> {
        let mtu_of =
            |pod: &Self| -> Result<u32> { Ok(pod.network.netlink().link_by_name("eth0")?.mtu) };
        let mtu = usize::try_from(mtu_of(self)?.min(mtu_of(other)?))?;
        // Headers of IP and UDP.
        let payload = vec![0; mtu - if address.is_ipv4() { 28 } else { 48 }];
        let bind = |ip: IpAddr| UdpSocket::bind((ip, 0));
        let receiver = other.network.run(|| bind(address))?;
        receiver.set_read_timeout(Some(Duration::from_millis(300)))?;
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let sender = self.network.run(|| bind(any))?;
        let to = receiver.local_addr()?;
        until_ok(PACKET, || {
            sender.send_to(&payload, to)?;
            let length = receiver.recv(&mut vec![0; mtu])?;
            ensure!(length == payload.len(), "{length} of {} bytes arrived", payload.len());
            Ok(())
        })
        .with_context(|| format!("send packets of {mtu} bytes"))?;
        let route = self.network.run(|| program::output_of(&format!("ip route get {address}")))?;
        ensure!(!route.contains(" mtu "), "{mtu} bytes are too many for the path: {route}");
        Ok(())
    }
}

/// The addresses of a pod.
pub(super) fn addresses(pod: &Value) -> Vec<IpAddr> {
    let addresses = pod["status"]["podIPs"].as_array().into_iter().flatten();
    addresses.filter_map(|address| address["ip"].as_str()?.parse().ok()).collect()
}

/// Creates pods, each on a node, and waits until they are Ready.
pub(super) fn start(pods: &[(&str, &Node)]) -> Result<Vec<Pod>> {
    let objects: Vec<_> = pods.iter().map(|(name, node)| object(name, node, json!({}))).collect();
    kubectl::apply(&objects)?;
    pods.iter().map(|(name, node)| Pod::wait(name, node)).collect()
}

/// Deletes all objects of the scenarios, and waits until they are gone.
pub(super) fn delete_all() -> Result<()> {
    kubectl::run("delete deployments,pods,services,configmaps --selector=app --timeout=300s")
        .map(drop)
}

/// The text of an address with a port.
pub(super) fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// The path of a pod's network namespace, seen from outside of the node.
fn namespace(node: &Node, name: &str) -> Result<PathBuf> {
    Ok(node.path(&netns(node, name)?))
}

/// The path of a pod's network namespace on its node.
pub(super) fn netns(node: &Node, name: &str) -> Result<String> {
    let cri = node.cri()?;
    let sandboxes = cri.pod_sandboxes()?;
    let id = sandboxes.get(name).with_context(|| format!("no sandbox runs for the pod {name}"))?;
    let path = cri.pod_sandbox_status(id)?.netns;
    let path = path.to_str().context("a path is not UTF-8")?;
    // The target of the link /var/run is absolute, which is wrong outside of the node.
    Ok(path.replacen("/var/run/", "/run/", 1))
}

/// The events of a pod, for the message of a failure.
fn description(name: &str) -> String {
    kubectl::run(&format!("describe pod {name}")).unwrap_or_else(|error| format!("{error:#}"))
}

/// All pods of the scenarios on a node that are Ready, by name.
pub(super) fn ready_pods(cluster: &Cluster, node: usize) -> Result<BTreeMap<String, Value>> {
    let node = cluster.node(node);
    let pods = kubectl::get(&format!("pods --field-selector=spec.nodeName={}", node.name))?;
    let pods = pods["items"].as_array().cloned().unwrap_or_default();
    let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(pods.into_iter().filter(is_ready).map(|pod| (name(&pod), pod)).collect())
}
