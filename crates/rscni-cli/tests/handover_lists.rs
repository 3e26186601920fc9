//! Handover of lists from Debian's Go plugins to this binary: DEL removes what they set up and
//! nothing else.

mod support;

use rscni_linux::{LinkChange, Veth};
use rscni_test::{Chain, Lab, Snapshot};
use rstest::rstest;
use serde_json::{Value, json};

use support::{GO, V4, V6, host_local};

/// A list of bridge with these additional keys, and of these plugins after it.
fn bridge(keys: &Value, chained: &[Value]) -> Vec<Value> {
    let mut ipam = host_local(&[V4, V6]);
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let mut first = json!({ "type": "bridge", "bridge": "br0", "isGateway": true, "ipam": ipam });
    first.as_object_mut().unwrap().extend(keys.as_object().cloned().unwrap_or_default());
    [&[first], chained].concat()
}

fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true }, "snat": true })
}

fn bandwidth() -> Value {
    json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } })
}

fn tuning() -> Value {
    json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" }, "mac": "c2:11:22:33:44:55", "mtu": 1400,
            "promisc": true, "allmulti": true })
}

/// A list of these plugins, with arguments of their capabilities.
fn list(plugins: &[Value]) -> Chain {
    let mapping = |protocol: &str, port: u16, host_ip: &str| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol, "hostIP": host_ip });
    let mappings = json!([
        mapping("tcp", 8080, ""),
        mapping("udp", 8080, ""),
        mapping("tcp", 8081, "192.0.2.1"),
        mapping("tcp", 8082, "2001:db8::1"),
    ]);
    let limits = json!({ "ingressRate": 800_000, "ingressBurst": 1_600_000, "egressRate": 800_000,
                         "egressBurst": 1_600_000 });
    let empty = Chain::new("net").version("1.0.0");
    let list = plugins.iter().cloned().fold(empty, Chain::plugin);
    list.capability("portMappings", mappings).capability("bandwidth", limits)
}

/// Adds a device for plugins that need one, and the objects that belong to the network.
fn set_up(lab: &Lab, go: &Chain) -> Snapshot {
    support::install(lab);
    lab.host().netlink().add_veth(&Veth::new("device", "beyond")).unwrap();
    let first = go.attach(lab, "first");
    first.del().success();
    lab.remove_namespace(&first);
    // Go's host-device leaves an alias on the device.
    let alias = LinkChange { alias: Some(String::new()), ..LinkChange::default() };
    support::change(&mut lab.host().netlink(), "device", &alias);
    // State of host-local.
    let others =
        ["/last_reserved_ip.", "/.index", "/networks/net/lock", "directory /run/cni/host-device"];
    others.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text))
}

#[rstest]
#[case::bridge(bridge(&json!({}), &[]))]
#[case::bridge_masquerading(bridge(&json!({ "ipMasq": true, "hairpinMode": true }), &[]))]
#[case::bridge_against_spoofing(bridge(&json!({ "macspoofchk": true }), &[]))]
#[case::ptp(vec![json!({ "type": "ptp", "ipMasq": true, "ipam": host_local(&[V4, V6]) })])]
#[case::macvlan(vec![json!({ "type": "macvlan", "master": "device", "ipam": host_local(&[V4, V6]) })])]
#[case::loopback(bridge(&json!({}), &[json!({ "type": "loopback" })]))]
#[case::portmap(bridge(&json!({}), &[portmap()]))]
#[case::portmap_without_snat(bridge(&json!({}), &[{ let mut p = portmap(); p["snat"] = false.into(); p }]))]
#[case::portmap_masquerading_all(bridge(&json!({}), &[{ let mut p = portmap(); p["masqAll"] = true.into(); p }]))]
#[case::bandwidth(bridge(&json!({}), &[bandwidth()]))]
#[case::tuning(bridge(&json!({}), &[tuning()]))]
#[case::firewall(bridge(&json!({}), &[json!({ "type": "firewall" })]))]
#[case::firewall_same_bridge(bridge(&json!({}), &[json!({ "type": "firewall", "ingressPolicy": "same-bridge" })]))]
#[case::sbr(bridge(&json!({}), &[json!({ "type": "sbr" })]))]
#[case::all(bridge(
    &json!({ "ipMasq": true, "hairpinMode": true }),
    &[portmap(), bandwidth(), tuning(), json!({ "type": "firewall" }), json!({ "type": "sbr" })]
))]
fn attachments_of_the_go_plugins_are_removed_completely(
    #[case] plugins: Vec<Value>,
    #[values("with_result", "without_result", "netns_gone", "netns_and_result_gone")] how: &str,
) {
    rscni_test::run(|lab| hand_over(lab, &plugins, how));
}

/// A virtual device is destroyed with its namespace, so the namespace exists in these cases.
#[rstest]
fn a_device_that_the_go_plugin_moved_is_returned(
    #[values("with_result", "without_result")] how: &str,
) {
    let plugin =
        json!({ "type": "host-device", "device": "device", "ipam": host_local(&[V4, V6]) });
    rscni_test::run(|lab| hand_over(lab, std::slice::from_ref(&plugin), how));
}

fn hand_over(lab: &Lab, plugins: &[Value], how: &str) {
    let ours = list(plugins);
    let go = ours.clone().found_in(GO);
    let mut before = set_up(lab, &go);
    let a = go.attach(lab, "a").handed_over_to(&ours);
    assert!(!before.changes_to(&lab.snapshot()).is_empty(), "nothing was set up");
    if how.contains("netns") {
        lab.remove_namespace(&a);
    }
    if how == "netns_and_result_gone" {
        // The rules of Go's firewall name addresses only, and these are unknown now.
        before = before.ignoring("ip filter CNI-FORWARD").ignoring("ip6 filter CNI-FORWARD");
    }
    let has_result = !how.contains("result") || how == "with_result";
    for _ in 0..2 {
        if has_result {
            a.del().success()
        } else {
            a.del_without_result().success()
        };
    }
    if !how.contains("netns") {
        lab.remove_namespace(&a);
    }
    lab.assert_unchanged_since(&before);
}
