//! Leftovers of attachments whose network the runtime does not pass to DEL.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::tutorial::CRICTL;
use crate::e2e::kubernetes::{
    CLUSTER, RSCNID,
    cluster::{Cluster, eventually},
    kubectl, leaks,
    node::{Node, Part},
    pod_network,
    pods::{self, Pod},
    replaced::{with_go_plugins, with_list},
};

/// A network list that replaces the one of a pod, so that containerd calls DEL with the wrong list.
/// The garbage collection removes what the pod leaves, and nothing of a pod that runs.
pub(super) fn replaced_list(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    let pods = pods::start(&[("stays", node), ("leaves", node), ("far", other)])?;
    pods[0].reaches(&pods[2])?;
    delete_with_other_list(node, &pods[1])?;

    let before = leaks::list(node)?;
    let names_address = |left: &[String]| left.iter().any(|item| names(item, &pods[1]));
    ensure!(names_address(&before), "DEL with another list left nothing: {before:?}");
    let report = collect(node, " --dry-run")?;
    ensure!(report.contains("stale"), "the garbage collection finds nothing:\n{report}");
    ensure!(leaks::list(node)? == before, "--dry-run changed something:\n{report}");
    let report = collect(node, "")?;
    let after = leaks::list(node)?;
    ensure!(!names_address(&after), "still there: {after:?}; the report:\n{report}");
    pods[0].reaches(&pods[2])?;
    pods[2].reaches(&pods[0])
}

/// After the clock was set, files of a pod that runs are decades older or newer than the present.
/// Nothing of it is removed, and everything that another pod left.
pub(super) fn set_clock(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    let pods = pods::start(&[("stays", node), ("leaves", node), ("far", other)])?;
    delete_with_other_list(node, &pods[1])?;
    ensure!(!traces(node, &pods[1])?.is_empty(), "DEL with another list left nothing");
    let before = traces(node, &pods[0])?;
    for year in [2100, 2001] {
        node.run(&format!(
            "find /var/lib/cni /run/containerd/containerd.sock -exec touch -d {year}-01-01 {{}} +"
        ))?;
        let report = collect(node, "")?;
        let after = traces(node, &pods[0])?;
        ensure!(after == before, "{before:?} became {after:?} in {year}; the report:\n{report}");
        pods[0].reaches(&pods[2])?;
    }
    let left = traces(node, &pods[1])?;
    ensure!(left.is_empty(), "still there: {left:?}");
    Ok(())
}

/// Pods that are deleted by force while kubelet of their node does not run keep their network until
/// it has stopped them.
pub(super) fn drained(cluster: &mut Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    let pods = pods::start(&[("stays", node), ("leaves", node), ("far", other)])?;
    cluster.node_mut(0).kill(Part::Kubelet);
    let outcome = delete_by_force(cluster.node(0), &pods);
    cluster.node_mut(0).start_part(Part::Kubelet)?;
    outcome?;
    forgotten(cluster.node(0), &pods[1])?;
    pods[0].reaches(&pods[2])
}

fn delete_by_force(node: &Node, pods: &[Pod]) -> Result<()> {
    kubectl::run(&format!("delete pod {} --force --grace-period=0", pods[1].name))?;
    // Without kubelet, no command runs in a pod.
    node.run(&format!("{CLUSTER}/{RSCNID} gc --once --gc-grace 0"))?;
    pods[1].reaches(&pods[2])
}

/// A pod whose network namespace is gone before DEL leaves nothing.
pub(super) fn lost_namespace(cluster: &Cluster) -> Result<()> {
    let (node, other) = (cluster.node(0), cluster.node(1));
    kubectl::apply(&[pods::with_host_port("leaves", node, 18080)])?;
    let leaves = Pod::wait("leaves", node)?;
    let pods = pods::start(&[("stays", node), ("far", other)])?;
    let path = pods::netns(node, &leaves.name)?;
    node.run(&format!("umount {path}"))?;
    node.run(&format!("rm {path}"))?;
    delete(&leaves)?;
    forgotten(node, &leaves)?;
    pods[0].reaches(&pods[1])
}

/// Waits until kubelet has removed a deleted pod, and checks that it leaves nothing.
fn forgotten(node: &Node, pod: &Pod) -> Result<()> {
    forget(node, pod)?;
    let left = traces(node, pod)?;
    ensure!(left.is_empty(), "{} left {left:?}", pod.name);
    Ok(())
}

/// A list with another network, and more plugins.
fn other_list(more: &[Value]) -> Value {
    let ptp = json!({"type": "ptp", "ipam": {"type": "host-local", "subnet": "10.99.0.0/24"}});
    let plugins = [&[ptp], more].concat();
    json!({"cniVersion": "1.0.0", "name": "other", "plugins": plugins})
}

/// Deletes a pod while another list replaces that of its ADD, so that its DEL leaves something.
fn delete_with_other_list(node: &Node, pod: &Pod) -> Result<()> {
    with_list(node, &other_list(&[]), || delete(pod).and_then(|()| forget(node, pod)))
}

fn delete(pod: &Pod) -> Result<()> {
    kubectl::run(&format!("delete pod {} --wait", pod.name)).map(drop)
}

/// Waits until kubelet has removed the sandbox of a deleted pod, which repeats DEL.
pub(super) fn forget(node: &Node, pod: &Pod) -> Result<()> {
    let pods = format!("{CRICTL} pods --quiet --name {}", pod.name);
    eventually(|| {
        let known = node.run(&pods)?;
        ensure!(known.is_empty(), "containerd still knows the sandbox of {}: {known}", pod.name);
        Ok(())
    })
}

/// The daemon that only collects garbage removes what the Go plugins left.
pub(super) fn of_go_plugins(cluster: &Cluster) -> Result<()> {
    let node = cluster.node(0);
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let pod = with_go_plugins(node, || {
        with_list(node, &other_list(&[portmap]), || {
            kubectl::apply(&[pods::with_host_port("go", node, 18081)])?;
            Pod::wait("go", node)
        })
    })?;
    delete(&pod)?;

    let before = traces(node, &pod)?;
    let kinds = ["reservation", "DNAT"];
    let has_all = kinds.iter().all(|kind| before.iter().any(|item| item.contains(kind)));
    ensure!(has_all, "the Go plugins left only {before:?}");
    kubectl::run(&format!("apply -f {CLUSTER}/deploy/rscni-gc.yaml"))?;
    let outcome = eventually(|| {
        let report = collect_with("rscni-gc", node, "")?;
        let after = traces(node, &pod)?;
        ensure!(after.is_empty(), "still there: {after:?}; the report:\n{report}");
        Ok(())
    });
    kubectl::run(&format!("delete -f {CLUSTER}/deploy/rscni-gc.yaml --wait"))?;
    outcome
}

/// The addresses, results, links, elements and rules of iptables that a pod has on its node.
pub(super) fn traces(node: &Node, pod: &Pod) -> Result<Vec<String>> {
    let rules = node.run("iptables-save")? + &node.run("ip6tables-save")?;
    let mut traces = leaks::list(node)?;
    traces.extend(rules.lines().map(str::to_owned));
    traces.retain(|item| names(item, pod));
    Ok(traces)
}

/// Whether a line has an address of the pod.
fn names(line: &str, pod: &Pod) -> bool {
    let mut words = line.split([' ', ':', '/']);
    words.any(|word| word.parse().is_ok_and(|ip| pod.addresses.contains(&ip)))
}

/// Collects garbage without the pause that protects calls in progress, as there are none.
fn collect(node: &Node, option: &str) -> Result<String> {
    collect_with("rscnid", node, option)
}

pub(super) fn collect_with(daemon_set: &str, node: &Node, option: &str) -> Result<String> {
    let command = format!("/rscnid gc --once --gc-grace 0{option}");
    pod_network::exec(daemon_set, node, &command).context("collect garbage")
}
