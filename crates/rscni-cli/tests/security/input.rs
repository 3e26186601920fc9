//! Invalid names, paths and rule texts are rejected with the right code, before anything is
//! changed.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Network, V4, host_local};

/// Invalid interface names.
const NO_INTERFACE: &[&str] =
    &["../br0", "a/b", "..", "a\0b", "a\nb", "a b", "sixteen-letters-", "eth%d", "a:b"];
/// Invalid plugin names.
const NO_TYPE: &[&str] = &["../../bin/sh", "/bin/sh", "..", "host-local\0", "host-local\n", "a\\b"];
/// Invalid chain names of iptables.
const NO_CHAIN: &[&str] =
    &["A\n-F INPUT", "A\0", "A B", "-F", "!A", "a-chain-of-more-than-28-letters", "A\"B"];
const NO_PATH: &[&str] = &["/run\0/x"];
const NO_CONDITION: &[&str] =
    &["-s\n-F INPUT", "a\0", "ip saddr 10.0.0.0/8; flush ruleset", "accept #"];
const NO_ZONE: &[&str] = &["trusted\0", "trusted\n"];
const NO_SYSCTL: &[&str] =
    &["net/../kernel/hostname", "kernel.hostname", "net/ipv4/\0", "../net.ipv4.x", "/etc/passwd"];

/// A result for chained plugins.
fn previous() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [{ "name": "br0" }, { "name": "veth0" }, { "name": "eth0", "sandbox": "/run/netns/x" }],
        "ips": [{ "address": "10.1.0.2/24", "interface": 2 }],
    })
}

/// A network with a previous result and IPAM.
fn network(lab: &Lab, plugin: &str) -> Network {
    Network::new(lab, plugin, &json!({ "prevResult": previous(), "ipam": host_local(&[V4]) }))
}

#[rstest]
#[case("bridge", "/bridge", NO_INTERFACE)]
#[case("macvlan", "/master", NO_INTERFACE)]
#[case("ipvlan", "/master", NO_INTERFACE)]
#[case("vlan", "/master", NO_INTERFACE)]
#[case("host-device", "/device", NO_INTERFACE)]
#[case("host-device", "/kernelpath", &["/sys/devices/../../etc", "/etc", "/sys/devices/\0"])]
#[case("host-device", "/pciBusID", &["../../etc", "0000:3b:00.1/..", "0000:3b:00.\n"])]
#[case("host-device", "/runtimeConfig/deviceID", &["../x", "..", "a\0b"])]
#[case("vrf", "/vrfname", NO_INTERFACE)]
#[case("bridge", "/ipam/type", NO_TYPE)]
#[case("bridge", "/ipam/dataDir", NO_PATH)]
#[case("host-local", "/ipam/dataDir", NO_PATH)]
#[case("host-local", "/ipam/resolvConf", NO_PATH)]
#[case("dhcp", "/ipam/daemonSocketPath", NO_PATH)]
#[case("flannel", "/dataDir", NO_PATH)]
#[case("flannel", "/subnetFile", NO_PATH)]
#[case("tuning", "/dataDir", NO_PATH)]
#[case("tuning", "/sysctl", NO_SYSCTL)]
#[case("firewall", "/iptablesAdminChainName", NO_CHAIN)]
#[case("firewall", "/firewalldZone", NO_ZONE)]
#[case("portmap", "/externalSetMarkChain", NO_CHAIN)]
#[case("portmap", "/conditionsV4", NO_CONDITION)]
fn ambiguous_values_are_rejected(
    #[case] plugin: &str,
    #[case] key: &str,
    #[case] values: &'static [&'static str],
) {
    rscni_test::run(|lab| {
        let network = network(lab, plugin);
        let container = lab.container("a");
        let before = lab.snapshot();
        let too_long = "x".repeat(5000);
        for value in values.iter().copied().chain([&*too_long]).filter(|value| is_for(key, value)) {
            let mut config = network.config.clone();
            set(&mut config, key, value);
            let outcome = network.plugin.add(&container, "eth0", &config);
            assert_eq!(outcome.failure().code(), 7, "{key} {value:?}: {outcome}");
            lab.assert_unchanged_since(&before);
        }
    });
}

/// Whether the value is invalid for this key. The length of conditions and sysctls is not checked.
fn is_for(key: &str, value: &str) -> bool {
    value.len() < 5000 || !matches!(key, "/conditionsV4" | "/sysctl")
}

fn set(config: &mut Value, key: &str, value: &str) {
    match key.rsplit_once('/').unwrap() {
        ("", "conditionsV4") => config["conditionsV4"] = json!([value]),
        ("", "sysctl") => config["sysctl"] = json!({ value: "1" }),
        ("", key) => config[key] = value.into(),
        (part, key) => config[&part[1..]][key] = value.into(),
    }
}

#[test]
fn delegates_of_flannel_are_plugin_names() {
    rscni_test::run(|lab| {
        let subnet = lab.dir().join("subnet.env");
        std::fs::write(
            &subnet,
            "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        )
        .unwrap();
        let network = Network::new(lab, "flannel", &json!({ "subnetFile": subnet }));
        let container = lab.container("a");
        let before = lab.snapshot();
        for value in NO_TYPE {
            let config = network.with(&json!({ "delegate": { "type": value } })).config;
            network.plugin.add(&container, "eth0", &config).error(7);
            // The saved file is removed; its directory stays.
            lab.snapshot().ignoring("/var/lib/cni").assert_same(&before);
        }
    });
}

#[rstest]
#[case("CNI_CONTAINERID", &["../a", "a/b", "-a", ".a", "a\nb", "a b", "é"], 200)]
#[case("CNI_IFNAME", &["../a", "a/b", "..", "a\nb", "a b", "eth%d", "a:b"], 15)]
fn invalid_names_in_variables_are_rejected(
    #[values("bridge", "tuning", "host-local")] plugin: &str,
    #[case] variable: &str,
    #[case] values: &'static [&'static str],
    #[case] longest: usize,
) {
    rscni_test::run(|lab| {
        let network = network(lab, plugin);
        let container = lab.container("a");
        let before = lab.snapshot();
        let too_long = "x".repeat(longest + 1);
        for command in ["ADD", "DEL"] {
            for value in values.iter().copied().chain([&*too_long]) {
                let call = network
                    .plugin
                    .call(command)
                    .attachment(&container, "eth0")
                    .config(&network.config);
                call.env(variable, value).run().error(4).mentions(variable);
                lab.assert_unchanged_since(&before);
            }
        }
    });
}

#[test]
fn variables_that_are_not_utf8_are_rejected() {
    rscni_test::run(|lab| {
        let network = network(lab, "bridge");
        let container = lab.container("a");
        let before = lab.snapshot();
        for variable in [
            "CNI_CONTAINERID",
            "CNI_IFNAME",
            "CNI_NETNS",
            "CNI_ARGS",
            "CNI_PATH",
            "CNI_NETNS_OVERRIDE",
        ] {
            let call =
                network.plugin.call("ADD").attachment(&container, "eth0").config(&network.config);
            call.env(variable, OsStr::from_bytes(b"a\xff"))
                .run()
                .error(4)
                .mentions(variable)
                .mentions("UTF-8");
        }
        let call =
            network.plugin.call("ADD").attachment(&container, "eth0").config(&network.config);
        call.env("CNI_COMMAND", OsStr::from_bytes(b"ADD\xff"))
            .run()
            .error(4)
            .mentions("CNI_COMMAND");
        let call = network.plugin.call("ADD").attachment(&container, "eth0");
        call.stdin(*b"{ \"cniVersion\": \"1.1.0\", \"name\": \"\xff\", \"type\": \"bridge\" }")
            .run()
            .error(6);
        lab.assert_unchanged_since(&before);
    });
}

/// The kernel accepts such names, and no program gets them as options.
#[test]
fn interfaces_may_be_named_like_options() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({ "bridge": "-rf", "ipMasq": true }));
        let a = network.attach_as(&lab.container("a"), "--help");
        a.ping("10.1.0.1");
        a.check().success();
        a.del().success();
    });
}
