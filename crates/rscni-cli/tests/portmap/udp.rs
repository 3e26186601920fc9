//! UDP flows that begin before a mapping is added or removed.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use rscni_linux::{Conntrack, Family};
use rscni_test::Namespace;
use rstest::rstest;
use serde_json::json;

use crate::{
    published::{IPTABLES, NFTABLES, bridge, mapping, publish, target},
    support::outside::{HOST, OUTSIDE, outside},
};

/// A client that keeps its port, so that all packets to a target are one flow.
struct Client {
    socket: UdpSocket,
    target: String,
}

impl Client {
    fn new(namespace: &Namespace, target: String) -> Self {
        let any = if target.starts_with('[') { "[::]:4000" } else { "0.0.0.0:4000" };
        let socket = namespace.run(|| UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket, target }
    }

    /// Sends a request and returns the name of the server that answers within the timeout.
    fn ask(&self, timeout: Duration) -> Option<String> {
        let begin = Instant::now();
        let mut buffer = [0; 200];
        // Answers to earlier questions may come late.
        let question = format!("{begin:?}");
        while begin.elapsed() < timeout {
            // An error of an earlier request, such as "port unreachable", is ignored.
            let _ = self.socket.send_to(question.as_bytes(), &self.target);
            if let Ok((length, _)) = self.socket.recv_from(&mut buffer) {
                let answer = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if answer.ends_with(&question) {
                    return answer.split(' ').next().map(str::to_owned);
                }
            }
        }
        None
    }
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

#[rstest]
fn a_flow_moves_to_the_next_container(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values(0, 1)] family: usize,
) {
    rscni_test::run(|lab| {
        let client = Client::new(&outside(lab), target(HOST[family]));
        let (keys, mappings) = (json!({ "backend": backend }), json!([mapping(8080, "udp")]));
        // Without a mapping the flow leads to the host.
        assert_eq!(client.ask(SHORT), None);
        let a = publish(lab, &bridge(lab), "a", &keys, &mappings);
        let server = a.serve_udp(80);
        assert_eq!(client.ask(LONG).as_deref(), Some("a"));
        drop(server);
        a.ports.del().success();
        // Now it leads to the host again, not to the container.
        let _still_there = a.serve_udp(80);
        assert_eq!(client.ask(SHORT), None);
        let b = publish(lab, &bridge(lab), "b", &keys, &mappings);
        let _server = b.serve_udp(80);
        assert_eq!(client.ask(LONG).as_deref(), Some("b"));
    });
}

#[test]
fn a_flow_ends_with_gc_and_with_a_del_without_result() {
    rscni_test::run(|lab| {
        let client = Client::new(&outside(lab), target(HOST[0]));
        let network = bridge(lab);
        for (name, gc) in [("a", true), ("b", false)] {
            let a = publish(lab, &network, name, &json!({}), &json!([mapping(8080, "udp")]));
            let _server = a.serve_udp(80);
            assert_eq!(client.ask(LONG).as_deref(), Some(name));
            if gc {
                a.network.gc(&[]).success();
            } else {
                a.del_without_result().success();
            }
            assert_eq!(client.ask(SHORT), None);
        }
    });
}

#[test]
fn flows_that_only_pass_through_the_host_are_left_alone() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let network = bridge(lab).with(&json!({ "ipMasq": true }));
        let neighbour = network.attach(lab, "neighbour");
        let _server = outside.serve_udp(8080);
        let client = Client::new(&neighbour, target(OUTSIDE[0]));
        assert_eq!(client.ask(LONG).as_deref(), Some("outside"));
        let flows = || Conntrack::open().unwrap().flows_to(Family::V4, 17, 8080).unwrap();
        let before = flows();
        assert_eq!(before.len(), 1);
        let a = publish(lab, &network, "a", &json!({}), &json!([mapping(8080, "udp")]));
        assert_eq!(flows(), before);
        a.del().success();
        assert_eq!(flows(), before);
    });
}
