//! Handover between Debian's Go plugin and this one: each can DEL what the other added. The
//! nftables rules of newer Go releases are added by hand.

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use crate::{
    published::{
        IPTABLES, Published, assert_no_ports, at, bridge, mapping, portmap, publish,
        publish_attached,
    },
    support::{Attached, Network, nft, outside::HOST, run},
};

const GO_PORTMAP: &str = "/usr/lib/cni/portmap";

fn mappings() -> serde_json::Value {
    let mut all = vec![at(HOST[0], 9000), at(HOST[1], 9001), mapping(53, "udp")];
    // More than one rule holds.
    all.extend((8080..8100).map(|port| mapping(port, "tcp")));
    all.into()
}

/// A network of the newest version that both support.
fn network(lab: &Lab) -> Network {
    bridge(lab).with(&json!({ "cniVersion": "1.0.0" }))
}

/// A container that the Go plugin published, with our plugin for the next calls.
fn published_by_go(lab: &Lab, name: &str) -> Published {
    let link = network(lab).attach(lab, name);
    let ours = portmap(lab, &link.network, &json!({}), &mappings());
    let theirs = lab.plugin(GO_PORTMAP);
    let reply = theirs.add(&link, "eth0", &link.reply.follow(&ours.config)).success();
    let ports =
        Attached { network: ours, container: link.container.clone(), ifname: "eth0".into(), reply };
    Published { link, ports }
}

#[rstest]
fn attachments_of_the_go_plugin_are_checked_and_deleted(
    #[values("with_result", "without_result", "without_netns", "netns_gone", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        let a = published_by_go(lab, "a");
        a.check().success();
        let server = a.serve_tcp(80);
        lab.host().tcp("127.0.0.1:8099").assert_by(&server);
        drop(server);
        a.ports.end(lab, how).success();
        assert_no_ports(lab);
        let left = lab.snapshot().to_string();
        let of_container = |line: &&str| {
            line.contains("ctr-a") && (line.contains("nft rule") || line.contains("dnat"))
        };
        assert_eq!(left.lines().find(of_container), None);
    });
}

#[test]
fn the_go_plugin_deletes_our_attachments() {
    rscni_test::run(|lab| {
        for keys in [
            json!({}),
            json!({ "masqAll": true }),
            json!({ "snat": false }),
            json!({ "markMasqBit": 9 }),
        ] {
            let mut keys = keys;
            keys["backend"] = IPTABLES.into();
            let a = publish(
                lab,
                &network(lab),
                &format!("a{}", keys.to_string().len()),
                &keys,
                &mappings(),
            );
            // CHECK of that Go release is wrong: it looks for IPv4 rules among those of IPv6.
            lab.plugin(GO_PORTMAP).del(&a, "eth0", &a.config()).success();
            assert_no_ports(lab);
            a.link.del().success();
        }
    });
}

#[test]
fn both_plugins_share_the_common_chains() {
    rscni_test::run(|lab| {
        let saved = |program: &str| {
            let text = run(program, &["-t", "nat"]);
            let is_shared =
                |line: &&str| line.contains("CNI-HOSTPORT") && !line.contains("CNI-DN-");
            text.lines().filter(is_shared).map(str::to_owned).collect::<Vec<_>>()
        };
        let keys = json!({ "backend": IPTABLES });
        let ours = publish(lab, &network(lab), "ours", &keys, &json!([mapping(1, "tcp")]));
        let before = ["iptables-save", "ip6tables-save"].map(saved);
        assert_eq!(before[0].len(), 8, "{before:#?}");
        let theirs = published_by_go(lab, "theirs");
        assert_eq!(["iptables-save", "ip6tables-save"].map(saved), before);
        let link = network(lab).attach(lab, "more");
        let more = publish_attached(lab, link, &keys, &json!([mapping(2, "tcp")]));
        assert_eq!(["iptables-save", "ip6tables-save"].map(saved), before);
        for (published, port) in [(&ours, 1), (&theirs, 8080), (&more, 2)] {
            published.check().success();
            let server = published.serve_tcp(80);
            lab.host().tcp(format!("127.0.0.1:{port}")).assert_by(&server);
        }
    });
}

/// Adds the nftables rules of Go releases after 1.6 for a container's port 8080.
fn add_go_rules(id: &str, v4: &str, v6: &str) {
    let masquerade = |family: &str, from: &str, to: &str| {
        format!("{family} saddr {from} {family} daddr {to} masquerade comment \"{id}\"; ")
    };
    let table = |family: &str, target: &str, rules: &str| {
        format!(
            "table {family} cni_hostport {{
                chain hostports {{ tcp dport 8080 dnat to {target}:80 comment \"{id}\"; }}
                chain hostip_hostports {{ }}
                chain hostports_all {{ jump hostip_hostports; jump hostports; }}
                chain prerouting {{ type nat hook prerouting priority -100; fib daddr type local jump hostports_all; }}
                chain output {{ type nat hook output priority -100; fib daddr type local jump hostports_all; }}
                chain masquerading {{ type nat hook postrouting priority 100; {rules} }}
            }}\n"
        )
    };
    let rules = masquerade("ip", v4, v4) + &masquerade("ip", "127.0.0.1", v4);
    let tables =
        table("ip", v4, &rules) + &table("ip6", &format!("[{v6}]"), &masquerade("ip6", v6, v6));
    nft(&tables);
}

#[test]
fn nftables_rules_of_the_go_plugin_are_checked_and_deleted() {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let ports = json!([mapping(8080, "tcp")]);
        let [a, b] = ["a", "b"].map(|name| {
            let link = network.attach(lab, name);
            add_go_rules(link.id(), &link.v4().to_string(), &link.v6().to_string());
            let network = portmap(lab, &network, &json!({}), &ports);
            let reply = network
                .plugin
                .add(
                    &link,
                    "eth0",
                    &link.reply.follow(&json!({
                        "cniVersion": "1.1.0", "name": "net", "type": "portmap",
                    })),
                )
                .success();
            Attached { network, container: link.container.clone(), ifname: "eth0".into(), reply }
        });
        rscni_linux::sysctl::set("net/ipv4/conf/br0/route_localnet", "1").unwrap();
        let rules = || {
            let text = nft("list ruleset");
            ["ctr-a", "ctr-b"].map(|id| text.matches(&format!("\"{id}\"")).count())
        };
        assert_eq!(rules(), [5, 5]);
        a.check().success();
        a.del().success();
        assert_eq!(rules(), [0, 5]);
        a.check_misses("host port 8080/tcp");
        b.check().success();
        b.del_without_netns().success();
        assert_eq!(rules(), [0, 0]);
    });
}
