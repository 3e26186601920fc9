//! Handover between Debian's Go plugins and this binary: each can CHECK and DEL what the other
//! added.

mod support;

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use support::{Network, V4, V6, assert_gone, host_local, wait_until_gone};

/// A network with masquerading, in the newest version that both support.
fn network(lab: &Lab, plugin: &str) -> Network {
    let mut ipam = host_local(&[V4, V6]);
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let keys = json!({
        "cniVersion": "1.0.0", "bridge": "br0", "isGateway": true, "ipam": ipam,
        "ipMasq": true, "ipMasqBackend": "iptables",
    });
    Network::new(lab, plugin, &keys)
}

fn assert_nothing_left(lab: &Lab) {
    assert_gone(lab, &["ctr-", "CNI-", "veth", "cni-br-iface"]);
}

#[rstest]
fn attachments_of_the_go_plugin_are_checked_and_deleted(
    #[values("bridge", "ptp")] plugin: &str,
    #[values("with_result", "without_result", "without_netns", "netns_gone", "netns_gone_gc")] how: &str,
) {
    rscni_test::run(|lab| {
        let ours = network(lab, plugin);
        let theirs = ours.with_go(lab);
        let mut a = theirs.attach(lab, "a");
        a.network = ours.clone();
        a.ping("10.1.0.1");
        a.check().success();
        a.end(lab, how).success();
        if how == "without_netns" {
            // The name of its host interface is unknown. It goes with the namespace, which the
            // runtime removes.
            lab.remove_namespace(&a);
        }
        wait_until_gone(lab, "link veth");
        assert_nothing_left(lab);
    });
}

#[test]
fn the_filter_of_the_go_plugin_is_checked_and_deleted() {
    rscni_test::run(|lab| {
        let ours = network(lab, "bridge").with(&json!({ "macspoofchk": true }));
        let theirs = ours.with_go(lab);
        let mut a = theirs.attach(lab, "a");
        a.network = ours;
        a.check().success();
        a.del().success();
        assert_nothing_left(lab);
    });
}

#[rstest]
fn the_go_plugin_checks_and_deletes_our_attachments(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        let ours = network(lab, plugin);
        let a = ours.attach(lab, "a");
        let theirs = ours.with_go(lab).plugin;
        theirs.check(&a, "eth0", &a.config()).success();
        theirs.del(&a, "eth0", &a.config()).success();
        assert_nothing_left(lab);
    });
}

#[test]
fn containers_of_both_talk_on_one_bridge() {
    rscni_test::run(|lab| {
        let ours = network(lab, "bridge");
        let theirs = ours.with_go(lab);
        for (first, second, names) in [(&theirs, &ours, ["a", "b"]), (&ours, &theirs, ["c", "d"])] {
            let (a, b) = (first.attach(lab, names[0]), second.attach(lab, names[1]));
            support::assert_talk(lab, &a, &b, true);
            support::assert_talk(lab, &a, &b, false);
        }
    });
}
