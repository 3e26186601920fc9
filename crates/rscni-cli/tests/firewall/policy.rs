//! Connections that policies allow or drop.

use rstest::rstest;
use serde_json::json;

use crate::{
    lists::{
        IPTABLES, List, NFTABLES, assert_does_not_reach, assert_reaches, drop_by_default, run,
    },
    support::Network,
};

#[rstest]
fn bridges_with_a_policy_are_isolated(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("same-bridge", "isolated")] policy: &str,
) {
    rscni_test::run(|lab| {
        let keys = json!({ "backend": backend, "ingressPolicy": policy });
        let [one, two] = [1, 2].map(|number| List::new(lab, number, &keys));
        let (a, b, c) = (one.attach(lab, "a"), one.attach(lab, "b"), two.attach(lab, "c"));
        for (from, to) in [(&a, &c), (&c, &a)] {
            assert_does_not_reach(from, to);
        }
        if policy == "isolated" {
            assert_does_not_reach(&a, &b);
        } else {
            assert_reaches(lab, &a, &b);
        }
        // The host, in both directions, and a network without a policy.
        let free = List::new(lab, 3, &json!({})).bridge.attach(lab, "free");
        a.ping("10.1.0.1");
        a.ping("fd01::1");
        assert_reaches(lab, lab.host(), &a);
        assert_reaches(lab, &a, &free);
        assert_reaches(lab, &free, &a);
        for attached in [&a, &b, &c] {
            attached.check().success();
        }
    });
}

#[rstest]
#[case::frames_come_to_the_chains_of_ip("1")]
#[case::frames_do_not("0")]
fn isolated_ports_do_not_reach_each_other(
    #[case] bridge_nf_call: &str,
    #[values(NFTABLES, IPTABLES)] backend: &str,
) {
    rscni_test::run(|lab| {
        for family in ["ip", "ip6"] {
            let file = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
            std::fs::write(file, bridge_nf_call).unwrap();
        }
        let list = List::new(lab, 1, &json!({ "backend": backend, "ingressPolicy": "isolated" }));
        let (a, b) = (list.attach(lab, "a"), list.attach(lab, "b"));
        assert_does_not_reach(&a, &b);
        a.ping("10.1.0.1");
        // A container without the plugin is not reached either.
        let other = list.bridge.attach(lab, "other");
        assert_does_not_reach(&other, &a);
        // The port is free again.
        a.del().success();
        b.del().success();
        if bridge_nf_call == "0" {
            assert_reaches(lab, &a, &b);
        }
    });
}

#[rstest]
#[case::nftables(json!({ "backend": NFTABLES }), NFTABLES)]
#[case::iptables(json!({ "backend": IPTABLES }), IPTABLES)]
#[case::the_choice_of_a_host_with_iptables(json!({}), "before")]
fn a_dropping_host_accepts_only_attached_containers(
    #[case] keys: serde_json::Value,
    #[case] when: &str,
) {
    rscni_test::run(|lab| {
        if when == "before" {
            drop_by_default(when);
        }
        let a = List::new(lab, 1, &keys).attach(lab, "a");
        let [d, e] = [(2, "d"), (3, "e")]
            .map(|(n, name)| List::new(lab, n, &json!({})).bridge.attach(lab, name));
        if when != "before" {
            drop_by_default(when);
        }
        assert_reaches(lab, &a, &d);
        assert_does_not_reach(&d, &a);
        assert_does_not_reach(&d, &e);
        a.check().success();
        a.del().success();
        assert_does_not_reach(&a, &d);
    });
}

#[rstest]
#[case::nftables(NFTABLES, "CNI-ADMIN")]
#[case::iptables(IPTABLES, "CNI-ADMIN")]
#[case::iptables_with_another_name(IPTABLES, "OURS")]
fn the_operators_chain_is_first(#[case] backend: &str, #[case] chain: &str) {
    rscni_test::run(|lab| {
        let keys = json!({ "backend": backend, "iptablesAdminChainName": chain });
        let a = List::new(lab, 1, &keys).attach(lab, "a");
        let d = List::new(lab, 2, &json!({})).bridge.attach(lab, "d");
        assert_reaches(lab, &a, &d);
        if backend == NFTABLES {
            run("nft", "add rule inet rscni firewall-admin iifname br1 drop");
        } else {
            for program in ["iptables", "ip6tables"] {
                run(program, &format!("-A {chain} -i br1 -j DROP"));
            }
        }
        assert_does_not_reach(&a, &d);
        // It stays while attachments come and go.
        a.del().success();
        let b = List::new(lab, 1, &keys).attach(lab, "b");
        assert_does_not_reach(&b, &d);
    });
}

#[test]
fn the_operators_nftables_chain_overrides_a_policy() {
    rscni_test::run(|lab| {
        let keys = json!({ "backend": NFTABLES, "ingressPolicy": "same-bridge" });
        let [one, two] = [1, 2].map(|number| List::new(lab, number, &keys));
        let (a, c) = (one.attach(lab, "a"), two.attach(lab, "c"));
        assert_does_not_reach(&a, &c);
        run("nft", "add rule inet rscni firewall-admin iifname br1 oifname br2 accept");
        run("nft", "add rule inet rscni firewall-admin ct state established accept");
        assert_reaches(lab, &a, &c);
        assert_does_not_reach(&c, &a);
    });
}

#[test]
fn a_bridge_stays_isolated_when_a_weaker_policy_comes() {
    rscni_test::run(|lab| {
        let keys = json!({ "backend": NFTABLES, "ingressPolicy": "isolated" });
        let list = List::new(lab, 1, &keys);
        let a = list.attach(lab, "a");
        let weaker = Network { config: list.firewall.config.clone(), ..list.firewall.clone() };
        let weaker = List {
            bridge: list.bridge.clone(),
            firewall: weaker.with(&json!({ "ingressPolicy": "same-bridge" })),
        };
        let b = weaker.attach(lab, "b");
        assert_does_not_reach(&b, &a);
        a.check().success();
        b.check().success();
    });
}
