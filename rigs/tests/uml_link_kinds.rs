//! Link kinds and features of User-Mode Linux that the plugins' tests need.
//!
//! If a distribution's kernel loses a link kind, this test names it before the others fail.

use std::process::Command;

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("start ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Creates a device of the kind, checks that the kernel shows the kind, and deletes it.
fn has_kind(kind: &str, options: &str) {
    let (name, parent) = (format!("k-{kind}"), format!("p-{kind}"));
    let mut link = String::new();
    if ["vlan", "ipvlan", "macvlan"].contains(&kind) {
        ip(&format!("link add {parent} type dummy"));
        link = format!("link {parent}");
    }
    ip(&format!("link add {link} name {name} type {kind} {options}"));
    let shown = ip(&format!("-details link show {name}"));
    ip(&format!("link delete {name}"));
    assert!(shown.contains(kind), "not shown as {kind}: {shown}");
}

#[test]
fn dummy() {
    has_kind("dummy", "");
}

#[test]
fn vlan_802_1q() {
    has_kind("vlan", "protocol 802.1Q id 5");
}

#[test]
fn ipvlan() {
    has_kind("ipvlan", "mode l2");
}

#[test]
fn macvlan() {
    has_kind("macvlan", "mode bridge");
}

#[test]
fn vrf() {
    has_kind("vrf", "table 10");
}

#[test]
fn bridge_with_vlan_filtering() {
    ip("link add br-vlan type bridge vlan_filtering 1 vlan_default_pvid 0");
    let shown = ip("-details link show br-vlan");
    assert!(shown.contains("vlan_filtering 1"), "{shown}");
}

#[test]
fn packets_cross_a_veth_pair_between_two_namespaces() {
    for name in ["east", "west"] {
        ip(&format!("netns add {name}"));
    }
    ip("link add v0 netns east type veth peer name v0 netns west");
    for (name, address) in [("east", "10.9.0.1/24"), ("west", "10.9.0.2/24")] {
        ip(&format!("-n {name} address add {address} dev v0"));
        ip(&format!("-n {name} link set v0 up"));
        ip(&format!("-n {name} link set lo up"));
    }
    // A neighbour is found only if its answer came back over the pair.
    let script = "for i in {1..600}; do echo hello > /dev/udp/10.9.0.2/9; \
                  ip neigh | grep -q lladdr && exit 0; sleep 0.1; done; exit 1";
    let mut bash = Command::new("ip");
    let status = bash.args(["netns", "exec", "east", "bash", "-c", script]).status();
    assert!(status.expect("start ip").success(), "no answer over the veth pair");
}
