//! Plugins work on their own interface only when `prevResult` holds several attachments of a
//! container.

mod support;

use rscni_test::{Lab, Outcome};
use rstest::rstest;
use serde_json::{Value, json};

use support::{
    Attached, IPTABLES, NFTABLES, Network, V4, V6, assert_gone, host_local, nft,
    outside::{HOST, OUTSIDE, outside},
};

/// Merges the results of two attachments. The interfaces of the first come first.
fn merge(first: &Value, second: &Value) -> Value {
    let list = |result: &Value, key: &str| result[key].as_array().cloned().unwrap_or_default();
    let mut merged = first.clone();
    let offset = list(first, "interfaces").len();
    let mut ips = list(second, "ips");
    for ip in &mut ips {
        ip["interface"] = json!(ip["interface"].as_u64().unwrap() + offset as u64);
    }
    let both = |key: &str, more: Vec<Value>| Value::from([list(first, key), more].concat());
    merged["interfaces"] = both("interfaces", list(second, "interfaces"));
    merged["ips"] = both("ips", ips);
    merged["routes"] = both("routes", list(second, "routes"));
    merged
}

/// A container in two networks, and the merged result.
struct Both {
    eth0: Attached,
    net1: Attached,
    merged: Value,
}

impl Both {
    fn new(lab: &Lab, backend: &str, second_first: bool) -> Self {
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }, { "dst": "::/0" }]);
        let keys =
            json!({ "ipam": ipam, "ipMasq": true, "ipMasqBackend": backend, "macspoofchk": true });
        let eth0 = Network::bridge(lab, &[], &keys).attach(lab, "a");
        let mut ipam = host_local(&["10.2.0.0/24", "fd02::/64"]);
        ipam["routes"] = json!([{ "dst": "198.51.100.0/24", "gw": "10.2.0.1" }]);
        let keys =
            json!({ "name": "second", "ipam": ipam, "ipMasq": true, "ipMasqBackend": backend });
        let net1 = Network::ptp(lab, &[], &keys).attach_as(&eth0.container, "net1");
        let mut results = [eth0.reply.json(), net1.reply.json()];
        if second_first {
            results.reverse();
        }
        let merged = merge(results[0], results[1]);
        Self { eth0, net1, merged }
    }

    /// Calls ADD of a chained plugin without a merged result.
    fn chained(lab: &Lab, before: &Attached, plugin: &str, keys: &Value) -> Attached {
        let name = json!({ "name": before.network.config["name"] });
        Network::new(lab, plugin, &name).with(keys).after(before)
    }

    fn config(&self, attached: &Attached) -> Value {
        let mut config = attached.network.config.clone();
        config["prevResult"] = self.merged.clone();
        config
    }

    fn check(&self, attached: &Attached) -> Outcome {
        attached.network.plugin.check(attached, &attached.ifname, &self.config(attached))
    }

    fn del(&self, attached: &Attached) -> Outcome {
        attached.network.plugin.del(attached, &attached.ifname, &self.config(attached))
    }
}

#[rstest]
fn check_passes_and_still_finds_damage(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values(false, true)] second_first: bool,
) {
    rscni_test::run(|lab| {
        let both = Both::new(lab, backend, second_first);
        both.check(&both.eth0).success();
        both.check(&both.net1).success();
        for (attached, address) in [(&both.eth0, "fd01::2/64"), (&both.net1, "10.2.0.2/24")] {
            let index = attached.link().index;
            attached.netlink().del_address(index, address.parse().unwrap()).unwrap();
            both.check(attached).error(100).mentions(address);
        }
    });
}

#[test]
fn check_finds_missing_masquerading_and_gateways() {
    rscni_test::run(|lab| {
        let both = Both::new(lab, NFTABLES, true);
        nft("delete element inet rscni masquerade4 { 10.1.0.2 }");
        both.check(&both.eth0).error(100).mentions("masquerading of 10.1.0.2");
        both.check(&both.net1).success();
        let mut host = lab.host().netlink();
        let index = host.link_by_name(&both.net1.port_name()).unwrap().index;
        host.del_address(index, "10.2.0.1/32".parse().unwrap()).unwrap();
        both.check(&both.net1).error(100).mentions("10.2.0.1");
        let bridge = host.link_by_name("br0").unwrap().index;
        host.del_address(bridge, "fd01::1/64".parse().unwrap()).unwrap();
        both.check(&both.eth0).error(100).mentions("fd01::1");
    });
}

#[rstest]
fn del_of_one_attachment_spares_the_other(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values(false, true)] second_first: bool,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let both = Both::new(lab, backend, second_first);
        both.del(&both.net1).success();
        both.eth0.check().success();
        let server = outside.serve_tcp(8080);
        for (target, host) in [(OUTSIDE[0], HOST[0]), (&format!("[{}]", OUTSIDE[1]), HOST[1])] {
            let answer = both.eth0.tcp(format!("{target}:8080"));
            answer.assert_by(&server);
            assert_eq!(answer.seen_as.to_string(), host);
        }
        both.del(&both.eth0).success();
        assert_gone(lab, &["ctr-a", "CNI-"]);
    });
}

#[rstest]
#[case::portmap("portmap", json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } }))]
#[case::portmap_iptables("portmap", json!({
    "backend": "iptables", "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] }
}))]
#[case::firewall("firewall", json!({}))]
#[case::firewall_iptables("firewall", json!({ "backend": "iptables" }))]
#[case::sbr("sbr", json!({}))]
#[case::tuning("tuning", json!({ "mtu": 1400 }))]
#[case::bandwidth("bandwidth", json!({ "ingressRate": 8_000_000, "ingressBurst": 80_000 }))]
fn chained_plugins_work_on_their_own_interface(#[case] plugin: &str, #[case] keys: Value) {
    rscni_test::run(|lab| {
        for second_first in [false, true] {
            let both = Both::new(lab, NFTABLES, second_first);
            // Each has its own host port.
            let mut keys = keys.clone();
            let chained: Vec<Attached> = [&both.net1, &both.eth0]
                .into_iter()
                .map(|attached| {
                    if let Some(port) = keys.pointer_mut("/runtimeConfig/portMappings/0/hostPort") {
                        *port = json!(port.as_u64().unwrap() + 1);
                    }
                    let chained = Both::chained(lab, attached, plugin, &keys);
                    both.check(&chained).success();
                    // CHECK of the interface plugins ignores what a chained plugin changed.
                    both.check(&both.eth0).success();
                    both.check(&both.net1).success();
                    chained
                })
                .collect();
            for chained in chained {
                both.check(&chained).success();
                both.del(&chained).success();
            }
            both.del(&both.net1).success();
            both.del(&both.eth0).success();
            lab.remove_namespace(&both.eth0);
        }
    });
}

#[test]
fn host_ports_lead_to_the_interface_of_the_call() {
    rscni_test::run(|lab| {
        let both = Both::new(lab, NFTABLES, true);
        let mapping = |port: u16| json!([{ "hostPort": port, "containerPort": 80 }]);
        let keys = |port| json!({ "runtimeConfig": { "portMappings": mapping(port) } });
        for (attached, port) in [(&both.eth0, 8081), (&both.net1, 8082)] {
            let name = json!({ "name": attached.network.config["name"] });
            let portmap = Network::new(lab, "portmap", &name).with(&keys(port));
            let mut config = portmap.config.clone();
            config["prevResult"] = both.merged.clone();
            portmap.plugin.add(attached, &attached.ifname, &config).success();
            portmap.plugin.check(attached, &attached.ifname, &config).success();
            let map = nft("list map inet rscni hostport4_any");
            let element = format!(
                "tcp . {port} comment \"{} ctr-a {}\" : {} . 80",
                attached.network.config["name"].as_str().unwrap(),
                attached.ifname,
                attached.v4()
            );
            assert!(map.contains(&element), "{element}\n{map}");
        }
    });
}
