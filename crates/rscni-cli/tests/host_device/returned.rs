//! A device comes back after its namespace vanished, or after the Go plugin moved it.

use rscni_linux::{LinkChange, Netns};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use super::{
    bare, device, host_link, network, snapshot,
    support::{Attached, assert_gone, fixed},
};

#[rstest]
fn a_virtual_device_is_destroyed_with_the_namespace(
    #[values("with_result", "without_netns", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let a = network(lab, &json!({})).attach(lab, "a");
        lab.remove_namespace(&a);
        a.end(lab, how).success();
        assert_gone(lab, &["ctr-a", "file /run/cni"]);
        a.del().success();
    });
}

#[test]
fn a_device_comes_back_when_its_network_was_renamed() {
    rscni_test::run(|lab| {
        device(lab);
        let before = snapshot(lab);
        let a = bare(lab).attach(lab, "a");
        let renamed = a.network.with(&json!({ "name": "renamed" }));
        renamed.del(&a.container).success();
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
    });
}

/// Removes the namespace of `a` and moves its device to where the kernel puts a physical one: to
/// the host, down, without addresses, under this name and with its alias.
pub(super) fn fall_back(lab: &Lab, a: &Attached, name: &str) {
    let host = Netns::open(lab.host().path()).unwrap();
    let index = a.link().index;
    let change =
        LinkChange { netns: Some(&host), name: Some(name.into()), ..LinkChange::default() };
    a.netlink().set_link(index, &change).unwrap();
    lab.remove_namespace(a);
}

#[rstest]
fn a_device_that_the_kernel_returned_is_restored(
    #[values("eth0", "dev7", "dev0")] name: &str,
    #[values("with_result", "without_netns", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let before = snapshot(lab);
        let a = bare(lab).attach(lab, "a");
        fall_back(lab, &a, name);
        a.end(lab, how).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn gc_returns_devices_of_stale_attachments() {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let network = network(lab, &json!({}));
        let a = network.attach_as(&a, "eth0");
        network.gc(&[&a]).success();
        a.check().success();
        network.with(&json!({ "name": "other" })).gc(&[]).success();
        a.check().success();
        network.gc(&[]).success();
        lab.assert_unchanged_since(&before);
        network.plugin.gc(&network.config).success();
    });
}

#[test]
fn a_late_del_keeps_the_next_container_at_the_same_path() {
    rscni_test::run(|lab| {
        let net = device(lab);
        let network = network(lab, &json!({ "ipam": fixed(&[("10.1.0.5/24", "10.1.0.1")]) }));
        let old = network.attach(lab, "a");
        fall_back(lab, &old, "dev0");
        let path = lab.container("a");
        let add =
            network.plugin.call("ADD").attachment(&path, "eth0").env("CNI_CONTAINERID", "next");
        add.config(&network.config).run().success();
        old.del().success();
        old.del_without_netns().success();
        path.ping("10.1.0.1");
        net.ping("10.1.0.5");
    });
}

#[rstest]
fn attachments_are_handed_over_from_and_to_the_go_plugin(
    #[values("with_result", "without_result", "netns_gone")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let ours = network(lab, &json!({ "cniVersion": "1.0.0" }));
        let go = ours.with_go(lab);
        let mut a = go.attach(lab, "a");
        a.network = ours.clone();
        a.check().success();
        if how == "netns_gone" {
            fall_back(lab, &a, "eth0");
            a.del().success();
        } else {
            a.end(lab, how).success();
        }
        let back = host_link(lab, "dev0").unwrap();
        // Its earlier state is unknown.
        assert_eq!((back.alias.as_deref().unwrap_or_default(), back.up), ("", false));
        assert_gone(lab, &["ctr-a"]);

        // The record of an attachment that the Go plugin removed is ignored.
        let b = ours.attach(lab, "b");
        go.plugin.check(&b, "eth0", &b.config()).success();
        go.plugin.del(&b, "eth0", &b.config()).success();
        assert!(host_link(lab, "dev0").is_some());
        let mut c = go.attach(lab, "c");
        c.network = ours;
        c.del().success();
        assert!(host_link(lab, "dev0").is_some());
        b.del().success();
        assert_gone(lab, &["file /run/cni"]);
    });
}
