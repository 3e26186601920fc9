//! Keys for rules: marks, external chains, conditions.

use std::time::Duration;

use rscni_linux::nft::{BaseChain, Family, Field, Hook, Nft, Rule, Table};
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    published::{
        IPTABLES, NFTABLES, assert_no_ports, bridge, portmap, publish, target, try_publish, web,
    },
    support::{
        self, Attached,
        outside::{HOST, OUTSIDE, outside},
    },
};

const SHORT: Duration = Duration::from_secs(1);

fn run(words: &[&str]) -> String {
    support::run(words[0], &words[1..])
}

/// Counts the packets with these bits of their mark that the host forwards.
fn count_marked(mark: u32) -> impl Fn() -> u64 {
    let table = Table::new(Family::Inet, "counted");
    let mut nft = Nft::open().unwrap();
    let mut transaction = nft.transaction();
    transaction.add_table(&table).add_chain(
        &table,
        "marked",
        Some(&BaseChain::filter(Hook::Forward, 0)),
    );
    transaction.add_rule(&table, "marked", &Rule::new().masked(Field::Mark, mark, mark).counter());
    transaction.commit().unwrap();
    || {
        let text = support::nft("list chain inet counted marked");
        let packets = text.split("packets ").nth(1).unwrap();
        packets.split(' ').next().unwrap().parse().unwrap()
    }
}

#[rstest]
#[case::default(json!({}), 0x2000)]
#[case::another(json!({ "markMasqBit": 5 }), 0x20)]
#[case::the_first(json!({ "markMasqBit": 0 }), 1)]
#[case::the_last(json!({ "markMasqBit": 31 }), 0x8000_0000)]
fn only_masqueraded_packets_have_the_mark(
    #[values(NFTABLES, IPTABLES)] backend: &str,
    #[case] keys: Value,
    #[case] mark: u32,
) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let mut keys = keys;
        keys["backend"] = backend.into();
        let a = publish(lab, &bridge(lab), "a", &keys, &web());
        let marked = count_marked(mark);
        a.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        a.assert_reached(&outside, HOST[1], OUTSIDE[1]);
        assert_eq!(marked(), 0);
        a.assert_reached(&a, HOST[0], "10.1.0.1");
        let after_v4 = marked();
        assert!(after_v4 > 0);
        a.assert_reached(&a, HOST[1], "fd01::1");
        assert!(marked() > after_v4);
        a.check().success();
        a.del_all();
    });
}

#[rstest]
fn networks_may_have_different_marks(#[values(NFTABLES, IPTABLES)] backend: &str) {
    rscni_test::run(|lab| {
        let network = bridge(lab);
        let ports = |port: u16| json!([{ "hostPort": port, "containerPort": 80 }]);
        let keys = |bit: u8| json!({ "backend": backend, "markMasqBit": bit });
        let a = publish(lab, &network, "a", &keys(3), &ports(8080));
        let b = publish(lab, &network, "b", &keys(4), &ports(8081));
        for (published, port) in [(&a, 8080), (&b, 8081)] {
            published.check().success();
            let server = published.serve_tcp(80);
            published.tcp(format!("10.1.0.1:{port}")).assert_by(&server);
        }
    });
}

#[test]
fn an_external_chain_sets_the_mark() {
    rscni_test::run(|lab| {
        for iptables in ["iptables", "ip6tables"] {
            run(&[iptables, "-t", "nat", "-N", "KUBE-MARK-MASQ"]);
            run(&[
                iptables,
                "-t",
                "nat",
                "-A",
                "KUBE-MARK-MASQ",
                "-j",
                "MARK",
                "--set-xmark",
                "0x4000/0x4000",
            ]);
            run(&[
                iptables,
                "-t",
                "nat",
                "-A",
                "POSTROUTING",
                "-m",
                "mark",
                "--mark",
                "0x4000/0x4000",
                "-j",
                "MASQUERADE",
            ]);
        }
        let outside = outside(lab);
        let a = publish(
            lab,
            &bridge(lab),
            "a",
            &json!({ "externalSetMarkChain": "KUBE-MARK-MASQ" }),
            &web(),
        );
        let marked = count_marked(0x4000);
        a.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        assert_eq!(marked(), 0);
        a.assert_reached(&a, HOST[0], "10.1.0.1");
        a.assert_reached(&a, HOST[1], "fd01::1");
        assert!(marked() > 0);
        assert!(!run(&["iptables-save", "-t", "nat"]).contains("CNI-HOSTPORT-SETMARK"));
        a.check().success();
        a.del_all();
    });
}

#[rstest]
#[case(NFTABLES, json!({ "conditionsV4": ["ip", "saddr", "!=", OUTSIDE[0]] }))]
#[case(NFTABLES, json!({ "conditionsV4": ["ip", "saddr", "!=", "{", OUTSIDE[0], ",", "203.0.113.9", "}"] }))]
#[case(IPTABLES, json!({ "conditionsV4": ["!", "-s", OUTSIDE[0]] }))]
fn conditions_keep_some_out(#[case] backend: &str, #[case] keys: Value) {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let network = bridge(lab);
        let keys = [json!({}), json!({ "backend": backend })].map(|extra| {
            let mut keys = keys.clone();
            keys.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            keys
        });
        for (name, keys) in ["a", "b"].iter().zip(&keys) {
            let a = publish(lab, &network, name, keys, &web());
            a.check().success();
            let server = a.serve_tcp(80);
            assert!(outside.try_tcp(target(HOST[0]), SHORT).is_err());
            outside.tcp(target(HOST[1])).assert_by(&server);
            drop(server);
            a.assert_reached(lab.host(), "127.0.0.1", "10.1.0.1");
            a.assert_reached(&a, HOST[0], "10.1.0.1");
            a.del_all();
            assert_no_ports(lab);
        }
    });
}

#[test]
fn conditions_apply_in_both_families() {
    rscni_test::run(|lab| {
        let outside = outside(lab);
        let conditions = json!(["iifname", "!=", "\"uplink\""]);
        let keys = json!({ "conditionsV4": conditions, "conditionsV6": conditions });
        let a = publish(lab, &bridge(lab), "a", &keys, &web());
        let server = a.serve_tcp(80);
        for (i, gateway) in ["10.1.0.1", "fd01::1"].into_iter().enumerate() {
            assert!(outside.try_tcp(target(HOST[i]), SHORT).is_err());
            a.tcp(target(gateway)).assert_by(&server);
        }
        // A mapping of the same port without conditions is another one.
        let other = publish(lab, &bridge(lab), "other", &json!({}), &web());
        other.assert_reached(&outside, HOST[0], OUTSIDE[0]);
        a.check().success();
        a.del_without_result().success();
        other.check().success();
    });
}

#[rstest]
#[case(json!({ "conditionsV4": ["not", "nftables"] }), 7, "not nftables")]
#[case(json!({ "conditionsV4": ["-s", "nowhere.invalid"] }), 5, "nowhere.invalid")]
fn invalid_conditions_fail_and_leave_nothing(
    #[case] keys: Value,
    #[case] code: u64,
    #[case] word: &str,
) {
    rscni_test::run(|lab| {
        let link = bridge(lab).attach(lab, "a");
        // The shared rules of iptables stay, like with the Go plugin.
        publish(lab, &link.network, "first", &json!({ "backend": IPTABLES }), &web())
            .ports
            .del()
            .success();
        let before = support::snapshot(lab);
        let (_, outcome) = try_publish(lab, &link, &keys, &web());
        outcome.error(code).mentions(word.split(' ').next().unwrap());
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn legacy_tables_work_too() {
    rscni_test::run(|lab| {
        // A host with legacy iptables.
        let dir = lab.dir().join("legacy");
        std::fs::create_dir_all(&dir).unwrap();
        for (name, program) in [
            ("iptables-restore", "iptables-legacy-restore"),
            ("ip6tables-restore", "ip6tables-legacy-restore"),
            ("iptables-legacy-restore", "iptables-legacy-restore"),
            ("ip6tables-legacy-restore", "ip6tables-legacy-restore"),
            ("iptables-legacy-save", "iptables-legacy-save"),
            ("ip6tables-legacy-save", "ip6tables-legacy-save"),
        ] {
            std::os::unix::fs::symlink(format!("/usr/sbin/{program}"), dir.join(name)).unwrap();
        }
        let outside = outside(lab);
        let network = bridge(lab);
        let publish = |name: &str, port: u16| {
            let link = network.attach(lab, name);
            support::change(&mut link.netlink(), "lo", &support::up(true));
            let mappings = json!([{ "hostPort": port, "containerPort": 80 }]);
            let mut portmap = portmap(lab, &network, &json!({ "backend": IPTABLES }), &mappings);
            portmap.plugin = portmap.plugin.env("PATH", &dir);
            let reply =
                portmap.plugin.add(&link, "eth0", &link.reply.follow(&portmap.config)).success();
            Attached {
                network: portmap,
                container: link.container.clone(),
                ifname: "eth0".into(),
                reply,
            }
        };
        let saved =
            |pattern: &str| run(&["iptables-legacy-save", "-t", "nat"]).matches(pattern).count();
        let [a, b, c] =
            [("a", 8080), ("b", 8081), ("c", 8082)].map(|(name, port)| publish(name, port));
        for (attached, port) in [(&a, 8080), (&b, 8081), (&c, 8082)] {
            attached.check().success();
            let server = attached.serve_tcp(80);
            for address in ["192.0.2.1", "[2001:db8::1]"] {
                outside.tcp(format!("{address}:{port}")).assert_by(&server);
                attached.tcp(format!("{address}:{port}")).assert_by(&server);
            }
        }
        assert_eq!(
            (saved(":CNI-DN-"), saved(":CNI-HOSTPORT-"), saved("-j CNI-HOSTPORT-DNAT")),
            (3, 3, 2)
        );
        a.del().success();
        a.check().error(100);
        b.del_without_netns().success();
        c.check().success();
        c.network.gc(&[]).success();
        assert_eq!(saved("CNI-DN-"), 0);
    });
}
