//! The calls of the Container Runtime Interface by which kubelet manages a pod's network, over
//! containerd's socket.
//!
//! The messages have the fields of `runtime.v1` (`api.proto` of Kubernetes' cri-api) that are used
//! here; protobuf gives all others their defaults.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use prost::Message;
pub(super) use rscni_cri::PodSandboxMetadata;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

#[derive(Clone, PartialEq, Message)]
pub(super) struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub(super) metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub(super) hostname: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) port_mappings: Vec<PortMapping>,
    #[prost(btree_map = "string, string", tag = "7")]
    pub(super) annotations: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PortMapping {
    #[prost(enumeration = "Protocol", tag = "1")]
    pub(super) protocol: i32,
    #[prost(int32, tag = "2")]
    pub(super) container_port: i32,
    #[prost(int32, tag = "3")]
    pub(super) host_port: i32,
    #[prost(string, tag = "4")]
    pub(super) host_ip: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Protocol {
    Tcp = 0,
    Udp = 1,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

/// A request or response that contains only the id of a pod.
#[derive(Clone, PartialEq, Message)]
struct PodSandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Message)]
struct RuntimeCondition {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(bool, tag = "2")]
    is_met: bool,
    #[prost(string, tag = "4")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// Network of a running pod.
pub(super) struct Status {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) netns: PathBuf,
}

/// containerd's CRI service.
pub(super) struct Cri {
    socket: PathBuf,
    /// Serves a connection while its call waits.
    runtime: Runtime,
}

impl Cri {
    pub(super) fn at(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build();
        Ok(Self { socket: socket.to_owned(), runtime: runtime.context("start the async runtime")? })
    }

    /// Starts a pod and attaches it to the network; returns its id, which is CNI's container id.
    pub(super) fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String> {
        let answer: PodSandboxId =
            self.call("RunPodSandbox", &RunPodSandboxRequest { config: Some(config) })?;
        Ok(answer.id)
    }

    /// Detaches and stops a pod.
    pub(super) fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        self.call("StopPodSandbox", &PodSandboxId { id: id.to_owned() }).map(|Empty {}| ())
    }

    /// Removes a stopped pod.
    pub(super) fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.call("RemovePodSandbox", &PodSandboxId { id: id.to_owned() }).map(|Empty {}| ())
    }

    pub(super) fn pod_sandbox_status(&self, id: &str) -> Result<Status> {
        let request = PodSandboxStatusRequest { id: id.to_owned(), verbose: true };
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", &request)?;
        let network = answer
            .status
            .and_then(|status| status.network)
            .context("the pod's status has no network")?;
        let more = network.additional_ips.iter().map(|more| &more.ip);
        let addresses = std::iter::once(&network.ip).chain(more).map(|text| text.parse());
        let addresses = addresses.collect::<Result<_, _>>().context("read the pod's addresses")?;
        let info: Value =
            serde_json::from_str(answer.info.get("info").context("the pod's status has no info")?)?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"]
            .as_array()
            .context("the pod has no namespaces")?;
        let network = namespaces.iter().find(|namespace| namespace["type"] == "network");
        let netns = network
            .and_then(|namespace| namespace["path"].as_str())
            .context("the pod has no netns")?;
        Ok(Status { addresses, netns: netns.into() })
    }

    /// The ids of running pods, by the names of the pods.
    pub(super) fn pod_sandboxes(&self) -> Result<BTreeMap<String, String>> {
        let answer = self.runtime.block_on(rscni_cri::list_pod_sandbox(&self.socket))?;
        let running = answer.message.into_iter().filter(rscni_cri::PodSandbox::is_ready);
        Ok(running.filter_map(|sandbox| Some((sandbox.metadata?.name, sandbox.id))).collect())
    }

    /// The ids of all pods in a Kubernetes namespace, running or not.
    pub(super) fn all_pod_sandboxes(&self, namespace: &str) -> Result<Vec<String>> {
        let answer = self.runtime.block_on(rscni_cri::list_pod_sandbox(&self.socket))?;
        let is_in = |metadata: &PodSandboxMetadata| metadata.namespace == namespace;
        let mut all = answer.message;
        all.retain(|sandbox| sandbox.metadata.as_ref().is_some_and(is_in));
        Ok(all.into_iter().map(|sandbox| sandbox.id).collect())
    }

    /// Checks that the service answers.
    pub(super) fn version(&self) -> Result<()> {
        self.call("Version", &Empty {}).map(|Empty {}| ())
    }

    /// Checks that pods can be started; the error gives the reason.
    pub(super) fn ready(&self) -> Result<()> {
        let answer: StatusResponse = self.call("Status", &StatusRequest {})?;
        let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
        ensure!(!conditions.is_empty(), "the status has no conditions");
        for condition in conditions {
            ensure!(condition.is_met, "{}: {}", condition.kind, condition.message);
        }
        Ok(())
    }

    fn call<Response: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Response> {
        let answer = self.runtime.block_on(rscni_cri::call(&self.socket, method, request));
        Ok(answer.with_context(|| method.to_owned())?.message)
    }
}
