//! The backend iptables, and handover from and to the Go plugin.

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use crate::{
    lists::{
        ENDS, IPTABLES, List, assert_does_not_reach, assert_nothing_left, assert_reaches, run,
    },
    support,
};

/// A list in the newest version, and with a policy, that both plugins support.
fn list(lab: &Lab, number: u8) -> List {
    let version = json!({ "cniVersion": "1.0.0" });
    let keys = json!({ "backend": IPTABLES, "ingressPolicy": "same-bridge" });
    let list = List::new(lab, number, &keys);
    List { bridge: list.bridge.with(&version), firewall: list.firewall.with(&version) }
}

fn with_go(lab: &Lab, list: &List) -> List {
    List { bridge: list.bridge.clone(), firewall: list.firewall.with_go(lab) }
}

#[test]
fn the_rules_are_those_of_the_go_plugin() {
    let mut rules = Vec::new();
    rscni_test::run(|lab| {
        let ours = list(lab, 1);
        for list in [with_go(lab, &ours), ours] {
            let a = list.attach(lab, "a");
            rules.push(["iptables", "ip6tables"].map(|program| run(program, "-S")));
            a.del().success();
            a.bridge.del().success();
            lab.remove_namespace(&a);
            // host-local allocates the next address.
            std::fs::remove_dir_all("/var/lib/cni/networks/net1").unwrap();
            for program in ["iptables", "ip6tables"] {
                run(program, "-F");
                run(program, "-X");
            }
        }
        let [theirs, ours] = &rules[..] else { panic!("{rules:?}") };
        assert!(ours[0].contains("10.1.0.2/32"), "{}", ours[0]);
        // Chains are listed by their age.
        let sorted = |text: &str| {
            let mut chains: Vec<String> =
                text.lines().filter(|l| l.starts_with("-N")).map(str::to_owned).collect();
            chains.sort();
            chains.extend(text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned));
            // Newer releases than Debian's have longer comments.
            chains
                .iter()
                .map(|line| line.replace("same-bridge|isolated", "same-bridge"))
                .collect::<Vec<_>>()
        };
        for (theirs, ours) in theirs.iter().zip(ours) {
            let (own, shared): (Vec<_>, Vec<_>) =
                sorted(ours).into_iter().partition(|rule| rule.contains("--ctstate DNAT"));
            assert_eq!(sorted(theirs), shared);
            // One rule for the address, and one per chain of the policies.
            assert_eq!(own.len(), 3, "{own:#?}");
        }
    });
}

#[rstest]
fn attachments_of_the_go_plugin_are_checked_and_removed(
    #[values("with_result", "without_result", "netns_gone")] how: &str,
) {
    rscni_test::run(|lab| {
        let ours = list(lab, 1);
        let mut a = with_go(lab, &ours).attach(lab, "a");
        a.firewall.network = ours.firewall.clone();
        a.check().success();
        a.end(lab, how).success();
        assert_nothing_left(lab, &a);
        a.end(lab, if how == "netns_gone" { "with_result" } else { how }).success();
    });
}

#[test]
fn the_go_plugin_checks_and_removes_our_attachments() {
    rscni_test::run(|lab| {
        let ours = list(lab, 1);
        let a = ours.attach(lab, "a");
        let theirs = ours.firewall.with_go(lab).plugin;
        theirs.check(&a, "eth0", &a.config()).success();
        theirs.del(&a, "eth0", &a.config()).success();
        let rules = crate::lists::iptables_rules();
        let left: Vec<_> = rules
            .iter()
            .filter(|rule| rule.contains("10.1.0.2/") || rule.contains("fd01::2/"))
            .collect();
        // The Go plugin leaves the rule for published ports. Without portmap's rules no packet
        // matches it.
        assert!(
            left.len() == 2 && left.iter().all(|rule| rule.contains("--ctstate DNAT -j ACCEPT")),
            "{left:#?}"
        );
        // GC, or the next owner of the addresses, removes that rule and the record of the owner.
        ours.firewall.with(&json!({ "cniVersion": "1.1.0" })).gc(&[]).success();
        assert_nothing_left(lab, &a);
    });
}

#[test]
fn bridges_of_both_plugins_are_isolated_by_the_same_rules() {
    rscni_test::run(|lab| {
        let [one, two] = [1, 2].map(|number| list(lab, number));
        let (a, b) = (with_go(lab, &one).attach(lab, "a"), one.attach(lab, "b"));
        let c = two.attach(lab, "c");
        assert_reaches(lab, &a, &b);
        assert_does_not_reach(&a, &c);
        assert_does_not_reach(&c, &a);
    });
}

#[test]
fn a_published_port_is_reachable_from_a_bridge_that_the_go_plugin_isolates() {
    rscni_test::run(|lab| {
        let [one, two] = [1, 2].map(|number| list(lab, number));
        let a = crate::published::publish(lab, &one, crate::lists::NFTABLES, "a");
        // The Go plugin inserts its rules before the present ones.
        let c = with_go(lab, &two).attach(lab, "c");
        crate::published::assert_published(&c, &["10.2.0.1", "fd02::1"], &a);
        assert_does_not_reach(&c, &a);
        assert_does_not_reach(&a, &c);
        a.check().success();
        // The next ADD of ours moves the rule to the top again.
        let b = one.attach(lab, "b");
        let rules = run("iptables", "-S CNI-ISOLATION-STAGE-1");
        assert!(rules.lines().nth(1).unwrap().contains("--ctstate DNAT"), "{rules}");
        b.check().success();
        crate::published::assert_published(&c, &["10.2.0.1", "fd02::1"], &a);
    });
}

/// Returns a `PATH` in which iptables uses the legacy tables.
fn with_legacy(lab: &Lab) -> String {
    let dir = support::path_with(
        lab,
        &[
            ("iptables-legacy", "iptables"),
            ("iptables-legacy-restore", "iptables-restore"),
            ("iptables-legacy-save", "iptables-save"),
            ("ip6tables-legacy", "ip6tables"),
            ("ip6tables-legacy-restore", "ip6tables-restore"),
            ("ip6tables-legacy-save", "ip6tables-save"),
        ],
    );
    format!("{}:/usr/sbin:/usr/bin", dir.display())
}

#[test]
fn legacy_tables_are_used_if_iptables_uses_them() {
    rscni_test::run(|lab| {
        for program in ["iptables-legacy", "ip6tables-legacy"] {
            run(program, "-P FORWARD DROP");
        }
        // The rules of the host demand it.
        let mut list = List::new(lab, 1, &json!({ "ingressPolicy": "isolated" }));
        list.firewall.plugin = list.firewall.plugin.env("PATH", with_legacy(lab));
        let d = List::new(lab, 2, &json!({})).bridge.attach(lab, "d");
        let rules =
            || ["iptables-legacy", "ip6tables-legacy"].map(|program| run(program, "-S")).concat();
        for how in ENDS {
            let (a, b) = (list.attach(lab, how), list.attach(lab, &format!("other_{how}")));
            assert!(!run("iptables-nft", "-S").contains("CNI-FORWARD"));
            assert_reaches(lab, &a, &d);
            assert_does_not_reach(&d, &a);
            a.check().success();
            let address = format!("{}/32", a.v4());
            assert!(rules().contains(&address));
            let damage = format!("-D CNI-FORWARD -s {address} -j ACCEPT");
            run("iptables-legacy", &damage);
            a.check_misses(&format!("-s {address}"));
            a.end(lab, how).success();
            assert!(!rules().contains(&address), "{}", rules());
            b.del().success();
        }
        let jumps = rules().lines().filter(|line| line.ends_with("-j CNI-FORWARD")).count();
        assert_eq!(jumps, 2, "{}", rules());
    });
}

#[test]
fn add_rolls_back_when_one_family_fails() {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({ "backend": IPTABLES, "ingressPolicy": "isolated" }));
        // The shared rules stay.
        list.attach(lab, "first").del().success();
        let broken = support::without_ip6tables(lab, &list.firewall);
        let bridge = list.bridge.attach(lab, "a");
        let before = support::snapshot(lab);
        broken.call_after(&bridge).error(5).mentions("ip6tables-restore");
        lab.assert_unchanged_since(&before);
        broken.del(&bridge).success();
        lab.assert_unchanged_since(&before);
    });
}
