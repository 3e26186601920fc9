//! nftables in a private network, compared with `nft list ruleset`.

mod support;

use std::net::{IpAddr, Ipv4Addr};

use rscni_linux::{
    Error, MacAddr, Netns,
    nft::{
        BaseChain, CtState, Data, DataType, Element, Family, Field, Hook, NatFlags, Nft, Policy,
        Rule, Set, Table, Value, ValueType, Verdict,
    },
};
use support::{private_network, run};

const TCP: u8 = 6;

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

/// The output of `nft list ruleset`, without indentation.
fn ruleset() -> String {
    let text = run("nft", "-n list ruleset");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("\n")
}

#[track_caller]
fn shows(expected: &[&str]) {
    let ruleset = ruleset();
    for line in expected {
        assert!(ruleset.lines().any(|shown| shown == *line), "{line:?} is not in:\n{ruleset}");
    }
}

fn table_with_chain(nft: &mut Nft, family: Family) -> Table {
    let table = Table::new(family, "cni");
    let mut tx = nft.transaction();
    tx.add_table(&table).add_chain(&table, "rules", None);
    tx.commit().unwrap();
    table
}

/// Runs `body` in a private network with a table that has the chain `rules`.
fn with_table(family: Family, body: impl FnOnce(&mut Nft, &Table)) {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        let table = table_with_chain(&mut nft, family);
        body(&mut nft, &table);
    });
}

#[track_caller]
fn add_rules(nft: &mut Nft, table: &Table, rules: &[Rule]) {
    let mut tx = nft.transaction();
    for rule in rules {
        tx.add_rule(table, "rules", rule);
    }
    tx.commit().unwrap();
}

#[test]
fn complete_table_is_created_in_one_transaction_and_deleted() {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        let table = Table::new(Family::Inet, "cni_masquerade");
        let mut base = BaseChain::srcnat();
        base.policy = Some(Policy::Accept);
        for _ in 0..2 {
            let mut tx = nft.transaction();
            tx.add_table(&table);
            tx.add_chain(&table, "postrouting", Some(&base));
            tx.add_chain(&table, "masquerade", None);
            tx.flush_chain(&table, "postrouting");
            tx.flush_chain(&table, "masquerade");
            let rule = Rule::new()
                .family_of(addr("10.1.0.1"))
                .in_net(Field::IpSaddr, net("10.1.0.0/24"))
                .not_in_net(Field::IpDaddr, net("10.1.0.0/24"))
                .masquerade(NatFlags::default())
                .comment("net, id, eth0");
            tx.add_rule(&table, "masquerade", &rule);
            tx.add_rule(&table, "postrouting", &Rule::new().jump("masquerade"));
            tx.commit().unwrap();
        }
        shows(&[
            "type nat hook postrouting priority 100; policy accept;",
            "jump masquerade",
            "ip saddr 10.1.0.0/24 ip daddr != 10.1.0.0/24 masquerade comment \"net, id, eth0\"",
        ]);
        assert_eq!(nft.tables().unwrap(), std::slice::from_ref(&table));
        let chain = nft.chain(&table, "postrouting").unwrap().unwrap();
        assert_eq!(chain.hook, Some(Hook::Postrouting));
        assert_eq!(chain.priority, Some(100));
        assert_eq!(chain.policy, Some(Policy::Accept));
        assert_eq!(chain.kind.as_deref(), Some("nat"));
        let names: Vec<String> =
            nft.chains(&table).unwrap().into_iter().map(|chain| chain.name).collect();
        assert_eq!(names, ["postrouting", "masquerade"]);
        let mut tx = nft.transaction();
        tx.del_table(&table);
        tx.commit().unwrap();
        assert_eq!(ruleset(), "");
    });
}

/// Commits a table with a rule that fails, and checks that nothing was changed.
fn commit_failing(nft: &mut Nft, rule: &Rule) -> Error {
    let table = Table::new(Family::Ip, "cni");
    let mut tx = nft.transaction();
    tx.add_table(&table);
    tx.add_chain(&table, "a", None);
    tx.add_rule(&table, "a", rule);
    tx.add_chain(&table, "b", None);
    let error = tx.commit().unwrap_err();
    assert_eq!(ruleset(), "");
    error
}

#[test]
fn failed_transaction_changes_nothing_and_names_the_failed_change() {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        let error = commit_failing(&mut nft, &Rule::new().jump("missing"));
        assert!(error.is_not_found(), "{error}");
        let expected = "add rule to chain ip cni a: No such file or directory (ENOENT)";
        assert!(error.to_string().starts_with(expected), "{error}");
        table_with_chain(&mut nft, Family::Ip);
    });
}

#[test]
fn create_reports_existing_objects() {
    with_table(Family::Ip, |nft, table| {
        let set = Set::new("hosts", [ValueType::Ipv4Addr]);
        let element = Element::new(Ipv4Addr::new(10, 0, 0, 1));
        let mut tx = nft.transaction();
        tx.create_set(table, &set);
        tx.create_element(table, "hosts", &element);
        tx.commit().unwrap();
        let mut tx = nft.transaction();
        tx.add_set(table, &set);
        tx.add_element(table, "hosts", &element);
        tx.commit().unwrap();
        let mut tx = nft.transaction();
        tx.create_table(table);
        assert!(tx.commit().unwrap_err().is_exists());
        let mut tx = nft.transaction();
        tx.create_chain(table, "rules", None);
        assert!(tx.commit().unwrap_err().is_exists());
        let mut tx = nft.transaction();
        tx.create_set(table, &set);
        assert!(tx.commit().unwrap_err().is_exists());
        let mut tx = nft.transaction();
        tx.create_element(table, "hosts", &element);
        assert!(tx.commit().unwrap_err().is_exists());
    });
}

#[test]
fn ip_matches_are_listed_by_nft() {
    with_table(Family::Inet, |nft, table| {
        let v4 = || Rule::new().family_of(addr("10.0.0.1"));
        let v6 = || Rule::new().family_of(addr("fd00::1"));
        let tcp = || Rule::new().eq(Field::L4proto, Value::byte(TCP));
        add_rules(
            nft,
            table,
            &[
                Rule::new().eq(Field::Iifname, Value::ifname("eth0")).accept(),
                Rule::new().ne(Field::Oifname, Value::ifname("cni0")).drop(),
                v4().eq(Field::IpSaddr, addr("10.0.0.1")).return_(),
                v6().in_net(Field::Ip6Daddr, net("fd00::/8")).counter(),
                tcp().eq(Field::Dport, Value::port(80)).accept(),
                tcp().range(Field::Sport, Value::port(1000), Value::port(2000)).accept(),
                Rule::new().ct_state(CtState::ESTABLISHED | CtState::RELATED).accept(),
                Rule::new().any_of(Field::CtStatus, 0x20).accept(),
                Rule::new().masked(Field::Mark, 0x2000, 0x2000).accept(),
                Rule::new().eq(Field::CtMark, Value::number(7)).accept(),
                Rule::new().eq(Field::FibDaddrType, Value::number(2)).accept(),
                Rule::new().set_mark(0x2000, 0x2000),
                Rule::new().set_mark(u32::MAX, 5),
                Rule::new().set_ct_mark(9),
                Rule::new().save_mark(),
                Rule::new().restore_mark(),
            ],
        );
        shows(&[
            "iifname \"eth0\" accept",
            "oifname != \"cni0\" drop",
            "ip saddr 10.0.0.1 return",
            "ip6 daddr fd00::/8 counter packets 0 bytes 0",
            "tcp dport 80 accept",
            "tcp sport 1000-2000 accept",
            "ct state 0x2,0x4 accept",
            "ct status 0x20 accept",
            "meta mark & 0x00002000 == 0x00002000 accept",
            "ct mark 0x00000007 accept",
            "fib daddr type 2 accept",
            "meta mark set meta mark | 0x00002000",
            "meta mark set 0x00000005",
            "ct mark set 0x00000009",
            "ct mark set meta mark",
            "meta mark set ct mark",
        ]);
    });
}

#[test]
fn frame_matches_are_listed_by_nft() {
    with_table(Family::Bridge, |nft, table| {
        let mac: MacAddr = "02:00:00:00:00:01".parse().unwrap();
        add_rules(
            nft,
            table,
            &[
                Rule::new()
                    .eq(Field::Iifname, Value::ifname("veth0"))
                    .ne(Field::EtherSaddr, mac)
                    .drop(),
                Rule::new()
                    .eq(Field::EtherType, Value::ether_type(0x0806))
                    .ne(Field::ArpSaddrEther, mac)
                    .drop(),
                Rule::new()
                    .eq(Field::Protocol, Value::ether_type(0x0806))
                    .ne(Field::ArpSaddrIp, addr("10.0.0.1"))
                    .drop(),
                Rule::new().eq(Field::EtherDaddr, mac).accept(),
            ],
        );
        shows(&[
            "iifname \"veth0\" ether saddr != 02:00:00:00:00:01 drop",
            "arp saddr ether != 02:00:00:00:00:01 drop",
            "arp saddr ip != 10.0.0.1 drop",
            "ether daddr 02:00:00:00:00:01 accept",
        ]);
    });
}

#[test]
fn nat_statements_are_listed_by_nft() {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        let table = Table::new(Family::Inet, "cni");
        let mut tx = nft.transaction();
        tx.add_table(&table);
        tx.add_chain(&table, "in", Some(&BaseChain::dstnat()));
        tx.add_chain(&table, "out", Some(&BaseChain::srcnat()));
        let tcp = || Rule::new().eq(Field::L4proto, Value::byte(TCP));
        let plain = NatFlags::default();
        let random = NatFlags { fully_random: true, ..plain };
        tx.add_rule(&table, "in", &tcp().dnat(addr("10.0.0.2"), Some(80), plain));
        tx.add_rule(&table, "in", &Rule::new().dnat(addr("fd00::2"), None, plain));
        tx.add_rule(&table, "in", &tcp().redirect(Some(81), plain));
        tx.add_rule(&table, "out", &Rule::new().snat(addr("10.0.0.3"), None, random));
        tx.add_rule(&table, "out", &Rule::new().masquerade(random));
        tx.commit().unwrap();
        shows(&[
            "meta l4proto 6 dnat ip to 10.0.0.2:80",
            "dnat ip6 to fd00::2",
            "meta l4proto 6 redirect to :81",
            "snat ip to 10.0.0.3 fully-random",
            "masquerade fully-random",
        ]);
    });
}

#[test]
fn masked_address_is_looked_up_with_other_fields() {
    with_table(Family::Inet, |nft, table| {
        let (v4, v6) = (net("10.1.0.0/24"), net("fd01::/64"));
        let mut tx = nft.transaction();
        let port = [ValueType::InetProto, ValueType::InetService];
        tx.add_set(table, &Set::new("from4", [ValueType::Ipv4Addr, port[0], port[1]]));
        tx.add_set(table, &Set::new("from6", [ValueType::Ipv6Addr, port[0], port[1]]));
        tx.add_set(table, &Set::new("all", port));
        tx.commit().unwrap();
        let fields = [Field::L4proto, Field::Dport];
        let rule = |any: IpAddr, source, like, set| {
            Rule::new().family_of(any).net_in_set(source, like, &fields, set)
        };
        add_rules(
            nft,
            table,
            &[
                rule(v4.addr(), Field::IpSaddr, v4, "from4").accept(),
                rule(v6.addr(), Field::Ip6Saddr, v6, "from6").accept(),
                rule(v4.addr(), Field::IpSaddr, net("10.1.0.5/32"), "from4").accept(),
                rule(v4.addr(), Field::IpSaddr, net("0.0.0.0/0"), "all").accept(),
            ],
        );
        shows(&[
            "ip saddr & 255.255.255.0 . meta l4proto . th dport @from4 accept",
            "ip6 saddr & ffff:ffff:ffff:ffff:: . meta l4proto . th dport @from6 accept",
            "ip saddr . meta l4proto . th dport @from4 accept",
        ]);
        // Some releases of `nft` print the family as a number.
        let all =
            |family: &str| format!("meta nfproto {family} meta l4proto . th dport @all accept");
        let ruleset = ruleset();
        assert!(ruleset.lines().any(|line| line == all("ipv4") || line == all("2")), "{ruleset}");
        let mut sets = nft.sets(table).unwrap();
        sets.sort();
        assert_eq!(sets, ["all", "from4", "from6"]);
        assert!(nft.sets(&Table::new(Family::Inet, "none")).unwrap().is_empty());
        let rules = nft.rules(table, "rules").unwrap();
        let lookups: Vec<usize> =
            (0..rules.len()).filter(|i| rules[*i].looks_up("from4")).collect();
        assert_eq!(lookups, [0, 2]);
    });
}

#[test]
fn port_maps_and_verdict_maps_are_listed_by_nft() {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        let table = Table::new(Family::Ip, "cni");
        let to = DataType::Value(vec![ValueType::Ipv4Addr, ValueType::InetService]);
        let ports = Set::map("ports", [ValueType::InetProto, ValueType::InetService], to);
        let jumps = Set::map("jumps", [ValueType::Ifname], DataType::Verdict);
        let hosts = Set::new("hosts", [ValueType::Ipv4Addr]).with_intervals();
        let pairs =
            Set::new("pairs", [ValueType::Ipv4Addr, ValueType::InetService]).with_intervals();
        let key = Value::concat([Value::byte(TCP), Value::port(8080)]);
        let target = Value::concat([Value::from(Ipv4Addr::new(10, 0, 0, 2)), Value::port(80)]);
        let mut tx = nft.transaction();
        tx.add_table(&table);
        tx.add_chain(&table, "in", Some(&BaseChain::dstnat()));
        tx.add_chain(&table, "other", None);
        for set in [&ports, &jumps, &hosts, &pairs] {
            tx.add_set(&table, set);
        }
        let forward = Element::new(key.clone()).data(target.clone()).comment("net, id");
        tx.add_element(&table, "ports", &forward);
        let jump = Element::new(Value::ifname("eth0")).data(Verdict::Jump("other".to_owned()));
        tx.add_element(&table, "jumps", &jump);
        tx.add_element(&table, "hosts", &Element::net(net("10.1.0.0/24")));
        let range = Element::range(
            Value::concat([Value::from(Ipv4Addr::new(10, 0, 0, 1)), Value::port(1)]),
            Value::concat([Value::from(Ipv4Addr::new(10, 0, 0, 9)), Value::port(9)]),
        );
        tx.add_element(&table, "pairs", &range);
        let fields = [Field::L4proto, Field::Dport];
        tx.add_rule(&table, "in", &Rule::new().dnat_map(&fields, "ports", false));
        tx.add_rule(&table, "in", &Rule::new().verdict_map(&[Field::Iifname], "jumps"));
        let member = Rule::new().in_set(&[Field::IpSaddr], "hosts").accept();
        tx.add_rule(&table, "in", &member);
        let stranger = Rule::new().not_in_set(&[Field::IpSaddr], "hosts").accept();
        tx.add_rule(&table, "in", &stranger);
        let pair = Rule::new()
            .eq(Field::L4proto, Value::byte(TCP))
            .in_set(&[Field::IpSaddr, Field::Dport], "pairs")
            .accept();
        tx.add_rule(&table, "in", &pair);
        tx.commit().unwrap();
        shows(&[
            "type inet_proto . inet_service : ipv4_addr . inet_service",
            "elements = { 6 . 8080 comment \"net, id\" : 10.0.0.2 . 80 }",
            "type ifname : verdict",
            "elements = { \"eth0\" : jump other }",
            "elements = { 10.1.0.0/24 }",
            "elements = { 10.0.0.1-10.0.0.9 . 1-9 }",
            "iifname vmap @jumps",
            "ip saddr @hosts accept",
            "ip saddr != @hosts accept",
            "ip saddr . tcp dport @pairs accept",
        ]);
        let rules = ruleset();
        assert!(rules.contains("dnat ip to meta l4proto . th dport map @ports"), "{rules}");

        let found = nft.get_element(&table, "ports", &key).unwrap().unwrap();
        assert_eq!(found.comment.as_deref(), Some("net, id"));
        assert!(found.has_key(&key));
        assert_eq!(found.data, Some(Data::Value(Value::bytes(target.as_bytes()))));
        let other = Value::concat([Value::byte(TCP), Value::port(8081)]);
        assert_eq!(nft.get_element(&table, "ports", &other).unwrap(), None);
        assert_eq!(nft.get_element(&table, "none", &other).unwrap(), None);
        let jumps = nft.elements(&table, "jumps").unwrap();
        assert_eq!(jumps[0].data, Some(Data::Verdict(Verdict::Jump("other".to_owned()))));
        assert_eq!(nft.elements(&table, "none").unwrap(), []);
    });
}

#[test]
fn rules_are_found_by_comment_and_deleted_by_handle() {
    with_table(Family::Ip, |nft, table| {
        add_rules(
            nft,
            table,
            &[Rule::new().accept().comment("second"), Rule::new().drop().comment("third")],
        );
        let mut tx = nft.transaction();
        tx.add_chain(table, "other", None);
        let first = Rule::new().jump("other").comment("first");
        tx.insert_rule(table, "rules", &first, None);
        tx.commit().unwrap();
        let rules = nft.rules(table, "rules").unwrap();
        let comments: Vec<&str> = rules.iter().filter_map(|rule| rule.comment.as_deref()).collect();
        assert_eq!(comments, ["first", "second", "third"]);
        assert_eq!(rules[0].jump_target.as_deref(), Some("other"));
        assert_eq!(rules[1].verdict, Some(Verdict::Accept));
        assert_eq!(rules[1].expressions[0].name, "immediate");
        let mut tx = nft.transaction();
        tx.insert_rule(table, "rules", &Rule::new().return_(), Some(rules[2].handle));
        tx.del_rule(table, "rules", rules[1].handle);
        tx.commit().unwrap();
        let verdicts: Vec<_> = nft
            .rules(table, "rules")
            .unwrap()
            .into_iter()
            .filter_map(|rule| rule.verdict)
            .collect();
        let jump = Verdict::Jump("other".to_owned());
        assert_eq!(verdicts, [jump, Verdict::Return, Verdict::Drop]);
        assert_eq!(nft.rules(table, "none").unwrap(), []);
        let mut tx = nft.transaction();
        tx.del_chain(table, "other");
        assert!(tx.commit().unwrap_err().is_busy());
    });
}

#[test]
fn transaction_ends_if_the_kernel_drops_answers() {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        let none = Table::new(Family::Ip, "none");
        // More refusals than the receive buffer has room for.
        let mut tx = nft.transaction();
        for host in 0..1000_u32 {
            tx.destroy_element(&none, "hosts", &Element::new(Ipv4Addr::from(0x0a00_0000 + host)));
        }
        tx.commit().unwrap();
        let mut tx = nft.transaction();
        for host in 0..1000_u32 {
            tx.add_element(&none, "hosts", &Element::new(Ipv4Addr::from(0x0a00_0000 + host)));
        }
        assert!(tx.commit().unwrap_err().is_not_found());
        assert_eq!(nft.tables().unwrap(), []);
    });
}

/// Deletes existing and missing objects in one transaction; the missing ones are no errors.
fn destroy_everything(nft: &mut Nft) {
    // User-Mode Linux, whose kernel is older than 6.3, supports this family.
    let table = table_with_chain(nft, Family::Bridge);
    let none = Table::new(Family::Bridge, "none");
    let set = Set::new("hosts", [ValueType::Ipv4Addr]);
    let here = Element::new(Ipv4Addr::new(10, 0, 0, 1));
    let absent = Element::new(Ipv4Addr::new(10, 0, 0, 2));
    let mut tx = nft.transaction();
    tx.add_set(&table, &set);
    tx.add_element(&table, "hosts", &here);
    tx.add_rule(&table, "rules", &Rule::new().accept());
    tx.commit().unwrap();
    let handle = nft.rules(&table, "rules").unwrap()[0].handle;
    let mut tx = nft.transaction();
    tx.destroy_rule(&table, "rules", handle);
    tx.destroy_rule(&table, "rules", handle + 1000);
    tx.destroy_rule(&table, "none", 1);
    tx.destroy_element(&table, "hosts", &absent);
    tx.destroy_element(&table, "hosts", &here);
    tx.destroy_element(&none, "hosts", &here);
    tx.destroy_chain(&table, "none");
    tx.destroy_set(&table, "none");
    tx.destroy_chain(&none, "none");
    tx.destroy_table(&none);
    tx.commit().unwrap();
    assert_eq!(nft.rules(&table, "rules").unwrap(), []);
    assert_eq!(nft.elements(&table, "hosts").unwrap(), []);
    let mut tx = nft.transaction();
    tx.destroy_chain(&table, "rules");
    tx.destroy_set(&table, "hosts");
    tx.commit().unwrap();
    assert_eq!(nft.chains(&table).unwrap(), []);
    let mut tx = nft.transaction();
    tx.destroy_table(&table);
    tx.commit().unwrap();
    assert_eq!(nft.tables().unwrap(), []);
    let mut tx = nft.transaction();
    tx.destroy_table(&table);
    tx.commit().unwrap();
}

#[test]
fn missing_objects_can_be_destroyed() {
    private_network(|| destroy_everything(&mut Nft::open().unwrap()));
}

#[test]
fn missing_objects_can_be_destroyed_on_a_kernel_before_6_3() {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        nft.assume_old_kernel();
        destroy_everything(&mut nft);
    });
}

#[test]
fn deleting_a_missing_table_fails() {
    private_network(|| {
        let mut nft = Nft::open().unwrap();
        let mut tx = nft.transaction();
        tx.del_table(&Table::new(Family::Ip, "none"));
        assert!(tx.commit().unwrap_err().is_not_found());
    });
}

#[test]
fn long_comment_is_rejected_before_sending() {
    private_network(|| {
        let rule = Rule::new().comment("x".repeat(129));
        let error = commit_failing(&mut Nft::open().unwrap(), &rule);
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    });
}

#[test]
fn socket_works_in_the_namespace_it_was_opened_in() {
    private_network(|| {
        let netns = Netns::create().unwrap();
        let mut inside = Nft::open_in(&netns).unwrap();
        table_with_chain(&mut inside, Family::Ip);
        assert_eq!(ruleset(), "");
        assert_eq!(inside.tables().unwrap().len(), 1);
    });
}

#[test]
fn large_transaction_and_large_set_succeed() {
    with_table(Family::Ip, |nft, table| {
        let mut tx = nft.transaction();
        tx.add_set(table, &Set::new("hosts", [ValueType::Ipv4Addr]));
        for host in 0..1000_u32 {
            let element = Element::new(Ipv4Addr::from(0x0a00_0001 + host)).comment("x".repeat(64));
            tx.add_element(table, "hosts", &element);
        }
        tx.commit().unwrap();
        assert_eq!(nft.elements(table, "hosts").unwrap().len(), 1000);
    });
}
