//! A device comes back although its namespace vanished, the runtime lost it, or the Go plugin moved it.

use std::path::Path;

use rscni_linux::{LinkChange, Netns};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use super::{
    bare, device, host_link, network, snapshot,
    support::{Attached, Network, fixed},
};

const GO: &str = "/usr/lib/cni";

#[rstest]
fn a_virtual_device_goes_with_the_namespace(
    #[values("with_path", "without_path", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let a = network(lab, &json!({})).attach(lab, "a");
        lab.remove_namespace(&a);
        match how {
            "with_path" => a.del().success(),
            "without_path" => a.del_without_netns().success(),
            _ => a.network.gc(&[]).success(),
        };
        let left = lab.snapshot().to_string();
        assert!(!left.contains("ctr-a") && !left.contains("file /run/cni"), "{left}");
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
        renamed.plugin.del(&a.container, "eth0", &renamed.config).success();
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
    });
}

/// Has the device of `a` be where the kernel puts a physical one whose namespace goes: on the host, off, without
/// addresses, under this name and with its alias.
fn fall_back(lab: &Lab, a: &Attached, name: &str) {
    let host = Netns::open(lab.host().path()).unwrap();
    let index = a.link().index;
    let change =
        LinkChange { netns: Some(&host), name: Some(name.into()), ..LinkChange::default() };
    a.netlink().set_link(index, &change).unwrap();
    lab.remove_namespace(a);
}

#[rstest]
fn a_device_that_the_kernel_gave_back_is_as_it_was(
    #[values("eth0", "dev7", "dev0")] name: &str,
    #[values("with_path", "without_path", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let before = snapshot(lab);
        let a = bare(lab).attach(lab, "a");
        fall_back(lab, &a, name);
        match how {
            "with_path" => a.del().success(),
            "without_path" => a.del_without_netns().success(),
            _ => a.network.gc(&[]).success(),
        };
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn gc_gives_back_what_no_valid_attachment_has() {
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
fn a_late_del_spares_the_next_container_at_the_same_path() {
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
fn it_takes_over_from_the_go_plugin_and_hands_back(
    #[values("with_result", "without_result", "netns_gone")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let ours = network(lab, &json!({ "cniVersion": "1.0.0" }));
        let go = Network {
            plugin: lab.plugin(Path::new(GO).join("host-device")).cni_path([GO]),
            ..ours.clone()
        };
        let mut a = go.attach(lab, "a");
        a.network = ours.clone();
        a.check().success();
        match how {
            "with_result" => a.del().success(),
            "without_result" => a.del_without_result().success(),
            _ => {
                fall_back(lab, &a, "eth0");
                a.del().success()
            }
        };
        let back = host_link(lab, "dev0").unwrap();
        // Nobody knows what it was like before.
        assert_eq!((back.alias.as_deref().unwrap_or_default(), back.up), ("", false));
        assert!(!lab.snapshot().to_string().contains("ctr-a"), "{}", lab.snapshot());

        // A file of an attachment that the Go plugin ended says nothing about the next.
        let b = ours.attach(lab, "b");
        go.plugin.check(&b, "eth0", &b.config()).success();
        go.plugin.del(&b, "eth0", &b.config()).success();
        assert!(host_link(lab, "dev0").is_some());
        let mut c = go.attach(lab, "c");
        c.network = ours;
        c.del().success();
        assert!(host_link(lab, "dev0").is_some());
        b.del().success();
        assert!(!lab.snapshot().to_string().contains("file /run/cni"), "{}", lab.snapshot());
    });
}
