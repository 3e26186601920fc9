//! The list of sandboxes of the container runtime, over CRI.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};

use super::core::Sandboxes;

/// The longest time to wait for the runtime.
const TIMEOUT: Duration = Duration::from_secs(10);

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
    let call = rscni_cri::list_pod_sandbox(socket);
    let answer =
        tokio::time::timeout(TIMEOUT, call).await.context("no answer in 10 s").and_then(|it| it);
    let answer = answer.with_context(|| {
        format!(
            "list the sandboxes of the runtime at {}; nothing is removed without this list",
            socket.display()
        )
    })?;
    let items = answer.message;
    ensure!(items.iter().all(|it| !it.id.is_empty()), "the runtime lists a sandbox without id");
    Ok(Runtime {
        sandboxes: items.iter().map(|it| (it.id.clone(), it.is_ready())).collect(),
        is_process_visible: answer.is_process_visible,
    })
}
