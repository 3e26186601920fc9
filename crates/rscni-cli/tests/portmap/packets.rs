//! Clients of host ports, and the source addresses that the container sees.

use std::time::Duration;

use rscni_linux::nft::{Family, Nft, Table};
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    published::{IPTABLES, NFTABLES, at, bridge, mapping, publish, target, web},
    support::{
        self, Network, V4, V6, ip,
        outside::{HOST, OUTSIDE, outside},
        sh,
    },
};

/// Timeout for an answer that should not come.
const SHORT: Duration = Duration::from_secs(1);

/// Addresses of the gateway, which the container sees as the source of masqueraded connections.
const GATEWAY: [&str; 2] = ["10.1.0.1", "fd01::1"];

#[rstest]
fn a_port_of_the_host_is_reached_from_everywhere(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let network = bridge(lab);
        let neighbour = network.attach(lab, "neighbour");
        let keys = json!({ "name": "net2", "bridge": "br1", "ipam": support::host_local(&["10.2.0.0/24", "fd02::/64"]) });
        let stranger = network.with(&keys).attach(lab, "stranger");
        let keys = json!({ "backend": backend });
        // The shared rules stay.
        publish(lab, &network, "first", &keys, &web()).ports.del().success();
        let before = support::snapshot(lab);

        let a = publish(lab, &network, "a", &keys, &web());
        a.check().success();
        for (i, v4) in [true, false].into_iter().enumerate() {
            // Other machines and containers of other subnets are not masqueraded.
            a.assert_reached(&outside, HOST[i], OUTSIDE[i]);
            for address in [HOST[i], GATEWAY[i]] {
                a.assert_reached(&stranger, address, &stranger.address(v4).to_string());
                // Replies from these would not pass the host.
                a.assert_reached(&neighbour, address, GATEWAY[i]);
                a.assert_reached(&a, address, GATEWAY[i]);
                a.assert_reached(lab.host(), address, address);
            }
        }
        a.assert_reached(lab.host(), "127.0.0.1", GATEWAY[0]);
        // Packets to other hosts are not translated.
        lab.tcp(&stranger, &neighbour, neighbour.v4(), 8080);

        a.del_all();
        a.del().success();
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
        let server = lab.host().serve_tcp(8080);
        outside.tcp(target(HOST[0])).assert_by(&server);
        lab.host().tcp("127.0.0.1:8080").assert_by(&server);
    });
}

#[rstest]
fn a_routed_container_has_ports_too(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let mut ipam = support::host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let network = Network::ptp(lab, &[], &json!({ "ipam": ipam, "ipMasq": true }));
        let a = publish(lab, &network, "a", &json!({ "backend": backend }), &web());
        let neighbour = network.attach(lab, "neighbour");
        for i in [0, 1] {
            a.assert_reached(&outside, HOST[i], OUTSIDE[i]);
            a.assert_reached(&neighbour, HOST[i], GATEWAY[i]);
            a.assert_reached(&a, HOST[i], GATEWAY[i]);
        }
        a.assert_reached(lab.host(), "127.0.0.1", GATEWAY[0]);
        a.check().success();
        a.del_all();
    });
}

#[rstest]
fn a_mapping_for_one_address_leaves_the_others_alone(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let own = lab.host().serve_tcp(8080);
        let keys = json!({ "backend": backend });
        let mappings = json!([at(HOST[0], 8080), at(HOST[1], 8080)]);
        let a = publish(lab, &bridge(lab), "a", &keys, &mappings);
        let in_a = a.serve_tcp(80);
        for i in [0, 1] {
            outside.tcp(target(HOST[i])).assert_by(&in_a);
            outside.tcp(target(GATEWAY[i])).assert_by(&own);
        }
        lab.host().tcp("127.0.0.1:8080").assert_by(&own);
        // There is no route from there to the container.
        assert_eq!(lab.host().sysctl("net/ipv4/conf/br0/route_localnet"), "0");
        a.check().success();
        // Another container maps the same port of another address, and a third one that of all
        // others.
        let b = publish(
            lab,
            &bridge(lab),
            "b",
            &keys,
            &json!([at("127.0.0.1", 8080), at(GATEWAY[1], 8080)]),
        );
        let in_b = b.serve_tcp(80);
        lab.host().tcp("127.0.0.1:8080").assert_by(&in_b);
        outside.tcp(target(GATEWAY[1])).assert_by(&in_b);
        outside.tcp(target(HOST[1])).assert_by(&in_a);
        outside.tcp(target(GATEWAY[0])).assert_by(&own);
        a.del_all();
        lab.host().tcp("127.0.0.1:8080").assert_by(&in_b);
        outside.tcp(target(HOST[0])).assert_by(&own);
    });
}

#[rstest]
fn an_unspecified_address_means_all_of_its_family(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let own = lab.host().serve_tcp(8080);
        let keys = json!({ "backend": backend });
        let four = publish(lab, &bridge(lab), "four", &keys, &json!([at("0.0.0.0", 8080)]));
        let in_four = four.serve_tcp(80);
        outside.tcp(target(HOST[0])).assert_by(&in_four);
        outside.tcp(target(HOST[1])).assert_by(&own);
        let six = publish(lab, &bridge(lab), "six", &keys, &json!([at("::", 8080)]));
        let in_six = six.serve_tcp(80);
        outside.tcp(target(HOST[0])).assert_by(&in_four);
        outside.tcp(target(HOST[1])).assert_by(&in_six);
        four.check().success();
        six.check().success();
    });
}

#[test]
fn the_more_specific_mapping_wins_with_its_own_keys() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let network = bridge(lab);
        let other = network.with(&json!({
            "name": "net2", "bridge": "br1", "ipam": support::host_local(&["10.2.0.0/24", "fd02::/64"]),
        }));
        let all = publish(
            lab,
            &network,
            "all",
            &json!({ "masqAll": true }),
            &json!([mapping(8080, "tcp")]),
        );
        let one = publish(lab, &other, "one", &json!({}), &json!([at(HOST[0], 8080)]));
        let (in_all, in_one) = (all.serve_tcp(80), one.serve_tcp(80));
        let answer = outside.tcp(target(HOST[0]));
        answer.assert_by(&in_one);
        assert_eq!(answer.seen_as.to_string(), OUTSIDE[0]);
        let answer = outside.tcp(target(GATEWAY[0]));
        answer.assert_by(&in_all);
        assert_eq!(answer.seen_as.to_string(), GATEWAY[0]);
        one.del_all();
        outside.tcp(target(HOST[0])).assert_by(&in_all);
    });
}

#[rstest]
fn the_ipv6_loopback_leads_into_the_container(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("bridge", "ptp")] plugin: &str,
    #[values("all", "all_of_ipv6", "localhost", "masq_all")] how: &str,
) {
    rscni_test::run(|lab| {
        let network = if plugin == "bridge" {
            bridge(lab)
        } else {
            let mut ipam = support::host_local(&[V4, V6]);
            ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
            Network::ptp(lab, &[], &json!({ "ipam": ipam }))
        };
        let address = match how {
            "all_of_ipv6" => "::",
            "localhost" => "::1",
            _ => "",
        };
        let on = |protocol: &str| json!({ "hostPort": 8080, "containerPort": 80, "protocol": protocol, "hostIP": address });
        let keys = json!({ "backend": backend, "masqAll": how == "masq_all" });
        let a = publish(lab, &network, "a", &keys, &json!([on("tcp"), on("udp")]));
        a.assert_reached(lab.host(), "::1", GATEWAY[1]);
        a.check().success();
        // A second ADD, and a second container, find the rules in place.
        let other = json!([{ "hostPort": 8081, "containerPort": 80, "hostIP": address }]);
        let b = publish(lab, &network, "b", &keys, &other);
        let server = b.serve_tcp(80);
        lab.host().tcp("[::1]:8081").assert_by(&server);
        b.del_all();
        a.assert_reached(lab.host(), "::1", GATEWAY[1]);
        a.del_all();
        let own = lab.host().serve_tcp(8080);
        lab.host().tcp("[::1]:8080").assert_by(&own);
    });
}

#[rstest]
#[case::without_snat(json!({ "snat": false }), json!([mapping(8080, "tcp")]))]
#[case::of_another_address(json!({}), json!([at(GATEWAY[1], 8080)]))]
#[case::of_ipv4(json!({}), json!([at("0.0.0.0", 8080)]))]
#[case::with_conditions(json!({ "conditionsV6": ["iif", "lo"] }), json!([mapping(8080, "tcp")]))]
fn a_service_of_the_host_on_the_ipv6_loopback_is_left_alone(
    #[case] keys: Value,
    #[case] mappings: Value,
) {
    rscni_test::run(|lab| {
        let own = lab.host().serve_tcp(8080);
        let other = json!([{ "hostPort": 8081, "containerPort": 80 }]);
        publish(lab, &bridge(lab), "other", &json!({}), &other);
        let a = publish(lab, &bridge(lab), "a", &keys, &mappings);
        lab.host().tcp("[::1]:8080").assert_by(&own);
        a.check().success();
    });
}

#[test]
fn only_the_host_can_use_the_ipv6_loopback_route() {
    rscni_test::run(|lab| {
        let a = publish(lab, &bridge(lab), "a", &json!({}), &web());
        a.assert_reached(lab.host(), "::1", GATEWAY[1]);
        let service = lab.host().serve_tcp(9000);
        lab.host().tcp("[::1]:9000").assert_by(&service);
        // A container without an address `::1` of its own sends such packets to the host.
        let other = a.link.network.attach(lab, "other");
        ip(&other, "-6 route add ::1/128 via fd01::1 dev eth0 src fd01::3");
        assert!(other.try_tcp("[::1]:9000", SHORT).is_err());
        assert!(other.try_tcp("[::1]:8080", SHORT).is_err());
    });
}

#[test]
fn the_next_add_adds_ipv6_loopback_rules_of_an_older_version() {
    rscni_test::run(|lab| {
        let a = publish(lab, &bridge(lab), "a", &json!({}), &web());
        let script = "for chain in hostport-output hostports6_any hostports6; do
                nft -a list chain inet rscni $chain | sed -n 's/.*_from_lo_.*# handle //p' |
                    while read handle; do nft delete rule inet rscni $chain handle $handle; done
            done
            nft delete set inet rscni hostport6_any_from_lo_13
            nft delete set inet rscni hostport6_from_lo_13
            ip -6 route del local ::1 dev br0 table local";
        sh(script);
        a.check().success();
        let own = lab.host().serve_tcp(8080);
        lab.host().tcp("[::1]:8080").assert_by(&own);
        drop(own);
        let b = publish(lab, &bridge(lab), "b", &json!({}), &json!([mapping(8081, "tcp")]));
        let server = b.serve_tcp(80);
        lab.host().tcp("[::1]:8081").assert_by(&server);
        a.check().success();
        a.ports.del().success();
        b.ports.del().success();
        crate::published::assert_no_ports(lab);
    });
}

#[test]
fn only_the_host_can_use_ports_of_localhost() {
    rscni_test::run(|lab| {
        let a = publish(lab, &bridge(lab), "a", &json!({}), &web());
        assert_eq!(lab.host().sysctl("net/ipv4/conf/br0/route_localnet"), "1");
        // A service for the host only. The container sends packets for 127.0.0.1 to the host,
        // because its lo is down.
        let service = lab.host().serve_tcp(9000);
        let other = a.link.network.attach(lab, "other");
        other.run(|| rscni_linux::sysctl::set("net/ipv4/conf/eth0/route_localnet", "1").unwrap());
        assert!(other.try_tcp("127.0.0.1:9000", SHORT).is_err());
        let table = Table::new(Family::Inet, "rscni");
        let mut nft = Nft::open().unwrap();
        let mut transaction = nft.transaction();
        transaction.flush_chain(&table, "hostport-localnet");
        transaction.commit().unwrap();
        other.tcp("127.0.0.1:9000").assert_by(&service);
        a.check_misses("hostport-localnet");
    });
}

#[rstest]
fn without_snat_clients_are_not_masqueraded(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let a =
            publish(lab, &bridge(lab), "a", &json!({ "backend": backend, "snat": false }), &web());
        for i in [0, 1] {
            a.assert_reached(&outside, HOST[i], OUTSIDE[i]);
            // The container answers its neighbour directly, without translation.
            let neighbour = a.link.network.attach(lab, ["n4", "n6"][i]);
            let server = a.serve_tcp(80);
            assert!(neighbour.try_tcp(target(HOST[i]), SHORT).is_err());
            drop(server);
        }
        assert_eq!(lab.host().sysctl("net/ipv4/conf/br0/route_localnet"), "0");
        a.check().success();
        a.del_all();
    });
}

#[rstest]
fn masq_all_masquerades_all_clients(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let a = publish(
            lab,
            &bridge(lab),
            "a",
            &json!({ "backend": backend, "masqAll": true }),
            &web(),
        );
        for i in [0, 1] {
            a.assert_reached(&outside, HOST[i], GATEWAY[i]);
            a.assert_reached(&a, HOST[i], GATEWAY[i]);
        }
        a.assert_reached(lab.host(), "127.0.0.1", GATEWAY[0]);
        a.check().success();
        a.del_all();
    });
}
