//! A plugin as root with some capabilities and no others, and what SECURITY.md says that it needs.

use std::{fs, os::unix::fs::PermissionsExt};

use rscni_linux::{LinkChange, Veth};
use rscni_test::{Lab, Snapshot};
use serde_json::{Value, json};

use crate::support::{self, Attached, Network, V4, host_local};

/// Has the plugin called as root with these capabilities and no others.
pub(crate) fn with(lab: &Lab, network: &Network, capabilities: &[&str]) -> Network {
    let set = capabilities
        .iter()
        .map(|name| format!(",+{}", name.to_lowercase()))
        .collect::<Vec<_>>()
        .concat();
    let plugin = network.config["type"].as_str().unwrap();
    let script = lab.dir().join(format!("{plugin}-with-{}", capabilities.join("-")));
    let program = network.plugin.program().display();
    fs::write(
        &script,
        format!("#!/bin/sh\nexec setpriv --bounding-set=-all{set} --inh-caps=-all -- {program}\n"),
    )
    .unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    Network {
        plugin: lab.plugin(&script).cni_path(["/run/rscni-test/bin"]),
        config: network.config.clone(),
    }
}

/// What SECURITY.md says that a plugin needs.
pub(crate) fn documented(plugin: &str) -> Vec<String> {
    let text =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../SECURITY.md")).unwrap();
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).map(cells).collect();
    let is_it =
        |row: &&Vec<String>| row[0].split(", ").any(|name| name.trim_matches('`') == plugin);
    let row =
        rows.iter().find(is_it).unwrap_or_else(|| panic!("SECURITY.md has no row for {plugin}"));
    let words = row[1].split([',', ' ']).map(|word| word.trim_matches('`'));
    words.filter_map(|word| word.strip_prefix("CAP_")).map(str::to_owned).collect()
}

/// The plugin with a configuration in which it does what needs most, and the plugin before it in a list.
fn example(lab: &Lab, plugin: &str) -> (Network, Option<Attached>) {
    let keys = match plugin {
        "bridge" => {
            json!({ "bridge": "br0", "isGateway": true, "ipMasq": true, "macspoofchk": true,
            "ipam": host_local(&[V4]) })
        }
        "ptp" => json!({ "ipMasq": true, "ipam": host_local(&[V4]) }),
        "macvlan" | "ipvlan" => json!({ "master": "dev0", "ipam": host_local(&[V4]) }),
        "vlan" => json!({ "master": "dev0", "vlanId": 5, "ipam": host_local(&[V4]) }),
        "vrf" => json!({ "vrfname": "red" }),
        "host-device" => json!({ "device": "dev0", "ipam": host_local(&[V4]) }),
        "host-local" | "tap" | "dummy" => json!({ "ipam": host_local(&[V4]) }),
        "static" => {
            json!({ "ipam": { "type": "static", "addresses": [{ "address": "10.1.0.2/24" }] } })
        }
        "portmap" => {
            json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } })
        }
        "tuning" => json!({ "mtu": 1400, "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } }),
        "bandwidth" => {
            json!({ "ingressRate": 800_000, "ingressBurst": 80_000, "egressRate": 800_000,
            "egressBurst": 80_000 })
        }
        "flannel" => json!({ "subnetFile": "/run/subnet.env" }),
        _ => json!({}),
    };
    let network = Network::new(lab, plugin, &keys);
    if matches!(plugin, "macvlan" | "ipvlan" | "vlan" | "host-device") {
        let other = lab.container("other");
        let netns = rscni_linux::Netns::open(other.path()).unwrap();
        let mut host = lab.host().netlink();
        let veth = Veth { up: true, peer_netns: Some(&netns), ..Veth::new("dev0", "peer") };
        host.add_veth(&veth).unwrap();
        let peer = other.netlink().link_by_name("peer").unwrap().index;
        other
            .netlink()
            .set_link(peer, &LinkChange { up: Some(true), ..LinkChange::default() })
            .unwrap();
    }
    let lease = "FLANNEL_NETWORK=10.2.0.0/16\nFLANNEL_SUBNET=10.2.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    fs::write("/run/subnet.env", lease).unwrap();
    let is_chained =
        matches!(plugin, "portmap" | "firewall" | "tuning" | "bandwidth" | "sbr" | "vrf");
    let first = is_chained
        .then(|| Network::bridge(lab, &[V4], &json!({ "name": "first" })).attach(lab, "a"));
    (network, first)
}

/// What there is, without what stays for other attachments.
fn snapshot(lab: &Lab) -> Snapshot {
    ["/var/lib/cni", "/run/cni", "bridge br0", "link br0", "br0"]
        .iter()
        .fold(support::snapshot(lab), |snapshot, text| snapshot.ignoring(text))
}

fn config(network: &Network, first: Option<&Attached>) -> Value {
    first.map_or_else(|| network.config.clone(), |first| first.reply.follow(&network.config))
}

/// Has the plugin do its work with what is documented, and fail where one of it is missing.
pub(crate) fn needs_what_is_documented_and_no_more(plugin: &str) {
    let needed = documented(plugin);
    let needed: Vec<&str> = needed.iter().map(String::as_str).collect();
    rscni_test::run(|lab| {
        let (network, first) = example(lab, plugin);
        let container =
            first.as_ref().map_or_else(|| lab.container("a"), |first| first.container.clone());
        let ifname = if plugin == "loopback" { "lo" } else { "eth0" };
        let config = config(&network, first.as_ref());
        let before = snapshot(lab);
        for missing in &needed {
            let others: Vec<&str> = needed.iter().copied().filter(|name| name != missing).collect();
            let outcome = with(lab, &network, &others).plugin.add(&container, ifname, &config);
            outcome.failure().mentions("Operation not permitted").mentions(missing);
            snapshot(lab).assert_same(&before);
        }
        let network = with(lab, &network, &needed);
        let reply = network.plugin.add(&container, ifname, &config).success();
        let config = reply.follow(&config);
        network.plugin.check(&container, ifname, &config).success();
        network.plugin.del(&container, ifname, &config).success();
    });
}
