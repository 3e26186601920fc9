//! Who reaches a host port, and as whom the container sees them.

use std::time::Duration;

use rscni_linux::nft::{Family, Nft, Table};
use rstest::rstest;
use serde_json::json;

use crate::{
    published::{IPTABLES, NFTABLES, at, bridge, mapping, publish, target, web},
    support::{
        self, Network, V4, V6,
        outside::{HOST, OUTSIDE, outside},
    },
};

/// Long enough for an answer that should not come.
const SHORT: Duration = Duration::from_secs(1);

/// The gateway's addresses, as which the container sees what is masqueraded.
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
        // What is there for all stays.
        publish(lab, &network, "first", &keys, &web()).ports.del().success();
        let before = support::snapshot(lab);

        let a = publish(lab, &network, "a", &keys, &web());
        a.check().success();
        for (i, v4) in [true, false].into_iter().enumerate() {
            // Another machine is seen as itself, and so is a container of another subnet.
            a.assert_reached(&outside, HOST[i], OUTSIDE[i]);
            for address in [HOST[i], GATEWAY[i]] {
                a.assert_reached(&stranger, address, &stranger.address(v4).to_string());
                // The way back from these does not lead through the host by itself.
                a.assert_reached(&neighbour, address, GATEWAY[i]);
                a.assert_reached(&a, address, GATEWAY[i]);
                a.assert_reached(lab.host(), address, address);
            }
        }
        a.assert_reached(lab.host(), "127.0.0.1", GATEWAY[0]);
        // What is not for the host goes where it should.
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
        // Nothing leads from there to the container.
        assert_eq!(lab.host().sysctl("net/ipv4/conf/br0/route_localnet"), "0");
        a.check().success();
        // Another container has the same port of another address, and a third the rest.
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
fn an_unspecified_address_is_all_of_its_family(#[values(NFTABLES, IPTABLES)] backend: &str) {
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

#[test]
fn a_service_of_the_host_on_the_ipv6_loopback_is_left_alone() {
    rscni_test::run(|lab| {
        let own = lab.host().serve_tcp(8080);
        let a = publish(lab, &bridge(lab), "a", &json!({}), &web());
        lab.host().tcp("[::1]:8080").assert_by(&own);
        let server = a.serve_tcp(80);
        lab.host().tcp(target(GATEWAY[1])).assert_by(&server);
    });
}

#[test]
fn the_way_in_for_localhost_is_none_for_others() {
    rscni_test::run(|lab| {
        let a = publish(lab, &bridge(lab), "a", &json!({}), &web());
        assert_eq!(lab.host().sysctl("net/ipv4/conf/br0/route_localnet"), "1");
        // A service that is meant for the host alone, and a container that sends packets to 127.0.0.1 out: its lo is down.
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
fn without_snat_nobody_is_masqueraded(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let a =
            publish(lab, &bridge(lab), "a", &json!({ "backend": backend, "snat": false }), &web());
        for i in [0, 1] {
            a.assert_reached(&outside, HOST[i], OUTSIDE[i]);
            // The container answers its neighbour itself, who knows nothing of that.
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
fn with_masq_all_everybody_is(#[values(NFTABLES, IPTABLES)] backend: &str) {
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
