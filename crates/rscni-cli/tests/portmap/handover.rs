//! A node goes over from the Go plugin, which is Debian's here, to this one and back: either can DEL what the other
//! added. What Go's newer releases make with nftables is made by hand.

use std::process::Command;

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use crate::{
    published::{
        IPTABLES, Published, assert_no_ports, at, bridge, mapping, portmap, publish,
        publish_attached,
    },
    support::{Attached, Network, outside::HOST},
};

const GO: &str = "/usr/lib/cni/portmap";

fn mappings() -> serde_json::Value {
    let mut all = vec![at(HOST[0], 9000), at(HOST[1], 9001), mapping(53, "udp")];
    // More than go into one rule.
    all.extend((8080..8100).map(|port| mapping(port, "tcp")));
    all.into()
}

/// A network of the newest version that both speak.
fn network(lab: &Lab) -> Network {
    bridge(lab).with(&json!({ "cniVersion": "1.0.0" }))
}

/// A container that the Go plugin has published, in the hands of ours.
fn published_by_go(lab: &Lab, name: &str) -> Published {
    let link = network(lab).attach(lab, name);
    let ours = portmap(lab, &link.network, &json!({}), &mappings());
    let theirs = lab.plugin(GO);
    let reply = theirs.add(&link, "eth0", &link.reply.follow(&ours.config)).success();
    let ports =
        Attached { network: ours, container: link.container.clone(), ifname: "eth0".into(), reply };
    Published { link, ports }
}

#[rstest]
fn what_the_go_plugin_added_is_checked_and_deleted(
    #[values("with_result", "without_result", "without_netns", "netns_gone", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        let a = published_by_go(lab, "a");
        a.check().success();
        let server = a.serve_tcp(80);
        lab.host().tcp("127.0.0.1:8099").assert_by(&server);
        drop(server);
        match how {
            "with_result" => a.ports.del(),
            "without_result" => a.ports.del_without_result(),
            "without_netns" => a.ports.del_without_netns(),
            "netns_gone" => {
                lab.remove_namespace(&a);
                a.ports.del()
            }
            _ => a.network.with(&json!({ "cniVersion": "1.1.0" })).gc(&[]),
        }
        .success();
        assert_no_ports(lab);
        let left = lab.snapshot().to_string();
        let of_container = |line: &&str| {
            line.contains("ctr-a") && (line.contains("nft rule") || line.contains("dnat"))
        };
        assert_eq!(left.lines().find(of_container), None);
    });
}

#[test]
fn what_was_added_here_is_deleted_by_the_go_plugin() {
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
            // Its CHECK is of no use here: that release misses rules of IPv4 among those of IPv6, its own too.
            lab.plugin(GO).del(&a, "eth0", &a.config()).success();
            assert_no_ports(lab);
            a.link.del().success();
        }
    });
}

#[test]
fn both_share_the_chains_that_are_for_all() {
    rscni_test::run(|lab| {
        let saved = |program: &str| {
            let output = Command::new(program).args(["-t", "nat"]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
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

/// What Go's release after 1.6 makes with nftables for a container's port 8080.
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
    let output = Command::new("nft").arg(tables).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_the_go_plugin_made_with_nftables_is_checked_and_deleted() {
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
            let text = String::from_utf8(
                Command::new("nft").args(["list", "ruleset"]).output().unwrap().stdout,
            )
            .unwrap();
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
