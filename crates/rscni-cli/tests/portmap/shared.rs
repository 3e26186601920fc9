//! Several attachments of one container that map the same host ports.

use rscni_linux::nft::{Family, Nft, Table};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    published::{
        IPTABLES, NFTABLES, Published, assert_no_ports, at, bridge, mapping, publish,
        publish_attached, try_publish, web,
    },
    support::{
        self, Network, nft,
        outside::{HOST, OUTSIDE, outside},
        run,
    },
};

/// The gateways of the networks. The container sees them as the source of the host's connections to
/// `127.0.0.1`.
const FIRST: &str = "10.1.0.1";
const SECOND: &str = "10.2.0.1";

/// A second and a third network.
fn other(lab: &Lab, number: u8) -> Network {
    let (v4, v6) = (format!("10.{number}.0.0/24"), format!("fd0{number}::/64"));
    bridge(lab).with(&json!({
        "name": format!("net{number}"), "bridge": format!("br{number}"), "ipam": support::host_local(&[&v4, &v6]),
    }))
}

/// A container on two networks that maps the same ports on both.
fn on_two_networks(lab: &Lab, keys: &Value, mappings: &Value) -> [Published; 2] {
    let first = publish(lab, &bridge(lab), "a", keys, mappings);
    let link = other(lab, 2).attach_as(&first.link, "eth1");
    let second = publish_attached(lab, link, keys, mappings);
    [first, second]
}

/// Asserts that the mapping of this attachment is active: the container sees this gateway.
#[track_caller]
fn assert_active(lab: &Lab, published: &Published, gateway: &str) {
    published.assert_reached(lab.host(), "127.0.0.1", gateway);
}

fn elements(set: &str) -> Vec<String> {
    let table = Table::new(Family::Inet, "rscni");
    let found = Nft::open().unwrap().elements(&table, set).unwrap();
    found.into_iter().filter_map(|element| element.comment).collect()
}

#[rstest]
fn the_second_takes_over_when_the_first_goes(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("del", "del_without_result", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let [first, second] = on_two_networks(lab, &json!({ "backend": backend }), &web());
        for published in [&first, &second] {
            published.check().success();
            assert_active(lab, published, FIRST);
        }
        match how {
            "del" => first.ports.del(),
            "del_without_result" => first.ports.del_without_result(),
            _ => first.network.gc(&[]),
        }
        .success();
        second.check().success();
        first.check().error(100);
        assert_active(lab, &second, SECOND);
        // Replies to the outside leave by the remaining interface.
        first.link.del().success();
        for i in [0, 1] {
            second.assert_reached(&outside, HOST[i], OUTSIDE[i]);
        }
        second.del_all();
        first.ports.del().success();
        assert_no_ports(lab);
    });
}

#[rstest]
fn the_first_stays_when_the_second_goes(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("del", "del_without_result", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        let [first, second] = on_two_networks(lab, &json!({ "backend": backend }), &web());
        match how {
            "del" => second.ports.del(),
            "del_without_result" => second.ports.del_without_result(),
            _ => second.network.gc(&[]),
        }
        .success();
        second.check().error(100);
        first.check().success();
        assert_active(lab, &first, FIRST);
        first.del_all();
        second.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn two_interfaces_on_one_network_share_a_port() {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let first = publish(lab, &network, "a", &json!({}), &web());
        let link = network.attach_as(&first.link, "eth1");
        let second = publish_attached(lab, link, &json!({}), &web());
        second.check().success();
        first.network.gc(&[&second]).success();
        second.check().success();
        // Two interfaces in one subnet answer for each other.
        first.link.del().success();
        assert_active(lab, &second, FIRST);
        second.network.gc(&[]).success();
        assert_no_ports(lab);
    });
}

#[rstest]
#[case::of_one_address(at(HOST[0], 8080), HOST[0])]
#[case::of_localhost(at("127.0.0.1", 8080), "127.0.0.1")]
#[case::of_all(at("0.0.0.0", 8080), HOST[0])]
#[case::of_one_ipv6_address(at(HOST[1], 8080), HOST[1])]
fn a_mapping_with_a_host_ip_is_shared_too(#[case] mapping: Value, #[case] address: &str) {
    rscni_test::run(|lab| {
        let _outside = outside(lab);
        let target = crate::published::target(address);
        let [first, second] = on_two_networks(lab, &json!({}), &json!([mapping]));
        let server = first.serve_tcp(80);
        lab.host().tcp(&target).assert_by(&server);
        second.check().success();
        first.ports.del().success();
        second.check().success();
        lab.host().tcp(&target).assert_by(&server);
        second.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn mappings_for_one_address_and_for_all_do_not_wait_for_each_other() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let first = publish(lab, &bridge(lab), "a", &json!({}), &web());
        let link = other(lab, 2).attach_as(&first.link, "eth1");
        let second = publish_attached(lab, link, &json!({}), &json!([at(HOST[0], 8080)]));
        let server = first.serve_tcp(80);
        outside.tcp(crate::published::target(HOST[0])).assert_by(&server);
        drop(server);
        assert_active(lab, &first, FIRST);
        first.check().success();
        second.check().success();
        assert!(elements("hostport4_standby").is_empty());
        second.ports.del().success();
        first.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn another_container_is_rejected_while_a_port_is_shared() {
    rscni_test::run(|lab| {
        let [first, second] = on_two_networks(lab, &json!({}), &web());
        let b = bridge(lab).attach(lab, "b");
        let before = support::snapshot(lab);
        try_publish(lab, &b, &json!({}), &web()).1.error(11).mentions("\"net ctr-a eth0\"");
        lab.assert_unchanged_since(&before);
        first.ports.del().success();
        try_publish(lab, &b, &json!({}), &web()).1.error(11).mentions("\"net2 ctr-a eth1\"");
        second.check().success();
        second.ports.del().success();
        publish_attached(lab, b, &json!({}), &web()).check().success();
    });
}

#[test]
fn three_attachments_take_over_one_after_the_other() {
    rscni_test::run(|lab| {
        let [first, second] = on_two_networks(lab, &json!({}), &web());
        let link = other(lab, 3).attach_as(&first.link, "eth2");
        let third = publish_attached(lab, link, &json!({}), &web());
        let mut all = vec![first, second, third];
        while let Some(active) = all.iter().position(|published| {
            let name = published.network.config["name"].as_str().unwrap();
            elements("hostport4_any").iter().any(|tag| tag.starts_with(&format!("{name} ")))
        }) {
            for published in &all {
                published.check().success();
            }
            let gateway = all[active].v4().to_string().replace(".0.2", ".0.1");
            assert_active(lab, &all[active], &gateway);
            all.remove(active).del_all();
        }
        assert!(all.is_empty(), "an attachment is left that did not take over");
        assert_no_ports(lab);
    });
}

#[test]
fn an_add_that_is_repeated_waits_or_stays_active() {
    rscni_test::run(|lab| {
        let [first, second] = on_two_networks(lab, &json!({}), &web());
        let second = publish_attached(lab, second.link, &json!({}), &web());
        first.check().success();
        second.check().success();
        assert_active(lab, &first, FIRST);
        // What an earlier ADD left is removed before the new one, so the second takes over in
        // between.
        let first = publish_attached(lab, first.link, &json!({}), &web());
        first.check().success();
        second.check().success();
        second.ports.del().success();
        assert_active(lab, &first, FIRST);
        first.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn different_keys_of_the_attachments_apply_to_their_own_mapping() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let first = publish(lab, &bridge(lab), "a", &json!({ "snat": false }), &web());
        let link = other(lab, 2).attach_as(&first.link, "eth1");
        let keys = json!({ "masqAll": true, "markMasqBit": 7 });
        let second = publish_attached(lab, link, &keys, &web());
        second.check().success();
        second.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        first.ports.del().success();
        second.check().success();
        second.assert_reached(&outside, HOST[0], SECOND);
        second.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn attachments_whose_names_are_too_long_for_a_tag_share_a_port() {
    rscni_test::run(|lab| {
        let [one, two] = ["x", "y"].map(|letter| letter.repeat(120));
        let first =
            publish(lab, &bridge(lab).with(&json!({ "name": one })), "a", &json!({}), &web());
        let link = other(lab, 2).with(&json!({ "name": two })).attach_as(&first.link, "eth1");
        let second = publish_attached(lab, link, &json!({}), &web());
        second.check().success();
        first.ports.del().success();
        second.check().success();
        assert_active(lab, &second, SECOND);
        let b = other(lab, 3).with(&json!({ "name": one })).attach(lab, "b");
        try_publish(lab, &b, &json!({}), &web()).1.error(11).mentions("is taken");
        second.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn more_ports_than_fit_into_a_transaction_are_taken_over() {
    rscni_test::run(|lab| {
        let many: Vec<Value> = (1000..1120).map(|port| mapping(port, "tcp")).collect();
        let [first, second] = on_two_networks(lab, &json!({}), &json!(many));
        second.check().success();
        first.ports.del().success();
        second.check().success();
        assert_eq!(elements("hostport4_any").len(), many.len());
        assert!(elements("hostport4_any_standby").is_empty());
        second.ports.del().success();
        assert_no_ports(lab);
    });
}

#[rstest]
#[case::port(
    "flush map inet rscni hostport4_any_standby",
    "\"net ctr-a eth0\" has it, and it does not wait"
)]
#[case::masquerading(
    "flush set inet rscni hostport4_any_from24_13_standby",
    "not masqueraded for 10.2.0.0/24"
)]
#[case::active("flush map inet rscni hostport4_any", "it is missing in hostport4_any")]
fn check_finds_a_mapping_that_does_not_wait(#[case] damage: &str, #[case] what: &str) {
    rscni_test::run(|lab| {
        let [first, second] = on_two_networks(lab, &json!({}), &web());
        nft(damage);
        second.check_misses(what);
        second.ports.del().success();
        first.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn waiting_mappings_can_be_saved_and_restored_with_nft() {
    rscni_test::run(|lab| {
        let [first, second] = on_two_networks(lab, &json!({}), &web());
        let saved = lab.dir().join("saved");
        std::fs::write(&saved, nft("list table inet rscni")).unwrap();
        nft("delete table inet rscni");
        run("nft", &["-f", saved.to_str().unwrap()]);
        first.check().success();
        second.check().success();
        first.ports.del().success();
        assert_active(lab, &second, SECOND);
        second.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn concurrent_add_and_del_leave_the_port_with_the_remaining_attachment() {
    rscni_test::run(|lab| {
        let [mut first, mut second] = on_two_networks(lab, &json!({}), &web());
        for _ in 0..10 {
            second.ports.del().success();
            (first, second) = std::thread::scope(|scope| {
                let (keys, mappings) = (json!({}), web());
                let going = scope.spawn(move || {
                    first.ports.del().success();
                    first
                });
                let second = publish_attached(lab, second.link, &keys, &mappings);
                (going.join().unwrap(), second)
            });
            second.check().success();
            assert_active(lab, &second, SECOND);
            first = publish_attached(lab, first.link, &json!({}), &web());
            first.check().success();
            second.ports.del().success();
            second = publish_attached(lab, second.link, &json!({}), &web());
        }
        first.ports.del().success();
        second.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn a_flow_of_udp_follows_the_port() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let [first, second] = on_two_networks(lab, &json!({}), &json!([mapping(8080, "udp")]));
        let server = first.serve_udp(80);
        let socket = outside.run(|| std::net::UdpSocket::bind("0.0.0.0:4000").unwrap());
        socket.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        let is_answered = || {
            let mut buffer = [0; 100];
            let _ = socket.send_to(b"question", (HOST[0], 8080));
            socket.recv_from(&mut buffer).ok().map(drop)
        };
        rscni_test::eventually("an answer", is_answered);
        first.del_all();
        let mut inside = first.netlink();
        assert!(inside.find_link("eth0").unwrap().is_none());
        rscni_test::eventually("an answer by the other interface", is_answered);
        drop(server);
        second.del_all();
    });
}
