//! The list of sandboxes of the container runtime, over CRI.
//!
//! The messages have the fields of `runtime.v1` (`api.proto` of Kubernetes' cri-api) that are used
//! here; protobuf skips all others.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use prost::Message;

use super::{core::Sandboxes, grpc};

/// The longest time to wait for the runtime.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxRequest {}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    /// 0 for `SANDBOX_READY`.
    #[prost(int32, tag = "3")]
    state: i32,
}

/// The answer of the runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// Its sandboxes, ready or not.
    pub sandboxes: Sandboxes,
    /// Whether this process sees the processes of the runtime.
    pub is_process_visible: bool,
}

/// Lists the sandboxes.
///
/// # Errors
///
/// If the runtime does not answer in ten seconds, or with an error. containerd answers with an
/// error until it has loaded its sandboxes.
pub async fn list(socket: &Path) -> anyhow::Result<Runtime> {
    let method = "runtime.v1.RuntimeService/ListPodSandbox";
    let call = grpc::call::<ListPodSandboxResponse>(socket, method, &ListPodSandboxRequest {});
    let answer =
        tokio::time::timeout(TIMEOUT, call).await.context("no answer in 10 s").and_then(|it| it);
    let answer = answer.with_context(|| {
        format!(
            "list the sandboxes of the runtime at {}; nothing is removed without this list",
            socket.display()
        )
    })?;
    let items = answer.message.items;
    ensure!(items.iter().all(|it| !it.id.is_empty()), "the runtime lists a sandbox without id");
    Ok(Runtime {
        sandboxes: items.into_iter().map(|it| (it.id, it.state == 0)).collect(),
        is_process_visible: answer.is_process_visible,
    })
}
