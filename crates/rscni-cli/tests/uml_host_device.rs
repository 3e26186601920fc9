//! The plugin host-device with devices that many kernels lack.
//!
//! Run in User-Mode Linux: `cargo xtask test --only uml`.

mod support;

use rscni_linux::{Dummy, Ipvlan, LinkChange, Netlink, Veth};
use rscni_test::Lab;
use serde_json::{Value, json};

use support::{Attached, Network, add_address, addresses, change, host_link, move_link, up};

fn network(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "host-device", &json!({ "device": "dev0" })).with(keys)
}

fn dummy(lab: &Lab) -> Netlink {
    let mut host = lab.host().netlink();
    host.add_link(&Dummy { up: true, ..Dummy::new("dev0") }).unwrap();
    change(&mut host, "dev0", &up(true));
    add_address(lab.host(), "dev0", "10.40.0.2/24");
    host
}

/// Gives the interface another name, alias and hardware address.
fn disguise(a: &Attached) {
    let mut netlink = a.netlink();
    let other = LinkChange {
        alias: Some("eth7".into()),
        mac: "02:00:00:00:00:77".parse().ok(),
        ..up(false)
    };
    change(&mut netlink, "eth0", &other);
    change(
        &mut netlink,
        "eth0",
        &LinkChange { name: Some("mine".into()), ..LinkChange::default() },
    );
}

#[test]
fn a_disguised_dummy_comes_back_as_it_was() {
    rscni_test::run(|lab| {
        dummy(lab);
        let before = host_link(lab, "dev0");
        let a = network(lab, &json!({})).attach(lab, "a");
        disguise(&a);
        a.del().success();
        let after = host_link(lab, "dev0");
        assert_eq!((after.mac, after.alias, after.up), (before.mac, before.alias, true));
        assert_eq!(addresses(lab.host(), "dev0"), ["10.40.0.2/24"]);
    });
}

#[test]
fn a_dummy_that_the_container_deleted_counts_as_destroyed() {
    rscni_test::run(|lab| {
        dummy(lab);
        let a = network(lab, &json!({})).attach(lab, "a");
        a.netlink().del_link(a.link().index).unwrap();
        a.del().success();
        a.del().success();
    });
}

#[test]
fn the_network_of_a_dummy_is_moved_and_returned() {
    rscni_test::run(|lab| {
        dummy(lab);
        let a = network(lab, &json!({ "useInterfaceNetwork": true })).attach(lab, "a");
        assert_eq!(addresses(&a, "eth0"), ["10.40.0.2/24"]);
        a.check().success();
        a.del().success();
        assert_eq!(addresses(lab.host(), "dev0"), ["10.40.0.2/24"]);
    });
}

/// An ipvlan stands in for a network card: the kernel gives it a permanent address.
#[test]
fn a_device_is_recognized_by_its_permanent_address() {
    rscni_test::run(|lab| {
        let mut host = lab.host().netlink();
        host.add_link(&Dummy { up: true, ..Dummy::new("lower") }).unwrap();
        let lower = host.link_by_name("lower").unwrap().index;
        let ipvlan = Ipvlan { name: "dev0".into(), lower, ..Ipvlan::default() };
        let device = host.add_link(&ipvlan).unwrap();
        assert!(!device.permanent_address.is_empty());
        let [a, nested] = ["a", "nested"].map(|name| lab.container(name));
        let a = network(lab, &json!({})).attach_as(&a, "eth0");
        let index = a.link().index;
        // It returns to the container with another index, since its own is in use.
        move_link(&a, "eth0", &nested);
        a.del().error(11).mentions("dev0");
        while a.netlink().link_by_index(index).is_err() {
            let number = a.netlink().links().unwrap().len();
            a.netlink().add_veth(&Veth::new(format!("a{number}"), format!("b{number}"))).unwrap();
        }
        let mut netlink = nested.netlink();
        let other = LinkChange {
            alias: Some("eth7".into()),
            name: Some("mine".into()),
            ..LinkChange::default()
        };
        change(&mut netlink, "eth0", &other);
        move_link(&nested, "mine", &a);
        assert_ne!(a.netlink().link_by_name("mine").unwrap().index, index);
        a.del().success();
        let back = host_link(lab, "dev0");
        assert_eq!(back.permanent_address, device.permanent_address);
        assert_eq!(back.alias, None);
    });
}
