//! Configurations, results and versions.

use rscni_test::VERSIONS;
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    lists::{IPTABLES, List, NFTABLES, run},
    support::{self, Network, assert_gone},
};

#[rstest]
fn the_result_of_the_plugins_before_is_passed_on(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        for version in VERSIONS {
            let keys = json!({ "cniVersion": version, "backend": backend });
            let mut list = List::new(lab, 1, &keys);
            list.bridge = list.bridge.with(&json!({ "cniVersion": version }));
            let a = list.attach(lab, version);
            assert_eq!(a.reply.json(), a.bridge.reply.json(), "{version}");
            a.assert_commands_of(version);
            a.del().success();
            crate::lists::assert_nothing_left(lab, &a);
        }
        let reply = Network::new(lab, "firewall", &json!({})).plugin.version().success();
        assert_eq!(reply["supportedVersions"], json!(VERSIONS));
    });
}

#[test]
fn a_previous_result_is_required() {
    rscni_test::run(|lab| {
        let firewall = Network::new(lab, "firewall", &json!({}));
        let a = lab.container("a");
        let before = lab.snapshot();
        firewall.add(&a).error(7).mentions("prevResult");
        firewall.check(&a).error(7).mentions("prevResult");
        firewall.del(&a).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_result_without_addresses_needs_no_rules() {
    rscni_test::run(|lab| {
        let mut list = List::new(lab, 1, &json!({}));
        list.bridge =
            list.bridge.with(&json!({ "ipam": null, "isDefaultGateway": null, "isGateway": null }));
        let before = lab.snapshot();
        let a = list.attach(lab, "a");
        a.check().success();
        a.del().success();
        a.bridge.del().success();
        lab.remove_namespace(&a);
        let index = lab.host().netlink().link_by_name("br1").unwrap().index;
        lab.host().netlink().del_link(index).unwrap();
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn an_address_may_be_listed_twice(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let firewall = Network::new(lab, "firewall", &json!({ "backend": backend }));
        let a = lab.container("a");
        let ips = json!([{ "address": "10.1.0.2/24" }, { "address": "10.1.0.2/16" }, { "address": "fd01::2/64" }]);
        let config =
            firewall.with(&json!({ "prevResult": { "cniVersion": "1.1.0", "ips": ips } })).config;
        let reply = firewall.plugin.add(&a, "eth0", &config).success();
        assert_eq!(reply["ips"], ips);
        firewall.plugin.check(&a, "eth0", &config).success();
        if backend == IPTABLES {
            assert_eq!(run("iptables", "-S CNI-FORWARD").matches("-s 10.1.0.2/32").count(), 1);
        }
        firewall.plugin.del(&a, "eth0", &config).success();
        assert!(!run("iptables", "-S").contains("10.1.0.2"));
        assert_gone(lab, &["ctr-a"]);
    });
}

#[rstest]
#[case::policy(json!({ "ingressPolicy": "closed" }), "closed")]
#[case::policy_of_another_type(json!({ "ingressPolicy": 1 }), "ingressPolicy")]
#[case::backend_of_another_type(json!({ "backend": ["iptables"] }), "backend")]
#[case::chain(json!({ "iptablesAdminChainName": "a chain" }), "a chain")]
fn invalid_config_is_rejected_and_changes_nothing(#[case] keys: Value, #[case] word: &str) {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &keys);
        let bridge = list.bridge.attach(lab, "a");
        let before = support::snapshot(lab);
        list.firewall.call_after(&bridge).error(7).mentions(word);
        list.firewall.status().error(7).mentions(word);
        list.firewall.del(&bridge).success();
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn a_policy_needs_a_bridge(#[values("same-bridge", "isolated")] policy: &str) {
    rscni_test::run(|lab| {
        let firewall = Network::new(lab, "firewall", &json!({ "ingressPolicy": policy }));
        let a = lab.container("a");
        let inner = json!({ "name": "eth0", "sandbox": a.path() });
        for interfaces in [json!([]), json!([inner]), json!([{ "name": "" }])] {
            let result = json!({ "cniVersion": "1.1.0", "interfaces": interfaces, "ips": [{ "address": "10.1.0.2/24" }] });
            let config = firewall.with(&json!({ "prevResult": result })).config;
            let before = lab.snapshot();
            firewall.plugin.add(&a, "eth0", &config).error(7).mentions("bridge");
            lab.assert_unchanged_since(&before);
        }
    });
}

#[test]
fn an_unknown_backend_is_ignored() {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({ "backend": "ipfw" }));
        let bridge = list.bridge.attach(lab, "a");
        let outcome = list.firewall.call_after(&bridge);
        outcome.success();
        assert!(outcome.stderr().contains("ipfw"), "{}", outcome.stderr());
        assert!(run("nft", "list set inet rscni firewall4").contains("10.1.0.2"));
    });
}

#[test]
fn iptables_is_chosen_only_where_something_demands_it() {
    rscni_test::run(|lab| {
        let has_rule = || run("iptables-save", "-t filter").contains("-s 10.1.0.2/32");
        let list = List::new(lab, 1, &json!({}));
        let bridge = list.bridge.attach(lab, "a");
        let firewall = list.firewall.clone();
        let attach = |keys: &Value| firewall.with(keys).after(&bridge);
        attach(&json!({})).del().success();
        assert_gone(lab, &["nft table ip filter"]);

        let named = attach(&json!({ "iptablesAdminChainName": "OURS" }));
        assert!(has_rule());
        named.del().success();

        // The table exists now, so its policy may become drop.
        let a = attach(&json!({}));
        assert!(has_rule());
        a.del().success();

        let a = attach(&json!({ "backend": NFTABLES }));
        assert!(!has_rule());
        a.del().success();
    });
}

#[test]
fn status_says_what_is_missing() {
    rscni_test::run(|lab| {
        let firewall = Network::new(lab, "firewall", &json!({}));
        let status = |keys: &Value, path: &str| {
            let plugin = firewall.plugin.clone().env("PATH", path);
            plugin.status(&firewall.with(keys).config)
        };
        status(&json!({}), "").success();
        status(&json!({ "backend": NFTABLES, "ingressPolicy": "isolated" }), "").success();
        status(&json!({ "backend": IPTABLES }), "/usr/sbin").success();
        status(&json!({ "backend": IPTABLES }), "/nowhere").error(50).mentions("iptables-restore");
        status(&json!({ "backend": "firewalld" }), "").error(50).mentions("firewalld");
    });
}
