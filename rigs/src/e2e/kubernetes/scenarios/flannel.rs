//! Nodes that change from flannel to rscnid and back, one after the other, while their pods run.
//! The commands on the nodes are those of docs/kubernetes.md.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::{Value, json};
use xtask::program;

use super::{
    garbage::{collect_with, forget, traces},
    outside::leaves_with_right_source,
    tutorial::{uses_network, uses_plugin},
    world,
};
use crate::e2e::kubernetes::{
    CLUSTER,
    cluster::{Cluster, eventually},
    flannel::{self, Flannel, NETWORK},
    kubectl, leaks,
    node::Node,
    pod_network::{self, pod_cidrs},
    pods::{self, PACKET, Pod},
    traffic::Traffic,
};

/// flanneld removes neither its rules nor its files.
const REMOVE_FLANNEL: &str = "
    iptables-save | grep -v FLANNEL | iptables-restore
    ip6tables-save | grep -v FLANNEL | ip6tables-restore
    rm -r /run/flannel";

/// Removes everything of rscnid except for the VXLAN devices, which flanneld uses.
const REMOVE_RSCNID: &str = "
    rm /etc/cni/net.d/10-rscni.conflist
    rm -r /run/rscni
    ip route flush proto 82
    ip -6 route flush proto 82
    nft delete table inet rscnid
    iptables-save | grep -v '\"rscnid: ' | iptables-restore
    ip6tables-save | grep -v '\"rscnid: ' | ip6tables-restore";

/// Removes the rest of a pod network from a node without pods. One that never had pods has no
/// bridge.
const REMOVE_NETWORK: &str = "
    for link in cni0 flannel.1 flannel-v6.1; do ip link delete $link || true; done
    rm -rf /var/lib/cni/networks/cbr0 /var/lib/cni/flannel";

pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let mut flannel = Flannel::new()?;
    there_and_back(cluster, &mut flannel).with_context(|| flannel.logs())?;
    pods::delete_all()?;
    for node in cluster.nodes() {
        eventually(|| collect(node).and_then(|_| no_reservations(node)))?;
        flannel.stop(node);
        flannel::remove_list(node)?;
        sh(node, REMOVE_FLANNEL)?;
        sh(node, REMOVE_NETWORK)?;
    }
    kubectl::run(&format!("delete -f {CLUSTER}/deploy/rscni-gc.yaml --wait"))?;
    Flannel::delete()?;
    kubectl::run("label nodes --all pod-network-")?;
    cluster.nodes().try_for_each(|node| uses_network(node, pod_network::NAME))
}

fn there_and_back(cluster: &Cluster, flannel: &mut Flannel) -> Result<()> {
    kubectl::run("label nodes --all pod-network=flannel --overwrite")?;
    for node in cluster.nodes() {
        rscnid_is_gone(node)?;
        sh(node, REMOVE_RSCNID)?;
        flannel.install(node)?;
        uses_plugin(node, "flannel")?;
    }
    let (first, second) = (cluster.node(0), cluster.node(1));
    kubectl::apply(&[
        pods::with_host_port("stays", first, 18080),
        pods::with_host_port("leaves", first, 18081),
        pods::object("near", first, json!({})),
        pods::object("far", second, json!({})),
    ])?;
    let mut all: Vec<Pod> = [("stays", first), ("leaves", first), ("near", first), ("far", second)]
        .into_iter()
        .map(|(name, node)| Pod::wait(name, node))
        .collect::<Result<_>>()?;
    check(&all, first).context("with flannel")?;
    let leaves = all.remove(1);

    take_over(first, flannel, &all).context("while rscnid takes over the first node")?;
    check(&all, first).context("with rscnid on the first node")?;
    let files = saved_configurations(first)?;
    ensure!(files.len() == 3, "the plugin flannel has saved {files:?}");
    delete(first, &leaves)?;
    no_trace(first, &leaves).context("after DEL of a pod that flannel attached")?;
    all.push(start(first, "new", 18082)?);
    all.push(start(first, "second", 18083)?);
    check(&all, first).context("with new pods on the first node")?;
    collect_with("rscnid", first, "")?;
    let files = saved_configurations(first)?;
    ensure!(files.len() == 2, "the plugin flannel keeps {files:?}");

    take_over(second, flannel, &all).context("while rscnid takes over the second node")?;
    all.push(start(second, "far-new", 18080)?);
    check(&all, first).context("with rscnid on both nodes")?;
    for (node, other) in [(first, second), (second, first)] {
        eventually(|| is_direct(node, other))?;
    }
    cluster.nodes().skip(2).try_for_each(|node| take_over(node, flannel, &[]))?;
    cluster.nodes().try_for_each(|node| sh(node, REMOVE_FLANNEL))?;
    check(&all, first).context("without rules of flanneld")?;
    leaves_with_right_source(&all[0], first, second)?;

    give_back(first, flannel, &all).context("while flannel takes over the first node")?;
    all.push(start(first, "again", 18081)?);
    check(&all, first).context("with flannel on the first node")?;
    give_back(second, flannel, &all).context("while flannel takes over the second node")?;
    check(&all, first).context("with flannel on both nodes")?;
    cluster.nodes().skip(2).try_for_each(|node| give_back(node, flannel, &[]))?;
    // flannel's plugin does nothing for the pods of another list.
    kubectl::run(&format!("apply -f {CLUSTER}/deploy/rscni-gc.yaml"))?;
    for name in ["new", "stays"] {
        let index = all.iter().position(|pod| pod.name == name).context("a pod")?;
        let pod = all.remove(index);
        delete(first, &pod)?;
        eventually(|| collect(first).and_then(|_| no_trace(first, &pod)))?;
    }
    all.iter().skip(1).try_for_each(|pod| pod.reaches(&all[0]))
}

/// Changes a node from flannel to rscnid while packets pass between the pods.
fn take_over(node: &Node, flannel: &mut Flannel, pods: &[Pod]) -> Result<()> {
    let devices = devices(node)?;
    without_loss(pods, 2, || {
        flannel.stop(node);
        label(node, "rscni")?;
        eventually(|| {
            let list = "/run/rscni/10-rscni.conflist";
            ensure!(node.path(list).exists(), "rscnid of {} has no list yet", node.name);
            Ok(())
        })?;
        flannel::remove_list(node)?;
        uses_plugin(node, if pods.is_empty() { "ptp" } else { "bridge" })
    })?;
    let now = self::devices(node)?;
    ensure!(now == devices, "the devices {devices:?} of {} became {now:?}", node.name);
    Ok(())
}

/// Changes a node from rscnid to flannel while packets pass between the pods.
fn give_back(node: &Node, flannel: &mut Flannel, pods: &[Pod]) -> Result<()> {
    let devices = devices(node)?;
    // flanneld cannot replace plain routes of IPv6 before they are removed.
    without_loss(pods, 1, || {
        label(node, "flannel")?;
        rscnid_is_gone(node)?;
        flannel.start(node)?;
        uses_plugin(node, "flannel")?;
        sh(node, REMOVE_RSCNID)
    })?;
    let now = self::devices(node)?;
    ensure!(now == devices, "the devices {devices:?} of {} became {now:?}", node.name);
    let left = sh_output(node, "ip route show proto 82; nft list ruleset | grep rscnid || true")?;
    ensure!(left.is_empty(), "rscnid left on {}:\n{left}", node.name);
    Ok(())
}

/// Runs `work` while packets pass between the first pod and all others.
fn without_loss(pods: &[Pod], families: usize, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let others = pods.iter().skip(1);
    let pairs: Vec<_> = others.flat_map(|other| [(&pods[0], other), (other, &pods[0])]).collect();
    let traffic = Traffic::start(&pairs, families)?;
    let outcome = work();
    let arrived = traffic.finish();
    outcome.and(arrived)
}

/// All pods reach each other, from the first node also over host ports, and no address is given
/// twice.
fn check(pods: &[Pod], node: &Node) -> Result<()> {
    for from in pods {
        for to in pods.iter().filter(|to| to.name != from.name) {
            from.reaches(to)?;
        }
    }
    let server = pods[0].network.serve_tcp(8080);
    let [address, _] = node.machine.addresses();
    let answer = world().try_tcp(pods::socket(address, 18080), PACKET).context("a host port")?;
    ensure!(answer.server == pods[0].network.name(), "{} has the host port", answer.server);
    drop(server);
    reserved_once(node)
}

/// Each address of the node's sandboxes is reserved for its sandbox, and for no other network.
fn reserved_once(node: &Node) -> Result<()> {
    let networks = leaks::list(node)?.into_iter().filter(|item| item.starts_with("reservation "));
    let mut reserved = BTreeMap::new();
    for item in networks {
        let (address, network) = item
            .strip_prefix("reservation ")
            .and_then(|it| it.split_once(" in "))
            .context("item")?;
        let other = reserved.insert(address.to_owned(), network.to_owned());
        ensure!(other.is_none(), "{address} is reserved in {network} and {other:?}");
    }
    let sandboxes = node.cri()?.pod_sandboxes()?;
    let listed = kubectl::get(&format!("pods --field-selector=spec.nodeName={}", node.name))?;
    for pod in listed["items"].as_array().into_iter().flatten() {
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
        let id = sandboxes.get(name).with_context(|| format!("no sandbox of {name}"))?;
        for address in pods::addresses(pod) {
            let network = reserved.get(&address.to_string());
            ensure!(network.is_some_and(|it| it == NETWORK), "{address} is in {network:?}");
            let file = node.path(&format!("/var/lib/cni/networks/{NETWORK}/{address}"));
            let holder = fs::read_to_string(file)?;
            ensure!(holder.starts_with(id.as_str()), "{address} of {name} belongs to {holder}");
        }
    }
    Ok(())
}

fn no_reservations(node: &Node) -> Result<()> {
    let left = leaks::list(node)?;
    ensure!(!left.iter().any(|item| item.starts_with("reservation ")), "there are {left:?}");
    Ok(())
}

/// Checks that a pod has left no address, result, link, rule or element.
fn no_trace(node: &Node, pod: &Pod) -> Result<()> {
    let left = traces(node, pod)?;
    ensure!(left.is_empty(), "{} left on {}: {left:?}", pod.name, node.name);
    let ports = node.run("ip -json link show master cni0")?;
    let ports: Vec<Value> = serde_json::from_str(&ports)?;
    let running = kubectl::get(&format!("pods --field-selector=spec.nodeName={}", node.name))?;
    let running = running["items"].as_array().map_or(0, Vec::len);
    ensure!(ports.len() == running, "cni0 has {} ports for {running} pods", ports.len());
    let results = leaks::list(node)?.into_iter().filter(|item| item.starts_with("result "));
    let results: Vec<_> = results.collect();
    ensure!(results.len() == running, "{running} pods have the results {results:?}");
    Ok(())
}

/// The files in which flannel's plugin keeps the configuration of its delegate.
fn saved_configurations(node: &Node) -> Result<Vec<String>> {
    let files = fs::read_dir(node.path("/var/lib/cni/flannel"))?;
    files.map(|file| Ok(file?.file_name().to_string_lossy().into_owned())).collect()
}

/// Checks that the pods of another node are reached without a tunnel.
fn is_direct(node: &Node, other: &Node) -> Result<()> {
    for (network, gateway) in pod_cidrs(other)?.iter().zip(other.machine.addresses()) {
        let family = if gateway.is_ipv4() { 4 } else { 6 };
        let route = node.run(&format!("ip -{family} route show {network}"))?;
        let is_direct = route.contains(&format!("via {gateway} dev eth0 proto 82"));
        ensure!(is_direct, "{} reaches {network} by: {route}", node.name);
    }
    Ok(())
}

/// Index and hardware address of the VXLAN devices.
fn devices(node: &Node) -> Result<Vec<(Value, Value)>> {
    let read = |name: &str| {
        let link = node.run(&format!("ip -json link show {name}"))?;
        let mut link: Value = serde_json::from_str(&link)?;
        Ok((link[0]["ifindex"].take(), link[0]["address"].take()))
    };
    ["flannel.1", "flannel-v6.1"].into_iter().map(read).collect()
}

fn start(node: &Node, name: &str, host_port: u16) -> Result<Pod> {
    kubectl::apply(&[pods::with_host_port(name, node, host_port)])?;
    Pod::wait(name, node)
}

fn delete(node: &Node, pod: &Pod) -> Result<()> {
    kubectl::run(&format!("delete pod {} --wait", pod.name))?;
    forget(node, pod)
}

/// Collects what pods of rscnid leave on a node with flannel.
fn collect(node: &Node) -> Result<String> {
    collect_with("rscni-gc", node, "")
}

fn label(node: &Node, network: &str) -> Result<()> {
    kubectl::run(&format!("label node {} pod-network={network} --overwrite", node.name)).map(drop)
}

fn rscnid_is_gone(node: &Node) -> Result<()> {
    eventually(|| {
        let pods = kubectl::get(&format!(
            "pods --namespace kube-system --selector app=rscnid \
             --field-selector spec.nodeName={}",
            node.name
        ))?;
        let is_gone = pods["items"].as_array().is_some_and(Vec::is_empty);
        ensure!(is_gone, "rscnid is still on {}: {pods}", node.name);
        Ok(())
    })
}

fn sh(node: &Node, script: &str) -> Result<()> {
    sh_output(node, script).map(drop)
}

fn sh_output(node: &Node, script: &str) -> Result<String> {
    program::capture(node.command("sh").args(["-ec", script]))
}
