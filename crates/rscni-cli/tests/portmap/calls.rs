//! Calls of a runtime, in and out of order.

use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    published::{
        IPTABLES, NFTABLES, assert_no_ports, at, bridge, mapping, portmap, publish,
        publish_attached, target, try_publish, web,
    },
    support::{
        self, Network, fixed, make_read_only, nft,
        outside::{HOST, OUTSIDE, outside},
        wait_until_gone,
    },
};

#[rstest]
fn every_kind_of_del_removes_all(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let keys = json!({ "backend": backend });
        let ports =
            |port: u16| json!([mapping(port, "tcp"), mapping(port, "udp"), at("127.0.0.1", port)]);
        let all = [(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f"), (7, "g")]
            .map(|(port, name)| publish(lab, &network, name, &keys, &ports(port)));
        let [a, b, c, d, e, f, g] = &all;
        a.ports.del().success();
        b.ports.del_without_result().success();
        c.ports.del_without_netns().success();
        lab.remove_namespace(d);
        d.ports.del().success();
        // The configuration has changed or become invalid.
        let del = |published: &crate::published::Published, keys: &Value| {
            let config = published.ports.network.with(keys).config;
            published
                .network
                .plugin
                .del(published, "eth0", &published.link.reply.follow(&config))
                .success();
        };
        del(e, &json!({ "markMasqBit": 7, "snat": false, "backend": null }));
        del(f, &json!({ "markMasqBit": 70 }));
        // The mappings are lost with the result.
        let lost = g.network.with(&json!({ "runtimeConfig": null })).config;
        g.network.plugin.del(g, "eth0", &lost).success();
        assert_no_ports(lab);
        for published in [a, b, d] {
            published.ports.del().success();
        }
    });
}

#[rstest]
fn del_keeps_other_containers_and_networks(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let keys = json!({ "backend": backend });
        let one = bridge(lab);
        let two = one.with(&json!({
            "name": "net2", "bridge": "br1", "ipam": support::host_local(&["10.2.0.0/24", "fd02::/64"]),
        }));
        let a = publish(lab, &one, "a", &keys, &json!([mapping(8081, "tcp")]));
        let b = publish(lab, &one, "b", &keys, &web());
        let a_again = publish_attached(
            lab,
            two.attach_as(&a.link, "eth1"),
            &keys,
            &json!([mapping(8082, "tcp")]),
        );
        a.ports.del().success();
        a.ports.del_without_result().success();
        b.check().success();
        a_again.check().success();
        b.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        let server = a.serve_tcp(80);
        lab.host().tcp("127.0.0.1:8082").assert_by(&server);
    });
}

#[rstest]
fn gc_removes_stale_objects_of_this_network(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let other = network.with(&json!({
            "name": "net2", "bridge": "br1", "ipam": support::host_local(&["10.2.0.0/24", "fd02::/64"]),
        }));
        let keys = json!({ "backend": backend });
        let [stale, valid] = [("stale", 1), ("valid", 2)]
            .map(|(n, p)| publish(lab, &network, n, &keys, &json!([mapping(p, "tcp")])));
        let foreign = publish(lab, &other, "foreign", &keys, &json!([mapping(3, "tcp")]));
        valid.network.gc(&[&valid]).success();
        stale.check().error(100);
        valid.check().success();
        foreign.check().success();
        valid.network.gc(&[]).success();
        valid.check().error(100);
        foreign.check().success();
        foreign.network.gc(&[]).success();
        assert_no_ports(lab);
        valid.network.plugin.gc(&valid.network.config).success();
    });
}

#[test]
fn a_port_of_another_container_is_rejected() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let a = publish(lab, &bridge(lab), "a", &json!({}), &web());
        let b = bridge(lab).attach(lab, "b");
        let before = support::snapshot(lab);
        // Its other mappings are not created either.
        let (network, refused) =
            try_publish(lab, &b, &json!({}), &json!([mapping(1, "tcp"), mapping(8080, "udp")]));
        let refused = refused.error(11);
        for word in ["host port 8080/udp", "\"net ctr-a eth0\"", "10.1.0.2", "DEL"] {
            refused.mentions(word);
        }
        lab.assert_unchanged_since(&before);
        network.plugin.del(&b, "eth0", &b.reply.follow(&network.config)).success();
        lab.assert_unchanged_since(&before);
        a.check().success();
        a.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        // The second gets the port when the first releases it.
        a.ports.del().success();
        let b = publish_attached(lab, b, &json!({}), &web());
        b.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        a.ports.del().success();
        b.check().success();
    });
}

#[test]
fn a_port_of_a_container_whose_address_was_given_to_another_goes_over() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let ipam = fixed(&[("10.1.0.5/24", "10.1.0.1"), ("fd01::5/64", "fd01::1")]);
        let network = bridge(lab).with(&json!({ "ipam": ipam }));
        // DEL is not called for this container.
        let keys = json!({ "markMasqBit": 3 });
        let old =
            publish(lab, &network, "old", &keys, &json!([mapping(8080, "tcp"), mapping(1, "tcp")]));
        lab.remove_namespace(&old);
        let new = publish(lab, &network, "new", &json!({}), &web());
        new.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        // The kernel removes its interface in the background.
        wait_until_gone(lab, "ctr-old");
        old.ports.del().success();
        old.ports.del_without_result().success();
        new.check().success();
        new.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn an_incomplete_mapping_does_not_block_the_port() {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let a = publish(lab, &network, "a", &json!({}), &web());
        // The port is removed, but not the element for masquerading.
        nft("flush map inet rscni hostport4_any");
        let b = publish(lab, &network, "b", &json!({}), &json!([at("0.0.0.0", 8080)]));
        b.check().success();
        a.ports.del().success();
        b.check().success();
        b.ports.del().success();
        assert_no_ports(lab);
    });
}

#[rstest]
fn an_add_replaces_what_an_earlier_one_of_the_attachment_left(
    #[values(NFTABLES, IPTABLES)] backend: &str,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let keys = json!({ "backend": backend });
        let a = publish(
            lab,
            &bridge(lab),
            "a",
            &keys,
            &json!([mapping(8080, "tcp"), mapping(1, "tcp")]),
        );
        let again = publish_attached(lab, a.link, &keys, &web());
        again.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        again.check().success();
        again.ports.del().success();
        assert_no_ports(lab);
    });
}

#[rstest]
fn every_version_passes_the_result_on(
    #[values("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        let network = bridge(lab).with(&json!({ "cniVersion": version }));
        let a = publish(lab, &network, "a", &json!({}), &web());
        assert_eq!(a.reply.json(), a.link.reply.json());
        a.assert_reached(lab.host(), "127.0.0.1", "10.1.0.1");
        a.assert_commands_of(version);
        a.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn a_result_of_a_plugin_before_is_needed() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        for mappings in [web(), json!([])] {
            let network = portmap(lab, &bridge(lab), &json!({}), &mappings);
            network.add(&a).error(7).mentions("needs a prevResult");
            network.check(&a).error(7).mentions("prevResult");
            network.del(&a).success();
        }
    });
}

#[test]
fn mappings_use_only_addresses_of_the_interface() {
    rscni_test::run(|lab| {
        let link = bridge(lab).attach(lab, "a");
        let mut config = link.reply.follow(&portmap(lab, &link.network, &json!({}), &web()).config);
        // Interfaces of the bridge and of a second container interface surround it.
        let bridge = json!({ "interface": 0, "address": "10.9.0.1/24" });
        let second = json!({ "interface": 2, "address": "10.9.0.2/24" });
        let ips = config["prevResult"]["ips"].as_array_mut().unwrap();
        ips.insert(0, bridge);
        ips.push(second);
        let network = portmap(lab, &link.network, &json!({}), &web());
        network.plugin.add(&link, "eth0", &config).success();
        let server = link.serve_tcp(80);
        lab.host().tcp(target("10.1.0.1")).assert_by(&server);
    });
}

#[rstest]
#[case::backend(json!({ "backend": "ipfw" }), "ipfw")]
#[case::marks(json!({ "markMasqBit": 5, "externalSetMarkChain": "X" }), "externalSetMarkChain")]
#[case::port(json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 0, "containerPort": 1 }] } }), "host port")]
#[case::protocol(
    json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 1, "containerPort": 1, "protocol": "icmp" }] } }),
    "icmp"
)]
fn a_bad_configuration_changes_nothing(#[case] keys: Value, #[case] word: &str) {
    rscni_test::run(|lab| {
        let link = bridge(lab).attach(lab, "a");
        let network = portmap(lab, &link.network, &json!({}), &web()).with(&keys);
        let before = lab.snapshot();
        let config = link.reply.follow(&network.config);
        network.plugin.add(&link, "eth0", &config).error(7).mentions(word);
        network.plugin.check(&link, "eth0", &config).error(7).mentions(word);
        network.status().error(7).mentions(word);
        network.plugin.del(&link, "eth0", &config).success();
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn an_interrupted_add_leaves_nothing(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let keys = json!({ "backend": backend });
        publish(lab, &network, "first", &keys, &json!([at("192.0.2.1", 1), at("2001:db8::1", 1)]))
            .ports
            .del()
            .success();
        let link = network.attach(lab, "a");
        make_read_only("/proc/sys/net/ipv4/conf/br0/route_localnet");
        let before = support::snapshot(lab);
        let (portmap, refused) = try_publish(lab, &link, &keys, &web());
        refused.error(5).mentions("route_localnet");
        lab.assert_unchanged_since(&before);
        portmap.plugin.del(&link, "eth0", &link.reply.follow(&portmap.config)).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn conditions_without_their_program_fail_and_leave_nothing() {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        publish(lab, &network, "first", &json!({}), &web()).ports.del().success();
        let link = network.attach(lab, "a");
        let mut portmap = portmap(lab, &network, &json!({ "conditionsV6": ["iif", "lo"] }), &web());
        portmap.plugin = portmap.plugin.env("PATH", "");
        let before = support::snapshot(lab);
        let config = link.reply.follow(&portmap.config);
        portmap.plugin.add(&link, "eth0", &config).error(5).mentions("install nftables");
        lab.assert_unchanged_since(&before);
        portmap.plugin.del(&link, "eth0", &config).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn iptables_works_for_one_family_only_or_not_at_all() {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let keys = json!({ "backend": IPTABLES });
        publish(lab, &network, "first", &keys, &web()).ports.del().success();
        let link = network.attach(lab, "a");
        let dir = lab.dir().join("path");
        std::fs::create_dir_all(&dir).unwrap();
        let before = support::snapshot(lab);
        for (there, missing) in
            [(None, "iptables-restore"), (Some("iptables-restore"), "ip6tables-restore")]
        {
            if let Some(program) = there {
                std::os::unix::fs::symlink(format!("/usr/sbin/{program}"), dir.join(program))
                    .unwrap();
            }
            let mut portmap = portmap(lab, &network, &keys, &web());
            portmap.plugin = portmap.plugin.env("PATH", &dir);
            let config = link.reply.follow(&portmap.config);
            portmap.plugin.add(&link, "eth0", &config).error(5).mentions(missing);
            lab.assert_unchanged_since(&before);
            match there {
                None => drop(portmap.status().error(50).mentions("iptables-restore")),
                Some(_) => drop(portmap.status().success()),
            }
            portmap.plugin.del(&link, "eth0", &config).success();
        }
    });
}

#[test]
fn containers_are_published_at_the_same_time() {
    rscni_test::run(|lab| {
        for backend in [NFTABLES, IPTABLES] {
            let network =
                Network::bridge(lab, &[support::V4], &json!({ "isDefaultGateway": true }));
            let links: Vec<_> =
                (0..6).map(|i| network.attach(lab, &format!("{backend}{i}"))).collect();
            let keys = json!({ "backend": backend });
            let all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (1..)
                    .zip(links)
                    .map(|(port, link)| {
                        let keys = &keys;
                        scope.spawn(move || {
                            publish_attached(lab, link, keys, &json!([mapping(port, "tcp")]))
                        })
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            for (port, published) in (1..).zip(&all) {
                published.check().success();
                let server = published.serve_tcp(80);
                lab.host().tcp(format!("127.0.0.1:{port}")).assert_by(&server);
            }
            for published in all {
                published.del_all();
            }
            assert_no_ports(lab);
        }
    });
}
