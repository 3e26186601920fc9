//! The watch of Nodes and the annotations, against answers of an API server.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex},
};

use futures_util::StreamExt;
use http::{Method, Request, Response};
use kube::{Client, client::Body};
use rscnid::kube::{Change, annotate, watch};
use serde_json::{Value, json};

fn node(name: &str, version: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "resourceVersion": version },
        "spec": { "podCIDRs": ["10.1.0.0/24"] },
    })
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

/// Answers a list, one watch with events, and then says that the version is too old.
fn client(patches: Arc<Mutex<Vec<(String, Value)>>>) -> Client {
    let watches = Arc::new(Mutex::new(0));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (watches, patches) = (Arc::clone(&watches), Arc::clone(&patches));
        async move {
            let path = request.uri().path().to_owned();
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let body = if request.method() == Method::PATCH {
                let body = request.into_body().collect_bytes().await.expect("the patch");
                let content = serde_json::from_slice(&body).expect("JSON");
                patches.lock().expect("the patches").push((path, content));
                node("a", "9").to_string()
            } else if is_watch {
                let mut number = watches.lock().expect("the number");
                *number += 1;
                if *number == 1 {
                    event("ADDED", &node("c", "2")) + &event("DELETED", &node("b", "3"))
                } else {
                    let gone = json!({
                        "kind": "Status", "apiVersion": "v1", "metadata": {},
                        "status": "Failure", "code": 410, "reason": "Expired",
                        "message": "too old resource version",
                    });
                    event("ERROR", &gone)
                }
            } else {
                json!({
                    "apiVersion": "v1",
                    "kind": "NodeList",
                    "metadata": { "resourceVersion": "1" },
                    "items": [node("a", "1"), node("b", "1")],
                })
                .to_string()
            };
            Ok::<_, Infallible>(Response::new(Body::from(body.into_bytes())))
        }
    });
    Client::new(service, "default")
}

fn names(change: &Change) -> String {
    match change {
        Change::Replace(nodes) => {
            let names: Vec<&str> = nodes.iter().map(|node| &*node.name).collect();
            format!("list {}", names.join(" "))
        }
        Change::Set(node) => format!("set {} {}", node.name, node.pod_cidrs.v4.unwrap()),
        Change::Remove(name) => format!("remove {name}"),
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn watch_lists_follows_and_lists_again_after_it_expired() {
    block_on(async {
        let changes = pin!(watch(client(Arc::default())));
        let seen: Vec<String> = changes.take(4).map(|change| names(&change)).collect().await;
        assert_eq!(seen, ["list a b", "set c 10.1.0.0/24", "remove b", "list a b"]);
    });
}

#[test]
fn annotations_are_patched_on_the_own_node_only() {
    let patches = Arc::new(Mutex::new(Vec::new()));
    let annotations = [("flannel.alpha.coreos.com/backend-type".to_owned(), "vxlan".to_owned())];
    block_on(async {
        let client = client(Arc::clone(&patches));
        annotate(client, "a", &annotations.clone().into()).await.unwrap();
    });
    let patch = json!({
        "metadata": { "annotations": { "flannel.alpha.coreos.com/backend-type": "vxlan" } }
    });
    assert_eq!(*patches.lock().unwrap(), [("/api/v1/nodes/a".to_owned(), patch)]);
}
