//! The API server: a watch of Nodes that keeps little of each, and annotations of this Node.

use std::{borrow::Cow, collections::BTreeMap};

use futures_util::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::ClusterResourceScope,
    runtime::{WatchStreamExt, watcher},
};
use serde::Deserialize;
use serde_json::json;
use tracing::warn;

use crate::podnet::NodeInfo;

/// A change of Nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// All Nodes, after a list.
    Replace(Vec<NodeInfo>),
    /// A new or changed Node.
    Set(NodeInfo),
    /// The name of a deleted Node.
    Remove(String),
}

/// The fields of a Node that are read. Others are not even parsed.
#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Debug, Clone, Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

impl Resource for Node {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl From<&Node> for NodeInfo {
    fn from(node: &Node) -> Self {
        let internal = node.status.addresses.iter().filter(|address| address.kind == "InternalIP");
        let annotations = node.metadata.annotations.as_ref();
        Self::read(
            node.metadata.name.as_deref().unwrap_or_default(),
            node.spec.pod_cidrs.iter().map(String::as_str),
            internal.map(|address| address.address.as_str()),
            annotations.unwrap_or(&BTreeMap::new()),
        )
    }
}

/// Watches Nodes. Errors are logged, and the watch goes on after a pause.
pub fn watch(client: Client) -> impl Stream<Item = Change> {
    let events = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut listed = Vec::new();
    events.filter_map(move |event| {
        let change = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                None
            }
            Ok(watcher::Event::InitApply(node)) => {
                listed.push(NodeInfo::from(&node));
                None
            }
            Ok(watcher::Event::InitDone) => Some(Change::Replace(std::mem::take(&mut listed))),
            Ok(watcher::Event::Apply(node)) => Some(Change::Set(NodeInfo::from(&node))),
            Ok(watcher::Event::Delete(node)) => node.metadata.name.map(Change::Remove),
            Err(error) => {
                warn!("watch Nodes: {error}");
                None
            }
        };
        std::future::ready(change)
    })
}

/// Sets annotations of this Node.
///
/// # Errors
///
/// The error of the API server, for example if the service account must not patch Nodes.
pub async fn annotate(
    client: Client,
    node: &str,
    annotations: &BTreeMap<String, String>,
) -> kube::Result<()> {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    let nodes = Api::<Node>::all(client);
    nodes.patch(node, &PatchParams::default(), &patch).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_read_from_json() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {
                "name": "a",
                "annotations": {
                    "flannel.alpha.coreos.com/backend-type": "vxlan",
                    "flannel.alpha.coreos.com/public-ip": "192.0.2.7",
                    "flannel.alpha.coreos.com/backend-data":
                        r#"{"VNI":1,"VtepMAC":"7e:5c:aa:04:11:02"}"#,
                },
            },
            "spec": { "podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00:1::/64"] },
            "status": { "addresses": [
                { "type": "Hostname", "address": "a" },
                { "type": "ExternalIP", "address": "203.0.113.1" },
                { "type": "InternalIP", "address": "192.0.2.7" },
            ] },
        }))
        .unwrap();
        let info = NodeInfo::from(&node);
        assert_eq!(info.name, "a");
        assert_eq!(info.pod_cidrs.v6, Some("fd00:1::/64".parse().unwrap()));
        assert_eq!(info.addresses.v4, Some([192, 0, 2, 7].into()));
        assert!(info.tunnels.v4.is_some() && info.faults.is_empty());
    }

    #[test]
    fn new_node_without_spec_and_status_is_read() {
        let node: Node = serde_json::from_value(json!({ "metadata": { "name": "a" } })).unwrap();
        let info = NodeInfo::from(&node);
        assert_eq!(info, NodeInfo { name: "a".into(), ..NodeInfo::default() });
    }
}
