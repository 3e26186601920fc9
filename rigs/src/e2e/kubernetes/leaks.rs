//! Things of attachments on a node: addresses, results, links and set elements.

use anyhow::{Result, ensure};
use fs_err as fs;
use serde_json::Value;

use super::{cluster::eventually, node::Node};

/// Checks that no attachment has anything on the node. The kernel removes a link some time after
/// its namespace has ended.
pub(super) fn none(node: &Node) -> Result<()> {
    eventually(|| {
        let left = list(node)?;
        ensure!(left.is_empty(), "left behind on {}:\n{}", node.name, left.join("\n"));
        Ok(())
    })
}

/// Everything that attachments have on the node.
pub(super) fn list(node: &Node) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for directory in ["/var/lib/cni/networks", "/run/cni-ipam-state"] {
        for network in entries(node, directory)? {
            for file in entries(node, &format!("{directory}/{network}"))? {
                if file.parse::<std::net::IpAddr>().is_ok() {
                    left.push(format!("reservation {file} in {network}"));
                }
            }
        }
    }
    for file in entries(node, "/var/lib/cni/results")? {
        // containerd has its own network for `lo`.
        if !file.starts_with("cni-loopback-")
            && node.path(&format!("/var/lib/cni/results/{file}")).is_file()
        {
            left.push(format!("result {file}"));
        }
    }
    let links: Value = serde_json::from_str(&node.run("ip -json link show")?)?;
    for link in links.as_array().into_iter().flatten() {
        let name = link["ifname"].as_str().unwrap_or_default();
        if !["lo", "eth0", "flannel.1", "flannel-v6.1"].contains(&name) {
            left.push(format!("link {name}"));
        }
    }
    left.extend(elements(&node.run("nft -j list ruleset")?)?);
    Ok(left)
}

/// Elements of sets and maps of the plugins.
fn elements(ruleset: &str) -> Result<Vec<String>> {
    let ruleset: Value = serde_json::from_str(ruleset)?;
    let mut found = Vec::new();
    for object in ruleset["nftables"].as_array().into_iter().flatten() {
        for kind in ["set", "map"] {
            let set = &object[kind];
            if set["table"] != "rscni" {
                continue;
            }
            // Elements without an owner are the plugins' own.
            let owned = set["elem"].as_array().into_iter().flatten();
            let owned = owned.filter(|element| element.to_string().contains("\"comment\""));
            found.extend(owned.map(|element| format!("{kind} {}: {element}", set["name"])));
        }
    }
    Ok(found)
}

fn entries(node: &Node, path: &str) -> Result<Vec<String>> {
    let path = node.path(path);
    if !path.exists() {
        return Ok(Vec::new());
    }
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_elements_with_an_owner_are_leaks() {
        let set = |table: &str, elem: Value| {
            let map = json!({"family": "inet", "table": table, "name": "ports", "elem": elem});
            json!({"map": map})
        };
        let owned = json!([[{"elem": {"val": 80, "comment": "pods;id;eth0"}}, "10.0.0.2"]]);
        let list = |objects: &[Value]| elements(&json!({"nftables": objects}).to_string()).unwrap();
        assert_eq!(list(&[set("rscni", owned.clone())]).len(), 1);
        assert!(list(&[set("kube-proxy", owned), set("rscni", json!([[80, "x"]]))]).is_empty());
    }
}
