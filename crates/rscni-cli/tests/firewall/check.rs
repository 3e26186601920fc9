//! CHECK reports what is missing.

use rscni_linux::nft::{Family, Nft, Table};
use rstest::rstest;
use serde_json::json;

use crate::lists::{IPTABLES, List, NFTABLES, run};

#[rstest]
#[case::element("delete element inet rscni firewall4 { 10.1.0.2 }", "10.1.0.2")]
#[case::element_of_ipv6("delete element inet rscni firewall6 { fd01::2 }", "fd01::2")]
#[case::bridge("delete element inet rscni firewall-bridges { br1 }", "br1")]
#[case::same_bridge(
    "delete element inet rscni firewall-same-bridge { br1 . br1 }",
    "firewall-same-bridge"
)]
#[case::isolated("delete element inet rscni firewall-isolated { br1 . br1 }", "firewall-isolated")]
#[case::ports("flush set bridge rscni firewall-isolated", "port veth")]
#[case::rules_for_ports("flush chain bridge rscni forward", "bridge rscni forward")]
#[case::rules("flush chain inet rscni forward", "inet rscni forward")]
#[case::table("delete table inet rscni", "10.1.0.2")]
#[case::table_of_bridges("delete table bridge rscni", "port veth")]
fn check_names_rules_removed_with_nft(#[case] damage: &str, #[case] what: &str) {
    rscni_test::run(|lab| {
        let a = List::new(lab, 1, &json!({ "ingressPolicy": "isolated" })).attach(lab, "a");
        a.check().success();
        run("nft", damage);
        a.check_misses(what);
        a.del().success();
        a.del().success();
    });
}

#[test]
fn each_rule_of_the_chain_is_missed() {
    rscni_test::run(|lab| {
        let table = Table::new(Family::Inet, "rscni");
        let mut nft = Nft::open().unwrap();
        let list = List::new(lab, 1, &json!({}));
        for number in 0..8 {
            let a = list.attach(lab, &format!("a{number}"));
            a.check().success();
            let rules = nft.rules(&table, "forward").unwrap();
            assert_eq!(rules.len(), 8);
            let mut transaction = nft.transaction();
            transaction.del_rule(&table, "forward", rules[number].handle);
            transaction.commit().unwrap();
            a.check_misses("a rule of chain inet rscni forward is missing");
            a.del().success();
            run("nft", "delete table inet rscni");
        }
    });
}

#[test]
fn each_rule_of_a_policy_is_missed() {
    rscni_test::run(|lab| {
        let table = Table::new(Family::Inet, "rscni");
        let mut nft = Nft::open().unwrap();
        let list = List::new(lab, 1, &json!({ "ingressPolicy": "same-bridge" }));
        for number in 0..3 {
            let a = list.attach(lab, &format!("a{number}"));
            a.check().success();
            let rules = nft.rules(&table, "firewall-policy").unwrap();
            assert_eq!(rules.len(), 3);
            let mut transaction = nft.transaction();
            transaction.del_rule(&table, "firewall-policy", rules[number].handle);
            transaction.commit().unwrap();
            a.check_misses("a rule of chain inet rscni firewall-policy is missing");
            a.del().success();
            run("nft", "delete table inet rscni");
        }
    });
}

#[test]
fn rules_that_the_operator_adds_do_not_matter() {
    rscni_test::run(|lab| {
        let a = List::new(lab, 1, &json!({})).attach(lab, "a");
        run("nft", "insert rule inet rscni forward counter");
        run("nft", "add rule inet rscni forward iifname lo drop");
        run("nft", "add rule inet rscni firewall-admin counter");
        a.check().success();
    });
}

#[test]
fn an_address_of_another_owner_does_not_count() {
    rscni_test::run(|lab| {
        let a = List::new(lab, 1, &json!({ "backend": NFTABLES })).attach(lab, "a");
        run("nft", "delete element inet rscni firewall4 { 10.1.0.2 }");
        run("nft", r#"add element inet rscni firewall4 { 10.1.0.2 comment "other" }"#);
        a.check_misses("other");
        a.del().success();
        assert!(run("nft", "list set inet rscni firewall4").contains("10.1.0.2"));
    });
}

#[rstest]
#[case::of_ipv4("iptables")]
#[case::of_ipv6("ip6tables")]
#[case::in_the_old_kernel_tables("iptables-legacy")]
fn check_notices_iptables_rules_that_drop_later(#[case] program: &str) {
    rscni_test::run(|lab| {
        let list = List::new(lab, 1, &json!({}));
        let a = list.attach(lab, "a");
        run(program, "-A FORWARD -i nothing -j ACCEPT");
        a.check().success();
        run(program, "-P FORWARD DROP");
        a.check_misses("FORWARD");
        a.del().success();
        if program == "iptables-legacy" {
            return;
        }
        // Now with iptables.
        let again = list.firewall.after(&a.bridge);
        again.check().success();
        assert!(run("iptables", "-S CNI-FORWARD").contains("10.1.0.2/32"));
        again.del().success();
    });
}

/// The rules of the Go plugin without their comments, in the order of `iptables -S`.
const RULES: [&str; 8] = [
    "FORWARD -j CNI-ISOLATION-STAGE-1",
    "FORWARD -j CNI-FORWARD",
    "CNI-FORWARD -j CNI-ADMIN",
    "CNI-FORWARD -d 10.1.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "CNI-FORWARD -s 10.1.0.2/32 -j ACCEPT",
    "CNI-ISOLATION-STAGE-1 -i br1 -o br1 -j DROP",
    "CNI-ISOLATION-STAGE-1 -i br1 ! -o br1 -j CNI-ISOLATION-STAGE-2",
    "CNI-ISOLATION-STAGE-2 -o br1 -j DROP",
];

#[rstest]
fn each_rule_of_iptables_is_missed(#[values("iptables", "ip6tables")] program: &str) {
    rscni_test::run(|lab| {
        let keys = json!({ "backend": IPTABLES, "ingressPolicy": "isolated" });
        let list = List::new(lab, 1, &keys);
        let mut a = list.attach(lab, "a");
        for rule in RULES {
            let rule = match program {
                "iptables" => rule.to_owned(),
                _ => rule.replace("10.1.0.2/32", "fd01::2/128"),
            };
            a.check().success();
            let (chain, _) = rule.split_once(' ').unwrap();
            let lines = run(program, &format!("-S {chain}"));
            let number = lines
                .lines()
                .filter(|line| line.starts_with("-A"))
                .position(|l| without_comment(l) == rule);
            let number = number.unwrap_or_else(|| panic!("{rule}\n{lines}")) + 1;
            run(program, &format!("-D {chain} {number}"));
            a.check_misses(&format!("{program}: the rule `-A {rule}` is missing"));
            // ADD restores the missing rules in their order.
            a.firewall = list.firewall.after(&a.bridge);
        }
        a.check().success();
        a.del().success();
    });
}

/// A line of `iptables -S` without `-A` and without its comment.
fn without_comment(line: &str) -> String {
    let line = line.trim_start_matches("-A ");
    match (line.find(" -m comment --comment \""), line.rfind('"')) {
        (Some(start), Some(end)) => format!("{}{}", &line[..start], &line[end + 1..]),
        _ => line.to_owned(),
    }
}

#[test]
fn a_policy_that_comes_too_late_in_the_chain_is_noticed_and_put_right() {
    rscni_test::run(|lab| {
        let keys = json!({ "backend": IPTABLES, "ingressPolicy": "same-bridge" });
        let list = List::new(lab, 1, &keys);
        let a = list.attach(lab, "a");
        run("iptables", "-D FORWARD 1");
        run("iptables", "-A FORWARD -j CNI-ISOLATION-STAGE-1");
        a.check_misses("is behind that of CNI-FORWARD");
        list.firewall.after(&a.bridge).check().success();
    });
}
