//! A node goes over from the Go plugins, which are Debian's here, to this binary and back: either can CHECK and DEL
//! what the other added.

mod support;

use std::path::Path;

use rscni_test::{Lab, Plugin};
use rstest::rstest;
use serde_json::json;

use support::{Network, V4, V6, host_local};

const GO: &str = "/usr/lib/cni";

/// The network with all that makes something, at the newest version that both speak.
fn network(lab: &Lab, plugin: &str) -> Network {
    let mut ipam = host_local(&[V4, V6]);
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let keys = json!({
        "cniVersion": "1.0.0", "bridge": "br0", "isGateway": true, "ipam": ipam,
        "ipMasq": true, "ipMasqBackend": "iptables",
    });
    Network::new(lab, plugin, &keys)
}

fn go(lab: &Lab, plugin: &str) -> Plugin {
    lab.plugin(Path::new(GO).join(plugin)).cni_path([GO])
}

fn assert_nothing_left(lab: &Lab) {
    let left = lab.snapshot().to_string();
    let is_left = |line: &&str| {
        ["ctr-", "CNI-", "veth", "cni-br-iface"].iter().any(|word| line.contains(word))
    };
    let left: Vec<&str> = left.lines().filter(is_left).collect();
    assert!(left.is_empty(), "{left:#?}");
}

#[rstest]
fn what_the_go_plugin_added_is_checked_and_deleted(
    #[values("bridge", "ptp")] plugin: &str,
    #[values("with_result", "without_result", "without_netns", "netns_gone", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        let ours = network(lab, plugin);
        let theirs = Network { plugin: go(lab, plugin), ..ours.clone() };
        let mut a = theirs.attach(lab, "a");
        a.network = ours.clone();
        a.ping("10.1.0.1");
        a.check().success();
        match how {
            "with_result" => a.del().success(),
            "without_result" => a.del_without_result().success(),
            "without_netns" => {
                // Nothing tells the name of its link on the host. It goes with the namespace, which the runtime removes.
                let reply = a.del_without_netns().success();
                lab.remove_namespace(&a);
                reply
            }
            "netns_gone" => {
                lab.remove_namespace(&a);
                a.del().success()
            }
            _ => {
                lab.remove_namespace(&a);
                ours.with(&json!({ "cniVersion": "1.1.0" })).gc(&[]).success()
            }
        };
        let is_there = || lab.snapshot().to_string().contains("link veth");
        rscni_test::eventually("the end of the link", || (!is_there()).then_some(()));
        assert_nothing_left(lab);
    });
}

#[test]
fn the_filter_of_the_go_plugin_is_checked_and_deleted() {
    rscni_test::run(|lab| {
        let ours = network(lab, "bridge").with(&json!({ "macspoofchk": true }));
        let theirs = Network { plugin: go(lab, "bridge"), ..ours.clone() };
        let mut a = theirs.attach(lab, "a");
        a.network = ours;
        a.check().success();
        a.del().success();
        assert_nothing_left(lab);
    });
}

#[rstest]
fn what_was_added_here_is_checked_and_deleted_by_the_go_plugin(
    #[values("bridge", "ptp")] plugin: &str,
) {
    rscni_test::run(|lab| {
        let ours = network(lab, plugin);
        let a = ours.attach(lab, "a");
        let theirs = go(lab, plugin);
        theirs.check(&a, "eth0", &a.config()).success();
        theirs.del(&a, "eth0", &a.config()).success();
        assert_nothing_left(lab);
    });
}

#[test]
fn containers_of_both_talk_on_one_bridge() {
    rscni_test::run(|lab| {
        let ours = network(lab, "bridge");
        let theirs = Network { plugin: go(lab, "bridge"), ..ours.clone() };
        for (first, second, names) in [(&theirs, &ours, ["a", "b"]), (&ours, &theirs, ["c", "d"])] {
            let (a, b) = (first.attach(lab, names[0]), second.attach(lab, names[1]));
            support::assert_talk(lab, &a, &b, true);
            support::assert_talk(lab, &a, &b, false);
        }
    });
}
