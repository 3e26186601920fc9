//! The API server: a watch of Nodes that keeps little of each; annotations and a condition of this
//! Node, and events.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use futures_util::{Stream, StreamExt};
use http::Request;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::ObjectMeta, jiff::Timestamp};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::ClusterResourceScope,
    runtime::{WatchStreamExt, watcher},
};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};
use tracing::warn;

use crate::{
    podnet::NodeInfo,
    report::{Condition, Report},
};

/// The pause before a condition is patched again after a failure.
const RETRY: Duration = Duration::from_secs(30);
/// The pause before annotations are patched again. Without them, peers have no tunnel.
const RETRY_ANNOTATIONS: Duration = Duration::from_secs(1);

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
    #[serde(deserialize_with = "read_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

/// Reads what the watch and [`NodeInfo`] need. A third of a Node are its `managedFields`.
fn read_metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        resource_version: Option<String>,
        annotations: Option<BTreeMap<String, String>>,
    }
    let Metadata { name, resource_version, annotations } = Metadata::deserialize(from)?;
    Ok(ObjectMeta { name, resource_version, annotations, ..ObjectMeta::default() })
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
pub fn watch_nodes(client: Client) -> impl Stream<Item = Change> {
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

/// Sets annotations of this Node whenever a value is sent, until the sender is dropped. Errors are
/// logged.
pub async fn keep_annotations(
    client: Client,
    node: String,
    wanted: watch::Receiver<Option<BTreeMap<String, String>>>,
) {
    let set = |annotations| annotate(client.clone(), node.clone(), annotations);
    keep(wanted, "publish the tunnels of this node", RETRY_ANNOTATIONS, set).await;
}

/// Keeps a condition of this Node as wanted, until the sender is dropped. Errors are logged.
pub async fn keep_condition(
    client: Client,
    node: String,
    wanted: watch::Receiver<Option<Condition>>,
) {
    let set = |condition| set_condition(client.clone(), node.clone(), condition);
    keep(wanted, "set the condition of this node", RETRY, set).await;
}

/// Sets each value that is sent. A newer one takes the place of one that could not be set.
async fn keep<T: Clone, F: Future<Output = kube::Result<()>>>(
    mut wanted: watch::Receiver<Option<T>>,
    action: &str,
    retry: Duration,
    set: impl Fn(T) -> F,
) {
    loop {
        let value = wanted.borrow_and_update().clone();
        let mut failed = false;
        if let Some(value) = value
            && let Err(error) = set(value).await
        {
            warn!("{action}: {error}; trying again in {retry:?}");
            failed = true;
        }
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = sleep(retry), if failed => {}
        }
    }
}

/// Sets annotations of this Node.
async fn annotate(
    client: Client,
    node: String,
    annotations: BTreeMap<String, String>,
) -> kube::Result<()> {
    let patch = Patch::Merge(json!({ "metadata": { "annotations": annotations } }));
    let nodes = Api::<Node>::all(client);
    nodes.patch(&node, &PatchParams::default(), &patch).await.map(drop)
}

/// Sets the condition `NetworkUnavailable` of this Node.
async fn set_condition(client: Client, node: String, condition: Condition) -> kube::Result<()> {
    let now = now();
    let patch = Patch::Strategic(json!({ "status": { "conditions": [{
        "type": "NetworkUnavailable",
        "status": if condition.is_unavailable { "True" } else { "False" },
        "reason": condition.reason,
        "message": condition.message,
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }] } }));
    let nodes = Api::<Node>::all(client);
    nodes.patch_status(&node, &PatchParams::default(), &patch).await.map(drop)
}

/// Creates an event. If another node has created the same one, its time is updated. Errors are
/// logged.
pub async fn record(client: Client, own: String, report: Report) {
    let content = event(&own, &report);
    let outcome = match send(&client, "POST", EVENTS, "application/json", &content).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            let path = format!("{EVENTS}/{}", report.name());
            let time = json!({ "lastTimestamp": now() });
            send(&client, "PATCH", &path, "application/merge-patch+json", &time).await
        }
        outcome => outcome,
    };
    if let Err(error) = outcome {
        warn!(node = report.node, "report a problem as an event: {error}");
    }
}

/// Events about Nodes are in this namespace, as those of kubelet.
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn event(own: &str, report: &Report) -> Value {
    let now = now();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": { "name": report.name(), "namespace": "default" },
        // kubectl describe looks for the name as UID, which kubelet writes too.
        "involvedObject":
            { "apiVersion": "v1", "kind": "Node", "name": report.node, "uid": report.node },
        "type": if report.solved { "Normal" } else { "Warning" },
        "reason": report.reason,
        "message": report.message,
        "source": { "component": "rscnid", "host": own },
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "reportingComponent": "rscnid",
        "reportingInstance": own,
    })
}

async fn send(
    client: &Client,
    method: &str,
    path: &str,
    content_type: &str,
    body: &Value,
) -> kube::Result<()> {
    let request = Request::builder().method(method).uri(path).header("content-type", content_type);
    let body = serde_json::to_vec(body).map_err(kube::Error::SerdeError)?;
    let request = request.body(body).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

/// The present time in seconds, as conditions and events have it.
fn now() -> String {
    let seconds = Timestamp::now().as_second();
    Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_is_read_from_json() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {
                "name": "a",
                "resourceVersion": "7",
                "managedFields": "not read",
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
        assert_eq!(node.metadata.resource_version.as_deref(), Some("7"));
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
