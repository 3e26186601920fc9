//! DEL and GC remove everything of an attachment.

use rstest::rstest;
use serde_json::json;

use crate::{
    lists::{ENDS, IPTABLES, List, NFTABLES, assert_nothing_left, assert_reaches, left, run},
    support,
};

#[rstest]
fn every_end_removes_everything(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("open", "isolated")] policy: &str,
) {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({ "backend": backend, "ingressPolicy": policy }));
        for how in ENDS {
            let a = list.attach(lab, how);
            assert!(!left(lab, &a).is_empty());
            a.end(lab, how).success();
            assert_nothing_left(lab, &a);
            // Once more.
            a.del().success();
            a.del_without_result().success();
        }
    });
}

#[test]
fn the_second_attachment_leaves_exactly_what_the_first_one_left() {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({ "ingressPolicy": "same-bridge" }));
        let (a, b) = (list.attach(lab, "a"), list.bridge.attach(lab, "b"));
        a.del().success();
        let before = support::snapshot(lab);
        list.firewall.after(&b).del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn the_configured_backend_does_not_matter_to_del(#[values(NFTABLES, IPTABLES)] added: &str) {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({ "backend": added }));
        for (name, other) in [
            ("a", NFTABLES),
            ("b", IPTABLES),
            ("c", ""),
            ("d", "firewalld"),
            ("e", "no such thing"),
        ] {
            let mut a = list.attach(lab, name).firewall;
            a.network =
                a.network.with(&json!({ "backend": other, "ingressPolicy": "no such thing" }));
            a.del().success();
            assert_nothing_left(lab, &a);
        }
    });
}

#[rstest]
fn gc_keeps_valid_attachments_and_other_networks(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let keys = json!({ "backend": backend, "ingressPolicy": "isolated" });
        let [one, two] = [1, 2].map(|number| List::new(lab, number, &keys));
        let (stale, valid, other) =
            (one.attach(lab, "stale"), one.attach(lab, "valid"), two.attach(lab, "other"));
        lab.remove_namespace(&stale);
        one.firewall.gc(&[&valid]).success();
        assert_nothing_left(lab, &stale);
        valid.check().success();
        other.check().success();
        one.firewall.plugin.gc(&one.firewall.config).success();
        assert_nothing_left(lab, &valid);
        other.check().success();
    });
}

#[rstest]
fn a_late_del_keeps_the_next_owner_of_the_address(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let ipam = support::fixed(&[("10.1.0.5/24", "10.1.0.1"), ("fd01::5/64", "fd01::1")]);
        let mut list = List::new(lab, 1, &json!({ "backend": backend }));
        list.bridge = list.bridge.with(&json!({ "ipam": ipam }));
        let old = list.attach(lab, "old");
        old.bridge.del().success();
        let new = list.attach(lab, "new");
        for _ in 0..2 {
            old.del().success();
            old.del_without_result().success();
            new.check().success();
        }
        new.del().success();
        assert_nothing_left(lab, &new);
    });
}

#[test]
fn del_in_one_network_keeps_the_other() {
    rscni_test::run(|lab| {
        let [one, two] = [1, 2].map(|number| List::new(lab, number, &json!({})));
        let first = one.attach(lab, "a");
        let second = two.firewall.after(&two.bridge.attach_as(&first, "eth1"));
        first.del().success();
        second.check().success();
        second.del_without_result().success();
        assert_nothing_left(lab, &second);
    });
}

#[test]
fn an_add_that_nftables_refuses_leaves_nothing() {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({ "backend": IPTABLES, "ingressPolicy": "isolated" }));
        // Another program has a set of that name.
        run("nft", "add table inet rscni");
        run("nft", "add set inet rscni firewall-iptables4 { type ifname ; }");
        let (a, b) = (list.bridge.attach(lab, "a"), list.bridge.attach(lab, "b"));
        // The first attachment creates the shared rules, which stay.
        list.firewall.call_after(&a).error(5).mentions("firewall-iptables4");
        let before = support::snapshot(lab);
        list.firewall.call_after(&b).error(5).mentions("firewall-iptables4");
        lab.assert_unchanged_since(&before);
        assert!(!before.to_string().contains("element bridge rscni"), "{before}");
    });
}

#[test]
fn many_at_once_make_the_shared_chains_once() {
    rscni_test::run(|lab| {
        for backend in [NFTABLES, IPTABLES] {
            let list =
                List::new(lab, 1, &json!({ "backend": backend, "ingressPolicy": "same-bridge" }));
            let bridges: Vec<_> = (0..6)
                .map(|number| list.bridge.attach(lab, &format!("{backend}{number}")))
                .collect();
            let attached: Vec<_> = std::thread::scope(|scope| {
                let calls: Vec<_> = bridges
                    .iter()
                    .map(|bridge| scope.spawn(|| list.firewall.after(bridge)))
                    .collect();
                calls.into_iter().map(|call| call.join().unwrap()).collect()
            });
            for a in &attached {
                a.check().success();
            }
            assert_reaches(lab, &attached[0], &attached[1]);
            if backend == IPTABLES {
                let rules = crate::lists::iptables_rules();
                for jump in ["-j CNI-FORWARD", "-j CNI-ISOLATION-STAGE-1", "-j CNI-ADMIN"] {
                    let jumps = rules.iter().filter(|rule| rule.ends_with(jump)).count();
                    assert_eq!(jumps, 2, "one for each family: {jump}\n{rules:#?}");
                }
            }
            std::thread::scope(|scope| {
                for a in &attached {
                    scope.spawn(|| a.del().success());
                }
            });
            for a in &attached {
                assert_nothing_left(lab, a);
            }
        }
    });
}
