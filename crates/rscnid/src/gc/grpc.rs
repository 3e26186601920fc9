//! A minimal gRPC client: one request, one response, over a Unix socket.
//!
//! gRPC adds little to HTTP/2: five bytes before each message, and a status in the trailers.

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
pub(super) struct Answer<Response> {
    pub(super) message: Response,
    /// Whether the process that listens is in the pid namespace of this one.
    pub(super) is_process_visible: bool,
}

/// Calls `method`, as in `runtime.v1.RuntimeService/Version`.
pub(super) async fn call<Response: Message + Default>(
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
    let head = Request::post(format!("http://localhost/{method}"))
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
