//! The pod network with packets: nodes are namespaces on two segments with a router between them,
//! and pods are attached with the network list that the daemon writes.

mod cluster;
mod failures;
mod kills;
mod probes;
mod running;

use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
};

use cluster::{Cluster, FLANNEL_MAC, ip};
use rscni_test::eventually;
use rscnid::podnet::{NodeInfo, Problem, node::PREFIX};

/// Pods reach pods and nodes with full-size packets in both directions, over plain routes and
/// VXLAN.
fn assert_connected(cluster: &Cluster) {
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            for address in cluster.pod_addresses(to) {
                let server = cluster.pods[to].serve_tcp(8080);
                let target = std::net::SocketAddr::new(address, server.port());
                let answer = cluster.pods[from].tcp(target);
                answer.assert_by(&server);
                let own = cluster.pod_addresses(from);
                assert!(own.contains(&answer.seen_as), "masqueraded as {}", answer.seen_as);
            }
        }
    }
}

#[test]
fn pods_reach_pods_of_other_nodes_over_plain_routes_and_vxlan() {
    rscni_test::run(|lab| {
        let cluster = Cluster::start(lab);
        let routes = ip(&cluster.nodes[0], "route show proto 82");
        assert!(routes.contains("10.244.1.0/24 via 192.168.0.12 dev eth0"), "{routes}");
        assert!(routes.contains("10.244.2.0/24 via 10.244.2.0 dev flannel.1 scope 26"), "{routes}");
        let routes = ip(&cluster.nodes[0], "-6 route show proto 82");
        assert!(routes.contains("fd01:0:0:1::/64 via fd00:0:0:a::12 dev eth0"), "{routes}");
        assert!(routes.contains("fd01:0:0:2::/64 via fd01:0:0:2:: dev flannel-v6.1"), "{routes}");
        let link = ip(&cluster.nodes[0], "-d link show flannel.1");
        assert!(link.contains("vxlan id 1 local 192.168.0.11 dev eth0"), "{link}");
        assert!(link.contains("dstport 8472 nolearning") && link.contains("mtu 1450"), "{link}");
        assert_connected(&cluster);
        // Packets that leave the cluster have the address of the node.
        let server = cluster.router.serve_tcp(9090);
        let outside = std::net::SocketAddr::new("192.168.0.1".parse().unwrap(), server.port());
        let answer = cluster.pods[0].tcp(outside);
        assert_eq!(answer.seen_as, "192.168.0.11".parse::<std::net::IpAddr>().unwrap());
    });
}

#[test]
fn second_daemon_finds_nothing_to_change() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let before = lab.snapshot();
        for node in 0..3 {
            let daemon = cluster.restart(node);
            assert_eq!(daemon.counts.corrections, 0, "node {node}");
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn removed_state_is_restored_from_notifications() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let before = lab.snapshot();
        let node = cluster.nodes[0].path().to_owned();
        let in_node = |command: &str| {
            let node = rscni_linux::Netns::open(&node).unwrap();
            node.enter(|| cluster::sh(command)).unwrap();
        };
        for command in [
            "ip route flush proto 82",
            "ip -6 route flush proto 82",
            "ip route del 10.244.1.0/24",
            "bridge fdb del $(bridge fdb show dev flannel.1 | head -1 | cut -d' ' -f1) dev flannel.1",
            "ip neigh flush dev flannel.1 nud permanent",
            "ip link set flannel.1 mtu 1300",
            "ip link set flannel.1 address 02:00:00:00:00:99",
            "ip link del flannel.1",
            "ip link set eth0 down; ip link set eth0 up; ip route replace default via 192.168.0.1; \
             ip -6 addr replace fd00:0:0:a::11/64 dev eth0 nodad; \
             ip -6 route replace default via fd00:0:0:a::1",
            // As systemd-networkd: foreign routes and addresses of its links, and all rules.
            "for family in -4 -6; do ip $family route show | grep -e 'dev eth0' -e 'dev flannel' \
             | grep -v -e 'proto kernel' -e ^default \
             | while read route; do ip $family route del $route; done; done; \
             ip addr flush dev flannel.1; ip rule flush; ip -6 rule flush; \
             for family in -4 -6; do ip $family rule add lookup main pref 32766; done; \
             ip rule add lookup default pref 32767",
            "nft flush ruleset",
            "nft flush set inet rscnid nodes4",
            "nft flush chain inet rscnid from_pods",
        ] {
            in_node(command);
            cluster.notice(0);
            // The flushed tables of the plugins belong to attachments.
            let ours = |change: &String| {
                !change.replace("inet rscnid", "").contains("inet rscni")
                    && !change.contains("fe80::")
            };
            eventually(command, || {
                cluster.notice(0);
                let changes = before.changes_to(&lab.snapshot());
                (!changes.iter().any(ours)).then_some(())
            });
        }
    });
}

#[test]
fn foreign_route_is_reported_and_kept() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::build(lab);
        ip(&cluster.nodes[0], "route add 10.244.1.0/24 via 192.168.0.1 metric 0");
        cluster.run();
        let routes = ip(&cluster.nodes[0], "route show 10.244.1.0/24");
        assert_eq!(routes.trim(), "10.244.1.0/24 via 192.168.0.1 dev eth0");
        let names = |cluster: &Cluster| {
            let problems = cluster.daemons[0].as_ref().unwrap().problems();
            problems.map(|problem| problem.reason.name()).collect::<Vec<_>>()
        };
        assert_eq!(names(&cluster), ["RefusedByKernel"]);
        ip(&cluster.nodes[0], "route del 10.244.1.0/24");
        cluster.notice(0);
        assert_eq!(names(&cluster), [""; 0]);
        let routes = ip(&cluster.nodes[0], "route show 10.244.1.0/24");
        assert!(routes.contains("via 192.168.0.12") && routes.contains("proto 82"), "{routes}");
    });
}

#[test]
fn more_foreign_routes_than_the_receive_buffer_has_room_for_are_reported() {
    const NODES: std::ops::Range<usize> = 3..600;
    rscni_test::run(|lab| {
        let cluster = Cluster::build(lab);
        let objects: Vec<NodeInfo> = (0..NODES.end).map(cluster::node).collect();
        for object in &objects[NODES] {
            let net = object.pod_cidrs.v4.unwrap();
            ip(&cluster.nodes[0], &format!("route add {net} via 192.168.0.1"));
        }
        let daemon = cluster.nodes[0].run(|| cluster::synchronize(lab.dir(), 0, objects));
        let refused = daemon.problems().filter(|it| it.reason.name() == "RefusedByKernel").count();
        assert_eq!(refused, NODES.len());
        let routes = ip(&cluster.nodes[0], "-6 route show proto 82");
        assert!(routes.lines().count() >= NODES.len(), "{routes}");
    });
}

/// Chains of a host that drop forwarded packets: by policy, and by their last rule.
const DROPPING: &str = "
    iptables -P FORWARD DROP
    ip6tables -P FORWARD DROP
    iptables -A FORWARD -i lo -j ACCEPT
    nft add table inet host
    nft add chain inet host forward '{ type filter hook forward priority 10; policy drop; }'
    nft add table ip6 host
    nft add chain ip6 host forward '{ type filter hook forward priority 20; }'
    nft add rule ip6 host forward iif lo accept
    nft add rule ip6 host forward counter reject";

#[test]
fn forwarded_packets_of_pods_pass_chains_that_drop() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::build(lab);
        cluster.nodes.iter().for_each(|node| drop(node.run(|| cluster::sh(DROPPING))));
        cluster.run();
        cluster.attach(lab);
        assert_connected(&cluster);
        let list = std::fs::read_to_string(lab.dir().join("node0/10-rscni.conflist")).unwrap();
        assert!(!list.contains("firewall"), "{list}");
        // iptables can read the rule.
        for iptables in ["iptables", "ip6tables"] {
            let rules = cluster.nodes[0].run(|| cluster::sh(&format!("{iptables} -S FORWARD")));
            let rule =
                "-m mark --mark 0x1000/0x1000 -m comment --comment \"rscnid: pods\" -j ACCEPT";
            assert!(rules.contains(rule), "{rules}");
        }
        // The rule that rejects everything stays the last one.
        let chain = cluster.nodes[0].run(|| cluster::sh("nft list chain ip6 host forward"));
        let end = chain.lines().rfind(|line| line.starts_with("\t\t"));
        assert!(end.is_some_and(|rule| rule.contains("reject")), "{chain}");
    });
}

#[test]
fn node_ports_lead_to_pods_of_all_nodes_past_chains_that_drop() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::build(lab);
        cluster.nodes[0].run(|| cluster::sh(DROPPING));
        cluster.run();
        cluster.attach(lab);
        // As kube-proxy does with nftables.
        cluster.nodes[0].run(|| {
            cluster::sh(
                "nft add table inet ports
                nft add chain inet ports in '{ type nat hook prerouting priority dstnat; }'
                nft add chain inet ports out '{ type nat hook postrouting priority srcnat; }'
                nft add rule inet ports out ct status dnat masquerade",
            )
        });
        let mut port = 30000;
        for number in 0..3 {
            for pod in cluster.pod_addresses(number) {
                port += 1;
                let (family, node) =
                    if pod.is_ipv4() { ("ip", "192.168.0.11") } else { ("ip6", "fd00:0:0:a::11") };
                let server = cluster.pods[number].serve_tcp(8080);
                let to = std::net::SocketAddr::new(pod, server.port());
                let rule = format!("tcp dport {port} dnat {family} to {to}");
                cluster.nodes[0].run(|| cluster::sh(&format!("nft add rule inet ports in {rule}")));
                let node: std::net::IpAddr = node.parse().unwrap();
                let answer = cluster.router.tcp(std::net::SocketAddr::new(node, port));
                answer.assert_by(&server);
            }
        }
    });
}

#[test]
fn acceptance_is_restored_from_notifications_and_changes_nothing_else() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        // Chains that appear while the daemon runs.
        cluster.nodes.iter().for_each(|node| drop(node.run(|| cluster::sh(DROPPING))));
        (0..3).for_each(|node| cluster.notice(node));
        assert_connected(&cluster);
        let before = lab.snapshot();
        for command in [
            "iptables -F FORWARD; iptables -A FORWARD -i lo -j ACCEPT",
            "nft flush chain inet host forward",
            "nft flush chain inet rscnid mark_forwarded",
            "nft delete rule ip6 host forward handle $(nft -a list chain ip6 host forward \
             | sed -n 's/.*rscnid: pods.* handle //p')",
            "iptables -P FORWARD ACCEPT; iptables -P FORWARD DROP",
        ] {
            cluster.nodes[0].run(|| cluster::sh(command));
            cluster.notice(0);
            let changes = before.changes_to(&lab.snapshot());
            assert_eq!(changes, [""; 0], "after {command}");
        }
        // Chains without packets of pods stay as they are.
        let bridged = "type filter hook forward priority 0; policy drop;";
        cluster.nodes[0].run(|| {
            cluster::sh("nft add table bridge host");
            cluster::sh(&format!("nft add chain bridge host forward '{{ {bridged} }}'"))
        });
        cluster.notice(0);
        let chain = cluster.nodes[0].run(|| cluster::sh("nft list chain bridge host forward"));
        assert!(!chain.contains("rscnid"), "{chain}");
        // The rules of a chain that no longer drops are removed.
        cluster.nodes[0].run(|| cluster::sh("iptables -P FORWARD ACCEPT"));
        cluster.notice(0);
        let rules = cluster.nodes[0].run(|| cluster::sh("iptables -S FORWARD"));
        assert_eq!(rules, "-P FORWARD ACCEPT\n-A FORWARD -i lo -j ACCEPT\n");
    });
}

#[test]
fn chain_of_a_program_that_owns_its_table_is_reported() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::build(lab);
        let mut owner = cluster.nodes[0].run(|| {
            let mut nft = Command::new("nft");
            nft.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
        });
        let chain = "add table inet held { flags owner; chain forward { \
                     type filter hook forward priority 0; policy drop; }; }\n";
        owner.stdin.as_mut().unwrap().write_all(chain.as_bytes()).unwrap();
        eventually("the table", || {
            let tables = cluster.nodes[0].run(|| cluster::sh("nft list tables"));
            tables.contains("inet held").then_some(())
        });
        cluster.run();
        let daemon = cluster.daemons[0].as_ref().unwrap();
        let dropping = |problem: &Problem| problem.reason.name() == "ForwardingDropped";
        assert!(daemon.problems().any(|it| dropping(&it)), "the chain is not reported");
        // The plugin may be able to do more, for example with firewalld.
        let list = std::fs::read_to_string(lab.dir().join("node0/10-rscni.conflist")).unwrap();
        assert!(list.contains("firewall"), "{list}");
        // The table ends with its owner.
        drop(owner.stdin.take());
        owner.wait().unwrap();
    });
}

#[test]
fn flannel_device_is_adopted_with_its_address() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::build(lab);
        ip(
            &cluster.nodes[0],
            "link add flannel.1 address 7e:5c:aa:04:11:02 mtu 1450 type vxlan id 1 \
             local 192.168.0.11 dev eth0 dstport 8472 nolearning",
        );
        ip(&cluster.nodes[0], "addr add 10.244.0.0/32 dev flannel.1");
        ip(&cluster.nodes[0], "link set flannel.1 up");
        ip(&cluster.nodes[0], "route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink");
        let index =
            |cluster: &Cluster| cluster.nodes[0].netlink().link_by_name("flannel.1").unwrap().index;
        let before = index(&cluster);
        cluster.run();
        cluster.attach(lab);
        assert_eq!(index(&cluster), before);
        let annotations = cluster.daemons[0].as_ref().unwrap().annotations().unwrap();
        let data = &annotations["flannel.alpha.coreos.com/backend-data"];
        assert!(data.contains(FLANNEL_MAC), "{data}");
        assert_connected(&cluster);
    });
}

#[test]
fn bridge_and_network_name_of_another_pod_network_are_adopted() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::build(lab);
        ip(&cluster.nodes[0], "link add cni0 mtu 1400 type bridge");
        ip(&cluster.nodes[0], "addr add 10.244.0.1/24 dev cni0");
        let leases = lab.dir().join("node0/networks/cbr0");
        std::fs::create_dir_all(&leases).unwrap();
        std::fs::write(leases.join("10.244.0.2"), "id\r\neth0").unwrap();
        cluster.run();
        cluster.attach(lab);
        let read = || -> serde_json::Value {
            let list = std::fs::read(lab.dir().join("node0/10-rscni.conflist")).unwrap();
            serde_json::from_slice(&list).unwrap()
        };
        let list = read();
        assert_eq!(list["name"], "cbr0");
        assert_eq!(list["plugins"][0]["bridge"], "cni0");
        assert_eq!(list["plugins"][0]["mtu"], 1400);
        assert_connected(&cluster);
        // Answers between ports of the bridge have to pass netfilter.
        for (value, problems) in [("0", &["BridgeNotFiltered"][..]), ("1", &[])] {
            for family in ["ip", "ip6"] {
                let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
                cluster.nodes[0].run(|| std::fs::write(file, value)).unwrap();
            }
            let daemon = cluster.restart(0);
            let names: Vec<_> = daemon.problems().map(|problem| problem.reason.name()).collect();
            assert_eq!(names, problems);
            assert!(!daemon.condition().unwrap().is_unavailable);
        }
        // Without the bridge, pods need none. The name stays, also for the next daemon.
        ip(&cluster.nodes[0], "link del cni0");
        cluster.notice(0);
        std::fs::remove_file(leases.join("10.244.0.2")).unwrap();
        cluster.restart(0);
        let list = read();
        assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&"cbr0".into(), &"ptp".into()));
    });
}

#[test]
fn annotations_of_flanneld_are_replaced_if_no_tunnel_is_needed() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        cluster.remove_node(2);
        let mut published = |annotations: &BTreeMap<String, String>| {
            let own = NodeInfo::read("node0", ["10.244.0.0/24"], ["192.168.0.11"], annotations);
            let daemon = cluster.daemons[0].as_mut().unwrap();
            cluster.nodes[0].run(|| daemon.set(own)).unwrap();
            daemon.annotations()
        };
        let data = format!(r#"{{"VNI":1,"VtepMAC":"{FLANNEL_MAC}"}}"#);
        let of_flanneld = [("backend-type", "vxlan"), ("public-ip", "192.168.0.11")];
        let of_flanneld = of_flanneld.into_iter().chain([("backend-data", &*data)]);
        let of_flanneld =
            of_flanneld.map(|(key, value)| (format!("{PREFIX}{key}"), value.to_owned())).collect();
        let replaced = published(&of_flanneld).expect("annotations");
        assert!(!NodeInfo::read("node0", [], [], &replaced).tunnel_only, "{replaced:?}");
        assert_eq!(published(&replaced), None);
    });
}

#[test]
fn plain_routes_become_tunnels_for_a_node_that_changes_to_flannel() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let data = |mac: &str| format!(r#"{{"VNI":1,"VtepMAC":"{mac}"}}"#);
        let annotations = [
            ("backend-type", "vxlan".to_owned()),
            ("public-ip", "192.168.0.12".to_owned()),
            ("backend-data", data(FLANNEL_MAC)),
            ("public-ipv6", "fd00:0:0:a::12".to_owned()),
            ("backend-v6-data", data("7e:5c:aa:04:11:03")),
        ];
        let annotations =
            annotations.into_iter().map(|(key, value)| (format!("{PREFIX}{key}"), value)).collect();
        let nets = ["10.244.1.0/24", "fd01:0:0:1::/64"];
        let addresses = ["192.168.0.12", "fd00:0:0:a::12"];
        let other = NodeInfo::read("node1", nets, addresses, &annotations);
        let daemon = cluster.daemons[0].as_mut().unwrap();
        cluster.nodes[0].run(|| daemon.set(other)).unwrap();
        for (family, net, device) in [(4, nets[0], "flannel.1"), (6, nets[1], "flannel-v6.1")] {
            let route = ip(&cluster.nodes[0], &format!("-{family} route show {net}"));
            assert!(route.contains(&format!("dev {device}")), "{route}");
        }
    });
}

#[test]
fn node_event_sends_as_many_messages_with_many_nodes() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        cluster.add_nodes(3..300);
        let syncs = cluster.daemons[0].as_ref().unwrap().counts.syncs;
        cluster.add_nodes(300..301);
        let routes = ip(&cluster.nodes[0], "route show 10.245.45.0/24");
        assert!(routes.contains("proto 82"), "{routes}");
        cluster.remove_node(300);
        assert_eq!(ip(&cluster.nodes[0], "route show 10.245.45.0/24"), "");
        // No complete comparison, which lists everything, was made.
        assert_eq!(cluster.daemons[0].as_ref().unwrap().counts.syncs, syncs);
    });
}
