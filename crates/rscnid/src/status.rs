//! `/healthz`, `/readyz`, `/metrics` and `/status`.

use std::{convert::Infallible, fmt::Display, net::SocketAddr};

use anyhow::Context;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tracing::debug;

/// A question to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Whether the daemon has to be restarted.
    Alive,
    /// Whether runtimes can attach pods.
    Ready,
    /// The metrics.
    Metrics,
    /// Desired state, kernel state and their difference, as a table.
    Status,
}

/// A question with the channel for its answer: the text, and whether it is good news.
pub type Query = (Question, oneshot::Sender<(bool, String)>);

/// Answers requests until it is dropped. `queries` is read by the daemon.
///
/// # Errors
///
/// If the address cannot be used.
pub async fn serve(address: SocketAddr, queries: mpsc::Sender<Query>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}; choose another one with --listen"))?;
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let queries = queries.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, queries.clone()));
            if let Err(error) =
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
            {
                debug!("serve HTTP: {error}");
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    queries: mpsc::Sender<Query>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let question = match request.uri().path() {
        "/healthz" => Question::Alive,
        "/readyz" => Question::Ready,
        "/metrics" => Question::Metrics,
        "/status" => Question::Status,
        _ => return Ok(reply(StatusCode::NOT_FOUND, "/healthz /readyz /metrics /status\n")),
    };
    let (sender, answer) = oneshot::channel();
    let asked = queries.send((question, sender)).await;
    Ok(match (asked, answer.await) {
        (Ok(()), Ok((true, text))) => reply(StatusCode::OK, text),
        (Ok(()), Ok((false, text))) => reply(StatusCode::SERVICE_UNAVAILABLE, text),
        _ => reply(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping\n"),
    })
}

fn reply(status: StatusCode, text: impl Display) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_string())));
    *response.status_mut() = status;
    response
}

/// Asks the daemon at `address` for its status.
///
/// # Errors
///
/// If no daemon answers.
pub async fn ask(address: SocketAddr) -> anyhow::Result<String> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to the daemon at {address}; is it running?"))?;
    let (mut requests, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/status").header("host", "localhost").body(Empty::<Bytes>::new())?;
    let body = requests.send_request(request).await?.into_body().collect().await?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
