//! Probes between daemons: blocked tunnels, and wrong checksums.

use std::time::Duration;

use rscni_test::eventually;
use rscnid::podnet::NodeInfo;

use crate::cluster::{Cluster, sh};

/// Lets time pass, in which the daemons send and answer probes.
fn pass(cluster: &mut Cluster, time: &mut Duration, seconds: u64) {
    let end = *time + Duration::from_secs(seconds);
    while *time < end {
        let now = *time;
        cluster.each(|daemon| {
            daemon.probe_in(now);
            daemon.probe(now);
        });
        // Those that were asked answer before those that asked read the answers.
        for _ in 0..2 {
            cluster.each(|daemon| daemon.answer_probes(now));
        }
        *time += Duration::from_secs(1);
    }
}

/// Drops packets of VXLAN between the segments.
pub(crate) const BLOCKED: &str = "
    nft add table ip blocked
    nft add chain ip blocked forward '{ type filter hook forward priority 0; }'
    nft add rule ip blocked forward udp dport 8472 drop";

fn on_router(cluster: &Cluster, script: &str) {
    cluster.router.run(|| sh(script));
}

const UNREACHABLE: &str = "Node node2: no answer from 192.168.1.13 over VXLAN; allow UDP port 8472 \
                           between nodes, and UDP port 9472 on the VXLAN device";

#[test]
fn blocked_port_of_vxlan_is_reported_until_it_is_open() {
    rscni_test::run(|lab| {
        let (mut cluster, mut time) = (Cluster::build(lab), Duration::ZERO);
        cluster.nodes[0].run(|| sh("echo 1 > /proc/sys/net/ipv6/bindv6only"));
        cluster.run();
        pass(&mut cluster, &mut time, 30);
        assert_eq!(cluster.problems(0), [""; 0]);
        assert_eq!(cluster.problems(2), [""; 0]);
        on_router(&cluster, BLOCKED);
        pass(&mut cluster, &mut time, 400);
        assert_eq!(cluster.problems(0), [UNREACHABLE]);
        assert_eq!(cluster.problems(1), [UNREACHABLE]);
        assert_eq!(cluster.problems(2).len(), 2);
        assert_eq!(cluster.daemon(0).unreachable(), 1);
        let daemon = cluster.daemons[0].as_mut().unwrap();
        let status = cluster.nodes[0].run(|| daemon.status().unwrap());
        assert!(status.contains("PROBLEM: no answer from 192.168.1.13"), "{status}");
        on_router(&cluster, "nft delete table ip blocked");
        eventually("the tunnel is open", || {
            pass(&mut cluster, &mut time, 60);
            (0..3).all(|node| cluster.problems(node).is_empty()).then_some(())
        });
    });
}

#[test]
fn node_of_flannel_is_not_probed() {
    rscni_test::run(|lab| {
        let (mut cluster, mut time) = (Cluster::start(lab), Duration::ZERO);
        pass(&mut cluster, &mut time, 30);
        cluster.daemons[2] = None;
        let object = cluster.object(2);
        cluster.set_object(&NodeInfo { tunnel_only: true, ..object });
        pass(&mut cluster, &mut time, 400);
        assert_eq!(cluster.problems(0), [""; 0]);
        // Now one of ours that does not run.
        let object = cluster.object(2);
        cluster.set_object(&NodeInfo { tunnel_only: false, ..object });
        pass(&mut cluster, &mut time, 30);
        assert_eq!(cluster.daemon(0).unreachable(), 2);
    });
}

/// The sum of the pseudo header of a UDP datagram of 8 bytes: what the kernel leaves in the field
/// of the checksum for hardware to complete.
fn uncomputed_checksum(source: [u8; 4], destination: [u8; 4]) -> u16 {
    let words = [source, destination].concat();
    let words = words.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>() + 17 + 16;
    u16::try_from((sum & 0xffff) + (sum >> 16)).expect("a sum without carry")
}

#[test]
fn checksums_that_hardware_does_not_compute_are_computed() {
    rscni_test::run(|lab| {
        let (mut cluster, mut time) = (Cluster::start(lab), Duration::ZERO);
        // The headers of UDP, VXLAN, Ethernet and IP precede the field.
        let offset = (8 + 8 + 14 + 20 + 6) * 8;
        let wrong = [[10, 244, 0, 0], [10, 244, 1, 0]]
            .map(|source| uncomputed_checksum(source, [10, 244, 2, 0]).to_string());
        let script = format!(
            "nft delete table ip hardware 2>/dev/null || true
            nft add table ip hardware
            nft add chain ip hardware forward '{{ type filter hook forward priority 0; }}'
            nft add rule ip hardware forward udp dport 8472 @th,{offset},16 {{ {} }} counter drop",
            wrong.join(", ")
        );
        on_router(&cluster, &script);
        eventually("all probes are answered", || {
            pass(&mut cluster, &mut time, 60);
            (0..3).all(|node| cluster.problems(node).is_empty()).then_some(())
        });
        let rules =
            |cluster: &Cluster| cluster.router.run(|| sh("nft list chain ip hardware forward"));
        assert!(!rules(&cluster).contains("packets 0 "), "nothing was dropped");
        // From now on, none is left to hardware.
        on_router(&cluster, &script);
        pass(&mut cluster, &mut time, 400);
        assert!(rules(&cluster).contains("packets 0 "), "{}", rules(&cluster));
    });
}
