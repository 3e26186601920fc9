//! The program: one pass by hand, and passes of the daemon.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Output},
};

use rscni_test::eventually;
use serde_json::Value;

use crate::node::{Node, network};

fn rscnid(node: &Node<'_>, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rscnid"));
    command.args(words).arg("--runtime-socket").arg(&node.settings.socket);
    command.arg("--conf-dir").arg(&node.settings.conf_dir);
    command
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn dry_run_prints_a_table_and_changes_nothing() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let pods = network("pods", 1, &[]);
        let [live, gone] = ["a", "b"].map(|name| node.attach(&pods, name));
        node.remove_namespace(&gone);
        node.runtime.knows(&[(live.id(), true)]);
        let before = lab.snapshot();
        let once = ["gc", "--once", "--dry-run"];
        let table = text(&rscnid(&node, &once).output().unwrap());
        let lines: Vec<Vec<&str>> =
            table.lines().map(|it| it.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["STATE", "KIND", "OBJECT", "NETWORK", "OWNER", "AGE", "WHY"]);
        let lease = lines.iter().find(|line| line[1] == "address").unwrap();
        let expected =
            ["unconfirmed", "address", "/var/lib/cni/networks/pods/10.1.0.3", "pods", "ctr-b/eth0"];
        assert_eq!(lease[..5], expected);
        assert!(
            table.contains("namespace /run/netns/b gone") && !table.contains("ctr-a"),
            "{table}"
        );
        let json = rscnid(&node, &[&once[..], &["--json", "--gc-grace", "0"]].concat()).output();
        let json: Value = serde_json::from_str(&text(&json.unwrap())).unwrap();
        let findings = json["findings"].as_array().unwrap();
        assert_eq!(findings.len(), lines.len() - 1);
        assert!(findings.iter().all(|it| it["state"] == "stale" && it["owner"] == "ctr-b/eth0"));
        lab.assert_unchanged_since(&before);

        // Young files may be those of an ADD in progress.
        let waiting = text(&rscnid(&node, &["gc", "--once"]).output().unwrap());
        assert!(!waiting.contains("removed"), "{waiting}");
        lab.assert_unchanged_since(&before);
        let removed = rscnid(&node, &["gc", "--once", "--gc-grace", "0"]).output().unwrap();
        let log = String::from_utf8_lossy(&removed.stderr).into_owned();
        assert!(log.contains("gc: removed") && log.contains("10.1.0.3"), "{log}");
        assert!(text(&removed).lines().skip(1).all(|line| line.starts_with("removed ")));
        assert!(Node::owned_by(&gone).is_empty() && !Node::owned_by(&live).is_empty());
    });
}

#[test]
fn daemon_without_pod_network_collects_and_serves_metrics() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let gone = node.attach(&network("pods", 1, &[]), "a");
        node.remove_namespace(&gone);
        let words = ["run", "--disable", "podnet", "--gc-interval", "1", "--gc-grace", "1"];
        let mut daemon = rscnid(&node, &words).env_remove("NODE_NAME").spawn().unwrap();
        eventually("removal", || Node::owned().is_empty().then_some(()));
        let metrics = eventually("metrics", || {
            let text = get("/metrics")?;
            text.contains("rscnid_gc_removed_total{kind=\"address\"} 1").then_some(text)
        });
        assert!(metrics.contains("rscnid_gc_stale{kind=\"address\"} 0"), "{metrics}");
        assert!(metrics.contains("rscnid_gc_errors_total 0"), "{metrics}");
        assert!(get("/readyz").unwrap().starts_with("HTTP/1.1 200"));
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert!(!Path::new("/run/rscni").exists(), "the pod network is disabled");
    });
}

fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect("127.0.0.1:9472").ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}
