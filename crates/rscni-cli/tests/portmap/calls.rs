//! What a runtime calls, in and out of order.

use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    published::{
        IPTABLES, NFTABLES, assert_no_ports, at, bridge, mapping, portmap, publish,
        publish_attached, target, try_publish, web,
    },
    support::{
        self, Network, fixed,
        outside::{HOST, OUTSIDE, outside},
    },
};

#[rstest]
fn every_kind_of_del_removes_all(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let keys = json!({ "backend": backend });
        let ports =
            |port: u16| json!([mapping(port, "tcp"), mapping(port, "udp"), at("127.0.0.1", port)]);
        let names = ["a", "b", "c", "d", "e", "f", "g"];
        let all: Vec<_> = (1..)
            .zip(names)
            .map(|(port, name)| publish(lab, &network, name, &keys, &ports(port)))
            .collect();
        let [a, b, c, d, e, f, g] = &all[..] else { unreachable!() };
        a.ports.del().success();
        b.ports.del_without_result().success();
        c.ports.del_without_netns().success();
        lab.remove_namespace(d);
        d.ports.del().success();
        // The configuration has changed since, or become invalid.
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
        // Mappings are lost together with the result.
        let lost = g.network.with(&json!({ "runtimeConfig": null })).config;
        g.network.plugin.del(g, "eth0", &lost).success();
        assert_no_ports(lab);
        for published in [a, b, d] {
            published.ports.del().success();
        }
    });
}

#[rstest]
fn a_del_spares_other_containers_and_networks(#[values(NFTABLES, IPTABLES)] backend: &str) {
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
fn gc_removes_what_is_stale_and_of_this_network(#[values(NFTABLES, IPTABLES)] backend: &str) {
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
fn a_port_that_another_container_has_is_refused() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let a = publish(lab, &bridge(lab), "a", &json!({}), &web());
        let b = bridge(lab).attach(lab, "b");
        let before = support::snapshot(lab);
        // Its other mappings are not made either.
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
        // When the first lets go of it, the second has it.
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
        // Nobody called DEL for it.
        let keys = json!({ "markMasqBit": 3 });
        let old =
            publish(lab, &network, "old", &keys, &json!([mapping(8080, "tcp"), mapping(1, "tcp")]));
        lab.remove_namespace(&old);
        let new = publish(lab, &network, "new", &json!({}), &web());
        new.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        // Its interface goes when the kernel gets to it.
        rscni_test::eventually("nothing is the old one's", || {
            (!lab.snapshot().to_string().contains("ctr-old")).then_some(())
        });
        old.ports.del().success();
        old.ports.del_without_result().success();
        new.check().success();
        new.ports.del().success();
        assert_no_ports(lab);
    });
}

#[test]
fn a_rest_of_a_port_is_in_nobodys_way() {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let a = publish(lab, &network, "a", &json!({}), &web());
        // The port itself is gone, the note of whom to masquerade is not.
        let status = std::process::Command::new("nft")
            .args(["flush", "map", "inet", "rscni", "hostport4_any"])
            .status();
        assert!(status.unwrap().success());
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
        if ["0.4.0", "1.0.0", "1.1.0"].contains(&version) {
            a.check().success();
        } else {
            a.check().error(1).mentions("0.4.0");
        }
        if version == "1.1.0" {
            a.network.plugin.status(&a.network.config).success();
            a.network.gc(&[&a]).success();
            a.check().success();
        } else {
            a.network.plugin.status(&a.network.config).error(1).mentions("1.1.0");
        }
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
            network.plugin.add(&a, "eth0", &network.config).error(7).mentions("needs a prevResult");
            network.plugin.check(&a, "eth0", &network.config).error(7).mentions("prevResult");
            network.plugin.del(&a, "eth0", &network.config).success();
        }
    });
}

#[test]
fn only_the_addresses_of_the_interface_count() {
    rscni_test::run(|lab| {
        let link = bridge(lab).attach(lab, "a");
        let mut config = link.reply.follow(&portmap(lab, &link.network, &json!({}), &web()).config);
        // Those of the bridge, and a second of the container, come before and after it.
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
        network.plugin.status(&network.config).error(7).mentions(word);
        network.plugin.del(&link, "eth0", &config).success();
        lab.assert_unchanged_since(&before);
    });
}

/// Has writing to a file fail, for whoever tries.
fn read_only(path: &str) {
    for flags in [&["--bind", path, path][..], &["-o", "remount,bind,ro", path]] {
        assert!(
            std::process::Command::new("mount").args(flags).status().unwrap().success(),
            "mount {flags:?}"
        );
    }
}

#[rstest]
fn an_add_that_fails_half_way_leaves_nothing(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let keys = json!({ "backend": backend });
        publish(lab, &network, "first", &keys, &json!([at("192.0.2.1", 1), at("2001:db8::1", 1)]))
            .ports
            .del()
            .success();
        let link = network.attach(lab, "a");
        read_only("/proc/sys/net/ipv4/conf/br0/route_localnet");
        let before = support::snapshot(lab);
        let (portmap, refused) = try_publish(lab, &link, &keys, &web());
        refused.error(5).mentions("route_localnet");
        lab.assert_unchanged_since(&before);
        portmap.plugin.del(&link, "eth0", &link.reply.follow(&portmap.config)).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn conditions_without_the_program_that_knows_them_fail_and_leave_nothing() {
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
                None => drop(
                    portmap.plugin.status(&portmap.config).error(50).mentions("iptables-restore"),
                ),
                Some(_) => drop(portmap.plugin.status(&portmap.config).success()),
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
