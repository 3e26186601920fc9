//! The sbr plugin, with packets.

mod support;

use rscni_linux::{LinkChange, Route, RouteFilter, Rule};
use rscni_test::{Container, Lab};
use rstest::rstest;
use serde_json::{Value, json};

use support::{Attached, Network, V4, V6, change, fixed, host_local, ip};

/// The subnets of the second network.
const SECOND_V4: &str = "10.2.0.0/24";
const SECOND_V6: &str = "fd02::/64";

/// The network with the default routes.
fn first(lab: &Lab) -> Network {
    let mut ipam = host_local(&[V4, V6]);
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    Network::bridge(lab, &[], &json!({ "ipam": ipam }))
}

/// The network whose interface gets source-based routing.
fn second(lab: &Lab, routes: &Value) -> Network {
    let mut ipam = host_local(&[SECOND_V4, SECOND_V6]);
    ipam["routes"] = routes.clone();
    Network::bridge(lab, &[], &json!({ "name": "second", "bridge": "br1", "ipam": ipam }))
}

/// Calls sbr after the interface plugin.
fn chained(lab: &Lab, before: &Attached, keys: &Value) -> Attached {
    let network = sbr(lab, keys);
    let config = before.reply.follow(&network.config);
    let reply = network.plugin.add(before, &before.ifname, &config).success();
    Attached { network, container: before.container.clone(), ifname: before.ifname.clone(), reply }
}

fn sbr(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "sbr", &json!({ "name": "second" })).with(keys)
}

/// Attaches a container to both networks, without sbr.
fn in_both(lab: &Lab, name: &str) -> (Attached, Attached) {
    let eth0 = first(lab).attach(lab, name);
    let net1 = second(lab, &json!([])).attach_as(&eth0.container, "net1");
    (eth0, net1)
}

/// Returns the rules without those of the kernel, as `SOURCE TABLE`.
fn rules(container: &Container) -> Vec<String> {
    let rules = container.netlink().rules().unwrap();
    let ours = rules.into_iter().filter(|rule| !(253..=255).contains(&rule.table));
    ours.map(|rule| format!("{} {}", rule.src, rule.table)).collect()
}

fn routes_by(container: &Container, ifname: &str, table: u32) -> Vec<Route> {
    let mut netlink = container.netlink();
    let oif = Some(netlink.link_by_name(ifname).unwrap().index);
    netlink.routes(RouteFilter { table: Some(table), oif, ..RouteFilter::default() }).unwrap()
}

/// Returns the routes of an interface in a table as `DESTINATION GATEWAY`, without multicast.
fn routes(container: &Container, ifname: &str, table: u32) -> Vec<String> {
    let by = |route: Route| match route.gateway {
        Some(gateway) => format!("{} via {gateway}", route.dst),
        None => route.dst.to_string(),
    };
    let mut routes: Vec<String> = routes_by(container, ifname, table).into_iter().map(by).collect();
    routes.sort();
    routes
}

#[rstest]
#[case::v4(true)]
#[case::v6(false)]
fn replies_leave_by_the_interface_of_the_request(#[case] v4: bool) {
    rscni_test::run(|lab| {
        let mut ipam = host_local(&["10.9.0.0/24", "fd09::/64"]);
        ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let client = Network::ptp(lab, &[], &json!({ "name": "outside", "ipam": ipam }))
            .attach(lab, "client");
        let (eth0, net1) = in_both(lab, "a");
        client.ping(net1.address(v4));
        // From here on, packets that leave by eth0 are lost.
        let unplugged = LinkChange { master: Some(0), ..LinkChange::default() };
        change(&mut lab.host().netlink(), &eth0.port_name(), &unplugged);
        client.cannot_ping(net1.address(v4));
        let a = chained(lab, &net1, &json!({}));
        client.ping(a.address(v4));
        lab.tcp(&client, &a, a.address(v4), 8080);
        a.check().success();
        a.del().success();
        client.cannot_ping(net1.address(v4));
    });
}

#[test]
fn each_address_has_a_rule_and_a_table_and_the_main_table_has_none_of_it() {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let before = [routes(&eth0, "eth0", 254), rules(&eth0)];
        let given = json!([{ "dst": "192.0.2.0/24" }, { "dst": "2001:db8::/32", "gw": "fd02::7", "mtu": 1300 }]);
        let net1 = second(lab, &given).attach_as(&eth0.container, "net1");
        let a = chained(lab, &net1, &json!({}));
        assert_eq!(rules(&a), ["10.2.0.2/32 100", "fd02::2/128 101"]);
        assert_eq!(
            routes(&a, "net1", 100),
            ["0.0.0.0/0 via 10.2.0.1", "10.2.0.0/24", "192.0.2.0/24 via 10.2.0.1"]
        );
        let v6 = ["2001:db8::/32 via fd02::7", "::/0 via fd02::1", "fd02::/64", "fe80::/64"];
        assert_eq!(routes(&a, "net1", 101), v6);
        let copied = routes_by(&a, "net1", 101)
            .into_iter()
            .find(|route| route.gateway == "fd02::7".parse().ok());
        assert_eq!(copied.unwrap().mtu, Some(1300));
        // Packets from a link-local address have no rule.
        assert_eq!(routes(&a, "net1", 254), ["fe80::/64"]);
        assert_eq!(a.reply, net1.reply);
        a.check().success();
        // CHECK of the previous plugin finds the moved routes.
        net1.check().success();
        a.del().success();
        net1.del().success();
        assert_eq!([routes(&a, "eth0", 254), rules(&a)], before);
    });
}

#[test]
fn interfaces_and_addresses_have_tables_of_their_own() {
    rscni_test::run(|lab| {
        let addresses =
            [("10.1.0.5/24", "10.1.0.1"), ("10.1.0.6/24", "10.1.0.1"), ("10.7.0.5/24", "10.7.0.1")];
        let eth0 =
            Network::bridge(lab, &[], &json!({ "ipam": fixed(&addresses) })).attach(lab, "a");
        let one = chained(lab, &eth0, &json!({}));
        let two =
            chained(lab, &second(lab, &json!([])).attach_as(&eth0.container, "net1"), &json!({}));
        let mut expected = [
            "10.1.0.5/32 100",
            "10.1.0.6/32 101",
            "10.7.0.5/32 102",
            "10.2.0.2/32 103",
            "fd02::2/128 104",
        ];
        let mut found = rules(&eth0);
        found.sort();
        expected.sort_unstable();
        assert_eq!(found, expected);
        for table in [100, 101] {
            assert_eq!(routes(&eth0, "eth0", table), ["0.0.0.0/0 via 10.1.0.1", "10.1.0.0/24"]);
        }
        assert_eq!(routes(&eth0, "eth0", 102), ["0.0.0.0/0 via 10.7.0.1", "10.7.0.0/24"]);
        for attached in [&one, &two] {
            attached.check().success();
        }
        one.del().success();
        two.check().success();
        assert_eq!(rules(&eth0).len(), 2);
    });
}

#[test]
fn calls_at_the_same_time_take_different_tables() {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let attached: Vec<Attached> = (1..=4)
            .map(|number| {
                let ipam =
                    fixed(&[(&format!("10.{number}0.0.2/24"), &format!("10.{number}0.0.1"))]);
                let name = format!("br{number}");
                let keys = json!({ "name": name, "bridge": name, "ipam": ipam });
                Network::bridge(lab, &[], &keys).attach_as(&eth0.container, &format!("net{number}"))
            })
            .collect();
        std::thread::scope(|scope| {
            for net in &attached {
                scope.spawn(|| chained(lab, net, &json!({})));
            }
        });
        let mut tables: Vec<String> =
            rules(&eth0).iter().map(|rule| rule.split(' ').next_back().unwrap().into()).collect();
        tables.sort();
        assert_eq!(tables, ["100", "101", "102", "103"]);
    });
}

#[test]
fn default_routes_of_both_networks_are_separate() {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let before = routes(&eth0, "eth0", 254);
        // The kernel merges the two IPv6 routes into a multipath route.
        let given = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
        let net1 = second(lab, &given).attach_as(&eth0.container, "net1");
        let a = chained(lab, &net1, &json!({}));
        assert_eq!(routes(&a, "eth0", 254), before);
        assert_eq!(routes(&a, "net1", 254), ["fe80::/64"]);
        assert_eq!(routes(&a, "net1", 101), ["::/0 via fd02::1", "fd02::/64", "fe80::/64"]);
        for attached in [&a, &net1, &eth0] {
            attached.check().success();
        }
    });
}

#[test]
fn tables_in_use_are_not_chosen() {
    rscni_test::run(|lab| {
        let (_, net1) = in_both(lab, "a");
        let mut netlink = net1.netlink();
        netlink
            .add_rule(&Rule::new("203.0.113.0/24".parse::<ipnet::IpNet>().unwrap(), 100))
            .unwrap();
        let blackhole = Route {
            kind: rscni_linux::RouteType::Blackhole,
            table: Some(101),
            ..Route::new("198.51.100.0/24".parse::<ipnet::IpNet>().unwrap())
        };
        netlink.add_route(&blackhole).unwrap();
        let a = chained(lab, &net1, &json!({}));
        assert!(rules(&a).contains(&"10.2.0.2/32 102".to_owned()), "{:?}", rules(&a));
        a.del().success();
        assert_eq!(rules(&a), ["203.0.113.0/24 100"]);
        assert_eq!(
            netlink
                .routes(RouteFilter { table: Some(101), ..RouteFilter::default() })
                .unwrap()
                .len(),
            1
        );
    });
}

#[rstest]
#[case(100)]
#[case(5000)]
fn with_table_only_rules_are_added(#[case] table: u32) {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let given =
            json!([{ "dst": "0.0.0.0/0", "table": table }, { "dst": "::/0", "table": table }]);
        let net1 = second(lab, &given).attach_as(&eth0.container, "net1");
        let before = [routes(&net1, "net1", 254), routes(&net1, "net1", table)];
        let a = chained(lab, &net1, &json!({ "table": table, "gateways": ["ignored"] }));
        assert_eq!(rules(&a), [format!("10.2.0.2/32 {table}"), format!("fd02::2/128 {table}")]);
        assert_eq!([routes(&a, "net1", 254), routes(&a, "net1", table)], before);
        a.check().success();
        let rule = Rule::new("10.2.0.2/32".parse::<ipnet::IpNet>().unwrap(), table);
        a.netlink().del_rule(&rule).unwrap();
        a.netlink().add_rule(&Rule { table: 4000, ..rule }).unwrap();
        a.check_misses(&format!("rule from 10.2.0.2 lookup {table}"));
        a.del().success();
        // A rule for another table belongs to another program, like the table's routes.
        assert_eq!(rules(&a), ["10.2.0.2/32 4000"]);
        assert_eq!([routes(&a, "net1", 254), routes(&a, "net1", table)], before);
    });
}

#[test]
fn configured_gateways_replace_those_of_ipam_and_its_default_routes() {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let given = json!([{ "dst": "0.0.0.0/0" }, { "dst": "192.0.2.0/24" }]);
        let net1 = second(lab, &given).attach_as(&eth0.container, "net1");
        let a = chained(lab, &net1, &json!({ "gateways": ["fd02::9", "10.2.0.254"] }));
        let v4 = ["0.0.0.0/0 via 10.2.0.254", "10.2.0.0/24", "192.0.2.0/24 via 10.2.0.1"];
        assert_eq!(routes(&a, "net1", 100), v4);
        assert_eq!(routes(&a, "net1", 101), ["::/0 via fd02::9", "fd02::/64", "fe80::/64"]);
        a.check().success();
        let other = Route { table: Some(100), ..Route::default_via("10.2.0.1".parse().unwrap()) };
        a.netlink().replace_route(&other).unwrap();
        a.check_misses("by 10.2.0.1, ADD left 10.2.0.254");
    });
}

#[test]
fn source_hints_are_added_to_subnet_routes() {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let net1 =
            second(lab, &json!([{ "dst": "192.0.2.0/24" }])).attach_as(&eth0.container, "net1");
        let a = chained(lab, &net1, &json!({ "addSourceHints": true }));
        assert_eq!(routes(&a, "net1", 254), ["10.2.0.0/24", "fd02::/64", "fe80::/64"]);
        for route in routes_by(&a, "net1", 254)
            .iter()
            .filter(|route| !route.dst.to_string().starts_with("fe80"))
        {
            assert_eq!(route.src, Some(a.address(route.dst.addr().is_ipv4())));
        }
        assert_eq!(
            routes(&a, "net1", 100),
            ["0.0.0.0/0 via 10.2.0.1", "10.2.0.0/24", "192.0.2.0/24 via 10.2.0.1"]
        );
        a.ping("10.2.0.1");
        a.ping("fd02::1");
        a.check().success();
        let hint = routes_by(&a, "net1", 254)
            .into_iter()
            .find(|route| route.dst.addr().is_ipv4())
            .unwrap();
        a.netlink().del_route(&hint).unwrap();
        a.check_misses("route to 10.2.0.0/24 by net1 is missing in table 254");
    });
}

#[rstest]
#[case::bridge("bridge")]
#[case::ptp("ptp")]
fn check_misses_each_rule_and_each_route(#[case] plugin: &str) {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let mut ipam = host_local(&[SECOND_V4, SECOND_V6]);
        ipam["routes"] =
            json!([{ "dst": "0.0.0.0/0" }, { "dst": "192.0.2.0/24" }, { "dst": "2001:db8::/32" }]);
        let keys = json!({ "name": "second", "bridge": "br1", "isGateway": true, "ipam": ipam });
        let net1 = Network::new(lab, plugin, &keys).attach_as(&eth0.container, "net1");
        let a = chained(lab, &net1, &json!({}));
        a.check().success();
        let mut netlink = a.netlink();
        for rule in netlink.rules().unwrap().into_iter().filter(|rule| rule.table < 253) {
            netlink.del_rule(&rule).unwrap();
            a.check_misses(&format!("rule from {} is missing", rule.src.addr()));
            netlink.add_rule(&rule).unwrap();
        }
        a.check().success();
        let mut seen = 0;
        for table in [100, 101] {
            for route in routes_by(&a, "net1", table) {
                netlink.del_route(&route).unwrap();
                a.check_misses(&format!("by net1 is missing in table {table}"));
                netlink.append_route(&route).unwrap();
                seen += 1;
            }
        }
        assert!(seen >= 7, "{seen}");
        a.check().success();
        netlink.del_link(a.link().index).unwrap();
        a.check_misses("interface net1 is missing");
        a.del().success();
        assert_eq!(rules(&a), Vec::<String>::new());
    });
}

#[rstest]
fn del_is_clean(#[values("with_result", "without_result", "invalid", "address_lost")] how: &str) {
    rscni_test::run(|lab| {
        let (_, net1) = in_both(lab, "a");
        let keep = Rule::new("10.1.0.2/32".parse::<ipnet::IpNet>().unwrap(), 200);
        net1.netlink().add_rule(&keep).unwrap();
        let mut a = chained(lab, &net1, &json!({}));
        match how {
            "with_result" => a.del().success(),
            "without_result" => a.del_without_result().success(),
            "invalid" => {
                a.network = a.network.with(&json!({ "gateways": ["nonsense"] }));
                a.del_without_result().success()
            }
            _ => {
                let index = a.link().index;
                a.netlink().del_address(index, "10.2.0.2/24".parse().unwrap()).unwrap();
                a.del().success()
            }
        };
        assert_eq!(rules(&a), ["10.1.0.2/32 200"]);
        if how != "invalid" {
            assert_eq!(routes(&a, "net1", 100), Vec::<String>::new());
            assert_eq!(routes(&a, "net1", 101), Vec::<String>::new());
        }
        a.del().success();
        a.del_without_netns().success();
        lab.remove_namespace(&a);
        a.del().success();
    });
}

#[test]
fn del_leaves_rules_that_say_more_than_a_source() {
    rscni_test::run(|lab| {
        let (_, net1) = in_both(lab, "a");
        let a = chained(lab, &net1, &json!({}));
        ip(&a, "rule add from 10.2.0.2 fwmark 7 lookup 100");
        a.del().success();
        assert_eq!(rules(&a), ["10.2.0.2/32 100"]);
    });
}

/// Asserts that ADD fails and changes nothing.
#[track_caller]
fn assert_fails(
    lab: &Lab,
    before: &Attached,
    network: &Network,
    result: &Value,
    code: u64,
    word: &str,
) {
    let mut config = network.config.clone();
    config["prevResult"] = result.clone();
    let snapshot = lab.snapshot();
    network.plugin.add(before, &before.ifname, &config).error(code).mentions(word);
    lab.assert_unchanged_since(&snapshot);
    network.plugin.del(before, &before.ifname, &config).success();
    lab.assert_unchanged_since(&snapshot);
}

#[test]
fn add_restores_routes_when_it_fails() {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let net1 =
            second(lab, &json!([{ "dst": "192.0.2.0/24" }])).attach_as(&eth0.container, "net1");
        // This fails after the table of the first address exists.
        let unreachable = sbr(lab, &json!({ "gateways": ["10.2.0.1", "2001:db8::1"] }));
        assert_fails(lab, &net1, &unreachable, net1.reply.json(), 5, "2001:db8::1");
        // This fails after a route of the main table was moved.
        let mut result = net1.reply.json().clone();
        result["ips"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "address": "10.8.0.5/24", "interface": 2 }));
        let hints = sbr(lab, &json!({ "addSourceHints": true }));
        assert_fails(lab, &net1, &hints, &result, 5, "10.8.0.0/24");
    });
}

#[rstest]
#[case::not_chained(json!({}), None, 7, "prevResult")]
#[case::no_addresses(json!({}), Some(json!({ "cniVersion": "1.1.0" })), 7, "no addresses")]
#[case::gateway(json!({ "gateways": ["10.2.0.999"] }), Some(json!({})), 7, "10.2.0.999")]
#[case::two_of_v4(json!({ "gateways": ["10.2.0.1", "10.2.0.254"] }), Some(json!({})), 7, "multiple IPv4 addresses")]
#[case::two_of_v6(json!({ "gateways": ["fd02::1", "fd02::2"] }), Some(json!({})), 7, "multiple IPv6 addresses")]
#[case::table_zero(json!({ "table": 0 }), Some(json!({})), 7, "table")]
#[case::table_negative(json!({ "table": -1 }), Some(json!({})), 7, "table")]
#[case::table_text(json!({ "table": "main" }), Some(json!({})), 7, "main")]
#[case::hints(json!({ "addSourceHints": "yes" }), Some(json!({})), 7, "yes")]
fn invalid_config_is_rejected_naming_the_key(
    #[case] keys: Value,
    #[case] result: Option<Value>,
    #[case] code: u64,
    #[case] word: &str,
) {
    rscni_test::run(|lab| {
        let (_, net1) = in_both(lab, "a");
        let network = sbr(lab, &keys);
        let result = result.unwrap_or(Value::Null);
        assert_fails(lab, &net1, &network, &result, code, word);
        if !keys.as_object().unwrap().is_empty() {
            network.status().error(code).mentions(word);
        }
    });
}

#[rstest]
fn a_namespace_or_an_interface_that_is_gone_is_named(
    #[values(json!({}), json!({ "table": 100 }))] keys: Value,
) {
    rscni_test::run(|lab| {
        let (_, net1) = in_both(lab, "a");
        let network = sbr(lab, &keys);
        let config = net1.reply.follow(&network.config);
        net1.netlink().del_link(net1.link().index).unwrap();
        network.plugin.add(&net1, "net1", &config).error(5).mentions("net1");
        lab.remove_namespace(&net1);
        network.plugin.add(&net1, "net1", &config).error(8).mentions("/run/netns/a");
        network.plugin.check(&net1, "net1", &config).error(8).mentions("/run/netns/a");
    });
}

#[rstest]
fn the_result_is_passed_on_in_every_version(
    #[values("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        let eth0 = first(lab).attach(lab, "a");
        let net1 = second(lab, &json!([{ "dst": "192.0.2.0/24" }]))
            .with(&json!({ "cniVersion": version }));
        let net1 = net1.attach_as(&eth0.container, "net1");
        let a = chained(lab, &net1, &json!({ "cniVersion": version }));
        assert_eq!(a.reply, net1.reply);
        assert_eq!(rules(&a), ["10.2.0.2/32 100", "fd02::2/128 101"]);
        if ["0.4.0", "1.0.0", "1.1.0"].contains(&version) {
            a.check().success();
            a.netlink().del_route(&routes_by(&a, "net1", 100)[0]).unwrap();
            a.check().error(100);
        } else {
            a.check().error(1).mentions("0.4.0");
        }
        let status = a.network.status();
        let gc = a.network.gc(&[&a]);
        if version == "1.1.0" {
            status.success();
            gc.success();
        } else {
            status.error(1);
            gc.error(1);
        }
        a.del().success();
        assert_eq!(rules(&a), Vec::<String>::new());
    });
}

#[test]
fn attachments_are_handed_over_from_and_to_the_go_plugin() {
    rscni_test::run(|lab| {
        let old = json!({ "cniVersion": "1.0.0" });
        let ours = sbr(lab, &old);
        let go = ours.with_go(lab).plugin;
        let eth0 = first(lab).attach(lab, "a");
        let network = second(lab, &json!([{ "dst": "192.0.2.0/24" }])).with(&old);
        // Each container gets the next addresses.
        let look = |net1: &Attached, number: &str| {
            let [v4, v6] = [true, false].map(|v4| net1.address(v4).to_string());
            let text = format!("{:?} {:?}", rules(net1), routes(net1, "net1", 100));
            assert!(v4.ends_with(number) && v6.ends_with(number));
            text.replace(&v4, "V4").replace(&v6, "V6")
        };

        let net1 = network.attach_as(&eth0.container, "net1");
        let config = net1.reply.follow(&ours.config);
        go.add(&net1, "net1", &config).success();
        // The Go plugin also copies unused IPv6 routes with every IPv4 address.
        let of_go = look(&net1, "2").replace(", \"fd02::/64\", \"fe80::/64\"", "");
        ours.plugin.check(&net1, "net1", &config).success();
        ours.plugin.del(&net1, "net1", &ours.config).success();
        assert_eq!(rules(&net1), Vec::<String>::new());
        net1.del().success();

        let net1 = network.attach_as(&eth0.container, "net1");
        let config = net1.reply.follow(&ours.config);
        ours.plugin.add(&net1, "net1", &config).success();
        assert_eq!(look(&net1, "3"), of_go);
        go.del(&net1, "net1", &config).success();
        assert_eq!(rules(&net1), Vec::<String>::new());
    });
}
