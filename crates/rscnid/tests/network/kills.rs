//! The daemon killed at each step of a synchronization.

use std::{path::Path, process::Command};

use rscni_linux::{Event, Monitor};
use rscni_test::Namespace;
use rscnid::podnet::{Both, NodeInfo, Tunnel};

use crate::cluster::{Cluster, node, sh, synchronize};

/// Variable with the number of the list of Nodes that a process synchronizes with. The process is
/// this test.
const LIST: &str = "RSCNID_KILLED_LIST";
const DIR: &str = "RSCNID_KILLED_DIR";
/// More steps than a synchronization has.
const STEPS: usize = 200;

/// Node 1 is on the segment and the others are behind the router. The second list has another
/// endpoint, another hardware address, a new Node, and one less.
fn list(number: usize) -> Vec<NodeInfo> {
    let far = |number: usize, last: u8, mac: u8| {
        let endpoint = [192, 168, 1, last];
        let tunnel = Tunnel {
            endpoint: endpoint.into(),
            mac: format!("02:00:00:00:00:{mac:02x}").parse().unwrap(),
        };
        NodeInfo {
            addresses: Both { v4: Some(endpoint.into()), v6: None },
            tunnels: Both { v4: Some(tunnel), v6: None },
            ..node(number)
        }
    };
    let same = [node(0), node(1), far(2, 13, 2)];
    let others = match number {
        0 => [far(3, 14, 3), far(4, 15, 4), far(5, 16, 5)],
        _ => [far(3, 34, 3), far(4, 15, 44), far(6, 17, 6)],
    };
    same.into_iter().chain(others).collect()
}

/// The routes that do not differ between the lists.
const SAME: [&str; 3] = ["10.244.1.0/24", "10.244.2.0/24", "fd01:0:0:1::/64"];

/// Everything that the daemon makes.
fn state(node: &Namespace, dir: &Path) -> String {
    let list = dir.join("node0/10-rscni.conflist");
    let script = format!(
        "ip -d link show flannel.1 | sed 's/^[0-9]*: //'
        ip -4 -o addr show dev flannel.1 | sed 's/^[0-9]*: //'
        ip -4 route show proto 82; ip -6 route show proto 82
        bridge fdb show dev flannel.1 | sort
        ip -4 neighbour show dev flannel.1 nud permanent | sort
        nft list table inet rscnid; cat {}",
        list.display()
    );
    node.run(|| sh(&script))
}

fn clear(node: &Namespace, dir: &Path) {
    let script = format!(
        "ip link del flannel.1 2>/dev/null || true
        ip link del flannel-v6.1 2>/dev/null || true
        ip route flush proto 82; ip -6 route flush proto 82
        nft delete table inet rscnid 2>/dev/null || true
        rm -rf {}",
        dir.join("node0").display()
    );
    node.run(|| sh(&script));
}

/// System calls that change something.
const CALLS: [&str; 3] = ["sendto", "rename", "symlink"];

/// Synchronizes in a process that is killed before its n-th call, and returns whether it was.
fn is_killed(node: &Namespace, dir: &Path, list: usize, call: &str, step: usize) -> bool {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=KILL:when={step}")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "kills::kill_at_any_step_of_a_synchronization_is_harmless"])
        .env(LIST, list.to_string())
        .env(DIR, dir);
    let output = node.run(move || strace.output()).expect("strace");
    let text = String::from_utf8_lossy(&output.stdout);
    // strace ends as its child did.
    if output.status.success() {
        assert!(text.contains("1 passed"), "{text}");
    } else {
        assert!(!text.contains("FAILED"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }
    !output.status.success()
}

#[test]
fn kill_at_any_step_of_a_synchronization_is_harmless() {
    if let (Ok(number), Some(dir)) = (std::env::var(LIST), std::env::var_os(DIR)) {
        synchronize(Path::new(&dir), 0, list(number.parse().unwrap()));
        return;
    }
    rscni_test::run(|lab| {
        let cluster = Cluster::build(lab);
        let (node, dir) = (&cluster.nodes[0], lab.dir());
        let restart = |number| drop(node.run(|| synchronize(dir, 0, list(number))));
        let run = |number| {
            restart(number);
            state(node, dir)
        };
        let first = run(0);
        let second = run(1);
        assert_ne!(first, second);
        // From nothing.
        let steps = CALLS.map(|call| {
            (1..STEPS).find(|step| {
                clear(node, dir);
                let killed = is_killed(node, dir, 0, call, *step);
                assert_eq!(run(0), first, "after a kill at {call} {step}");
                !killed
            })
        });
        assert!(matches!(steps, [Some(10..), Some(2..), Some(1..)]), "{CALLS:?}: {steps:?}");
        // From one list to another.
        let steps = CALLS.map(|call| {
            (1..STEPS).find(|step| {
                restart(0);
                let mut monitor = node.run(|| Monitor::open().expect("a monitor"));
                let killed = is_killed(node, dir, 1, call, *step);
                assert_eq!(run(1), second, "after a kill at {call} {step}");
                for event in monitor.receive().expect("notifications") {
                    if let Event::RouteGone(route) = event {
                        let dst = route.dst.to_string();
                        assert!(!SAME.contains(&&*dst), "{dst} was missing at {call} {step}");
                    }
                }
                !killed
            })
        });
        assert!(matches!(steps, [Some(10..), Some(_), Some(_)]), "{CALLS:?}: {steps:?}");
    });
}
