//! A minimal client of the Container Runtime Interface: one request, one response, over a Unix
//! socket.
//!
//! CRI is gRPC, which adds little to HTTP/2: five bytes before each message, and a status in the
//! trailers. Messages have the fields of `runtime.v1` (`api.proto` of Kubernetes' cri-api) that are
//! used; protobuf skips all others.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::UnixStream;

/// Bytes before a message: a flag for compression, and the length.
const PREFIX: usize = 5;
/// Longest response. That of 1,000 pods with long annotations is far below.
const LONGEST: usize = 64 << 20;

/// A response.
#[derive(Debug)]
pub struct Answer<Response> {
    /// The message.
    pub message: Response,
    /// Whether the process that listens is in the pid namespace of this one.
    pub is_process_visible: bool,
}

/// A sandbox in the list of the runtime.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandbox {
    /// Its id, which is CNI's container id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The pod.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<PodSandboxMetadata>,
    /// 0 for `SANDBOX_READY`.
    #[prost(int32, tag = "3")]
    pub state: i32,
}

/// The pod of a sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxMetadata {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Its Kubernetes namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxRequest {}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

impl PodSandbox {
    /// Whether it runs.
    pub fn is_ready(&self) -> bool {
        self.state == 0
    }
}

/// Lists the sandboxes of the runtime.
///
/// # Errors
///
/// As [`call`].
pub async fn list_pod_sandbox(socket: &Path) -> anyhow::Result<Answer<Vec<PodSandbox>>> {
    let answer: Answer<ListPodSandboxResponse> =
        call(socket, "ListPodSandbox", &ListPodSandboxRequest {}).await?;
    Ok(Answer { message: answer.message.items, is_process_visible: answer.is_process_visible })
}

/// Calls a method of the runtime service.
///
/// # Errors
///
/// If the socket cannot be connected, the runtime answers with an error, or the response cannot be
/// read.
pub async fn call<Response: Message + Default>(
    socket: &Path,
    method: &str,
    request: &impl Message,
) -> anyhow::Result<Answer<Response>> {
    let stream = UnixStream::connect(socket).await.context("connect")?;
    let is_process_visible = stream.peer_cred()?.pid().is_some_and(|pid| pid > 0);
    let (requests, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let message = exchange(requests, method, framed(request)?).await;
    connection.abort();
    Ok(Answer { message: message?, is_process_visible })
}

async fn exchange<Response: Message + Default>(
    requests: h2::client::SendRequest<Bytes>,
    method: &str,
    request: Bytes,
) -> anyhow::Result<Response> {
    let head = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let (response, mut body) = requests.ready().await?.send_request(head, false)?;
    body.send_data(request, true)?;
    let (head, mut body) = response.await?.into_parts();
    let mut data = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        data.extend_from_slice(&chunk);
        ensure!(data.len() <= LONGEST, "the response is longer than {LONGEST} bytes");
    }
    // A response without message has its status in the head.
    check_status(&body.trailers().await?.unwrap_or(head.headers))?;
    let length = data.get(1..PREFIX).and_then(|length| length.try_into().ok());
    let is_whole = length.is_some_and(|it| data.len() - PREFIX == u32::from_be_bytes(it) as usize);
    ensure!(is_whole && data[0] == 0, "the response is not one uncompressed message");
    Ok(Response::decode(&data[PREFIX..])?)
}

fn framed(message: &impl Message) -> anyhow::Result<Bytes> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.encoded_len().try_into()?);
    message.encode(&mut framed)?;
    Ok(framed.freeze())
}

fn check_status(headers: &HeaderMap) -> anyhow::Result<()> {
    let text = |name: &str| {
        headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    match text("grpc-status").as_deref() {
        Some("0") => Ok(()),
        status => bail!(
            "{} (gRPC status {})",
            text("grpc-message").unwrap_or_default(),
            status.unwrap_or("missing")
        ),
    }
}
