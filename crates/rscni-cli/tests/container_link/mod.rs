//! What every plugin has to do whose attachment is one link in the container, whatever its kind.

#![allow(dead_code, reason = "each test program uses its part")]

use std::{path::Path, process::Command};

use rscni_linux::{AddressFlags, Bridge, LinkChange, Netns, Veth};
use rscni_test::{Container, Lab, Namespace, VERSIONS, result_in};
use serde_json::{Value, json};

use crate::support::{self, Attached, Network, V4, addresses, change, fixed, host_local, up};

/// A network that the host is on: its `lan0` leads to a machine with the first address of both subnets.
#[track_caller]
pub(crate) fn lan(lab: &Lab) -> Container {
    let outside = lab.container("outside");
    let netns = Netns::open(outside.path()).expect("its namespace");
    let veth = Veth { up: true, peer_netns: Some(&netns), ..Veth::new("lan0", "lan0") };
    lab.host().netlink().add_veth(&veth).expect("a cable");
    let mut netlink = outside.netlink();
    change(&mut netlink, "lan0", &up(true));
    for address in ["10.1.0.1/24", "fd01::1/64"] {
        add_address(&outside, "lan0", address);
    }
    outside
}

/// Gives a link an address that can be used at once.
#[track_caller]
pub(crate) fn add_address(place: &Namespace, link: &str, address: &str) {
    let mut netlink = place.netlink();
    let index = netlink.link_by_name(link).expect("the link").index;
    let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
    netlink
        .add_address(index, address.parse().expect("an address"), nodad)
        .expect("add an address");
}

/// Runs `ip` with these words there. It must succeed.
#[track_caller]
pub(crate) fn ip(place: &Namespace, words: &str) {
    let output = place.run(|| Command::new("ip").args(words.split(' ')).output().expect("run ip"));
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A container that trusts its IPv6 addresses at once: waiting for what nobody says takes two seconds each time.
#[track_caller]
pub(crate) fn container(lab: &Lab, name: &str) -> Container {
    let container = lab.container(name);
    container
        .run(|| rscni_linux::sysctl::set("net/ipv6/conf/default/dad_transmits", "0"))
        .expect("set it");
    container
}

/// One of those, attached as `eth0`.
#[track_caller]
pub(crate) fn attach(lab: &Lab, network: &Network, name: &str) -> Attached {
    network.attach_as(&container(lab, name), "eth0")
}

/// A network of this plugin, with addresses of these subnets and routes.
pub(crate) fn network(lab: &Lab, plugin: &str, subnets: &[&str], keys: &Value) -> Network {
    let mut ipam = host_local(subnets);
    ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
    Network::new(lab, plugin, &json!({ "ipam": ipam })).with(keys)
}

/// Something that is asserted of every plugin of this sort. It gets a network with addresses of both families.
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
        if ["0.4.0", "1.0.0", "1.1.0"].contains(&version) {
            a.check().success();
        } else {
            a.check().error(1).mentions("0.4.0");
        }
        if version == "1.1.0" {
            network.plugin.status(&network.config).success();
            network.gc(&[&a]).success();
            a.check().success();
        } else {
            network.plugin.status(&network.config).error(1).mentions("1.1.0");
            network.gc(&[]).error(1).mentions("1.1.0");
        }
        a.del().success();
        a.del().success();
        assert!(a.netlink().find_link("eth0").expect("look it up").is_none());
    }
    let a = lab.container("a");
    for version in ["1.2.0", "nonsense"] {
        let network = network.with(&json!({ "cniVersion": version }));
        network.plugin.add(&a, "eth0", &network.config).error(1).mentions(version);
    }
    assert_eq!(network.plugin.version().success()["supportedVersions"], json!(VERSIONS));
}

pub(crate) fn is_deleted_whatever_is_left_of_it(lab: &Lab, network: &Network) {
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
            // Somebody has removed the link, or given it another name.
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
    network.plugin.del(&never, "eth0", &network.config).success();
}

pub(crate) fn spares_what_belongs_to_others(lab: &Lab, network: &Network) {
    let first = attach(lab, network, "a");
    let second = network.with(&json!({ "name": "net2", "ipam": host_local(&["10.2.0.0/24"]) }));
    second.plugin.add(&first, "eth0", &second.config).error(4).mentions("eth0");
    second.plugin.del(&first, "eth0", &second.config).success();
    first.check().success();
    first.del().success();
    // An interface of another kind with that name is none of ours.
    first.netlink().add_bridge(&Bridge::new("eth0")).expect("a bridge");
    network.plugin.add(&first, "eth0", &network.config).error(4).mentions("eth0");
    network.plugin.del(&first, "eth0", &network.config).success();
    assert!(first.netlink().find_link("eth0").expect("look it up").is_some());
}

/// The name that the link gets in the container is taken on the host, by its master for one.
pub(crate) fn does_not_mind_the_names_on_the_host(lab: &Lab, network: &Network) {
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

pub(crate) fn leaves_nothing_when_it_fails(lab: &Lab, network: &Network) {
    let mut full = host_local(&[V4, "fd01::/126"]);
    full["ranges"][1][0]["rangeStart"] = "fd01::2".into();
    full["ranges"][1][0]["rangeEnd"] = "fd01::2".into();
    let mut unreachable = network.config["ipam"].clone();
    unreachable["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
    let other =
        network.with(&json!({ "name": "full", "type": "bridge", "bridge": "br0", "ipam": full }));
    let bridge = Network { plugin: lab.plugin("/run/rscni-test/bin/bridge"), ..other };
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
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).error(code).mentions(word);
        lab.assert_unchanged_since(&before);
        if word != "nothing" {
            network.plugin.del(&a, "eth0", &network.config).success();
        }
        lab.assert_unchanged_since(&before);
    }
    lab.remove_namespace(&a);
    network.plugin.add(&a, "eth0", &network.config).error(8).mentions("/run/netns/a");
}

/// Something that somebody does to an attachment, and the word by which CHECK says so.
pub(crate) type Damage = (fn(&Lab, &Attached), &'static str);

pub(crate) fn notices_what_was_changed(lab: &Lab, network: &Network) {
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
    assert_noticed(lab, &network.with(&json!({ "mtu": 1400 })), &damages);
}

/// Does each damage to an attachment of its own, which CHECK must notice and DEL must not mind.
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
        let left = lab.snapshot().to_string();
        assert!(!left.contains("ctr-a"), "after {word}: {left}");
    }
}

pub(crate) fn needs_the_result_for_check(lab: &Lab, network: &Network) {
    let a = attach(lab, network, "a");
    network.plugin.check(&a, "eth0", &network.config).error(7).mentions("prevResult");
    let other = network.with(&json!({ "prevResult": result_in("1.1.0") }));
    network.plugin.check(&a, "eth0", &other.config).failure();
    a.del().success();
}

pub(crate) fn gives_back_addresses_with_gc(lab: &Lab, network: &Network) {
    let before = support::snapshot(lab);
    let a = attach(lab, network, "a");
    network.gc(&[&a]).success();
    a.check().success();
    lab.remove_namespace(&a);
    // As libcni calls it without a list: no attachment is valid.
    network.plugin.gc(&network.config).success();
    lab.assert_unchanged_since(&before);
}

pub(crate) fn tells_whether_it_could_add(lab: &Lab, network: &Network) {
    network.plugin.status(&network.config).success();
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

/// Of two calls for one name at the same time one gets it, and the other one is told.
pub(crate) fn gives_a_name_once(lab: &Lab, network: &Network) {
    // Each has a network of its own: host-local has only one address for an interface of a container.
    let networks =
        ["one", "two", "three", "four"].map(|name| network.with(&json!({ "name": name })));
    for round in 0..3 {
        let a = container(lab, &format!("a{round}"));
        let before = support::snapshot(lab);
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = networks
                .iter()
                .map(|n| scope.spawn(|| n.plugin.add(&a, "eth0", &n.config)))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("an ADD")).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) =
            networks.iter().zip(&outcomes).partition(|(_, outcome)| outcome.exit_code() == Some(0));
        assert_eq!(won.len(), 1, "{outcomes:?}");
        for (network, outcome) in &lost {
            outcome.error(4).mentions("eth0");
            network.plugin.del(&a, "eth0", &network.config).success();
        }
        let (network, outcome) = won[0];
        let config = outcome.success().follow(&network.config);
        network.plugin.check(&a, "eth0", &config).success();
        network.plugin.del(&a, "eth0", &config).success();
        lab.assert_unchanged_since(&before);
    }
}

const GO: &str = "/usr/lib/cni";

/// Either can CHECK and DEL what the other added.
pub(crate) fn is_handed_over_from_and_to_the_go_plugin(lab: &Lab, network: &Network) {
    // The Go plugin's CHECK finds no route without a gateway but the default one.
    let mut ipam = network.config["ipam"].clone();
    ipam["routes"] = json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]);
    let ours = network.with(&json!({ "cniVersion": "1.0.0", "ipam": ipam }));
    let kind = ours.config["type"].as_str().expect("a type");
    let theirs =
        Network { plugin: lab.plugin(Path::new(GO).join(kind)).cni_path([GO]), ..ours.clone() };
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

/// What a link that is on a network with others has to do.
pub(crate) fn tells_its_neighbours(lab: &Lab, network: &Network) {
    let outside = Container::at("outside", "/run/netns/outside");
    // IPv4 otherwise holds on to an entry that was changed within the last second.
    outside.run(|| rscni_linux::sysctl::set("net/ipv4/neigh/lan0/locktime", "0")).expect("set it");
    for address in ["10.1.0.2", "fd01::2"] {
        ip(
            &outside,
            &format!("neigh replace {address} lladdr 02:00:00:00:00:99 dev lan0 nud stale"),
        );
    }
    let a = attach(lab, network, "a");
    let link = lan_index(&outside);
    rscni_test::eventually("the neighbour learns the hardware address", || {
        let known = outside.netlink().neighbours(link).expect("list neighbours");
        let is_known =
            |address| known.iter().any(|n| n.address == address && n.mac == a.link().mac);
        [a.v4(), a.v6()].into_iter().all(is_known).then_some(())
    });
    assert_eq!(a.sysctl("net/ipv4/conf/eth0/arp_notify"), "1");
    assert_eq!(a.sysctl("net/ipv6/conf/eth0/ndisc_notify"), "1");
}

/// Somebody outside has the IPv6 address already.
pub(crate) fn refuses_an_address_that_another_machine_has(lab: &Lab, network: &Network) {
    let outside = Container::at("outside", "/run/netns/outside");
    add_address(&outside, "lan0", "fd01::2/64");
    let a = lab.container("a");
    let before = support::snapshot(lab);
    network.plugin.add(&a, "eth0", &network.config).error(11).mentions("fd01::2");
    lab.assert_unchanged_since(&before);
}

fn lan_index(outside: &Container) -> u32 {
    outside.netlink().link_by_name("lan0").expect("its link").index
}

/// Two containers reach each other and the machine outside.
#[track_caller]
pub(crate) fn assert_talk_and_go(lab: &Lab, networks: [&Network; 2], families: &[bool]) {
    let before = support::snapshot(lab);
    let [a, b] =
        [("a", networks[0]), ("b", networks[1])].map(|(name, network)| attach(lab, network, name));
    for v4 in families {
        support::assert_talk(lab, &a, &b, *v4);
    }
    for attached in [&a, &b] {
        attached.check().success();
        assert_eq!(addresses(attached, "eth0").len(), families.len());
        attached.del().success();
        attached.del().success();
        lab.remove_namespace(attached);
    }
    lab.assert_unchanged_since(&before);
}

/// A change of a link's hardware address.
pub(crate) fn remac(_: &Lab, a: &Attached) {
    let mac = Some("02:00:00:00:00:99".parse().expect("an address"));
    change(&mut a.netlink(), "eth0", &LinkChange { mac, ..LinkChange::default() });
}
