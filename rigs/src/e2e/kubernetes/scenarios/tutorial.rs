//! The tutorial: a debug plugin is copied into a node with its network list, and writes the calls
//! for a pod to files.

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::Value;

use crate::e2e::kubernetes::{
    DEBUG_PLUGINS,
    cluster::{Cluster, eventually},
    images, kubectl,
    node::Node,
    pod_network::{self, pod_cidrs},
    pods::{PACKET, Pod},
};

/// The network in `netconf.json`.
const SUBNET: &str = "10.244.0.0/24";

/// The plugin's file in a node, and that of the network list. It sorts before the others.
const PLUGIN: &str = "/opt/cni/bin/rscni-debug";
const LIST: &str = "/etc/cni/net.d/01-rscni-debug.conflist";

/// The list, and the names of its network and of the cluster's.
const NETCONF: &str = include_str!("../../../../../examples/rscni-debug/netconf.json");
const NETWORK: &str = "kindnet";

/// Both plugins, installed under the name that the list has.
pub(super) fn run(cluster: &Cluster) -> Result<()> {
    let mut nodes = cluster.nodes();
    let node = nodes.find(|node| {
        pod_cidrs(node).is_ok_and(|networks| networks.iter().any(|network| network == SUBNET))
    });
    let node = node.with_context(|| format!("no node has the podCIDR {SUBNET}"))?;
    for plugin in DEBUG_PLUGINS {
        fs::copy(format!("/mnt/plugins/{plugin}"), node.path(PLUGIN))?;
        fs::write(node.path(LIST), NETCONF)?;
        let outcome = uses_network(node, NETWORK).and_then(|()| run_pod(node, plugin));
        fs::remove_file(node.path(LIST))?;
        uses_network(node, pod_network::NAME)?;
        fs::remove_file(node.path(PLUGIN))?;
        outcome.with_context(|| plugin.to_owned())?;
    }
    Ok(())
}

/// The client of containerd's CRI service.
pub(super) const CRICTL: &str =
    "/mnt/programs/crictl --runtime-endpoint unix:///run/containerd/containerd.sock";

/// Waits until containerd has loaded the list of a network. Before that, DEL would use another one.
pub(in super::super) fn uses_network(node: &Node, name: &str) -> Result<()> {
    uses_list(node, name, |list| list["Name"] == name)
}

/// Waits until containerd has loaded a list that begins with a plugin.
pub(super) fn uses_plugin(node: &Node, name: &str) -> Result<()> {
    uses_list(node, name, |list| list["Plugins"][0]["Network"]["type"] == name)
}

fn uses_list(node: &Node, name: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<()> {
    eventually(|| {
        let info: Value = serde_json::from_str(&node.run(&format!("{CRICTL} info"))?)?;
        let mut networks = info["cniconfig"]["Networks"].as_array().into_iter().flatten();
        let is_loaded = networks.any(|network| is_wanted(&network["Config"]));
        ensure!(is_loaded, "containerd does not use {name}: {}", info["cniconfig"]);
        Ok(())
    })
}

/// Starts a pod, reads the files of its calls, and deletes it.
fn run_pod(node: &Node, plugin: &str) -> Result<()> {
    let name = format!("test-{plugin}");
    let placement = format!("{{\"spec\":{{\"nodeName\":\"{}\"}}}}", node.name);
    kubectl::run(&format!(
        "run {name} --labels=app={name} --image={} --image-pull-policy=Never \
         --overrides={placement}",
        images::BUSYBOX
    ))?;
    let pod = Pod::wait(&name, node)?;
    let all = kubectl::run("get pod -A")?;
    let is_listed = all.lines().any(|line| line.contains(&name) && line.contains("Running"));
    ensure!(is_listed, "kubectl get pod -A does not show it as running:\n{all}");
    let id = node.cri()?.pod_sandboxes()?.remove(&name).context("no sandbox runs for the pod")?;
    for address in &pod.addresses {
        node.network().try_ping(address, PACKET).context("from the node")?;
    }
    check_file(node, &name, &id, "Add")?;
    kubectl::run(&format!("delete pod {name} --grace-period=1 --wait"))?;
    eventually(|| check_file(node, &name, &id, "Del"))
}

/// Checks the file of a call.
fn check_file(node: &Node, pod: &str, id: &str, command: &str) -> Result<()> {
    let file = node.path(&format!("/tmp/cni/{id}-{command}"));
    let text = fs::read_to_string(&file)?;
    check_text(&text, pod, id, command).with_context(|| format!("{} has:\n{text}", file.display()))
}

/// Checks the lines that the README shows.
fn check_text(text: &str, pod: &str, id: &str, command: &str) -> Result<()> {
    let mut lines = text.lines();
    let mut next = |key: &str| {
        let line = lines.next().with_context(|| format!("no line {key}"))?;
        line.strip_prefix(key).with_context(|| format!("the line of {key} is {line}"))
    };
    for (key, expected) in
        [("CNI_COMMAND: ", command), ("CNI_CONTAINERID: ", id), ("CNI_IFNAME: ", "eth0")]
    {
        let value = next(key)?;
        ensure!(value == expected, "{key}{value} instead of {expected}");
    }
    let netns = next("CNI_NETNS: ")?;
    // containerd repeats DEL when it removes the sandbox, whose namespace is gone.
    let is_gone = command == "Del" && netns.is_empty();
    ensure!(is_gone || netns.starts_with("/var/run/netns/cni-"), "CNI_NETNS is {netns}");
    let path = next("CNI_PATH: ")?;
    ensure!(path == "/opt/cni/bin", "CNI_PATH is {path}");
    let arguments = next("CNI_ARGS: ")?;
    let pod = format!("K8S_POD_NAME={pod}");
    ensure!(arguments.split(';').any(|argument| argument == pod), "CNI_ARGS is {arguments}");
    let data: Value = serde_json::from_str(next("STDIN_DATA: ")?).context("STDIN_DATA")?;
    ensure!(data["cniOutput"] == "/tmp/cni" && data["name"] == NETWORK, "STDIN_DATA is {data}");
    // DEL has a previous result since version 0.4.0 only.
    let address = &data["prevResult"]["ips"][0]["address"];
    ensure!(address.is_string() == (command == "Add"), "prevResult is wrong: {data}");
    next("--------------------").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "CNI_COMMAND: Add\nCNI_CONTAINERID: id\nCNI_IFNAME: eth0\n\
        CNI_NETNS: /var/run/netns/cni-1\nCNI_PATH: /opt/cni/bin\n\
        CNI_ARGS: K8S_POD_NAMESPACE=default;K8S_POD_NAME=test\n\
        STDIN_DATA: {\"cniOutput\":\"/tmp/cni\",\"name\":\"kindnet\",\
        \"prevResult\":{\"ips\":[{\"address\":\"10.244.0.2/24\"}]}}\n--------------------\n";

    #[test]
    fn a_file_needs_every_line_of_the_tutorial() {
        check_text(TEXT, "test", "id", "Add").unwrap();
        for (from, to) in [
            ("Add", "Del"),
            (": id", ": other"),
            ("eth0", "eth1"),
            ("netns/cni", "netns/x"),
            ("/opt", "/usr"),
            ("NAME=test", "NAME=other"),
            ("prevResult", "result"),
            ("----", ""),
        ] {
            assert!(check_text(&TEXT.replace(from, to), "test", "id", "Add").is_err(), "{from}");
        }
    }
}
