//! Known failures of pod networks: changes by other programs, and nodes that come back different.

use std::net::IpAddr;

use rscni_test::eventually;
use rscnid::podnet::{Both, NodeInfo};

use crate::{
    assert_connected,
    cluster::{Cluster, ip, node, sh},
};

/// The forwarding entries and neighbours on the VXLAN device of a node.
fn entries(cluster: &Cluster, number: usize) -> (Vec<String>, Vec<String>) {
    let list = |command: &str| {
        let text = cluster.nodes[number].run(|| sh(command));
        text.lines().map(|line| line.trim().to_owned()).collect()
    };
    (
        list("bridge fdb show dev flannel.1"),
        list("ip -4 neighbour show dev flannel.1 nud permanent"),
    )
}

fn mac(cluster: &Cluster, number: usize) -> String {
    let link = cluster.nodes[number].netlink().link_by_name("flannel.1").unwrap();
    link.mac.unwrap().to_string()
}

#[test]
fn hardware_address_that_changes_while_no_daemon_runs_is_restored() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let published = mac(&cluster, 0);
        cluster.daemons[0] = None;
        ip(&cluster.nodes[0], "link set flannel.1 address 02:00:00:00:00:99");
        cluster.restart(0);
        assert_eq!(mac(&cluster, 0), published);
        assert_connected(&cluster);
    });
}

#[test]
fn overwritten_annotations_are_noticed() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let object = cluster.object(0);
        let mut is_overwritten = |object: &NodeInfo| {
            cluster.set_object(object);
            cluster.daemons[0].as_mut().unwrap().take_overwritten()
        };
        // What the test has published before counts too.
        is_overwritten(&object);
        let address = NodeInfo { faults: vec!["a fault".to_owned()], ..object.clone() };
        assert!(!is_overwritten(&address));
        assert!(is_overwritten(&NodeInfo { tunnel_only: true, ..object.clone() }));
        assert!(!is_overwritten(&object));
        assert!(is_overwritten(&NodeInfo { tunnels: Both::default(), ..object }));
    });
}

#[test]
fn entries_of_a_node_that_comes_back_different_are_replaced() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let old_mac = mac(&cluster, 2);
        // Its network is new: another address, and a device of which it has published nothing.
        cluster.daemons[2] = None;
        let object = cluster.object(2);
        let v4: IpAddr = [192, 168, 1, 77].into();
        ip(&cluster.nodes[2], "link del flannel.1");
        ip(&cluster.nodes[2], "addr del 192.168.1.13/24 dev eth0");
        ip(&cluster.nodes[2], "addr add 192.168.1.77/24 dev eth0");
        ip(&cluster.nodes[2], "route replace default via 192.168.1.1");
        ip(
            &cluster.nodes[2],
            "link add flannel.1 address 02:00:00:00:00:77 type vxlan id 1 local 192.168.1.77 \
             dev eth0 dstport 8472 nolearning",
        );
        cluster.set_object(&NodeInfo {
            addresses: Both { v4: Some(v4), ..object.addresses },
            tunnels: Both::default(),
            ..object
        });
        cluster.restart(2);
        cluster.publish();
        assert_ne!(mac(&cluster, 2), old_mac);
        let (forwarding, neighbours) = entries(&cluster, 0);
        assert_eq!(forwarding, ["02:00:00:00:00:77 dst 192.168.1.77 self permanent"]);
        assert_eq!(neighbours, ["10.244.2.0 lladdr 02:00:00:00:00:77 PERMANENT"]);
        assert_connected(&cluster);
    });
}

#[test]
fn node_moves_to_another_address_at_run_time() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let routes = |cluster: &Cluster| ip(&cluster.nodes[0], "route show proto 82");
        let before = routes(&cluster);
        let object = cluster.object(0);
        let v4: IpAddr = [192, 168, 0, 99].into();
        // The API server is ahead of the interface.
        cluster.set_object(&NodeInfo {
            addresses: Both { v4: Some(v4), ..object.addresses },
            ..object
        });
        assert_eq!(routes(&cluster), before);
        let problem = "Node node0: no interface has the InternalIP of the Node; 192.168.0.11 stays \
                       in use";
        assert_eq!(cluster.problems(0), [problem]);
        ip(&cluster.nodes[0], "addr add 192.168.0.99/32 dev eth0");
        cluster.notice(0);
        assert_eq!(cluster.problems(0), [""; 0]);
        let link = ip(&cluster.nodes[0], "-d link show flannel.1");
        assert!(link.contains("local 192.168.0.99 "), "{link}");
        let annotations = cluster.daemon(0).annotations().unwrap();
        assert_eq!(annotations["flannel.alpha.coreos.com/public-ip"], "192.168.0.99");
        cluster.publish();
        ip(&cluster.nodes[0], "addr add 192.168.0.99/24 dev eth0");
        ip(
            &cluster.nodes[0],
            "addr del 192.168.0.11/24 dev eth0; ip addr add 192.168.0.99/24 dev eth0 || true; \
             ip addr del 192.168.0.99/32 dev eth0; ip route replace default via 192.168.0.1",
        );
        eventually("restore the routes", || {
            cluster.notice(0);
            (routes(&cluster) == before).then_some(())
        });
        assert_connected(&cluster);
        let (forwarding, _) = entries(&cluster, 2);
        assert!(forwarding.iter().any(|line| line.contains("dst 192.168.0.99")), "{forwarding:?}");
        assert!(!forwarding.iter().any(|line| line.contains("dst 192.168.0.11")), "{forwarding:?}");
    });
}

#[test]
fn second_interface_with_the_default_route_is_no_uplink() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        let before = ip(&cluster.nodes[0], "route show proto 82; ip -d link show flannel.1");
        let corrections = cluster.daemon(0).counts.corrections;
        ip(
            &cluster.nodes[0],
            "link add eth1 type veth peer name far1; ip link set eth1 up; ip link set far1 up; \
             ip addr add 172.16.0.11/24 dev eth1; ip route replace default via 172.16.0.1",
        );
        cluster.notice(0);
        assert_eq!(cluster.daemon(0).counts.corrections, corrections);
        assert_eq!(cluster.restart(0).counts.corrections, 0);
        let after = ip(&cluster.nodes[0], "route show proto 82; ip -d link show flannel.1");
        assert_eq!(after, before);
        let annotations = cluster.daemon(0).annotations().unwrap();
        assert_eq!(annotations["flannel.alpha.coreos.com/public-ip"], "192.168.0.11");
    });
}

#[test]
fn device_with_other_parameters_is_replaced() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        for parameters in [
            "id 7 local 192.168.0.11 dev eth0 dstport 8472 nolearning",
            "id 1 local 192.168.0.11 dev eth0 dstport 4789 nolearning",
            "id 1 local 192.168.0.200 dev eth0 dstport 8472 nolearning",
            "id 1 local 192.168.0.11 dstport 8472 nolearning",
            "id 1 local 192.168.0.11 dev eth0 dstport 8472 learning",
        ] {
            ip(&cluster.nodes[0], "link del flannel.1");
            ip(&cluster.nodes[0], &format!("link add flannel.1 type vxlan {parameters}"));
            cluster.notice(0);
            let link = ip(&cluster.nodes[0], "-d link show flannel.1");
            let wanted = "vxlan id 1 local 192.168.0.11 dev eth0";
            assert!(link.contains(wanted) && link.contains("dstport 8472 nolearning"), "{link}");
        }
        assert_connected(&cluster);
    });
}

#[test]
fn device_in_the_way_is_reported_and_plain_routes_work() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        for (name, kind, problem) in [
            ("flannel.1", "bridge", "flannel.1 is not a VXLAN device; rename or remove it"),
            (
                "vxlan7",
                "vxlan id 1 local 192.168.0.11 dev eth0 dstport 8472 nolearning",
                "remove the other device with VNI 1 and port 8472",
            ),
        ] {
            let command = format!("link del flannel.1; ip link add {name} type {kind}");
            ip(&cluster.nodes[0], &command);
            let error = cluster.try_notice(0).unwrap_err().to_string();
            assert!(error.ends_with(problem), "{error}");
            assert_eq!(cluster.problems(0), [format!("Node node0: {error}")]);
            assert!(cluster.daemon(0).is_behind());
            let routes = ip(&cluster.nodes[0], "route show proto 82");
            assert!(routes.contains("10.244.1.0/24 via 192.168.0.12 dev eth0"), "{routes}");
            ip(&cluster.nodes[0], &format!("link del {name}"));
            cluster.notice(0);
            assert_eq!(cluster.problems(0), [""; 0]);
        }
        assert_connected(&cluster);
    });
}

#[test]
fn list_after_missed_events_leads_to_the_same_state() {
    rscni_test::run(|lab| {
        let mut cluster = Cluster::start(lab);
        cluster.add_nodes(3..6);
        // The watch has expired. Node 4 is gone, and node 2 has moved.
        let mut nodes: Vec<NodeInfo> = (0..3).map(|number| cluster.object(number)).collect();
        nodes.extend([3, 5, 6].map(node));
        let tunnel = nodes[2].tunnels.v4.as_mut().unwrap();
        tunnel.endpoint = [192, 168, 1, 44].into();
        let daemon = cluster.daemons[0].as_mut().unwrap();
        let status = cluster.nodes[0].run(|| {
            daemon.replace(nodes).unwrap();
            daemon.status().unwrap()
        });
        for remark in ["MISSING", "the kernel has", "NOT WANTED", "10.244.4.0/24"] {
            assert!(!status.contains(remark), "{status}");
        }
        assert!(status.contains("at 192.168.1.44"), "{status}");
        assert!(status.contains("route to 10.244.6.0/24, via 192.168.0.26"), "{status}");
    });
}
