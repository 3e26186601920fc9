//! Handover between host-local and the Go plugin in both directions, and concurrent use.
//!
//! Fails without Debian's package containernetworking-plugins.

mod ipam;

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use ipam::{Call, addresses};
use serde_json::{Value, json};
use tempfile::TempDir;

const GO: &str = "/usr/lib/cni/host-local";

struct Network {
    _dir: TempDir,
    conf: Value,
}

impl Network {
    fn new(v4: &str) -> Self {
        assert!(
            Path::new(GO).exists(),
            "{GO} is missing: install the package containernetworking-plugins"
        );
        let dir = tempfile::tempdir().unwrap();
        let conf = json!({
            "cniVersion": "1.0.0", "name": "net", "type": "bridge",
            "ipam": {
                "type": "host-local", "dataDir": dir.path(),
                "ranges": [[{ "subnet": v4 }], [{ "subnet": "fd00:0:0:7::/64" }]]
            }
        });
        Self { _dir: dir, conf }
    }

    fn ours(&self, command: &str, container: &str) -> Call {
        Call::new("host-local", command, container, &self.conf)
    }

    /// Calls the Go plugin. The error is its reply.
    fn go(&self, command: &str, container: &str) -> Result<Value, String> {
        let mut child = Command::new(GO)
            .env_clear()
            .envs([
                ("CNI_COMMAND", command),
                ("CNI_CONTAINERID", container),
                ("CNI_NETNS", "/run/netns/none"),
            ])
            .envs([("CNI_IFNAME", "eth0"), ("CNI_PATH", "/usr/lib/cni")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("start {GO}: {e}"));
        child.stdin.take().unwrap().write_all(self.conf.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

#[test]
fn reservations_of_go_are_checked_and_released() {
    let network = Network::new("10.0.0.0/29");
    let result = network.go("ADD", "a").unwrap();
    let check = || network.ours("CHECK", "a").key("prevResult", result.clone());
    check().ok();
    assert_eq!(network.ours("ADD", "a").error().0, 11);
    network.ours("DEL", "a").ok();
    network.go("CHECK", "a").unwrap_err();
    assert_eq!(check().error().0, 100);
}

#[test]
fn go_checks_and_releases_our_reservations() {
    let network = Network::new("10.0.0.0/29");
    let ours = network.ours("ADD", "a").ok();
    network.go("CHECK", "a").unwrap();
    let refused = network.go("ADD", "a").unwrap_err();
    assert!(refused.contains("duplicate allocation"), "{refused}");
    network.go("DEL", "a").unwrap();
    assert_eq!(network.ours("CHECK", "a").key("prevResult", ours).error().0, 100);
}

#[test]
fn go_checks_and_releases_an_address_outside_of_the_range() {
    let mut network = Network::new("10.0.0.0/24");
    network.conf["ipam"]["ranges"][0][0]["rangeEnd"] = "10.0.0.9".into();
    network.conf["ipam"]["allowOutsideRange"] = true.into();
    let ours = network.ours("ADD", "a").var("CNI_ARGS", "IP=10.0.0.100").ok();
    assert_eq!(addresses(&ours)[0], "10.0.0.100/24");
    network.go("CHECK", "a").unwrap();
    // Allocation continues in the range.
    let theirs = addresses(&network.go("ADD", "b").unwrap());
    assert_eq!(theirs[0], "10.0.0.2/24");
    network.go("DEL", "a").unwrap();
    assert_eq!(network.ours("CHECK", "a").key("prevResult", ours).error().0, 100);
    network.ours("DEL", "b").ok();
}

#[test]
fn an_address_reserved_by_go_cannot_be_requested() {
    let network = Network::new("10.0.0.0/24");
    network.go("ADD", "a").unwrap();
    network.ours("ADD", "b").var("CNI_ARGS", "IP=10.0.0.2").fails(11, "10.0.0.2");
    network.go("CHECK", "a").unwrap();
    network.go("CHECK", "b").unwrap_err();
}

#[test]
fn both_allocate_the_same_addresses_and_gateways() {
    let (one, other) = (Network::new("10.0.0.0/24"), Network::new("10.0.0.0/24"));
    assert_eq!(one.ours("ADD", "a").ok()["ips"], other.go("ADD", "a").unwrap()["ips"]);
}

#[test]
fn both_continue_one_round_robin() {
    let network = Network::new("10.0.0.0/29");
    let mut given = Vec::new();
    for i in 0..5 {
        let container = format!("c{i}");
        let result = if i % 2 == 0 {
            network.go("ADD", &container).unwrap()
        } else {
            network.ours("ADD", &container).ok()
        };
        given.push(addresses(&result)[0].clone());
    }
    assert_eq!(given, ["10.0.0.2/29", "10.0.0.3/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29"]);
    assert_eq!(network.ours("ADD", "more").error().0, 11);
    network.go("ADD", "more").unwrap_err();

    // Released out of order, and allocated from the current position.
    network.ours("DEL", "c0").ok();
    network.go("DEL", "c3").unwrap();
    assert_eq!(addresses(&network.go("ADD", "d").unwrap())[0], "10.0.0.2/29");
    assert_eq!(addresses(&network.ours("ADD", "e").ok())[0], "10.0.0.5/29");
}

#[test]
fn concurrent_processes_of_both_allocate_different_addresses() {
    const CALLERS: usize = 3;
    const EACH: usize = 12;
    let network = Network::new("10.0.0.0/24");
    let given: Vec<String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..2 * CALLERS)
            .map(|caller| {
                let network = &network;
                scope.spawn(move || {
                    let add = |i| {
                        let container = format!("c{caller}-{i}");
                        match caller % 2 {
                            0 => network.go("ADD", &container).unwrap(),
                            _ => network.ours("ADD", &container).ok(),
                        }
                    };
                    (0..EACH).flat_map(|i| addresses(&add(i))).collect::<Vec<_>>()
                })
            })
            .collect();
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    assert_eq!(given.len(), 2 * 2 * CALLERS * EACH);
    assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len());
}
