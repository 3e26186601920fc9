//! Plugins whose attachment is one link in the container, whatever its kind.

#![allow(dead_code, reason = "each test program uses its part")]

use rscni_catalogue::{Values, row};
use rscni_linux::{Bridge, LinkChange, Veth};
use rscni_test::{Container, Lab, VERSIONS, result_in};
use serde_json::json;

use super::support::{
    self, Attached, Network, V4, V6, add_address, addresses, assert_gone, cable, change, fixed,
    host_local, ip,
};

/// A LAN: the host's `lan0` leads to a machine that has the first address of both subnets.
#[track_caller]
pub(crate) fn lan(lab: &Lab) -> Container {
    let machine = lab.container("machine");
    cable(lab, "lan0", &machine, "lan0");
    for address in MACHINE {
        add_address(&machine, "lan0", address);
    }
    machine
}

const MACHINE: [&str; 2] = ["10.1.0.1/24", "fd01::1/64"];

/// A LAN whose machine is in a VLAN.
#[track_caller]
pub(crate) fn lan_with_vlan(lab: &Lab, id: u16) -> Container {
    let machine = lan(lab);
    for words in ["set lan0 down", "set lan0 name untagged", "set untagged up"] {
        ip(&machine, &format!("link {words}"));
    }
    ip(&machine, "addr flush dev untagged");
    ip(&machine, &format!("link add link untagged name lan0 type vlan id {id}"));
    ip(&machine, "link set lan0 up");
    for address in MACHINE {
        add_address(&machine, "lan0", address);
    }
    machine
}

/// A container without duplicate address detection, which takes two seconds per address.
#[track_caller]
pub(crate) fn container(lab: &Lab, name: &str) -> Container {
    let container = lab.container(name);
    container
        .run(|| rscni_linux::sysctl::set("net/ipv6/conf/default/dad_transmits", "0"))
        .expect("set it");
    container
}

/// Attaches such a container as `eth0`.
#[track_caller]
pub(crate) fn attach(lab: &Lab, network: &Network, name: &str) -> Attached {
    network.attach_as(&container(lab, name), "eth0")
}

/// The network of a plugin's row on `lan0`, with addresses of both families and a route.
pub(crate) fn network(lab: &Lab, plugin: &str) -> Network {
    let values = Values { device: "lan0".to_owned(), ..Values::default() };
    let config = row(plugin).plugins(&values).pop().expect("a plugin");
    let mut ipam = host_local(&[V4, V6]);
    ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
    Network::new(lab, plugin, &config).with(&json!({ "ipam": ipam }))
}

/// An assertion on a network with addresses of both families.
pub(crate) type Assertion = fn(&Lab, &Network);

pub(crate) fn speaks_every_version(lab: &Lab, network: &Network) {
    let mut ipam = fixed(&[("10.1.0.2/24", "10.1.0.1"), ("fd01::2/64", "fd01::1")]);
    ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
    for version in VERSIONS {
        let network = network.with(&json!({ "cniVersion": version, "ipam": ipam }));
        let a = attach(lab, &network, &format!("a{version}"));
        let mut expected = json!({ "cniVersion": version });
        if ["0.1.0", "0.2.0"].contains(&version) {
            let routes = json!([{ "dst": "192.0.2.0/24" }]);
            expected["ip4"] =
                json!({ "ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": routes });
            expected["ip6"] = json!({ "ip": "fd01::2/64", "gateway": "fd01::1" });
        } else {
            let link = a.link();
            let mut interface = json!({ "name": "eth0", "mac": link.mac.expect("a hardware address").to_string(), "sandbox": a.path() });
            if version == "1.1.0" {
                interface["mtu"] = link.mtu.into();
            }
            let ip = |family: &str, address: &str, gateway: &str| {
                let mut ip = json!({ "interface": 0, "address": address, "gateway": gateway });
                if version.starts_with('0') {
                    ip["version"] = family.into();
                }
                ip
            };
            expected["interfaces"] = json!([interface]);
            expected["ips"] =
                json!([ip("4", "10.1.0.2/24", "10.1.0.1"), ip("6", "fd01::2/64", "fd01::1")]);
            expected["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
        }
        assert_eq!(a.reply.json(), &expected, "{version}");
        a.assert_commands_of(version);
        a.del().success();
        a.del().success();
        assert!(a.netlink().find_link("eth0").expect("look it up").is_none());
    }
    let a = lab.container("a");
    for version in ["1.2.0", "nonsense"] {
        let network = network.with(&json!({ "cniVersion": version }));
        network.add(&a).error(1).mentions(version);
    }
    assert_eq!(network.plugin.version().success()["supportedVersions"], json!(VERSIONS));
}

pub(crate) fn del_succeeds_whatever_is_left(lab: &Lab, network: &Network) {
    let before = support::snapshot(lab);
    let deletions: [fn(&Lab, &Attached); 5] = [
        |_, a| drop(a.del().success()),
        |_, a| drop(a.del_without_result().success()),
        |_, a| drop(a.del_without_netns().success()),
        |lab, a| {
            lab.remove_namespace(a);
            a.del().success();
        },
        |_, a| {
            // The link was removed, or renamed.
            ip(a, "link del eth0");
            a.del().success();
            let again = a.network.attach_as(&a.container, "eth0");
            ip(&again, "link set eth0 down");
            ip(&again, "link set eth0 name other");
            again.del().success();
            assert!(a.netlink().find_link("other").expect("look it up").is_none());
        },
    ];
    for (number, delete) in deletions.into_iter().enumerate() {
        let a = attach(lab, network, &format!("a{number}"));
        delete(lab, &a);
        a.del_without_result().success();
        if a.exists() {
            lab.remove_namespace(&a);
        }
        lab.assert_unchanged_since(&before);
    }
    // Nothing was ever added.
    let never = lab.container("never");
    network.del(&never).success();
}

pub(crate) fn links_of_others_are_left_alone(lab: &Lab, network: &Network) {
    let first = attach(lab, network, "a");
    let second = network.with(&json!({ "name": "net2", "ipam": host_local(&["10.2.0.0/24"]) }));
    second.add(&first).error(4).mentions("eth0");
    second.del(&first).success();
    first.check().success();
    first.del().success();
    // An interface of another kind has that name.
    first.netlink().add_bridge(&Bridge::new("eth0")).expect("a bridge");
    network.add(&first).error(4).mentions("eth0");
    network.del(&first).success();
    assert!(first.netlink().find_link("eth0").expect("look it up").is_some());
}

/// The name of the container interface is in use on the host, for example by the master.
pub(crate) fn names_of_the_host_do_not_matter(lab: &Lab, network: &Network) {
    lab.host().netlink().add_veth(&Veth::new("eth0", "peer")).expect("a link");
    let before = support::snapshot(lab);
    let a = attach(lab, network, "a");
    assert!(
        a.netlink().links().expect("list links").iter().all(|link| !link.name.starts_with("tmp"))
    );
    a.check().success();
    a.del().success();
    lab.remove_namespace(&a);
    lab.assert_unchanged_since(&before);
}

pub(crate) fn failed_add_leaves_nothing(lab: &Lab, network: &Network) {
    let mut full = host_local(&[V4, "fd01::/126"]);
    full["ranges"][1][0]["rangeStart"] = "fd01::2".into();
    full["ranges"][1][0]["rangeEnd"] = "fd01::2".into();
    let mut unreachable = network.config["ipam"].clone();
    unreachable["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    let other =
        network.with(&json!({ "name": "full", "type": "bridge", "bridge": "br0", "ipam": full }));
    let bridge = Network { plugin: lab.plugin(format!("{}/bridge", support::BIN)), ..other };
    bridge.attach(lab, "first");
    let cases = [
        (json!({ "name": "full", "ipam": full }), 11, "fd01::"),
        (json!({ "ipam": unreachable }), 5, "203.0.113.1"),
        (json!({ "ipam": { "type": "nothing" } }), 7, "nothing"),
        (json!({ "ipam": { "type": network.config["type"] } }), 7, "gives no addresses"),
    ];
    let a = lab.container("a");
    for (keys, code, word) in cases {
        let network = network.with(&keys);
        if word == "nothing" {
            let before = support::snapshot(lab);
            network.add(&a).error(code).mentions(word);
            lab.assert_unchanged_since(&before);
        } else {
            network.assert_add_fails(lab, &a, code, word);
        }
    }
    lab.remove_namespace(&a);
    network.add(&a).error(8).mentions("/run/netns/a");
}

/// A change of an attachment, and the text by which CHECK reports it.
pub(crate) type Damage = (fn(&Lab, &Attached), &'static str);

pub(crate) fn check_notices_changes(lab: &Lab, network: &Network) {
    let damages: [Damage; 9] = [
        (|_, a| ip(a, "link del eth0"), "eth0 is missing"),
        (|_, a| ip(a, "link set eth0 down"), "eth0 in /run/netns/a is down"),
        (|_, a| ip(a, "addr del 10.1.0.2/24 dev eth0"), "10.1.0.2/24"),
        (|_, a| ip(a, "addr del fd01::2/64 dev eth0"), "fd01::2/64"),
        (|_, a| ip(a, "route del 192.0.2.0/24"), "route to 192.0.2.0/24"),
        (|_, a| ip(a, "link set eth0 mtu 1300"), "MTU 1300"),
        (
            |_, a| {
                ip(a, "link del eth0");
                ip(a, "link add eth0 type bridge");
            },
            "is not a ",
        ),
        (
            |lab, a| {
                lab.remove_namespace(a);
                lab.container("a");
            },
            "eth0 is missing",
        ),
        (
            |_, _| std::fs::remove_file("/var/lib/cni/networks/net/10.1.0.2").expect("remove it"),
            "10.1.0.2",
        ),
    ];
    // `dummy` has no key for the MTU.
    let damages: Vec<_> = damages
        .into_iter()
        .filter(|(_, word)| network.kind() != "dummy" || *word != "MTU 1300")
        .collect();
    assert_noticed(lab, &network.with(&json!({ "mtu": 1400 })), &damages);
}

/// Asserts that CHECK notices each change of an attachment, and that DEL succeeds after it.
#[track_caller]
pub(crate) fn assert_noticed(lab: &Lab, network: &Network, damages: &[Damage]) {
    for (damage, word) in damages {
        let a = attach(lab, network, "a");
        a.check().success();
        damage(lab, &a);
        a.check_misses(word);
        a.del().success();
        lab.remove_namespace(&a);
        std::fs::remove_dir_all("/var/lib/cni/networks/net").expect("host-local's directory");
        println!("after {word}");
        assert_gone(lab, &["ctr-a"]);
    }
}

pub(crate) fn check_needs_the_result(lab: &Lab, network: &Network) {
    let a = attach(lab, network, "a");
    network.check(&a).error(7).mentions("prevResult");
    let other = network.with(&json!({ "prevResult": result_in("1.1.0") }));
    network.plugin.check(&a, "eth0", &other.config).failure();
    a.del().success();
}

pub(crate) fn gc_releases_addresses(lab: &Lab, network: &Network) {
    let before = support::snapshot(lab);
    let a = attach(lab, network, "a");
    network.gc(&[&a]).success();
    a.check().success();
    lab.remove_namespace(&a);
    // As libcni calls it without a list: no attachment is valid.
    network.plugin.gc(&network.config).success();
    lab.assert_unchanged_since(&before);
}

pub(crate) fn status_reports_whether_add_can_succeed(lab: &Lab, network: &Network) {
    network.status().success();
    let broken = network.with(&json!({ "ipam": { "type": "nothing" } }));
    network.plugin.status(&broken.config).error(7).mentions("nothing");
    if network.config.get("master").is_some() {
        let elsewhere = network.with(&json!({ "master": "nowhere0" }));
        network.plugin.status(&elsewhere.config).error(50).mentions("nowhere0");
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &elsewhere.config).error(7).mentions("nowhere0");
        lab.assert_unchanged_since(&before);
    }
}

/// Several calls create an interface of the same name at the same time.
pub(crate) fn one_of_several_calls_gets_the_name(lab: &Lab, network: &Network) {
    // Each has its own network: host-local gives an interface of a container one address.
    let networks =
        ["one", "two", "three", "four"].map(|name| network.with(&json!({ "name": name })));
    for round in 0..3 {
        let a = container(lab, &format!("a{round}"));
        let before = support::snapshot(lab);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = networks.iter().map(|n| scope.spawn(|| n.add(&a))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an ADD")).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) =
            networks.iter().zip(&outcomes).partition(|(_, outcome)| outcome.exit_code() == Some(0));
        assert_eq!(won.len(), 1, "{outcomes:?}");
        for (network, outcome) in &lost {
            outcome.error(4).mentions("eth0");
            network.del(&a).success();
        }
        let (network, outcome) = won[0];
        let config = outcome.success().follow(&network.config);
        network.plugin.check(&a, "eth0", &config).success();
        network.plugin.del(&a, "eth0", &config).success();
        lab.assert_unchanged_since(&before);
    }
}

/// Each plugin CHECKs and DELs what the other added.
pub(crate) fn attachments_are_handed_over_from_and_to_the_go_plugin(lab: &Lab, network: &Network) {
    // The Go plugin's CHECK finds no route without a gateway but the default one.
    let mut ipam = network.config["ipam"].clone();
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let ours = network.with(&json!({ "cniVersion": "1.0.0", "ipam": ipam }));
    let theirs = ours.with_go(lab);
    let before = support::snapshot(lab);
    for (adds, takes_over) in [(&theirs, &ours), (&ours, &theirs)] {
        let mut a = attach(lab, adds, "a");
        a.network = takes_over.clone();
        a.check().success();
        a.del().success();
        assert!(a.netlink().find_link("eth0").expect("look it up").is_none());
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
    }
    let mut a = attach(lab, &theirs, "a");
    a.network = ours;
    a.del_without_result().success();
    assert!(a.netlink().find_link("eth0").expect("look it up").is_none());
}

pub(crate) fn neighbours_learn_the_hardware_address(lab: &Lab, network: &Network) {
    let outside = machine();
    // IPv4 otherwise holds on to an entry that was changed within the last second.
    outside.run(|| rscni_linux::sysctl::set("net/ipv4/neigh/lan0/locktime", "0")).expect("set it");
    for address in ["10.1.0.2", "fd01::2"] {
        ip(
            &outside,
            &format!("neigh replace {address} lladdr 02:00:00:00:00:99 dev lan0 nud stale"),
        );
    }
    let a = attach(lab, network, "a");
    let link = outside.netlink().link_by_name("lan0").expect("its link").index;
    rscni_test::eventually("the neighbour learns the hardware address", || {
        let known = outside.netlink().neighbours(link).expect("list neighbours");
        let is_known =
            |address| known.iter().any(|n| n.address == address && n.mac == a.link().mac);
        [a.v4(), a.v6()].into_iter().all(is_known).then_some(())
    });
    assert_eq!(a.sysctl("net/ipv4/conf/eth0/arp_notify"), "1");
    assert_eq!(a.sysctl("net/ipv6/conf/eth0/ndisc_notify"), "1");
}

pub(crate) fn addresses_of_other_machines_are_rejected(lab: &Lab, network: &Network) {
    add_address(&machine(), "lan0", "fd01::2/64");
    let a = lab.container("a");
    let before = support::snapshot(lab);
    network.add(&a).error(11).mentions("fd01::2");
    lab.assert_unchanged_since(&before);
}

/// The machine of [`lan`].
fn machine() -> Container {
    Container::at("machine", "/run/netns/machine")
}

/// Machines of the LAN and the container reach each other.
pub(crate) fn containers_reach_the_lan(lab: &Lab, network: &Network) {
    let (machine, a) = (machine(), network.attach(lab, "a"));
    for (own, other) in [("10.1.0.1", a.v4()), ("fd01::1", a.v6())] {
        a.ping(own);
        machine.ping(other);
        lab.tcp(&machine, &a, other, 80);
    }
}

pub(crate) fn mtu_is_at_most_that_of_the_master(lab: &Lab, network: &Network) {
    ip(lab.host(), "link set lan0 mtu 1450");
    for (name, keys, mtu) in [
        ("default", json!({}), 1450),
        ("same", json!({ "mtu": 1450 }), 1450),
        ("smaller", json!({ "mtu": 1400 }), 1400),
    ] {
        let a = network.with(&keys).attach(lab, name);
        assert_eq!((a.link().mtu, &a.reply["interfaces"][0]["mtu"]), (mtu, &json!(mtu)));
        a.check().success();
        a.del().success();
    }
    if network.kind() != "ipvlan" {
        let larger = network.with(&json!({ "mtu": 1451 }));
        let a = lab.container("a");
        let before = support::snapshot(lab);
        larger.add(&a).error(7).mentions("1451").mentions("1450");
        larger.status().error(7).mentions("1451");
        lab.assert_unchanged_since(&before);
    }
}

/// The host has neither the master nor a default route.
pub(crate) fn the_master_can_be_in_the_container(lab: &Lab, network: &Network) {
    let keys = json!({ "name": "below", "isDefaultGateway": true });
    let below = Network::bridge(lab, &["10.9.0.0/24"], &keys);
    let [a, b] = ["a", "b"].map(|name| attach(lab, &below, name));
    let before = support::snapshot(lab);
    for master in [json!("eth0"), json!(null)] {
        if network.kind() == "vlan" && master.is_null() {
            continue;
        }
        let network = network.with(&json!({ "master": master, "linkInContainer": true }));
        network.status().success();
        let [c, d] = [&a, &b].map(|below| network.attach_as(below, "net1"));
        assert_eq!((c.link().peer_index, c.link().peer_netnsid), (Some(a.link().index), None));
        for v4 in [true, false] {
            support::assert_talk(lab, &c, &d, v4);
        }
        d.check().success();
        d.del().success();
        c.cannot_ping(d.v4());
        c.check().success();
        c.del().success();
        lab.assert_unchanged_since(&before);
    }
    let network = network.with(&json!({ "linkInContainer": true }));
    let outcome = network.plugin.add(&a, "net1", &network.config);
    outcome.error(7).mentions("lan0").mentions("in the container");
}

/// Without IPAM the link is only brought up.
pub(crate) fn ipam_is_optional(lab: &Lab, network: &Network) {
    let before = support::snapshot(lab);
    for (number, ipam) in [json!(null), json!({}), json!({ "type": "" })].iter().enumerate() {
        let network = network.with(&json!({ "ipam": ipam }));
        let a = network.attach(lab, &format!("a{number}"));
        assert!(
            a.reply.ips().is_empty() && a.reply["interfaces"][0]["name"] == "eth0",
            "{}",
            a.reply.json()
        );
        assert!(a.link().up && addresses(&a, "eth0").is_empty());
        a.check().success();
        network.status().success();
        network.gc(&[&a]).success();
        if network.config.get("master").is_some() {
            add_address(&a, "eth0", "10.1.0.9/24");
            a.ping("10.1.0.1");
        }
        change(&mut a.netlink(), "eth0", &support::up(false));
        a.check_misses("down");
        a.del().success();
        a.del().success();
        assert!(a.netlink().find_link("eth0").expect("look it up").is_none());
        lab.remove_namespace(&a);
        lab.assert_unchanged_since(&before);
    }
}

/// Asserts that two containers reach each other, and that DEL removes everything.
#[track_caller]
pub(crate) fn assert_talk_and_del(lab: &Lab, networks: [&Network; 2], families: &[bool]) {
    let before = support::snapshot(lab);
    let [a, b] =
        [("a", networks[0]), ("b", networks[1])].map(|(name, network)| attach(lab, network, name));
    for v4 in families {
        support::assert_talk(lab, &a, &b, *v4);
    }
    for attached in [&a, &b] {
        attached.check().success();
        assert_eq!(addresses(attached, "eth0").len(), families.len());
    }
    support::assert_del_restores(lab, &before, &[&a, &b]);
}

/// A change of a link's hardware address.
pub(crate) fn remac(_: &Lab, a: &Attached) {
    let mac = Some("02:00:00:00:00:99".parse().expect("an address"));
    change(&mut a.netlink(), "eth0", &LinkChange { mac, ..LinkChange::default() });
}
