//! The event loop with an API server, in time that passes at once.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use rscnid::{
    podnet::{NodeInfo, node::annotations},
    run::{Parts, run},
};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, settings, sh},
    probes::BLOCKED,
};

fn object(node: &NodeInfo) -> Value {
    let addresses = node.addresses.iter().flatten();
    let addresses = addresses.map(|address| json!({ "type": "InternalIP", "address": address }));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node.name, "annotations": annotations(&node.tunnels) },
        "spec": { "podCIDRs": node.pod_cidrs.iter().flatten().collect::<Vec<_>>() },
        "status": { "addresses": addresses.collect::<Vec<_>>() },
    })
}

/// A server with these Nodes, which do not change. It keeps the objects that were created or
/// changed.
fn client(nodes: &[NodeInfo], changes: Arc<Mutex<Vec<Value>>>) -> Client {
    let list = json!({
        "apiVersion": "v1",
        "kind": "NodeList",
        "metadata": { "resourceVersion": "1" },
        "items": nodes.iter().map(object).collect::<Vec<_>>(),
    });
    let service = tower::service_fn(move |request: Request<Body>| {
        let (list, changes) = (list.clone(), Arc::clone(&changes));
        async move {
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            if is_watch {
                let nothing = stream::pending::<Result<Frame<Bytes>, Infallible>>();
                return Ok(Response::new(StreamBody::new(nothing).boxed_unsync()));
            }
            let answer = if request.method() == Method::GET {
                list.to_string()
            } else {
                let body = request.into_body().collect_bytes().await.expect("the change");
                changes.lock().unwrap().push(serde_json::from_slice(&body).expect("JSON"));
                list["items"][0].to_string()
            };
            Ok::<_, Infallible>(Response::new(Full::new(answer.into()).boxed_unsync()))
        }
    });
    Client::new(service, "default")
}

/// Runs the daemon of the first node until a change is sent to the API server.
fn run_until(cluster: &Cluster, lab: &rscni_test::Lab, wanted: impl Fn(&Value) -> bool + Sync) {
    let nodes: Vec<NodeInfo> = (0..3).map(|number| cluster.object(number)).collect();
    let changes = Arc::new(Mutex::new(Vec::new()));
    cluster.nodes[0].run(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(async {
            let client = client(&nodes, Arc::clone(&changes));
            let podnet = Some((client, settings(lab.dir(), 0)));
            let is_there = async {
                while !changes.lock().unwrap().iter().any(&wanted) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            tokio::select! {
                ended = run(Parts { podnet, gc: None, status: None }) => ended.unwrap(),
                () = is_there => {}
            }
        });
    });
}

#[test]
fn blocked_tunnel_becomes_an_event() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        cluster.daemons[0] = None;
        cluster.router.run(|| sh(BLOCKED));
        run_until(&cluster, lab, |change| {
            change["kind"] == "Event"
                && change["reason"] == "Unreachable"
                && change["involvedObject"]["name"] == "node2"
                && change["message"].as_str().unwrap().contains("UDP port 8472")
        });
    });
}

#[test]
fn published_tunnel_is_that_of_the_kernel() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        cluster.daemons[0] = None;
        let wanted = cluster.object(0).tunnels;
        cluster.set_object(&NodeInfo {
            tunnels: rscnid::podnet::Both::default(),
            ..cluster.object(0)
        });
        run_until(&cluster, lab, |change| {
            let published = &change["metadata"]["annotations"];
            !published.is_null() && *published == json!(annotations(&wanted))
        });
    });
}
