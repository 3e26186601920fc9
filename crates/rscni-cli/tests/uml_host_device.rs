//! The plugin host-device with devices that many kernels lack.
//!
//! Run in User-Mode Linux: `cargo xtask test --only uml`.

mod support;

use rscni_linux::{Dummy, Ipvlan, LinkChange, Netlink, Netns, Veth};
use rscni_test::{Lab, Namespace};
use serde_json::{Value, json};

use support::{Attached, Network, addresses, change, host_link, up};

fn network(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "host-device", &json!({ "device": "dev0" })).with(keys)
}

fn dummy(lab: &Lab) -> Netlink {
    let mut host = lab.host().netlink();
    host.add_link(&Dummy { up: true, ..Dummy::new("dev0") }).unwrap();
    change(&mut host, "dev0", &up(true));
    let index = host.link_by_name("dev0").unwrap().index;
    let flags = rscni_linux::AddressFlags::default();
    host.add_address(index, "10.40.0.2/24".parse().unwrap(), flags).unwrap();
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

fn send(from: &Namespace, name: &str, to: &Namespace) {
    let netns = Netns::open(to.path()).unwrap();
    change(&mut from.netlink(), name, &LinkChange { netns: Some(&netns), ..LinkChange::default() });
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
fn a_dummy_that_the_container_deleted_is_taken_for_destroyed() {
    rscni_test::run(|lab| {
        dummy(lab);
        let a = network(lab, &json!({})).attach(lab, "a");
        a.netlink().del_link(a.link().index).unwrap();
        a.del().success();
        a.del().success();
    });
}

#[test]
fn the_network_of_a_dummy_goes_in_and_comes_back() {
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
        // It comes back to the container under another index, since its own is taken.
        send(&a, "eth0", &nested);
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
        send(&nested, "mine", &a);
        assert_ne!(a.netlink().link_by_name("mine").unwrap().index, index);
        a.del().success();
        let back = host_link(lab, "dev0");
        assert_eq!(back.permanent_address, device.permanent_address);
        assert_eq!(back.alias, None);
    });
}
