//! `macspoofchk`, with forged frames.

mod support;

use rscni_linux::LinkChange;
use serde_json::json;

use support::{Network, V4, assert_gone, assert_talk, change};

#[test]
fn a_container_that_changes_its_hardware_address_is_cut_off_by_macspoofchk() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({ "macspoofchk": true }));
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        assert_talk(lab, &a, &b, true);
        a.check().success();
        let before = lab.snapshot();
        let own = a.link().mac;
        let forged =
            LinkChange { mac: Some("02:00:00:00:00:99".parse().unwrap()), ..LinkChange::default() };
        change(&mut a.netlink(), "eth0", &forged);
        a.cannot_ping("10.1.0.1");
        a.cannot_ping(b.v4());
        change(&mut a.netlink(), "eth0", &LinkChange { mac: own, ..LinkChange::default() });
        a.ping("10.1.0.1");
        lab.assert_unchanged_since(&before);
        for attached in [&a, &b] {
            attached.del_without_result().success();
        }
        assert_gone(lab, &["ctr-"]);
    });
}

#[test]
fn every_kind_of_del_removes_the_filter() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({ "macspoofchk": true }));
        network.attach(lab, "a").del().success();
        network.attach(lab, "b").del_without_netns().success();
        let c = network.attach(lab, "c");
        lab.remove_namespace(&c);
        c.del().success();
        assert_gone(lab, &["ctr-"]);
        // GC removes the filter of a container without DEL.
        let (stale, valid) = (network.attach(lab, "d"), network.attach(lab, "e"));
        lab.remove_namespace(&stale);
        network.gc(&[&valid]).success();
        valid.check().success();
        assert_gone(lab, &["ctr-d"]);
    });
}
