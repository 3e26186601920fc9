//! The watch of Nodes, and changes of Nodes and events, against answers of an API server.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex},
};

use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body};
use rscnid::{
    kube::{Change, keep_annotations, keep_condition, record, watch_nodes},
    podnet::Reason,
    report::{Condition, Report},
};
use serde_json::{Value, json};
use tokio::sync::watch;

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

fn failure(status: StatusCode, reason: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "code": status.as_u16(), "reason": reason, "message": reason,
    })
}

/// The changes that were asked for: method, path, type and content.
#[derive(Default)]
struct Asked {
    changes: Vec<(Method, String, String, Value)>,
    /// Answers to the next changes; later ones succeed.
    refusals: Vec<(StatusCode, &'static str)>,
}

/// Answers a list, one watch with events, and then says that the version is too old.
fn client(asked: Arc<Mutex<Asked>>) -> Client {
    let watches = Arc::new(Mutex::new(0));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (watches, asked) = (Arc::clone(&watches), Arc::clone(&asked));
        async move {
            let path = request.uri().path().to_owned();
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let mut status = StatusCode::OK;
            let body = if request.method() != Method::GET {
                let method = request.method().clone();
                let kind = request.headers()["content-type"].to_str().expect("text").to_owned();
                let body = request.into_body().collect_bytes().await.expect("the change");
                let content = serde_json::from_slice(&body).expect("JSON");
                let mut asked = asked.lock().expect("the changes");
                asked.changes.push((method, path, kind, content));
                if asked.refusals.is_empty() {
                    node("a", "9").to_string()
                } else {
                    let (code, reason) = asked.refusals.remove(0);
                    status = code;
                    failure(code, reason).to_string()
                }
            } else if is_watch {
                let mut number = watches.lock().expect("the number");
                *number += 1;
                if *number == 1 {
                    event("ADDED", &node("c", "2")) + &event("DELETED", &node("b", "3"))
                } else {
                    let gone = failure(StatusCode::GONE, "Expired");
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
            let mut response = Response::new(Body::from(body.into_bytes()));
            *response.status_mut() = status;
            Ok::<_, Infallible>(response)
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

/// Pauses end at once when nothing else is left to do.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().start_paused(true).build().unwrap().block_on(future)
}

#[test]
fn watch_lists_follows_and_lists_again_after_it_expired() {
    block_on(async {
        let changes = pin!(watch_nodes(client(Arc::default())));
        let seen: Vec<String> = changes.take(4).map(|change| names(&change)).collect().await;
        assert_eq!(seen, ["list a b", "set c 10.1.0.0/24", "remove b", "list a b"]);
    });
}

#[test]
fn annotations_are_patched_on_the_own_node_only() {
    let asked = Arc::new(Mutex::new(Asked::default()));
    block_on(async {
        let (sender, receiver) = watch::channel(Some([("key".to_owned(), "1".to_owned())].into()));
        drop(sender);
        keep_annotations(client(Arc::clone(&asked)), "a".to_owned(), receiver).await;
    });
    let wanted = json!({ "metadata": { "annotations": { "key": "1" } } });
    let (_, path, _, content) = &asked.lock().unwrap().changes[0];
    assert_eq!((&**path, content), ("/api/v1/nodes/a", &wanted));
}

#[test]
fn annotations_that_were_refused_do_not_replace_newer_ones() {
    let asked = Arc::new(Mutex::new(Asked::default()));
    asked.lock().unwrap().refusals.push((StatusCode::INTERNAL_SERVER_ERROR, "InternalError"));
    let value = |value: &str| Some([("key".to_owned(), value.to_owned())].into());
    block_on(async {
        let (sender, receiver) = watch::channel(value("1"));
        let client = client(Arc::clone(&asked));
        let keeper = tokio::spawn(keep_annotations(client, "a".to_owned(), receiver));
        wait_for(&asked, 1).await;
        sender.send_replace(value("2"));
        wait_for(&asked, 2).await;
        // Longer than any pause before a repetition.
        tokio::time::sleep(std::time::Duration::from_secs(3600)).await;
        drop(sender);
        keeper.await.unwrap();
    });
    let asked = asked.lock().unwrap();
    let values = asked.changes.iter().map(|(.., content)| {
        content["metadata"]["annotations"]["key"].as_str().unwrap().to_owned()
    });
    assert_eq!(values.collect::<Vec<_>>(), ["1", "2"]);
}

/// Waits until the server was asked for a number of changes.
async fn wait_for(asked: &Mutex<Asked>, count: usize) {
    while asked.lock().unwrap().changes.len() < count {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn condition_of_the_own_node_is_patched_after_each_change_until_it_is_accepted() {
    let asked = Arc::new(Mutex::new(Asked::default()));
    asked.lock().unwrap().refusals.push((StatusCode::FORBIDDEN, "Forbidden"));
    block_on(async {
        let (sender, receiver) = watch::channel(None);
        let client = client(Arc::clone(&asked));
        let keeper = tokio::spawn(keep_condition(client, "a".to_owned(), receiver));
        sender.send_replace(Some(Condition::unavailable(&Reason::NoPodCidrs)));
        wait_for(&asked, 2).await;
        sender.send_replace(Some(Condition::available()));
        wait_for(&asked, 3).await;
        drop(sender);
        keeper.await.unwrap();
    });
    let asked = asked.lock().unwrap();
    let seen = asked.changes.iter().map(|(method, path, kind, content)| {
        assert_eq!((method, &**path), (&Method::PATCH, "/api/v1/nodes/a/status"));
        assert_eq!(kind, "application/strategic-merge-patch+json");
        let condition = &content["status"]["conditions"][0];
        assert_eq!(condition["type"], "NetworkUnavailable");
        let time = condition["lastTransitionTime"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{time}");
        (condition["status"].as_str().unwrap(), condition["reason"].as_str().unwrap())
    });
    assert_eq!(
        seen.collect::<Vec<_>>(),
        [("True", "NoPodCIDRs"), ("True", "NoPodCIDRs"), ("False", "RscniIsUp")]
    );
}

fn report() -> Report {
    Report {
        node: "b".to_owned(),
        reason: "InvalidPodCIDR",
        message: "podCIDR 10.0.0.0/7 is too large or not unicast".to_owned(),
        solved: false,
    }
}

#[test]
fn event_names_the_node_and_the_problem() {
    let asked = Arc::new(Mutex::new(Asked::default()));
    block_on(async { record(client(Arc::clone(&asked)), "a".to_owned(), report()).await });
    let asked = asked.lock().unwrap();
    let [(method, path, _, event)] = &*asked.changes else { panic!("not one change") };
    assert_eq!((method, &**path), (&Method::POST, "/api/v1/namespaces/default/events"));
    assert_eq!(event["metadata"]["name"], report().name());
    assert_eq!(event["involvedObject"]["kind"], "Node");
    assert_eq!(event["involvedObject"]["name"], "b");
    assert_eq!((&event["type"], &event["reason"]), (&json!("Warning"), &json!("InvalidPodCIDR")));
    assert_eq!(event["message"], report().message);
    assert_eq!(event["reportingInstance"], "a");
}

#[test]
fn event_of_another_node_about_the_same_is_updated() {
    let asked = Arc::new(Mutex::new(Asked::default()));
    asked.lock().unwrap().refusals.push((StatusCode::CONFLICT, "AlreadyExists"));
    block_on(async { record(client(Arc::clone(&asked)), "a".to_owned(), report()).await });
    let asked = asked.lock().unwrap();
    let [_, (method, path, kind, content)] = &*asked.changes else { panic!("not two changes") };
    let wanted = format!("/api/v1/namespaces/default/events/{}", report().name());
    assert_eq!((method, path), (&Method::PATCH, &wanted));
    assert_eq!(kind, "application/merge-patch+json");
    assert!(content["lastTimestamp"].is_string(), "{content}");
}

#[test]
fn refused_event_is_given_up() {
    let asked = Arc::new(Mutex::new(Asked::default()));
    asked.lock().unwrap().refusals.push((StatusCode::FORBIDDEN, "Forbidden"));
    block_on(async { record(client(Arc::clone(&asked)), "a".to_owned(), report()).await });
    assert_eq!(asked.lock().unwrap().changes.len(), 1);
}
