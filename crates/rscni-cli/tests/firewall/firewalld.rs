//! The backend firewalld, over a private bus.

use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    bus::{Bus, FakeFirewalld},
    lists::{ENDS, List, assert_does_not_reach, assert_nothing_left, run},
    support,
};

/// A list whose firewall plugin finds this bus.
fn list(lab: &Lab, bus: &Bus, number: u8, keys: &Value) -> List {
    let mut list = List::new(lab, number, keys);
    list.firewall.plugin = list.firewall.plugin.env("DBUS_SYSTEM_BUS_ADDRESS", bus.address());
    list
}

#[rstest]
#[case::it_is_chosen_where_it_runs(json!({}), "trusted")]
#[case::it_is_configured(json!({ "backend": "firewalld" }), "trusted")]
#[case::another_zone(json!({ "backend": "firewalld", "firewalldZone": "internal" }), "internal")]
fn addresses_are_sources_of_the_zone(#[case] keys: Value, #[case] zone: &str) {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let firewalld = FakeFirewalld::start(&bus);
        let list = list(lab, &bus, 1, &keys);
        list.firewall.status().success();
        let a = list.attach(lab, "a");
        assert_eq!(a.reply.json(), a.bridge.reply.json());
        assert_eq!(firewalld.sources_of(zone), ["10.1.0.2/32", "fd01::2/128"]);
        a.check().success();
        // Add it again.
        list.firewall.after(&a.bridge);
        a.del().success();
        assert!(firewalld.sources_of(zone).is_empty());
        a.del().success();
        assert_nothing_left(lab, &a);
    });
}

#[test]
fn every_end_removes_everything() {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let firewalld = FakeFirewalld::start(&bus);
        let list = list(lab, &bus, 1, &json!({ "firewalldZone": "public" }));
        for how in ENDS {
            let a = list.attach(lab, how);
            assert_eq!(firewalld.sources_of("public").len(), 2);
            a.end(lab, how).success();
            assert!(firewalld.sources_of("public").is_empty(), "{how}");
            assert_nothing_left(lab, &a);
            a.del_without_result().success();
        }
    });
}

#[test]
fn attachments_of_another_plugin_are_checked_and_removed() {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let firewalld = FakeFirewalld::start(&bus);
        let list = list(lab, &bus, 1, &json!({}));
        for how in ["with_result", "without_result"] {
            let mut a = list.attach(lab, how);
            a.firewall.del().success();
            // The Go plugin leaves no owner tag.
            for ip in a.reply.ips() {
                firewalld.put(&ipnet::IpNet::from(ip.addr()).to_string(), "trusted");
            }
            a.firewall.network = list.firewall.clone();
            a.check().success();
            a.end(lab, how).success();
            assert!(firewalld.sources_of("trusted").is_empty(), "{how}");
        }
    });
}

#[test]
fn a_late_del_keeps_the_next_owner_of_the_address() {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let firewalld = FakeFirewalld::start(&bus);
        let mut list = list(lab, &bus, 1, &json!({}));
        let ipam = support::fixed(&[("10.1.0.5/24", "10.1.0.1"), ("fd01::5/64", "fd01::1")]);
        list.bridge = list.bridge.with(&json!({ "ipam": ipam }));
        let old = list.attach(lab, "old");
        old.bridge.del().success();
        let new = list.attach(lab, "new");
        old.del().success();
        new.check().success();
        assert_eq!(firewalld.sources_of("trusted").len(), 2);
    });
}

#[test]
fn check_misses_each_source_and_the_zone() {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let firewalld = FakeFirewalld::start(&bus);
        let a = list(lab, &bus, 1, &json!({ "backend": "firewalld" })).attach(lab, "a");
        for source in ["10.1.0.2/32", "fd01::2/128"] {
            firewalld.forget(source);
            a.check_misses(source.split('/').next().unwrap());
            firewalld.put(source, "public");
            a.check_misses("trusted");
            firewalld.put(source, "trusted");
            a.check().success();
        }
        let mut elsewhere = a.firewall;
        elsewhere.network = elsewhere.network.with(&json!({ "firewalldZone": "nowhere" }));
        elsewhere.check_misses("no zone nowhere");
        // A source that is not in the zone is not removed.
        elsewhere.del().success();
    });
}

#[test]
fn a_conflicting_source_or_a_missing_zone_fails_and_leaves_nothing() {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let firewalld = FakeFirewalld::start(&bus);
        let wrong = list(lab, &bus, 1, &json!({ "firewalldZone": "nowhere" }));
        // The shared rules stay.
        let first = list(lab, &bus, 2, &json!({})).attach(lab, "first");
        let bridge = wrong.bridge.attach(lab, "a");
        let before = support::snapshot(lab);
        wrong.firewall.call_after(&bridge).error(7).mentions("nowhere");
        lab.assert_unchanged_since(&before);
        firewalld.put("fd01::2/128", "public");
        let right = wrong.firewall.with(&json!({ "firewalldZone": null }));
        right.call_after(&bridge).error(5).mentions("fd01::2").mentions("ZONE_CONFLICT");
        lab.assert_unchanged_since(&before);
        assert_eq!(firewalld.sources_of("public"), ["fd01::2/128"]);
        assert_eq!(firewalld.sources_of("trusted").len(), first.reply.ips().len());
    });
}

#[test]
fn without_firewalld_another_backend_is_chosen_and_del_works() {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let firewalld = FakeFirewalld::start(&bus);
        let chosen = list(lab, &bus, 1, &json!({}));
        let configured = list(lab, &bus, 2, &json!({ "backend": "firewalld" }));
        let [a, b] = [chosen.attach(lab, "a"), configured.attach(lab, "b")];
        drop(firewalld);
        a.check().error(5).mentions("firewalld");
        b.check().error(5).mentions("firewalld");
        a.del().success();
        b.del_without_result().success();
        for gone in [&a, &b] {
            assert_nothing_left(lab, gone);
        }
        let c = chosen.attach(lab, "c");
        assert!(run("nft", "list set inet rscni firewall4").contains(&c.v4().to_string()));
        let bridge = configured.bridge.attach(lab, "d");
        configured.firewall.call_after(&bridge).error(5).mentions("firewalld");
        configured
            .firewall
            .plugin
            .status(&configured.firewall.config)
            .error(50)
            .mentions("firewalld");
        drop(bus);
        configured.firewall.call_after(&bridge).error(5).mentions("D-Bus");
        configured.firewall.del(&bridge).success();
        c.check().success();
    });
}

#[rstest]
#[case::in_nftables("")]
#[case::beside_those_of_the_go_plugin("iptables")]
fn policies_are_kept_with_firewalld_too(#[case] existing: &str) {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let _firewalld = FakeFirewalld::start(&bus);
        let keys = json!({ "ingressPolicy": "same-bridge" });
        let first = List::new(lab, 1, &keys).firewall.with(&json!({ "backend": existing }));
        let mut one = list(lab, &bus, 1, &keys);
        if existing == "iptables" {
            one.firewall = first;
        }
        let two = list(lab, &bus, 2, &keys);
        let (a, c) = (one.attach(lab, "a"), two.attach(lab, "c"));
        assert_does_not_reach(&a, &c);
        assert_does_not_reach(&c, &a);
        a.check().success();
        c.check().success();
        let by_iptables = crate::lists::iptables_rules()
            .iter()
            .any(|rule| rule.contains("CNI-ISOLATION-STAGE-2"));
        assert_eq!(by_iptables, existing == "iptables");
    });
}

#[test]
fn a_policy_that_is_older_than_those_in_iptables_counts() {
    rscni_test::run(|lab| {
        let bus = Bus::start(lab);
        let _firewalld = FakeFirewalld::start(&bus);
        let keys = json!({ "ingressPolicy": "same-bridge" });
        let a = list(lab, &bus, 1, &keys).attach(lab, "a");
        let iptables =
            list(lab, &bus, 2, &json!({ "backend": "iptables", "ingressPolicy": "same-bridge" }));
        iptables.attach(lab, "c").check().success();
        a.check().success();
        run("nft", "delete element inet rscni firewall-bridges { br1 }");
        a.check_misses("br1");
    });
}

#[test]
fn a_silent_bus_counts_as_missing() {
    rscni_test::run(|lab| {
        let socket = lab.dir().join("mute");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let mut one = List::new(lab, 1, &json!({ "backend": "firewalld" }));
        let address = format!("unix:path={}", socket.display());
        one.firewall.plugin = one.firewall.plugin.env("DBUS_SYSTEM_BUS_ADDRESS", &address);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for answer in
                    ["REJECTED ANONYMOUS\r\n", "OK 1234\r\nnonsense that is no message at all", ""]
                {
                    let (mut stream, _) = listener.accept().unwrap();
                    let _ = std::io::Write::write_all(&mut stream, answer.as_bytes());
                    let _ = std::io::Read::read(&mut stream, &mut [0; 512]);
                }
            });
            let bridge = one.bridge.attach(lab, "a");
            for _ in 0..3 {
                one.firewall.call_after(&bridge).error(5).mentions("D-Bus");
            }
        });
    });
}
