//! A container runtime: a CRI server that lists the sandboxes that a test gives it.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use prost::Message;
use tokio::net::{UnixListener, UnixStream};

#[derive(Clone, PartialEq, Message)]
struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(int64, tag = "4")]
    created_at: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    items: Vec<PodSandbox>,
}

/// The answer of the server: sandboxes by id and whether they are ready, or a status of gRPC.
type Answer = Result<Vec<(String, bool)>, u32>;

pub(crate) struct FakeRuntime {
    pub(crate) socket: PathBuf,
    answer: Arc<Mutex<Answer>>,
}

impl FakeRuntime {
    /// Starts a server that knows no sandbox, until the test ends.
    pub(crate) fn start(dir: &Path) -> Self {
        let answer = Arc::new(Mutex::new(Ok(Vec::new())));
        let (socket, shared) = (dir.join("cri.sock"), Arc::clone(&answer));
        if let Err(error) = fs::remove_file(&socket) {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async { UnixListener::bind(&socket) }).unwrap();
        thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, Arc::clone(&shared)));
                }
            });
        });
        Self { socket, answer }
    }

    pub(crate) fn knows(&self, sandboxes: &[(&str, bool)]) {
        let sandboxes = sandboxes.iter().map(|(id, ready)| ((*id).to_owned(), *ready)).collect();
        *self.answer.lock().unwrap() = Ok(sandboxes);
    }

    pub(crate) fn fails(&self, status: u32) {
        *self.answer.lock().unwrap() = Err(status);
    }
}

async fn serve(stream: UnixStream, answer: Arc<Mutex<Answer>>) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        assert_eq!(request.uri().path(), "/runtime.v1.RuntimeService/ListPodSandbox");
        assert_eq!(request.headers()["content-type"], "application/grpc");
        let head = Response::builder().header("content-type", "application/grpc");
        let answer = answer.lock().unwrap().clone();
        match answer {
            Ok(sandboxes) => {
                let items = sandboxes.into_iter().map(|(id, ready)| PodSandbox {
                    id,
                    state: i32::from(!ready),
                    created_at: 1,
                });
                let message = ListPodSandboxResponse { items: items.collect() }.encode_to_vec();
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                let mut body = respond.send_response(head.body(()).unwrap(), false).unwrap();
                // In two frames, as a long list is.
                body.send_data(Bytes::from([&[0], &length[..]].concat()), false).unwrap();
                body.send_data(message.into(), false).unwrap();
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", "0".parse().unwrap());
                body.send_trailers(trailers).unwrap();
            }
            Err(status) => {
                let head = head.header("grpc-status", status).header("grpc-message", "not ready");
                respond.send_response(head.body(()).unwrap(), true).unwrap();
            }
        }
    }
}
