//! A node whose containers were attached by the Go plugins, which are Debian's here, goes over to this binary: DEL of
//! the same list through the runtime removes all that they have set up, and nothing else.

mod support;

use rscni::{
    invoke::Process,
    runtime::{AttachmentParams, NetConfList, Runtime},
};
use rscni_linux::{LinkChange, Veth};
use rscni_test::{Container, Lab, Snapshot};
use rstest::rstest;
use serde_json::{Map, Value, json};

use support::{V4, V6, host_local};

const GO: &str = "/usr/lib/cni";
const OURS: &str = "/run/rscni-test/bin";

/// A list of bridge, with these keys more, and these plugins after it.
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

/// What the runtime passes to the plugins that can do something with it.
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
    /// With what belongs to the network and to no container made by a first container, which Go's plugins remove.
    fn new(lab: &Lab, plugins: &[Value]) -> (Self, Snapshot) {
        support::install(lab);
        // For plugins that need a device of the host.
        lab.host().netlink().add_veth(&Veth::new("device", "beyond")).unwrap();
        let list = json!({ "cniVersion": "1.0.0", "name": "net", "plugins": plugins }).to_string();
        let list = NetConfList::from_json(list.as_bytes()).unwrap();
        let [go, ours] = [GO, OURS].map(|dir| Runtime::new(Process, [dir]));
        let this = Self { list, go, ours };
        let first = lab.container("first");
        this.go.add(&this.list, &params(&first)).unwrap();
        this.go.del(&this.list, &params(&first)).unwrap();
        lab.remove_namespace(&first);
        // Go's host-device leaves the name that a device had while it was away as its alias.
        let mut host = lab.host().netlink();
        let device = host.link_by_name("device").unwrap().index;
        host.set_link(device, &LinkChange { alias: Some(String::new()), ..LinkChange::default() })
            .unwrap();
        // Where host-local goes on and what it has counted, locks.
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
fn what_the_go_plugins_set_up_is_removed_completely(
    #[case] plugins: Vec<Value>,
    #[values("with_result", "without_result", "netns_gone", "netns_and_result_gone")] how: &str,
) {
    rscni_test::run(|lab| hand_over(lab, &plugins, how));
}

/// The device is one that goes with its namespace, so the namespace has to be there.
#[rstest]
fn the_device_that_the_go_plugin_moved_comes_back(
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
        // Go's firewall says in its rules which addresses they are for, and nothing else; and nobody knows those now.
        before = before.ignoring("ip filter CNI-FORWARD").ignoring("ip6 filter CNI-FORWARD");
    }
    handover.ours.del(&handover.list, &params(&a)).unwrap();
    handover.ours.del(&handover.list, &params(&a)).unwrap();
    if !how.contains("netns") {
        lab.remove_namespace(&a);
    }
    lab.assert_unchanged_since(&before);
}
