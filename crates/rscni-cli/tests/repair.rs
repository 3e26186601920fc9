//! `rscni repair` restores rules that were flushed, and packets pass again.

#[path = "support/mod.rs"]
mod support;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use rscni_test::{Container, Lab, Namespace};
use rstest::rstest;
use serde_json::{Value, json};

use support::{
    IPTABLES, NFTABLES, RSCNI,
    outside::{HOST, outside},
    sh,
};

/// Result of a command.
#[derive(Debug)]
struct Ran {
    status: i32,
    stdout: String,
    stderr: String,
}

struct Node<'a> {
    lab: &'a Lab,
}

impl<'a> Node<'a> {
    fn new(lab: &'a Lab) -> Self {
        support::install(lab);
        fs::create_dir(lab.dir().join("net.d")).unwrap();
        Self { lab }
    }

    fn conf_dir(&self) -> PathBuf {
        self.lab.dir().join("net.d")
    }

    fn rscni(&self, words: &[&str]) -> Ran {
        let mut command = Command::new(RSCNI);
        command.args(words).env("NETCONFPATH", self.conf_dir());
        command.env("CNI_PATH", "/run/rscni-test/bin");
        let output = command.output().unwrap();
        Ran {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn succeeds(&self, words: &[&str]) -> Ran {
        let ran = self.rscni(words);
        assert_eq!(ran.status, 0, "{words:?}: {ran:?}");
        ran
    }

    /// The network `net<number>` of the plugins: bridge or ptp with `keys`, then `chained`.
    fn network(&self, number: u8, first: &Value, chained: &[Value]) {
        let mut first = first.clone();
        let mut ipam =
            support::host_local(&[&format!("10.{number}.0.0/24"), &format!("fd0{number}::/64")]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        first["ipam"] = ipam;
        let plugins: Vec<_> = [first].into_iter().chain(chained.iter().cloned()).collect();
        let name = format!("net{number}");
        let list = json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins });
        fs::write(self.conf_dir().join(format!("{name}.conflist")), list.to_string()).unwrap();
    }

    /// Attaches a new container, with a host port for its port 80.
    fn add(&self, number: u8, name: &str, port: u16) -> Container {
        let container = self.lab.container(name);
        let mapping =
            |protocol| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol });
        let cap = format!("portMappings={}", json!([mapping("tcp"), mapping("udp")]));
        let network = format!("net{number}");
        self.succeeds(&["add", &network, name, "--container-id", name, "--cap", &cap]);
        container
    }

    #[track_caller]
    fn checks(&self, number: u8, name: &str) -> Ran {
        self.rscni(&["check", &format!("net{number}"), name, "--container-id", name])
    }
}

fn bridge(number: u8, backend: &str) -> Value {
    json!({
        "type": "bridge", "bridge": format!("br{number}"), "isDefaultGateway": true,
        "ipMasq": true, "ipMasqBackend": backend, "macspoofchk": true,
    })
}

fn ptp(backend: &str) -> Value {
    json!({ "type": "ptp", "ipMasq": true, "ipMasqBackend": backend })
}

fn chained(backend: &str, policy: &str) -> [Value; 2] {
    [
        json!({ "type": "portmap", "backend": backend, "capabilities": { "portMappings": true } }),
        json!({ "type": "firewall", "backend": backend, "ingressPolicy": policy }),
    ]
}

/// Asserts that the host port leads to the container, and that its connections are masqueraded.
#[track_caller]
fn assert_works(outside: &Container, container: &Namespace, port: u16) {
    let server = container.serve_tcp(80);
    for (address, seen_as) in HOST.iter().zip(HOST) {
        let target = std::net::SocketAddr::new(address.parse().unwrap(), port);
        outside.tcp(target).assert_by(&server);
        let target = if seen_as.contains(':') { "2001:db8::2" } else { "192.0.2.2" };
        let world = outside.serve_tcp(7000);
        let answer = container.tcp(std::net::SocketAddr::new(target.parse().unwrap(), 7000));
        answer.assert_by(&world);
        assert_eq!(answer.seen_as.to_string(), seen_as);
    }
}

const FLUSH_IPTABLES: &str = "for t in iptables ip6tables; do $t -F; $t -t nat -F; done";

#[rstest]
#[case::nftables_all(NFTABLES, "nft flush ruleset")]
#[case::nftables_rules_of_our_tables(
    NFTABLES,
    "nft flush table inet rscni; nft flush table bridge rscni || true"
)]
#[case::iptables_all(IPTABLES, "nft flush ruleset")]
#[case::iptables_rules(IPTABLES, FLUSH_IPTABLES)]
fn flushed_rules_are_restored(
    #[case] backend: &str,
    #[case] damage: &str,
    #[values("bridge", "ptp")] plugin: &str,
) {
    rscni_test::run(|lab| {
        let (node, outside) = (Node::new(lab), outside(lab));
        let first = |number| if plugin == "ptp" { ptp(backend) } else { bridge(number, backend) };
        for number in [1, 2] {
            node.network(number, &first(number), &chained(backend, "isolated"));
        }
        let (a, b) = (node.add(1, "a", 8080), node.add(2, "b", 8081));
        let drop = match backend {
            NFTABLES => "nft add chain inet rscni forward '{ policy drop; }'",
            _ => "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP",
        };
        sh(drop);
        let before = lab.snapshot();
        assert_works(&outside, &a, 8080);

        sh(damage);
        let dry = node.succeeds(&["repair", "--dry-run"]);
        assert!(dry.stdout.contains("missing   net1 a/eth0: "), "{dry:?}");
        assert_ne!(node.checks(1, "a").status, 0);
        // One container of two.
        let ran = node.succeeds(&["repair", "net1", "a"]);
        for plugin in [plugin, "portmap", "firewall"] {
            assert!(ran.stdout.contains(&format!("restored  net1 a/eth0: {plugin}: ")), "{ran:?}");
        }
        assert!(!ran.stdout.contains("net2"), "{ran:?}");
        sh(drop);
        assert_works(&outside, &a, 8080);
        assert_eq!(node.checks(1, "a").status, 0);

        let ran = node.succeeds(&["repair"]);
        assert!(ran.stdout.contains("ok        net1 a/eth0\n"), "{ran:?}");
        // Rules of nftables are shared.
        let left = if damage.contains("flush table") { "ok        " } else { "restored  " };
        assert!(ran.stdout.contains(&format!("{left}net2 b/eth0")), "{ran:?}");
        assert_works(&outside, &b, 8081);
        assert_works(&outside, &a, 8080);
        for (number, name) in [(1, "a"), (2, "b")] {
            assert_eq!(node.checks(number, name).status, 0);
        }
        let of_containers = |snapshot: &rscni_test::Snapshot| {
            let text = snapshot.to_string();
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| line.contains("nft element"))
                .map(str::to_owned)
                .collect();
            lines.sort();
            lines
        };
        assert_eq!(of_containers(&lab.snapshot()), of_containers(&before));
        let ran = node.succeeds(&["repair"]);
        assert_eq!(ran.stdout, "ok        net1 a/eth0\nok        net2 b/eth0\n");
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[rstest]
fn a_healthy_attachment_loses_no_packet(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let (node, outside) = (Node::new(lab), outside(lab));
        node.network(1, &bridge(1, backend), &chained(backend, "same-bridge"));
        let (a, b) = (node.add(1, "a", 8080), node.add(1, "b", 8081));
        let server = b.serve_udp(80);
        let (is_done, sent, lost) =
            (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    for address in HOST {
                        let target = std::net::SocketAddr::new(address.parse().unwrap(), 8081);
                        let answer = outside.try_udp(target, Duration::from_secs(20));
                        sent.fetch_add(1, Ordering::Relaxed);
                        if answer.is_err() {
                            lost.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
            // The other thread must end if the test fails.
            let _end = End(&is_done);
            for _ in 0..3 {
                match backend {
                    NFTABLES => sh("nft delete element inet rscni firewall4 '{ 10.1.0.2 }'; \
                         nft delete element inet rscni masquerade4 '{ 10.1.0.2 }'; \
                         nft delete element inet rscni hostport4_any '{ tcp . 8080 }'"),
                    _ => sh("iptables -D CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT; \
                             iptables -t nat -F $(iptables -t nat -S CNI-HOSTPORT-DNAT | \
                             grep 'id: ..a' | awk '{ print $NF }' | head -1); \
                             iptables -t nat -D POSTROUTING $(iptables -t nat -S POSTROUTING | \
                             grep -n 10.1.0.2/32 | head -1 | cut -d: -f1 | awk '{ print $1 - 1 }')"),
                }
                assert_ne!(node.checks(1, "a").status, 0);
                let ran = node.succeeds(&["repair"]);
                assert!(ran.stdout.contains("ok        net1 b/eth0\n"), "{ran:?}");
                assert_eq!(node.checks(1, "a").status, 0);
            }
            let enough = sent.load(Ordering::Relaxed) + 2;
            rscni_test::eventually("packets of the other container", || {
                (sent.load(Ordering::Relaxed) >= enough).then_some(())
            });
        });
        assert_eq!(lost.load(Ordering::Relaxed), 0, "of {}", sent.load(Ordering::Relaxed));
        drop(server);
        assert_works(&outside, &a, 8080);
    });
}

#[test]
fn routes_addresses_and_forwarding_are_restored() {
    rscni_test::run(|lab| {
        let (node, outside) = (Node::new(lab), outside(lab));
        node.network(1, &ptp(NFTABLES), &chained(NFTABLES, "open"));
        node.network(2, &bridge(2, NFTABLES), &chained(NFTABLES, "open"));
        let (a, b) = (node.add(1, "a", 8080), node.add(2, "b", 8081));
        for (damage, network, what) in [
            ("ip route del 10.1.0.2", "net1", "ptp: route to 10.1.0.2/32"),
            (
                "ip addr flush dev $(ip -o route get 10.1.0.2 | awk '{ print $3 }') scope global",
                "net1",
                "ptp: ",
            ),
            ("ip netns exec a ip route del default", "net1", "ptp: route to 0.0.0.0/0"),
            ("ip netns exec b ip -6 route del default", "net2", "bridge: route to ::/0"),
            ("ip addr del 10.2.0.1/24 dev br2", "net2", "bridge: address 10.2.0.1/24 is missing"),
            ("sysctl -qw net.ipv4.ip_forward=0", "net2", "bridge: net.ipv4.ip_forward is 0"),
        ] {
            sh(damage);
            let ran = node.succeeds(&["repair", network]);
            assert!(
                ran.stdout.contains("restored  ") && ran.stdout.contains(what),
                "{damage}: {ran:?}"
            );
            assert!(!ran.stdout.contains("failed"), "{damage}: {ran:?}");
            assert_works(&outside, &a, 8080);
            assert_works(&outside, &b, 8081);
        }
    });
}

#[test]
fn traffic_shaping_is_put_back() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        let limit = json!({
            "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
            "egressRate": 8_000_000, "egressBurst": 800_000,
        });
        node.network(1, &bridge(1, NFTABLES), &[limit]);
        node.lab.container("a");
        node.succeeds(&["add", "net1", "a", "--container-id", "a"]);
        let link = "$(ip -o link show type veth | awk -F'[ @:]+' '{ print $2 }' | head -1)";
        for damage in [
            format!("tc qdisc del dev {link} root"),
            format!("tc qdisc del dev {link} ingress"),
            "ip link del $(ip -o link show type ifb | awk -F'[ @:]+' '/bwp/ { print $2 }' | head -1)"
                .to_owned(),
        ] {
            sh(&damage);
            assert_ne!(node.checks(1, "a").status, 0, "{damage}");
            let ran = node.succeeds(&["repair"]);
            assert!(ran.stdout.contains("restored  net1 a/eth0: bandwidth: "), "{damage}: {ran:?}");
            assert_eq!(node.checks(1, "a").status, 0, "{damage}");
        }
        node.succeeds(&["del", "net1", "a", "--container-id", "a"]);
    });
}

#[test]
fn irreparable_damage_is_reported_with_a_command() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        node.network(1, &bridge(1, NFTABLES), &chained(NFTABLES, "open"));
        node.add(1, "a", 8080);
        sh(
            "ip netns exec a ip link set eth0 down; nft delete element inet rscni firewall4 '{ 10.1.0.2 }'",
        );
        let ran = node.rscni(&["repair"]);
        assert_eq!(ran.status, 1, "{ran:?}");
        for what in [
            "failed    net1 a/eth0: bridge: ",
            "rscni del net1",
            "restored  net1 a/eth0: firewall: ",
        ] {
            assert!(ran.stdout.contains(what), "{what}: {ran:?}");
        }
        // The command ignores a container that is gone, and no containers are not an error.
        node.succeeds(&["del", "net1", "a", "--container-id", "a"]);
        assert_eq!(node.succeeds(&["repair"]).stdout, "");
        let ran = node.rscni(&["repair", "net1"]);
        assert!(ran.status != 0 && ran.stderr.contains("net1"), "{ran:?}");
    });
}

#[test]
fn an_address_with_another_owner_is_kept() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        node.network(1, &bridge(1, NFTABLES), &chained(NFTABLES, "open"));
        node.add(1, "a", 8080);
        sh("nft delete element inet rscni firewall4 '{ 10.1.0.2 }'; \
            nft add element inet rscni firewall4 '{ 10.1.0.2 comment \"net1 other eth0\" }'");
        let before = lab.snapshot();
        let ran = node.rscni(&["repair"]);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stdout.contains("net1 other eth0"), "{ran:?}");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_dry_run_changes_nothing() {
    rscni_test::run(|lab| {
        let node = Node::new(lab);
        node.network(1, &bridge(1, NFTABLES), &chained(NFTABLES, "same-bridge"));
        node.add(1, "a", 8080);
        sh("nft flush ruleset");
        let before = lab.snapshot();
        let ran = node.succeeds(&["repair", "--dry-run", "net1"]);
        for plugin in ["bridge", "portmap", "firewall"] {
            assert!(ran.stdout.contains(&format!("missing   net1 a/eth0: {plugin}: ")), "{ran:?}");
        }
        lab.assert_unchanged_since(&before);
    });
}
