//! `ipMasq`: the source addresses that an outside server sees.

mod support;

use std::net::IpAddr;

use rscni_linux::nft::{BaseChain, Element, Family, Nft, Rule, Table};
use rscni_test::{Lab, Namespace};
use rstest::rstest;
use serde_json::{Value, json};

use support::{
    Attached, IPTABLES, NFTABLES, Network, V4, V6, assert_gone, nft,
    outside::{HOST, OUTSIDE, outside},
    run,
};

/// A bridge network of both families whose containers reach everything.
fn network(lab: &Lab, backend: &str) -> Network {
    Network::bridge(
        lab,
        &[V4, V6],
        &json!({ "ipMasq": true, "ipMasqBackend": backend, "isDefaultGateway": true }),
    )
}

/// Asserts that servers in `to` see `from` masqueraded or not, in both families.
#[track_caller]
fn assert_seen(from: &Attached, to: &Namespace, addresses: [&str; 2], masqueraded: bool) {
    let server = to.serve_tcp(8080);
    for (v4, to, host) in [(true, addresses[0], HOST[0]), (false, addresses[1], HOST[1])] {
        let target = if v4 { format!("{to}:8080") } else { format!("[{to}]:8080") };
        let answer = from.tcp(target);
        answer.assert_by(&server);
        let expected = if masqueraded { host.parse().unwrap() } else { from.address(v4) };
        assert_eq!(answer.seen_as, expected, "{} as {to} sees it", from.name());
    }
}

/// Asserts that no object on the host names an attachment or masquerades.
#[track_caller]
fn assert_no_rules(lab: &Lab) {
    assert_gone(lab, &["ctr-", "CNI-"]);
}

#[rstest]
#[case(NFTABLES)]
#[case(IPTABLES)]
fn packets_to_other_networks_are_masqueraded(#[case] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let network = network(lab, backend);
        let (a, b) = (network.attach(lab, "a"), network.attach(lab, "b"));
        assert_seen(&a, &outside, OUTSIDE, true);
        assert_seen(&a, &b, [&b.v4().to_string(), &b.v6().to_string()], false);
        a.check().success();
        a.del().success();
        b.check().success();
        assert_seen(&b, &outside, OUTSIDE, true);
        b.del().success();
        assert_no_rules(lab);
    });
}

#[test]
fn ptp_masquerades_too_and_not_within_the_subnet() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let mut ipam = support::host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let network = Network::ptp(lab, &[], &json!({ "ipam": ipam, "ipMasq": true }));
        let (a, b) = (network.attach(lab, "a"), network.attach(lab, "b"));
        assert_seen(&a, &outside, OUTSIDE, true);
        assert_seen(&a, &b, [&b.v4().to_string(), &b.v6().to_string()], false);
        a.check().success();
        a.del().success();
        b.del().success();
        assert_no_rules(lab);
    });
}

#[test]
fn without_ip_masq_addresses_are_not_translated() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let a = network(lab, NFTABLES).with(&json!({ "ipMasq": false })).attach(lab, "a");
        assert_seen(&a, &outside, OUTSIDE, false);
        a.del().success();
        assert_no_rules(lab);
    });
}

#[rstest]
#[case(NFTABLES)]
#[case(IPTABLES)]
fn every_kind_of_del_removes_it(#[case] backend: &str) {
    rscni_test::run(|lab| {
        let network = network(lab, backend);
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| network.attach(lab, name));
        a.del().success();
        b.del_without_result().success();
        c.del_without_netns().success();
        lab.remove_namespace(&d);
        d.del().success();
        assert_no_rules(lab);
        d.del().success();
    });
}

#[rstest]
#[case(NFTABLES)]
#[case(IPTABLES)]
fn a_late_del_keeps_the_next_owner_of_the_address(#[case] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let ipam = support::fixed(&[("10.1.0.5/24", "10.1.0.1"), ("fd01::5/64", "fd01::1")]);
        let network = network(lab, backend).with(&json!({ "ipam": ipam }));
        let old = network.attach(lab, "old");
        old.del().success();
        let new = network.attach(lab, "new");
        old.del().success();
        old.del_without_result().success();
        new.check().success();
        assert_seen(&new, &outside, OUTSIDE, true);
    });
}

#[test]
fn an_address_whose_owner_was_never_deleted_goes_to_the_next_one() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let ipam = support::fixed(&[("10.1.0.5/24", "10.1.0.1"), ("fd01::5/64", "fd01::1")]);
        let network = network(lab, NFTABLES).with(&json!({ "ipam": ipam }));
        let old = network.attach(lab, "old");
        lab.remove_namespace(&old);
        let new = network.attach(lab, "new");
        old.del().success();
        new.check().success();
        assert_seen(&new, &outside, OUTSIDE, true);
        new.del().success();
        assert_no_rules(lab);
    });
}

#[test]
fn subnets_of_the_same_length_share_rules() {
    rscni_test::run(|lab| {
        let first = network(lab, NFTABLES);
        let second = first.with(&json!({
            "name": "net2", "bridge": "br1", "ipam": support::host_local(&["10.2.0.0/24", "fd02::/64"]),
        }));
        let third = first.with(&json!({
            "name": "net3", "bridge": "br2", "ipam": support::host_local(&["10.3.0.0/28"]),
        }));
        let rules = || {
            Nft::open()
                .unwrap()
                .rules(&Table::new(Family::Inet, "rscni"), "masquerading")
                .unwrap()
                .len()
        };
        let a = first.attach(lab, "a");
        let before = rules();
        let b = second.attach(lab, "b");
        assert_eq!(rules(), before);
        let c = third.attach(lab, "c");
        assert_eq!(rules(), before + 1);
        for attached in [&a, &b, &c] {
            attached.check().success();
            attached.del().success();
        }
        assert_no_rules(lab);
    });
}

#[rstest]
#[case(NFTABLES)]
#[case(IPTABLES)]
fn gc_removes_stale_objects_of_this_network(#[case] backend: &str) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let network = network(lab, backend);
        let other = network.with(&json!({
            "name": "net2", "bridge": "br1", "ipam": support::host_local(&["10.2.0.0/24", "fd02::/64"]),
        }));
        let [stale, valid] = ["stale", "valid"].map(|name| network.attach(lab, name));
        let foreign = other.attach(lab, "foreign");
        lab.remove_namespace(&stale);
        network.gc(&[&valid]).success();
        assert_gone(lab, &["ctr-stale"]);
        for attached in [&valid, &foreign] {
            attached.check().success();
            assert_seen(attached, &outside, OUTSIDE, true);
        }
        // An attachment is stale if the runtime says so, even with its link.
        network.gc(&[]).success();
        assert!(valid.netlink().find_link("eth0").unwrap().is_none());
        foreign.check().success();
        assert_gone(lab, &["ctr-valid"]);
    });
}

#[test]
fn gc_without_a_list_of_valid_attachments_removes_everything_of_the_network() {
    rscni_test::run(|lab| {
        let network = network(lab, NFTABLES);
        let a = network.attach(lab, "a");
        let other = network.with(&json!({ "name": "other" })).attach(lab, "b");
        network.plugin.gc(&network.config).success();
        a.check().error(100);
        other.check().success();
    });
}

/// Adds the rule of the Go plugins' nftables backend for a container `ctr-NAME` on `net`.
fn add_go_rule(nft: &mut Nft, name: &str, hash: &str) {
    let table = Table::new(Family::Inet, "cni_plugins_masquerade");
    let rule = Rule::new()
        .in_net(rscni_linux::nft::Field::IpSaddr, "10.1.0.9/32".parse().unwrap())
        .masquerade(rscni_linux::nft::NatFlags::default())
        .comment(format!("{hash}, net: net, if: eth0, id: ctr-{name}"));
    let mut transaction = nft.transaction();
    transaction.add_table(&table).add_chain(&table, "masq_checks", Some(&BaseChain::srcnat()));
    transaction.add_rule(&table, "masq_checks", &rule);
    transaction.commit().unwrap();
}

/// Returns the first digits of the SHA-512 of a text.
fn sha512(text: &str) -> String {
    let script = format!("printf %s '{text}' | sha512sum | cut -c 1-16");
    run("sh", &["-c", &script]).trim().to_owned()
}

#[test]
fn del_and_gc_remove_nftables_rules_of_the_go_plugins() {
    rscni_test::run(|lab| {
        let network = network(lab, NFTABLES);
        let mut nft = Nft::open().unwrap();
        for (net, name) in [("net", "a"), ("net", "b"), ("net", "c"), ("net2", "d")] {
            let hash = format!("{}-{}", sha512(net), sha512(&format!("eth0:ctr-{name}")));
            add_go_rule(&mut nft, name, &hash);
        }
        let rest = || {
            let text = lab.snapshot().to_string();
            ["a", "b", "c", "d"]
                .into_iter()
                .filter(|n| text.contains(&format!("ctr-{n}")))
                .collect::<String>()
        };
        assert_eq!(rest(), "abcd");
        network.del(&lab.container("a")).success();
        assert_eq!(rest(), "bcd");
        let valid = json!([{ "containerID": "ctr-b", "ifname": "eth0" }]);
        network
            .plugin
            .gc(&network.with(&json!({ "cni.dev/valid-attachments": valid })).config)
            .success();
        assert_eq!(rest(), "bd");
    });
}

/// Asserts that CHECK finds the masquerading missing after this command.
#[track_caller]
fn assert_checked(lab: &Lab, backend: &str, damage: &[&str]) {
    let a = network(lab, backend).attach(lab, "a");
    a.check().success();
    run(damage[0], &damage[1..]);
    a.check_misses("masquerading of");
    a.del().success();
    assert_no_rules(lab);
}

#[rstest]
#[case::element("delete element inet rscni masquerade4 { 10.1.0.2 }")]
#[case::element_of_ipv6("delete element inet rscni masquerade6 { fd01::2 }")]
#[case::element_of_the_subnet(
    "delete element inet rscni masquerade4-inside-24 { 10.1.0.0 . 10.1.0.2 }"
)]
#[case::rules_of_the_containers("flush chain inet rscni masquerading")]
#[case::rules_of_all("flush chain inet rscni postrouting")]
#[case::table("delete table inet rscni")]
fn check_misses_what_was_removed_with_nft(#[case] damage: &str) {
    rscni_test::run(|lab| {
        assert_checked(lab, NFTABLES, &["nft", damage]);
    });
}

#[rstest]
#[case::jump(&["iptables", "-t", "nat", "-D", "POSTROUTING", "1"])]
#[case::jump_of_ipv6(&["ip6tables", "-t", "nat", "-D", "POSTROUTING", "1"])]
#[case::chain(&["sh", "-c", "iptables -t nat -F $(iptables -t nat -S | sed -n 's/^-N //p')"])]
#[case::all(&["iptables", "-t", "nat", "-F"])]
fn check_misses_what_was_removed_with_iptables(#[case] damage: &[&str]) {
    rscni_test::run(|lab| assert_checked(lab, IPTABLES, damage));
}

#[test]
fn an_element_of_another_owner_does_not_count() {
    rscni_test::run(|lab| {
        let a = network(lab, NFTABLES).attach(lab, "a");
        let table = Table::new(Family::Inet, "rscni");
        let element = Element::new(a.v4());
        let mut nft = Nft::open().unwrap();
        let mut transaction = nft.transaction();
        let foreign = element.comment("net ctr-other eth0");
        transaction.destroy_element(&table, "masquerade4", &foreign).add_element(
            &table,
            "masquerade4",
            &foreign,
        );
        transaction.commit().unwrap();
        a.check_misses("masquerading of 10.1.0.2");
        a.del().success();
        assert!(lab.snapshot().to_string().contains("ctr-other"));
    });
}

#[test]
fn iptables_lists_the_same_rules_as_with_the_go_plugins() {
    rscni_test::run(|lab| {
        let a = network(lab, IPTABLES).attach(lab, "a");
        let text = run("iptables", &["-t", "nat", "-S"]);
        let chain = text.lines().find_map(|line| line.strip_prefix("-N ")).unwrap();
        let comment = r#"-m comment --comment "name: \"net\" id: \"ctr-a\"""#;
        for rule in [
            format!("-A POSTROUTING -s 10.1.0.2/32 {comment} -j {chain}"),
            format!("-A {chain} -d 10.1.0.0/24 {comment} -j ACCEPT"),
            format!("-A {chain} ! -d 224.0.0.0/4 {comment} -j MASQUERADE"),
        ] {
            assert!(text.lines().any(|line| line == rule), "{rule}\n{text}");
        }
        a.del().success();
    });
}

#[test]
fn the_configured_backend_does_not_matter_to_del() {
    rscni_test::run(|lab| {
        let [old, new]: [Value; 2] =
            [IPTABLES, NFTABLES].map(|backend| json!({ "ipMasqBackend": backend }));
        let network = network(lab, NFTABLES);
        for (before, after, name) in [(&old, &new, "a"), (&new, &old, "b")] {
            let a = network.with(before).attach(lab, name);
            let config = a.reply.follow(&network.with(after).config);
            network.plugin.check(&a, "eth0", &config).success();
            network.plugin.del(&a, "eth0", &config).success();
            assert_no_rules(lab);
        }
    });
}

#[test]
fn the_rules_can_be_saved_and_restored_with_nft() {
    rscni_test::run(|lab| {
        let a = network(lab, NFTABLES).attach(lab, "a");
        let saved = lab.dir().join("saved");
        std::fs::write(&saved, nft("list table inet rscni")).unwrap();
        nft("delete table inet rscni");
        a.check_misses("masquerading of");
        run("nft", &["-f", saved.to_str().unwrap()]);
        a.check().success();
        a.del().success();
        assert_no_rules(lab);
    });
}

/// Returns the source addresses that the outside sees, of both families.
fn seen_as(from: &Attached, outside: &Namespace) -> [IpAddr; 2] {
    let server = outside.serve_tcp(8080);
    [format!("{}:8080", OUTSIDE[0]), format!("[{}]:8080", OUTSIDE[1])].map(|target| {
        let answer = from.tcp(target);
        answer.assert_by(&server);
        answer.seen_as
    })
}

#[rstest]
fn one_family_only_is_masqueraded(
    #[values("bridge", "ptp")] plugin: &str,
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[values("ipv4", "ipv6")] family: &str,
    #[values("del", "del_without_result", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let mut ipam = support::host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let keys = json!({
            "bridge": "br0", "isGateway": true, "ipam": ipam,
            "ipMasq": true, "ipMasqBackend": backend, "ipMasqFamilies": [family],
        });
        let network = Network::new(lab, plugin, &keys);
        let a = network.attach(lab, "a");
        let [mut v4, mut v6] = [a.v4(), a.v6()];
        let (translated, host) =
            if family == "ipv4" { (&mut v4, HOST[0]) } else { (&mut v6, HOST[1]) };
        *translated = host.parse().unwrap();
        assert_eq!(seen_as(&a, &outside), [v4, v6]);
        a.check().success();
        // The other family has no entry, so CHECK for both fails.
        let both = a.reply.follow(&network.with(&json!({ "ipMasqFamilies": null })).config);
        let missing = if family == "ipv4" { a.v6() } else { a.v4() };
        let checked = network.plugin.check(&a, "eth0", &both);
        // CHECK compares the number of iptables rules, so the error names the first address.
        let named = if backend == NFTABLES { missing.to_string() } else { String::new() };
        checked.error(100).mentions(&format!("masquerading of {named}"));
        match how {
            "del" => a.del(),
            "del_without_result" => a.del_without_result(),
            _ => network.gc(&[]),
        }
        .success();
        assert_no_rules(lab);
    });
}

#[rstest]
fn del_removes_families_that_changed_since_add(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let network = network(lab, backend);
        let one = network.with(&json!({ "ipMasqFamilies": ["ipv4"] }));
        for (before, after, name) in [(&network, &one, "a"), (&one, &network, "b")] {
            let attached = before.attach(lab, name);
            let config = attached.reply.follow(&after.config);
            network.plugin.del(&attached, "eth0", &config).success();
            assert_no_rules(lab);
        }
    });
}

#[test]
fn a_container_without_an_address_of_the_family_is_not_masqueraded() {
    rscni_test::run(|lab| {
        let keys = json!({ "ipMasq": true, "ipMasqFamilies": ["ipv6"], "isDefaultGateway": true });
        let a = Network::bridge(lab, &[V4], &keys).attach(lab, "a");
        a.check().success();
        a.del().success();
        assert_no_rules(lab);
    });
}

#[rstest]
fn wrong_families_are_rejected_naming_the_key(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        let network = Network::new(lab, plugin, &json!({ "ipam": support::host_local(&[V4]) }));
        for wrong in [json!([]), json!(["ipv5"]), json!("ipv4"), json!([4])] {
            let network = network.with(&json!({ "ipMasq": true, "ipMasqFamilies": wrong }));
            let a = lab.container("a");
            network.add(&a).error(7).mentions("ipMasqFamilies");
            network.status().error(7).mentions("ipMasqFamilies");
            lab.remove_namespace(&a);
        }
    });
}
