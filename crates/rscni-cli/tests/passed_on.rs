//! Plugins pass on keys that they do not change, even keys of newer versions and unknown keys.

mod support;

use rscni_test::{Lab, VERSIONS};
use rstest::rstest;
use serde_json::{Value, json};

use support::{BIN, Network, V4, V6, write_script};

/// Adds keys to a result that its version does not have.
fn enrich(result: &mut Value) {
    for interface in result["interfaces"].as_array_mut().unwrap() {
        interface["mtu"] = json!(1500);
        interface["x-interface"] = json!({ "deep": [1, null, "text"] });
    }
    result["interfaces"][2]["socketPath"] = json!("/run/vhost.sock");
    result["interfaces"][2]["pciID"] = json!("0000:04:00.5");
    result["ips"][0]["x-ip"] = json!(18_446_744_073_709_551_615_u64);
    result["routes"] = json!([{
        "dst": "192.0.2.0/24", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360, "priority": 10, "table": 100,
        "scope": 0, "x-route": true
    }]);
    result["dns"] = json!({ "search": ["a"], "x-dns": 0.5 });
    result["x-result"] = json!(null);
}

/// Returns keys with which a chained plugin leaves the result unchanged.
fn keys(plugin: &str) -> Value {
    match plugin {
        "portmap" => {
            json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } })
        }
        "bandwidth" => json!({ "ingressRate": 8_000_000, "ingressBurst": 800_000 }),
        "tuning" => json!({ "sysctl": { "net.ipv4.conf.IFNAME.log_martians": "1" } }),
        _ => json!({}),
    }
}

#[rstest]
fn chained_plugins_pass_on_what_they_do_not_change(
    #[values("portmap", "bandwidth", "firewall", "tuning", "sbr", "loopback")] plugin: &str,
) {
    rscni_test::run(|lab| {
        for version in &VERSIONS[2..] {
            let container = lab.container(&format!("a{version}"));
            let bridge = Network::bridge(lab, &[V4, V6], &json!({ "cniVersion": version }));
            let mut first = bridge.attach_as(&container, "eth0");
            let mut given = first.reply.json().clone();
            enrich(&mut given);
            let chained = Network::new(lab, plugin, &keys(plugin)).with(&json!({
                "cniVersion": version, "prevResult": given
            }));
            let reply = chained.add(&container).success();
            assert_eq!(*reply.json(), given, "{plugin} {version}");
            chained.del(&container).success();
            first.network.config["prevResult"] = given;
            first.network.del(&container).success();
        }
    });
}

#[rstest]
fn results_of_the_first_versions_keep_unknown_keys(#[values("0.1.0", "0.2.0")] version: &str) {
    rscni_test::run(|lab| {
        let container = lab.container("a");
        let given = json!({
            "cniVersion": version, "x-result": 1, "dns": { "domain": "x", "x-dns": [] },
            "ip4": { "ip": "10.1.0.5/16", "x-ip": {},
                     "routes": [{ "dst": "0.0.0.0/0", "mtu": 1400, "x-route": 2 }] },
        });
        let tuning =
            Network::new(lab, "tuning", &json!({ "cniVersion": version, "prevResult": given }));
        assert_eq!(*tuning.plugin.add(&container, "lo", &tuning.config).success().json(), given);
    });
}

/// Installs a foreign IPAM plugin.
fn install_ipam(lab: &Lab, reply: &Value) {
    support::install(lab);
    let text = format!("[ $CNI_COMMAND = ADD ] && echo '{reply}'\nexit 0");
    write_script(format!("{BIN}/their-ipam"), &text);
}

#[rstest]
fn unknown_keys_of_an_ipam_plugin_are_passed_on(
    #[values("bridge", "ptp")] plugin: &str,
    #[values("0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        let route = json!({ "dst": "192.0.2.0/24", "gw": "10.1.0.1", "mtu": 1400, "x-route": 1 });
        let reply = json!({
            "cniVersion": version, "x-result": 2, "routes": [route],
            "ips": [{ "version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "x-ip": 3 }],
        });
        install_ipam(lab, &reply);
        let keys = json!({ "cniVersion": version, "ipam": { "type": "their-ipam" } });
        let a = Network::new(lab, plugin, &keys).attach(lab, "a");
        assert_eq!(a.reply["routes"], json!([route]));
        assert_eq!((&a.reply["x-result"], &a.reply["ips"][0]["x-ip"]), (&json!(2), &json!(3)));
        a.check().success();
        a.del().success();
    });
}

#[test]
fn replies_of_other_plugins_are_read_like_go() {
    rscni_test::run(|lab| {
        install_ipam(
            lab,
            &json!({
                "CniVersion": "1.0.0", "Routes": [{ "DST": "192.0.2.0/24", "Table": 1e2 }],
                "IPs": [{ "Address": "10.1.0.5/16", "Gateway": "10.1.0.1" }], "DNS": { "Search": ["a"] },
            }),
        );
        let keys =
            json!({ "cniVersion": "1.0.0", "isGateway": true, "ipam": { "type": "their-ipam" } });
        let a = Network::new(lab, "bridge", &keys).attach(lab, "a");
        assert_eq!(a.reply["ips"][0]["address"], "10.1.0.5/16");
        assert_eq!(a.reply["routes"][0]["table"], 100);
        assert_eq!(a.reply["dns"], json!({ "search": ["a"] }));
        a.ping(a.reply.gateways()[0]);
    });
}

#[test]
fn an_address_with_leading_zeros_in_a_reply_is_rejected() {
    rscni_test::run(|lab| {
        install_ipam(
            lab,
            &json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.01.0.5/16" }] }),
        );
        let keys = json!({ "cniVersion": "1.0.0", "ipam": { "type": "their-ipam" } });
        let network = Network::new(lab, "bridge", &keys);
        let error = network.add(&lab.container("a")).error(6);
        error.mentions("ips[0].address").mentions("10.01.0.5/16").mentions("leading zeros");
    });
}
