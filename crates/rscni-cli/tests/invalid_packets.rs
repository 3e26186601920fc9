//! `ipMasq` drops packets that connection tracking calls invalid, so that they do not leave with
//! the container's address.

mod support;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use rscni_test::{Lab, Namespace};
use rstest::rstest;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use serde_json::{Value, json};

use support::{
    Attached, IPTABLES, NFTABLES, Network, V4, V6, host_local, nft,
    outside::{OUTSIDE, outside},
};

/// Opens a raw socket for TCP. `UdpSocket` works for any datagram socket.
fn raw(namespace: &Namespace, v4: bool) -> UdpSocket {
    let family = if v4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let open = || socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::TCP));
    let socket: UdpSocket = namespace.run(|| open().unwrap()).into();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Encodes a TCP RST without a connection.
fn reset(from: IpAddr, to: IpAddr) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&4000_u16.to_be_bytes());
    segment[2..4].copy_from_slice(&80_u16.to_be_bytes());
    (segment[12], segment[13]) = (5 << 4, 4);
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let pseudo = [octets(from), octets(to), vec![0, 6, 0, 20], segment.clone()].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

/// Returns the source addresses of the resets that these containers send, as seen outside. It waits
/// for the reset of the last container.
fn seen_from(outside: &Namespace, containers: &[&Attached], v4: bool) -> Vec<IpAddr> {
    let listener = raw(outside, v4);
    let to: IpAddr = OUTSIDE[usize::from(!v4)].parse().unwrap();
    let last = containers.last().unwrap().address(v4);
    let mut seen = Vec::new();
    rscni_test::eventually("the reset of the last container", || {
        for container in containers {
            let segment = reset(container.address(v4), to);
            raw(container, v4).send_to(&segment, SocketAddr::new(to, 0)).unwrap();
        }
        let mut buffer = [0; 200];
        while let Ok((_, from)) = listener.recv_from(&mut buffer) {
            seen.push(from.ip());
        }
        seen.contains(&last).then_some(())
    });
    seen.dedup();
    seen
}

fn network(lab: &Lab, plugin: &str, number: u8, keys: &Value) -> Network {
    let mut ipam = host_local(&[&format!("10.{number}.0.0/24"), &format!("fd0{number}::/64")]);
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let own = json!({
        "name": format!("net{number}"), "bridge": format!("br{number}"), "isGateway": true, "ipam": ipam,
    });
    Network::new(lab, plugin, &own).with(keys)
}

/// Lists the chain that drops these packets.
fn rules() -> String {
    nft("list chain inet rscni masquerading-invalid")
}

/// Number of packets that the rule for this set has dropped.
fn dropped(set: &str) -> u64 {
    let text = rules();
    let rule = text.lines().find(|line| line.contains(&format!("@{set} ")));
    let rule = rule.unwrap_or_else(|| panic!("no rule for {set}: {text}"));
    let mut words = rule.split(' ').skip_while(|word| *word != "packets").skip(1);
    words.next().unwrap().parse().unwrap()
}

#[rstest]
fn invalid_packets_are_dropped(
    #[values("bridge", "ptp")] plugin: &str,
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values(true, false)] v4: bool,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let keys = json!({ "ipMasq": true, "ipMasqBackend": backend });
        let masqueraded = network(lab, plugin, 1, &keys).attach(lab, "masqueraded");
        let plain = network(lab, plugin, 2, &json!({})).attach(lab, "plain");
        let set = match (backend, v4) {
            (NFTABLES, true) => "masquerade4",
            (NFTABLES, false) => "masquerade6",
            (_, true) => "masquerade4-net-24",
            (_, false) => "masquerade6-net-64",
        };
        assert_eq!(dropped(set), 0);
        // The packet passes if the address is not masqueraded.
        assert_eq!(seen_from(&outside, &[&masqueraded, &plain], v4), [plain.address(v4)]);
        assert!(dropped(set) > 0);
        masqueraded.check().success();
        // Valid packets pass.
        let server = outside.serve_tcp(8080);
        let target = OUTSIDE[usize::from(!v4)];
        let target = if v4 { format!("{target}:8080") } else { format!("[{target}]:8080") };
        masqueraded.tcp(&target).assert_by(&server);
        plain.tcp(&target).assert_by(&server);
        masqueraded.del().success();
        plain.del().success();
    });
}

#[test]
fn an_address_is_free_again_after_del() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let net = network(lab, "bridge", 1, &json!({ "ipMasq": true }));
        let fixed = json!({ "ipam": support::fixed(&[("10.1.0.9/24", "10.1.0.1")]), "isDefaultGateway": true });
        let net = net.with(&fixed);
        let first = net.attach(lab, "first");
        first.del().success();
        let other = net.with(&json!({ "ipMasq": false })).attach(lab, "other");
        assert_eq!(seen_from(&outside, &[&other], true), [other.v4()]);
    });
}

#[rstest]
#[case::without_the_rules("without the rules")]
#[case::without_a_table("delete table inet rscni")]
fn the_next_add_adds_the_rules_to_a_table_of_an_older_version(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[case] as_before: &str,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let net = network(lab, "bridge", 1, &json!({ "ipMasq": true, "ipMasqBackend": backend }));
        let old = net.attach(lab, "old");
        let sets = ["masquerade-drops-invalid", "masquerade4-net-24", "masquerade6-net-64"];
        let without_the_rules = sets
            .iter()
            .filter(|set| backend == IPTABLES || set.ends_with("invalid"))
            .fold("delete chain inet rscni masquerading-invalid".to_owned(), |all, set| {
                format!("{all}; delete set inet rscni {set}")
            });
        let as_before = if as_before.contains("table") { as_before } else { &without_the_rules };
        nft(as_before);
        if !as_before.contains("table") {
            // The attachment of the older version is unchanged.
            old.check().success();
            assert_eq!(seen_from(&outside, &[&old], true), [old.v4()]);
        }
        let new = net.attach(lab, "new");
        new.check().success();
        let plain = network(lab, "bridge", 2, &json!({})).attach(lab, "plain");
        let dropped: &[&Attached] =
            if as_before.contains("table") { &[&new] } else { &[&old, &new] };
        for attached in dropped {
            assert_eq!(seen_from(&outside, &[attached, &plain], true), [plain.v4()]);
        }
    });
}

#[test]
fn check_misses_the_rules() {
    rscni_test::run(|lab| {
        let a = network(lab, "ptp", 1, &json!({ "ipMasq": true })).attach(lab, "a");
        nft("flush chain inet rscni masquerading-invalid");
        a.check_misses("masquerading-invalid, which drop invalid packets, are missing");
    });
}

#[test]
fn containers_at_the_same_time_make_the_rules_once() {
    rscni_test::run(|lab| {
        for backend in [NFTABLES, IPTABLES] {
            let keys = json!({ "ipMasq": true, "ipMasqBackend": backend });
            let net = Network::bridge(lab, &[V4, V6], &json!({ "name": backend })).with(&keys);
            let containers: Vec<_> =
                (0..4).map(|i| lab.container(&format!("{backend}{i}"))).collect();
            std::thread::scope(|scope| {
                for container in &containers {
                    let net = &net;
                    scope.spawn(move || net.attach_as(container, "eth0"));
                }
            });
        }
        let text = rules();
        for set in ["masquerade4", "masquerade6", "masquerade4-net-24", "masquerade6-net-64"] {
            assert_eq!(text.matches(&format!("@{set} ")).count(), 1, "{text}");
        }
    });
}
