//! CHECK finds changes of everything that ADD set up.

mod support;

use rscni_linux::{
    BridgePort, LinkChange, Netlink, RouteFilter,
    nft::{Family, Nft, Table},
};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use support::{Attached, Network, V4, V6, assert_gone, change, host_link, host_local, up};

/// Attaches a container with everything that CHECK compares.
fn attach(lab: &Lab, plugin: &str) -> Attached {
    let mut ipam = host_local(&[V4, V6]);
    ipam["routes"] =
        json!([{ "dst": "0.0.0.0/0" }, { "dst": "192.0.2.0/24" }, { "dst": "2001:db8::/32" }]);
    let keys = json!({ "ipam": ipam, "ipMasq": true, "macspoofchk": true, "hairpinMode": true, "portIsolation": true });
    let network =
        Network::new(lab, plugin, &json!({ "bridge": "br0", "isGateway": true })).with(&keys);
    let attached = network.attach(lab, "a");
    attached.check().success();
    attached
}

/// A change of an attachment.
type Damage = fn(&Lab, &Attached);

/// Asserts that CHECK names each change of an attachment, and that DEL succeeds after it.
#[track_caller]
fn assert_all_noticed(lab: &Lab, plugin: &str, all: &[(Damage, &str)]) {
    for (damage, word) in all {
        let a = attach(lab, plugin);
        damage(lab, &a);
        a.check_misses(word);
        a.del().success();
        lab.remove_namespace(&a);
        std::fs::remove_dir_all("/var/lib/cni/networks/net").unwrap();
        println!("after {word}");
        assert_gone(lab, &["ctr-a"]);
    }
}

fn del_route(netlink: &mut Netlink, dst: &str) {
    let filter = RouteFilter { dst: Some(dst.parse().unwrap()), ..RouteFilter::default() };
    for route in netlink.routes(filter).unwrap() {
        netlink.del_route(&route).unwrap();
    }
}

fn del_link(netlink: &mut Netlink, name: &str) {
    let index = netlink.link_by_name(name).unwrap().index;
    netlink.del_link(index).unwrap();
}

fn del_address(netlink: &mut Netlink, link: &str, address: &str) {
    let index = netlink.link_by_name(link).unwrap().index;
    netlink.del_address(index, address.parse().unwrap()).unwrap();
}

fn set_port(lab: &Lab, a: &Attached, port: BridgePort) {
    lab.host().netlink().set_bridge_port(host_link(lab, &a.port_name()).index, &port).unwrap();
}

fn remove_elements(set: &str) {
    let table = Table::new(Family::Bridge, "rscni");
    let mut nft = Nft::open().unwrap();
    let mut transaction = nft.transaction();
    transaction.flush_set(&table, set);
    transaction.commit().unwrap();
}

fn destroy_table(family: Family) {
    let mut nft = Nft::open().unwrap();
    let mut transaction = nft.transaction();
    transaction.destroy_table(&Table::new(family, "rscni"));
    transaction.commit().unwrap();
}

fn remac(netlink: &mut Netlink, link: &str) {
    let mac = Some("02:00:00:00:00:99".parse().unwrap());
    change(netlink, link, &LinkChange { mac, ..LinkChange::default() });
}

/// Changes that both plugins notice.
const LINK: &[(Damage, &str)] = &[
    (|_, a| del_address(&mut a.netlink(), "eth0", "10.1.0.2/24"), "10.1.0.2/24"),
    (|_, a| del_address(&mut a.netlink(), "eth0", "fd01::2/64"), "fd01::2/64"),
    (|_, a| del_route(&mut a.netlink(), "0.0.0.0/0"), "route to 0.0.0.0/0"),
    (|_, a| del_route(&mut a.netlink(), "192.0.2.0/24"), "route to 192.0.2.0/24"),
    (|_, a| del_route(&mut a.netlink(), "2001:db8::/32"), "route to 2001:db8::/32"),
    (|_, a| change(&mut a.netlink(), "eth0", &up(false)), "eth0"),
    (|_, a| del_link(&mut a.netlink(), "eth0"), "eth0"),
    (|_, a| remac(&mut a.netlink(), "eth0"), "02:00:00:00:00:99"),
    (|lab, a| change(&mut lab.host().netlink(), &a.port_name(), &up(false)), "veth"),
    (|lab, a| del_link(&mut lab.host().netlink(), &a.port_name()), "eth0"),
    (|_, _| destroy_table(Family::Inet), "masquerading of 10.1.0.2"),
    (|_, _| std::fs::remove_file("/var/lib/cni/networks/net/10.1.0.2").unwrap(), "10.1.0.2"),
];

#[rstest]
fn check_finds_changes_of_links_addresses_and_routes(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| assert_all_noticed(lab, plugin, LINK));
}

const BRIDGE: &[(Damage, &str)] = &[
    (
        |lab, a| {
            let out = LinkChange { master: Some(0), ..LinkChange::default() };
            change(&mut lab.host().netlink(), &a.port_name(), &out);
        },
        "not a port of bridge br0",
    ),
    (|lab, _| del_link(&mut lab.host().netlink(), "br0"), "bridge br0 is missing"),
    (|lab, _| change(&mut lab.host().netlink(), "br0", &up(false)), "bridge br0 is down"),
    (|lab, _| del_address(&mut lab.host().netlink(), "br0", "10.1.0.1/24"), "10.1.0.1/24"),
    (|lab, _| del_address(&mut lab.host().netlink(), "br0", "fd01::1/64"), "fd01::1/64"),
    (
        |lab, a| set_port(lab, a, BridgePort { hairpin: Some(false), ..BridgePort::default() }),
        "hairpin",
    ),
    (
        |lab, a| set_port(lab, a, BridgePort { isolated: Some(false), ..BridgePort::default() }),
        "isolated",
    ),
    (|lab, a| remac(&mut lab.host().netlink(), &a.port_name()), "veth"),
    (|_, _| remove_elements("spoof_ports"), "macspoofchk"),
    (|_, _| remove_elements("spoof_allowed"), "macspoofchk"),
    (|_, _| destroy_table(Family::Bridge), "macspoofchk"),
];

#[test]
fn check_finds_changes_of_a_bridge() {
    rscni_test::run(|lab| assert_all_noticed(lab, "bridge", BRIDGE));
}

const PTP: &[(Damage, &str)] = &[
    (|lab, _| del_route(&mut lab.host().netlink(), "10.1.0.2/32"), "route to 10.1.0.2/32"),
    (|lab, _| del_route(&mut lab.host().netlink(), "fd01::2/128"), "route to fd01::2/128"),
    (|lab, a| del_address(&mut lab.host().netlink(), &a.port_name(), "10.1.0.1/32"), "10.1.0.1/32"),
    (|lab, a| del_address(&mut lab.host().netlink(), &a.port_name(), "fd01::1/128"), "fd01::1/128"),
];

#[test]
fn check_finds_changes_of_ptp() {
    rscni_test::run(|lab| assert_all_noticed(lab, "ptp", PTP));
}

#[rstest]
fn check_needs_the_result(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        let a = attach(lab, plugin);
        a.network.check(&a).error(7).mentions("prevResult");
        lab.remove_namespace(&a);
        a.check().error(8);
    });
}
