//! Every version of the specification, in configurations and results of plugins.

mod support;

use rscni_test::{Lab, VERSIONS};
use rstest::rstest;
use serde_json::{Value, json};

use support::{Attached, Network, V4, V6, assert_gone, fixed, host_local};

fn network(lab: &Lab, plugin: &str, version: &str) -> Network {
    let mut ipam = match plugin {
        "static" => fixed(&[("10.1.0.2/24", "10.1.0.1"), ("fd01::2/64", "fd01::1")]),
        _ => host_local(&[V4, V6]),
    };
    ipam["routes"] = match version {
        "1.1.0" => json!([{ "dst": "192.0.2.0/24", "mtu": 1300, "priority": 5 }]),
        _ => json!([{ "dst": "192.0.2.0/24" }]),
    };
    let keys = json!({ "cniVersion": version, "ipam": ipam, "bridge": "br0", "isGateway": true, "ipMasq": true });
    let keys = if plugin == "loopback" { json!({ "cniVersion": version }) } else { keys };
    Network::new(lab, plugin, &keys)
}

/// Returns the expected result of a plugin.
fn expected(plugin: &str, version: &str, a: &Attached) -> Value {
    let mut result = json!({ "cniVersion": version });
    let is_loopback = plugin == "loopback";
    if ["0.1.0", "0.2.0"].contains(&version) {
        if is_loopback {
            result["ip4"] = json!({ "ip": "127.0.0.1/8" });
            result["ip6"] = json!({ "ip": "::1/128" });
        } else {
            let routes = json!([{ "dst": "192.0.2.0/24" }]);
            result["ip4"] = json!({ "ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": routes });
            result["ip6"] = json!({ "ip": "fd01::2/64", "gateway": "fd01::1" });
        }
        return result;
    }
    let container = match plugin {
        "bridge" => Some((2, "eth0")),
        "ptp" => Some((1, "eth0")),
        "loopback" => Some((0, "lo")),
        _ => None,
    };
    let address = |family: &str, address: &str, gateway: &str| {
        let mut ip = json!({});
        if version.starts_with('0') {
            ip["version"] = family.into();
        }
        if let Some((index, _)) = container {
            ip["interface"] = index.into();
        }
        ip["address"] = address.into();
        if !gateway.is_empty() {
            ip["gateway"] = gateway.into();
        }
        ip
    };
    if is_loopback {
        result["ips"] = json!([address("4", "127.0.0.1/8", ""), address("6", "::1/128", "")]);
    } else {
        let ips = [address("4", "10.1.0.2/24", "10.1.0.1"), address("6", "fd01::2/64", "fd01::1")];
        result["ips"] = ips.to_vec().into();
        result["routes"] = match version {
            "1.1.0" => json!([{ "dst": "192.0.2.0/24", "mtu": 1300, "priority": 5 }]),
            _ => json!([{ "dst": "192.0.2.0/24" }]),
        };
    }
    if let Some((index, name)) = container {
        let interfaces = a.reply["interfaces"].as_array().expect("interfaces");
        assert_eq!(interfaces.len(), index + 1);
        assert_eq!(
            (&interfaces[index]["name"], &interfaces[index]["sandbox"]),
            (&json!(name), &json!(a.path()))
        );
        for interface in interfaces {
            assert_eq!(interface.get("mtu").is_some(), version == "1.1.0", "{interface}");
            assert!(interface["mac"].is_string());
        }
        result["interfaces"] = interfaces.clone().into();
    }
    result
}

#[rstest]
fn every_version_works(
    #[values("bridge", "ptp", "loopback", "host-local", "static")] plugin: &str,
) {
    rscni_test::run(|lab| {
        for version in VERSIONS {
            let network = network(lab, plugin, version);
            let name = format!("a{version}");
            let a = network.attach(lab, &name);
            assert_eq!(a.reply.json(), &expected(plugin, version, &a), "{plugin} {version}");
            a.assert_commands_of(version);
            a.del().success();
            a.del().success();
            assert_gone(lab, &[a.id()]);
            // Without host-local's state, each version gets the same addresses.
            let _ = std::fs::remove_dir_all("/var/lib/cni/networks/net");
        }
    });
}

#[rstest]
fn a_config_without_version_has_the_first_version(
    #[values("bridge", "ptp", "loopback", "host-local", "static")] plugin: &str,
) {
    rscni_test::run(|lab| {
        let network = network(lab, plugin, "0.1.0").with(&json!({ "cniVersion": null }));
        let reply = network.attach(lab, "a").reply;
        assert_eq!(reply["cniVersion"], "0.1.0");
        assert!(reply["ip4"]["ip"].is_string());
    });
}

#[rstest]
fn unknown_versions_are_rejected(
    #[values("bridge", "ptp", "loopback", "host-local", "static")] plugin: &str,
    #[values("1.2.0", "1.3.0", "0.3.2", "nonsense")] version: &str,
) {
    rscni_test::run(|lab| {
        let network = network(lab, plugin, version);
        let a = lab.container("a");
        let before = lab.snapshot();
        network.add(&a).error(1).mentions(version);
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn all_versions_are_reported(
    #[values("bridge", "ptp", "loopback", "host-local", "static")] plugin: &str,
) {
    rscni_test::run(|lab| {
        let reply = network(lab, plugin, "1.1.0").plugin.version().success();
        assert_eq!(reply["supportedVersions"], json!(VERSIONS));
    });
}

#[rstest]
fn attachments_are_checked_and_deleted_in_another_version(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        let before = network(lab, plugin, "0.4.0").attach(lab, "a");
        let after =
            network(lab, plugin, "1.1.0").with(&json!({ "ipam": before.network.config["ipam"] }));
        let config = before.reply.follow(&after.config);
        after.plugin.check(&before, "eth0", &config).success();
        after.plugin.del(&before, "eth0", &config).success();
        assert_gone(lab, &["ctr-a"]);
    });
}
