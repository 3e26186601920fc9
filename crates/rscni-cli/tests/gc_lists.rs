//! GC of lists whose attachments the runtime has forgotten, and whose namespaces are gone. It
//! spares valid attachments, and other networks to which containers are attached at the same time.

mod support;

use rscni_catalogue::{Values, row};
use rscni_test::{Attachment, Chain, Lab, Snapshot};
use rstest::rstest;
use serde_json::{Value, json};

use support::{V4, V6, host_local};

/// A list of bridge with these additional keys, and of these plugins after it.
fn bridge(keys: &Value, chained: &[Value]) -> Vec<Value> {
    let mut first = json!({ "type": "bridge", "bridge": "br0", "isGateway": true, "ipam": host_local(&[V4, V6]) });
    first.as_object_mut().unwrap().extend(keys.as_object().cloned().unwrap_or_default());
    [&[first], chained].concat()
}

fn portmap(backend: &str) -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true }, "backend": backend })
}

fn bandwidth() -> Value {
    json!({ "type": "bandwidth", "ingressRate": 800_000, "ingressBurst": 1_600_000, "egressRate": 800_000,
            "egressBurst": 1_600_000 })
}

fn tuning() -> Value {
    json!({ "type": "tuning", "mtu": 1400, "sysctl": { "net.core.somaxconn": "500" } })
}

fn flannel() -> Value {
    json!({ "type": "flannel", "delegate": { "bridge": "br0", "isDefaultGateway": true } })
}

/// A list with a host port for each container, from `port` on.
struct Network {
    list: Chain,
    port: u16,
}

impl Network {
    fn new(name: &str, plugins: &[Value], port: u16) -> Self {
        Self { list: plugins.iter().cloned().fold(Chain::new(name), Chain::plugin), port }
    }

    fn attach(&self, lab: &Lab, name: &str) -> Attachment {
        let port = self.port + u16::from(name.bytes().last().unwrap());
        let mapping =
            |protocol: &str| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol });
        let mappings = json!([mapping("tcp"), mapping("udp")]);
        self.list.clone().capability("portMappings", mappings).attach(lab, name)
    }

    fn gc(&self, valid: &[&Attachment]) {
        self.list.gc(valid).success();
    }
}

/// Everything that belongs to attachments, except those of the third network.
fn snapshot(lab: &Lab) -> Snapshot {
    let others = ["directory /run/cni/host-device", "br2"];
    others.iter().fold(support::snapshot(lab), |snapshot, text| snapshot.ignoring(text))
}

#[rstest]
#[case::bridge(bridge(&json!({}), &[]))]
#[case::bridge_masquerading(bridge(&json!({ "ipMasq": true, "hairpinMode": true }), &[]))]
#[case::bridge_masquerading_with_iptables(bridge(&json!({ "ipMasq": true, "ipMasqBackend": "iptables" }), &[]))]
#[case::bridge_against_spoofing(bridge(&json!({ "macspoofchk": true }), &[]))]
#[case::ptp(vec![json!({ "type": "ptp", "ipMasq": true, "ipam": host_local(&[V4, V6]) })])]
#[case::macvlan(vec![json!({ "type": "macvlan", "master": "device", "ipam": host_local(&[V4, V6]) })])]
#[case::portmap(bridge(&json!({}), &[portmap("nftables")]))]
#[case::portmap_with_iptables(bridge(&json!({}), &[portmap("iptables")]))]
#[case::bandwidth(bridge(&json!({}), &[bandwidth()]))]
#[case::tuning(bridge(&json!({}), &[tuning()]))]
#[case::firewall(bridge(&json!({}), &[json!({ "type": "firewall", "backend": "nftables" })]))]
#[case::firewall_with_iptables(bridge(&json!({}), &[json!({ "type": "firewall", "backend": "iptables" })]))]
#[case::firewall_isolated(bridge(&json!({}), &[json!({ "type": "firewall", "ingressPolicy": "isolated" })]))]
#[case::loopback_and_sbr(bridge(&json!({}), &[json!({ "type": "loopback" }), json!({ "type": "sbr" })]))]
#[case::flannel(vec![flannel()])]
#[case::all(bridge(
    &json!({ "ipMasq": true, "macspoofchk": true }),
    &[portmap("nftables"), bandwidth(), tuning(), json!({ "type": "firewall" }), json!({ "type": "sbr" })]
))]
fn gc_removes_stale_objects_only(#[case] plugins: Vec<Value>) {
    rscni_test::run(|lab| {
        support::install(lab);
        support::cable(lab, "device", &lab.container("machine"), "device");
        support::set_up(&row("flannel"), &Values::default());
        let network = Network::new("net", &plugins, 8000);
        // The same plugins in a network whose name begins with the first one's.
        let mut others = plugins.clone();
        if others[0].get("ipam").is_some() {
            others[0]["ipam"] = host_local(&["10.1.1.0/24", "fd01:1::/64"]);
            others[0]["bridge"] = "br1".into();
        } else {
            others[0]["dataDir"] = "/var/lib/cni/flannel-of-another".into();
        }
        let other = Network::new("net-2", &others, 9000);
        let third = [
            json!({ "type": "bridge", "bridge": "br2", "ipMasq": true, "ipam": host_local(&["10.1.2.0/24"]) }),
        ];
        let third = Network::new("third", &third, 0);
        // Objects that belong to the networks.
        for (network, name) in [(&network, "first-a"), (&other, "first-b"), (&third, "first-c")] {
            let first = network.attach(lab, name);
            // DEL removes links at once, unlike the end of a namespace.
            first.del().success();
            lab.remove_namespace(&first);
        }

        let empty = snapshot(lab);
        let kept = network.attach(lab, "kept-a");
        let of_other = other.attach(lab, "other-b");
        let before = snapshot(lab);
        for name in ["gone-c", "gone-d"] {
            let gone = network.attach(lab, name);
            lab.remove_namespace(&gone);
        }
        assert!(!before.changes_to(&snapshot(lab)).is_empty());

        std::thread::scope(|scope| {
            let comings = scope.spawn(|| {
                for round in 0..4 {
                    let a = third.attach(lab, &format!("third-{round}"));
                    a.check().success();
                    a.del().success();
                    lab.remove_namespace(&a);
                }
            });
            while !comings.is_finished() {
                network.gc(&[&kept]);
            }
        });
        network.gc(&[&kept]);
        lab.assert_unchanged_since(&before);
        network.gc(&[&kept]);
        lab.assert_unchanged_since(&before);

        // The third network has no valid attachments any more.
        for container in [&kept, &of_other] {
            lab.remove_namespace(container);
        }
        network.gc(&[]);
        other.gc(&[]);
        network.gc(&[]);
        lab.assert_unchanged_since(&empty);
    });
}
