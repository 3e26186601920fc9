//! Handover of lists from Debian's Go plugins to this binary: DEL removes what they set up and
//! nothing else.

mod support;

use rscni::{
    invoke::Process,
    runtime::{AttachmentParams, NetConfList, Runtime},
};
use rscni_linux::{LinkChange, Veth};
use rscni_test::{Container, Lab, Snapshot};
use rstest::rstest;
use serde_json::{Map, Value, json};

use support::{BIN, GO, V4, V6, host_local};

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

/// Capability arguments of the runtime.
fn capability_args() -> Map<String, Value> {
    let mapping = |protocol: &str, port: u16, host_ip: &str| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol, "hostIP": host_ip });
    let args = json!({
        "portMappings": [
            mapping("tcp", 8080, ""), mapping("udp", 8080, ""), mapping("tcp", 8081, "192.0.2.1"),
            mapping("tcp", 8082, "2001:db8::1"),
        ],
        "bandwidth": { "ingressRate": 800_000, "ingressBurst": 1_600_000, "egressRate": 800_000,
                       "egressBurst": 1_600_000 },
    });
    args.as_object().cloned().unwrap()
}

struct Handover {
    list: NetConfList,
    go: Runtime<Process>,
    ours: Runtime<Process>,
}

impl Handover {
    /// A first container creates the objects that belong to the network.
    fn new(lab: &Lab, plugins: &[Value]) -> (Self, Snapshot) {
        support::install(lab);
        // The device for plugins that need one.
        lab.host().netlink().add_veth(&Veth::new("device", "beyond")).unwrap();
        let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": plugins }).to_string();
        let list = NetConfList::from_json(list.as_bytes()).unwrap();
        let [go, ours] = [GO, BIN].map(|dir| Runtime::new(Process, [dir]));
        let this = Self { list, go, ours };
        let first = lab.container("first");
        this.go.add(&this.list, &params(&first)).unwrap();
        this.go.del(&this.list, &params(&first)).unwrap();
        lab.remove_namespace(&first);
        // Go's host-device leaves an alias on the device.
        let mut host = lab.host().netlink();
        let device = host.link_by_name("device").unwrap().index;
        host.set_link(device, &LinkChange { alias: Some(String::new()), ..LinkChange::default() })
            .unwrap();
        // State of host-local, and locks.
        let others = [
            "/last_reserved_ip.",
            "/.index",
            "/networks/net/lock",
            "/var/lib/cni/locks",
            "directory /run/cni/host-device",
        ];
        let before = others.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text));
        (this, before)
    }

    /// A container attached by Go's plugins.
    fn attach(&self, lab: &Lab, before: &Snapshot) -> Container {
        let a = lab.container("a");
        self.go.add(&self.list, &params(&a)).unwrap();
        assert!(!before.changes_to(&lab.snapshot()).is_empty(), "nothing was set up");
        a
    }
}

fn params(container: &Container) -> AttachmentParams {
    let mut params = AttachmentParams::new(container.id(), container.path(), "eth0");
    params.capability_args = capability_args();
    params
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
    let (handover, mut before) = Handover::new(lab, plugins);
    let a = handover.attach(lab, &before);
    if how.contains("result") && how != "with_result" {
        handover.ours.cache().remove("net", &params(&a)).unwrap();
    }
    if how.contains("netns") {
        lab.remove_namespace(&a);
    }
    if how == "netns_and_result_gone" {
        // The rules of Go's firewall name addresses only, and these are unknown now.
        before = before.ignoring("ip filter CNI-FORWARD").ignoring("ip6 filter CNI-FORWARD");
    }
    handover.ours.del(&handover.list, &params(&a)).unwrap();
    handover.ours.del(&handover.list, &params(&a)).unwrap();
    if !how.contains("netns") {
        lab.remove_namespace(&a);
    }
    lab.assert_unchanged_since(&before);
}
