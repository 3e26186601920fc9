//! A minimal gRPC client: one request, one response, over a Unix socket.
//!
//! gRPC adds little to HTTP/2: five bytes before each message, and a status in the trailers.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::{
    net::UnixStream,
    runtime::{Builder, Runtime},
};

/// A connection to a service.
pub(super) struct Channel {
    /// Serves the connection only while a call waits.
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

/// Bytes before a message: a flag for compression, and the length.
const PREFIX: usize = 5;

impl Channel {
    /// Connects to the socket.
    pub(super) fn connect(socket: &Path) -> Result<Self> {
        let runtime =
            Builder::new_current_thread().enable_io().build().context("start the async runtime")?;
        let requests = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await?;
            let (requests, connection) = h2::client::handshake(stream).await?;
            tokio::spawn(connection);
            anyhow::Ok(requests)
        });
        Ok(Self {
            requests: requests.with_context(|| format!("connect to {}", socket.display()))?,
            runtime,
        })
    }

    /// Calls `method`, as in `runtime.v1.RuntimeService/Version`.
    pub(super) fn call<Response: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<Response> {
        self.runtime
            .block_on(self.exchange(method, framed(request)?))
            .with_context(|| method.to_owned())
    }

    async fn exchange<Response: Message + Default>(
        &self,
        method: &str,
        request: Bytes,
    ) -> Result<Response> {
        let head = Request::post(format!("http://localhost/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut requests = self.requests.clone().ready().await?;
        let (response, mut body) = requests.send_request(head, false)?;
        body.send_data(request, true)?;
        let (head, mut body) = response.await?.into_parts();
        let mut data = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            data.extend_from_slice(&chunk);
        }
        // A response without message has its status in the head.
        check_status(&body.trailers().await?.unwrap_or(head.headers))?;
        ensure!(data.len() >= PREFIX && data[0] == 0, "the response is no uncompressed message");
        Ok(Response::decode(&data[PREFIX..])?)
    }
}

fn framed(message: &impl Message) -> Result<Bytes> {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.encoded_len().try_into()?);
    message.encode(&mut framed)?;
    Ok(framed.freeze())
}

fn check_status(headers: &HeaderMap) -> Result<()> {
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
