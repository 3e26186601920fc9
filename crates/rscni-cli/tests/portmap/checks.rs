//! CHECK finds changes of everything that ADD set up.

use rscni_linux::nft::{Element, Family, Nft, Table, Value};
use rstest::rstest;
use serde_json::json;

use crate::{
    published::{IPTABLES, NFTABLES, Published, assert_no_ports, at, bridge, mapping, publish},
    support::{outside::HOST, sh},
};

fn attach(lab: &rscni_test::Lab, backend: &str) -> Published {
    let mappings = json!([mapping(8080, "tcp"), at(HOST[0], 8081), at(HOST[1], 8082)]);
    let a = publish(lab, &bridge(lab), "a", &json!({ "backend": backend }), &mappings);
    a.check().success();
    a
}

#[track_caller]
fn assert_noticed(a: &Published, lab: &rscni_test::Lab, word: &str) {
    a.check_misses(word);
    a.ports.del().success();
    assert_no_ports(lab);
}

const PRELUDE: &str = r#"
map() { nft "delete element inet rscni $1 { $2 }"; }
rule() { nft delete rule inet rscni $1 handle $(nft -a list chain inet rscni $1 | sed -n "s/.*$2.*# handle //p" | head -1); }
"#;

#[rstest]
#[case::forward(
    "map hostport4_any 'tcp . 8080'",
    "host port 8080/tcp does not lead to 10.1.0.2, port 80"
)]
#[case::forward_of_an_address(
    "map hostport4 'tcp . 192.0.2.1 . 8081'",
    "host port 8081/tcp of 192.0.2.1 does not lead to 10.1.0.2, port 80"
)]
#[case::forward_of_ipv6(
    "map hostport6_any 'tcp . 8080'",
    "host port 8080/tcp does not lead to fd01::2, port 80"
)]
#[case::forward_of_an_ipv6_address(
    "map hostport6 'tcp . 2001:db8::1 . 8082'",
    "host port 8082/tcp of 2001:db8::1"
)]
#[case::elsewhere(
    "map hostport4_any 'tcp . 8080'; nft add element inet rscni hostport4_any \
     '{ tcp . 8080 comment \"net ctr-a eth0\" : 10.1.0.9 . 80 }'",
    "another port or address (10.1.0.9)"
)]
#[case::another_port(
    "map hostport4_any 'tcp . 8080'; nft add element inet rscni hostport4_any \
     '{ tcp . 8080 comment \"net ctr-a eth0\" : 10.1.0.2 . 81 }'",
    "another port or address (10.1.0.2)"
)]
#[case::masquerading_of_the_subnet(
    "map hostport4_any_from24_13 '10.1.0.0 . tcp . 8080'",
    "host port 8080/tcp is not masqueraded for 10.1.0.0/24"
)]
#[case::masquerading_of_the_host(
    "map hostport4_any_from8_13 '127.0.0.0 . tcp . 8080'",
    "host port 8080/tcp is not masqueraded for 127.0.0.0/8"
)]
#[case::masquerading_of_ipv6(
    "map hostport6_any_from64_13 'fd01:: . tcp . 8080'",
    "not masqueraded for fd01::/64"
)]
#[case::masquerading_of_an_address(
    "map hostport4_from24_13 '10.1.0.0 . tcp . 192.0.2.1 . 8081'",
    "host port 8081/tcp of 192.0.2.1 is not masqueraded"
)]
#[case::entry(
    "rule hostport-prerouting hostports4",
    "rule of hostport-prerouting that leads to hostports4"
)]
#[case::entry_of_the_host(
    "rule hostport-output hostports6",
    "rule of hostport-output that leads to hostports6"
)]
#[case::lookup(
    "rule hostports4_any 'map @hostport4_any'",
    "rule of hostports4_any that looks up hostport4_any"
)]
#[case::lookup_of_an_address(
    "rule hostports6 'map @hostport6'",
    "rule of hostports6 that looks up hostport6"
)]
#[case::jump(
    "rule hostports4 'jump hostports4_any'",
    "rule of hostports4 that leads to hostports4_any"
)]
#[case::lookup_of_sources(
    "rule hostports6_any @hostport6_any_from64_13",
    "rule of hostports6_any that looks up hostport6_any_from64_13"
)]
#[case::masquerade(
    "rule hostport-masquerade-13 'ct status'",
    "rule of hostport-masquerade-13 is missing"
)]
#[case::localnet("rule hostport-localnet drop", "rule of hostport-localnet is missing")]
#[case::entry_of_the_ipv6_loopback(
    "rule hostport-output @hostport6_any_from_lo_13",
    "rule of hostport-output that looks up hostport6_any_from_lo_13"
)]
#[case::route_of_the_ipv6_loopback(
    "ip -6 route del local ::1 dev br0 table local",
    "local route to ::1 by br0 is missing"
)]
#[case::table("nft delete table inet rscni", "host port 8080/tcp does not lead to 10.1.0.2")]
#[case::setting(
    "echo 0 > /proc/sys/net/ipv4/conf/br0/route_localnet",
    "route_localnet of br0 is off"
)]
fn check_finds_missing_nftables_elements(#[case] damage: &str, #[case] word: &str) {
    rscni_test::run(|lab| {
        let a = attach(lab, NFTABLES);
        sh(&format!("{PRELUDE}{damage}"));
        assert_noticed(&a, lab, word);
    });
}

#[test]
fn a_port_that_somebody_else_has_now() {
    rscni_test::run(|lab| {
        let a = attach(lab, NFTABLES);
        let table = Table::new(Family::Inet, "rscni");
        let key = Value::concat([Value::byte(6), Value::port(8080)]);
        let target = Value::concat([Value::from(a.v4()), Value::port(80)]);
        let foreign = Element::new(key).data(target).comment("net ctr-other eth0");
        let mut nft = Nft::open().unwrap();
        let mut transaction = nft.transaction();
        transaction.del_element(&table, "hostport4_any", &foreign);
        transaction.add_element(&table, "hostport4_any", &foreign);
        transaction.commit().unwrap();
        a.check_misses("\"net ctr-other eth0\" has it");
        a.ports.del().success();
        let left = lab.snapshot().to_string();
        assert!(left.contains("ctr-other") && !left.contains("\"net ctr-a"), "{left}");
    });
}

#[rstest]
#[case::rule("iptables -t nat -D $chain 1", "rules are in chain CNI-DN-")]
#[case::rule_of_ipv6("ip6tables -t nat -D $chain6 1", "(ip6tables)")]
#[case::elsewhere(
    "iptables -t nat -D $chain 3; iptables -t nat -A $chain -p tcp --dport 8080 -j DNAT --to-destination 10.1.0.9:80",
    "host port 8080/tcp does not lead to 10.1.0.2, port 80"
)]
#[case::another_port(
    "ip6tables -t nat -D $chain6 3; ip6tables -t nat -A $chain6 -p tcp --dport 8080 -j DNAT --to-destination [fd01::2]:81",
    "host port 8080/tcp does not lead to fd01::2, port 80"
)]
#[case::jump(
    "iptables -t nat -D CNI-HOSTPORT-DNAT 1",
    "rules of CNI-HOSTPORT-DNAT lead to CNI-DN-"
)]
#[case::entry("iptables -t nat -F PREROUTING", "-A PREROUTING")]
#[case::entry_of_the_host("ip6tables -t nat -F OUTPUT", "-A OUTPUT")]
#[case::masquerade("iptables -t nat -F CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-MASQ")]
#[case::mark("iptables -t nat -F CNI-HOSTPORT-SETMARK", "CNI-HOSTPORT-SETMARK")]
#[case::masquerading("iptables -t nat -F POSTROUTING", "POSTROUTING")]
#[case::all("iptables -t nat -F; iptables -t nat -X", "rules are in chain CNI-DN-")]
#[case::setting(
    "echo 0 > /proc/sys/net/ipv4/conf/br0/route_localnet",
    "route_localnet of br0 is off"
)]
fn check_finds_missing_iptables_rules(#[case] damage: &str, #[case] word: &str) {
    rscni_test::run(|lab| {
        let a = attach(lab, IPTABLES);
        let chains = "chain=$(iptables -t nat -S | sed -n 's/^-N CNI-DN-/CNI-DN-/p')\n\
                      chain6=$(ip6tables -t nat -S | sed -n 's/^-N CNI-DN-/CNI-DN-/p')\n";
        sh(&format!("{chains}{damage}"));
        assert_noticed(&a, lab, word);
    });
}
