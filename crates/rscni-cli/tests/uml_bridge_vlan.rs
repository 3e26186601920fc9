//! VLANs of the bridge plugin, with packets.
//!
//! Run in User-Mode Linux, since the kernel needs bridge VLAN filtering: `cargo xtask test --only
//! uml`.

mod support;

use rscni_linux::{AddressFlags, Bridge, Dummy, LinkChange, Netlink, Vlan, VlanOwner};
use rscni_test::{Container, Lab, Namespace, Plugin, Reply};
use serde_json::{Value, json};

use support::{RSCNI, add_address, addresses, ip};

/// Runs a test with a bridge plugin and static addresses.
fn with_bridge(test: impl FnOnce(&Lab, &Plugin) + Send) {
    rscni_test::run(|lab| {
        lab.install("static", RSCNI);
        let bridge = lab.install("bridge", RSCNI);
        test(lab, &bridge);
    });
}

/// Returns a configuration with keys of the plugin and addresses of the container.
fn config(keys: Value, addresses: &[&str]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|address| json!({ "address": address })).collect();
    let mut config = json!({
        "cniVersion": "1.1.0", "name": "net", "type": "bridge", "bridge": "br0",
        "ipam": { "type": "static", "addresses": addresses },
    });
    let Value::Object(keys) = keys else { panic!("keys are an object") };
    config.as_object_mut().expect("it is one").extend(keys);
    config
}

/// Attaches a container with this name and address.
fn attach(lab: &Lab, bridge: &Plugin, name: &str, address: &str, keys: Value) -> Container {
    let container = lab.container(name);
    bridge.add(&container, "eth0", &config(keys, &[address])).success();
    container
}

/// Returns the container's port, the second interface of the result.
fn port(reply: &Reply) -> &str {
    reply.interfaces()[1]
}

fn vlans(namespace: &Namespace, name: &str) -> Vec<Vlan> {
    let mut netlink = namespace.netlink();
    let index = netlink.link_by_name(name).unwrap().index;
    netlink.vlans(index).unwrap()
}

/// Removes `name` from VLANs, like an operator.
fn leave_vlans(namespace: &Namespace, name: &str, vlans: &[Vlan]) {
    let mut netlink = namespace.netlink();
    let index = netlink.link_by_name(name).unwrap().index;
    netlink.del_vlans(index, vlans, VlanOwner::Port).unwrap();
}

/// Adds an 802.1Q interface to `eth0` of a container.
fn add_tagged(container: &Container, id: u16, address: &str) {
    let name = format!("eth0.{id}");
    ip(container, &format!("link add link eth0 name {name} type vlan id {id}"));
    add_address(container, &name, address);
    ip(container, &format!("link set {name} up"));
}

#[test]
fn containers_reach_each_other_in_one_vlan_and_not_across_two() {
    with_bridge(|lab, bridge| {
        let a = attach(lab, bridge, "a", "10.1.0.2/24", json!({ "vlan": 100 }));
        let b = attach(lab, bridge, "b", "10.1.0.3/24", json!({ "vlan": 100 }));
        let c = attach(lab, bridge, "c", "10.1.0.4/24", json!({ "vlan": 200 }));
        a.ping("10.1.0.3");
        lab.tcp(&b, &a, "10.1.0.2", 80);
        a.cannot_ping("10.1.0.4");
        c.cannot_ping("10.1.0.2");
    });
}

#[test]
fn a_vlan_port_leaves_the_default_vlan_unless_that_is_preserved() {
    with_bridge(|lab, bridge| {
        let add = |name, address, keys| {
            let container = lab.container(name);
            let reply = bridge.add(&container, "eth0", &config(keys, &[address])).success();
            (container, vlans(lab.host(), port(&reply)))
        };
        let (_, moved) = add("a", "10.1.0.2/24", json!({ "vlan": 100 }));
        assert_eq!(moved, [Vlan::access(100)]);
        let (_, kept) =
            add("b", "10.1.0.3/24", json!({ "vlan": 100, "preserveDefaultVlan": true }));
        // Untagged frames belong to VLAN 100; both VLANs leave untagged.
        assert_eq!(kept, [Vlan { pvid: false, ..Vlan::access(1) }, Vlan::access(100)]);
        let (_, plain) = add("c", "10.1.0.4/24", json!({}));
        assert_eq!(plain, [Vlan::access(1)]);
    });
}

#[test]
fn a_trunk_carries_its_vlans_tagged_and_no_others() {
    with_bridge(|lab, bridge| {
        let inside = attach(lab, bridge, "inside", "10.2.0.2/24", json!({ "vlan": 101 }));
        let outside = attach(lab, bridge, "outside", "10.3.0.2/24", json!({ "vlan": 105 }));
        let native = attach(lab, bridge, "native", "10.1.0.2/24", json!({}));
        let trunk = lab.container("trunk");
        let keys = json!({ "vlanTrunk": [{ "minID": 100, "maxID": 102 }, { "id": 104 }] });
        let reply = bridge.add(&trunk, "eth0", &config(keys, &["10.1.0.1/24"])).success();
        let expected = [Vlan::access(1), Vlan::trunk(100..=102), Vlan::tagged(104)];
        assert_eq!(vlans(lab.host(), port(&reply)), expected);

        add_tagged(&trunk, 101, "10.2.0.1/24");
        add_tagged(&trunk, 105, "10.3.0.1/24");
        trunk.ping("10.2.0.2");
        lab.tcp(&inside, &trunk, "10.2.0.1", 80);
        trunk.cannot_ping("10.3.0.2");
        outside.cannot_ping("10.3.0.1");
        // Untagged frames belong to VLAN 1, the default of ports.
        trunk.ping("10.1.0.2");
        native.ping("10.1.0.1");
    });
}

#[test]
fn vlan_is_the_native_vlan_of_a_trunk() {
    with_bridge(|lab, bridge| {
        let access = attach(lab, bridge, "access", "10.1.0.2/24", json!({ "vlan": 7 }));
        let trunk = lab.container("trunk");
        // VLAN 1 may be part of the trunk, too.
        let keys = json!({ "vlan": 7, "vlanTrunk": [{ "minID": 5, "maxID": 9 }] });
        let config = config(keys, &["10.1.0.1/24"]);
        let reply = bridge.add(&trunk, "eth0", &config).success();
        let expected = [Vlan::trunk(5..=6), Vlan::access(7), Vlan::trunk(8..=9)];
        assert_eq!(vlans(lab.host(), port(&reply)), expected);
        trunk.ping("10.1.0.2");
        access.ping("10.1.0.1");
        bridge.check(&trunk, "eth0", &reply.follow(&config)).success();
    });
}

#[test]
fn a_trunk_may_hold_every_vlan() {
    with_bridge(|lab, bridge| {
        let trunk = lab.container("trunk");
        let config =
            config(json!({ "vlanTrunk": [{ "minID": 1, "maxID": 4094 }] }), &["10.1.0.1/24"]);
        let reply = bridge.add(&trunk, "eth0", &config).success();
        assert_eq!(vlans(lab.host(), port(&reply)), [Vlan::access(1), Vlan::trunk(2..=4094)]);
        bridge.check(&trunk, "eth0", &reply.follow(&config)).success();
    });
}

#[test]
fn every_vlan_has_a_gateway_of_its_own() {
    with_bridge(|lab, bridge| {
        let attach = |name, vlan, addresses: &[&str]| {
            let container = lab.container(name);
            let config =
                config(json!({ "vlan": vlan, "isDefaultGateway": true, "mtu": 1400 }), addresses);
            let reply = bridge.add(&container, "eth0", &config).success();
            bridge.check(&container, "eth0", &reply.follow(&config)).success();
            (container, reply, config)
        };
        let (a, reply, config) = attach("a", 100, &["10.1.0.2/24", "fd00:1::2/64"]);
        assert_eq!(reply.interfaces().len(), 4);
        assert_eq!(reply.interfaces()[3], "br0.100");
        assert_eq!(reply["ips"][0]["interface"], 2);
        let (b, ..) = attach("b", 100, &["10.1.0.3/24", "fd00:1::3/64"]);
        let (c, ..) = attach("c", 200, &["10.2.0.2/24", "fd00:2::2/64"]);
        assert_eq!(addresses(lab.host(), "br0.100").len(), 2);
        assert_eq!(addresses(lab.host(), "br0"), [""; 0]);
        assert_eq!(lab.host().netlink().link_by_name("br0.200").unwrap().mtu, 1400);

        for (container, gateways) in
            [(&a, ["10.1.0.1", "fd00:1::1"]), (&c, ["10.2.0.1", "fd00:2::1"])]
        {
            for gateway in gateways {
                container.ping(gateway);
            }
        }
        // The host routes between the VLANs.
        a.ping("10.2.0.2");
        lab.tcp(&c, &b, "10.1.0.3", 80);

        bridge.del(&a, "eth0", &config).success();
        b.ping("10.1.0.1");
    });
}

#[test]
fn udev_leaves_the_hardware_addresses_of_a_vlan_gateway() {
    with_bridge(|lab, bridge| {
        let keys = json!({ "vlan": 100, "isGateway": true });
        let a = attach(lab, bridge, "a", "10.1.0.2/24", keys);
        let mut macs = std::collections::HashSet::new();
        for link in lab.host().netlink().links().unwrap().into_iter().filter(|link| !link.loopback)
        {
            // udev checks this: 3 is an address that a program has set (NET_ADDR_SET).
            let file = format!("/sys/class/net/{}/addr_assign_type", link.name);
            assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), "3", "{file}");
            assert!(macs.insert(link.mac), "{} shares an address", link.name);
        }
        // The bridge, both ends of the gateway's pair, and the port of the container.
        assert_eq!(macs.len(), 4);
        a.ping("10.1.0.1");
    });
}

#[test]
fn check_notices_changes_of_vlans() {
    with_bridge(|lab, bridge| {
        let container = lab.container("a");
        let config = config(
            json!({ "vlan": 7, "vlanTrunk": [{ "minID": 20, "maxID": 29 }], "isGateway": true }),
            &["10.1.0.2/24"],
        );
        let reply = bridge.add(&container, "eth0", &config).success();
        let check = || bridge.check(&container, "eth0", &reply.follow(&config));
        check().success();
        let mut host = lab.host().netlink();
        let index = host.link_by_name(port(&reply)).unwrap().index;

        for missing in [Vlan::tagged(25), Vlan::access(7)] {
            leave_vlans(lab.host(), port(&reply), std::slice::from_ref(&missing));
            check()
                .failure()
                .mentions(port(&reply))
                .mentions(&format!("VLAN {}", missing.ids.start()));
            host.add_vlans(index, &[missing], VlanOwner::Port).unwrap();
            check().success();
        }
        // Tagged instead of untagged.
        host.add_vlans(index, &[Vlan::tagged(7)], VlanOwner::Port).unwrap();
        check().failure().mentions("VLAN 7");
        host.add_vlans(index, &[Vlan::access(7)], VlanOwner::Port).unwrap();

        let set = |filtering: &str| {
            ip(lab.host(), &format!("link set br0 type bridge vlan_filtering {filtering}"));
        };
        set("0");
        check().failure().mentions("br0").mentions("VLAN");
        set("1");
        check().success();

        let gateway = host.link_by_name("br0.7").unwrap().index;
        host.del_link(gateway).unwrap();
        check().failure().mentions("br0.7");
    });
}

#[test]
fn del_and_gc_leave_nothing_of_the_attachment() {
    with_bridge(|lab, bridge| {
        let keys = json!({ "vlan": 7, "vlanTrunk": [{ "id": 9 }], "isGateway": true });
        // The bridge and the VLAN's gateway belong to the network, and stay.
        let (first, last) = (lab.container("first"), lab.container("last"));
        bridge.add(&first, "eth0", &config(keys.clone(), &["10.1.0.2/24"])).success();
        let before = lab.snapshot();

        let config = config(keys, &["10.1.0.3/24"]);
        let reply = bridge.add(&last, "eth0", &config).success();
        bridge.del(&last, "eth0", &reply.follow(&config)).success();
        bridge.del(&last, "eth0", &config).success();
        lab.assert_unchanged_since(&before);

        bridge.add(&last, "eth0", &config).success();
        let mut valid = config.clone();
        valid["cni.dev/valid-attachments"] =
            json!([{ "containerID": first.id(), "ifname": "eth0" }]);
        bridge.gc(&valid).success();
        lab.assert_unchanged_since(&before);
        first.ping("10.1.0.1");
    });
}

#[test]
fn a_bridge_without_vlan_filtering_is_rejected_and_unchanged() {
    with_bridge(|lab, bridge| {
        lab.host().netlink().add_bridge(&Bridge::new("br0")).unwrap();
        let container = lab.container("a");
        let before = lab.snapshot();
        for keys in [json!({ "vlan": 100 }), json!({ "vlanTrunk": [{ "id": 9 }] })] {
            let error = bridge.add(&container, "eth0", &config(keys, &["10.1.0.2/24"])).error(7);
            error.mentions("br0").mentions("vlan_filtering");
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn an_existing_bridge_may_have_another_default_vlan_or_none() {
    with_bridge(|lab, bridge| {
        for (name, default, address) in [("br5", 5, "10.1.0.2/24"), ("br-none", 0, "10.2.0.2/24")] {
            let spec = Bridge {
                vlan_filtering: Some(true),
                vlan_default_pvid: Some(default),
                ..Bridge::new(name)
            };
            lab.host().netlink().add_bridge(&spec).unwrap();
            let container = lab.container(name);
            let config = config(json!({ "bridge": name, "vlan": 100 }), &[address]);
            let reply = bridge.add(&container, "eth0", &config).success();
            assert_eq!(vlans(lab.host(), port(&reply)), [Vlan::access(100)]);
        }
    });
}

#[test]
fn add_rolls_back_the_gateway_of_its_vlan() {
    with_bridge(|lab, bridge| {
        let keys = |vlan| json!({ "vlan": vlan, "isGateway": true });
        let first = lab.container("first");
        bridge.add(&first, "eth0", &config(keys(100), &["10.1.0.2/24"])).success();
        let container = lab.container("second");
        // With IPv6 disabled for new interfaces, the gateway cannot get its address.
        for interface in ["default", "br0.100"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1")
                .unwrap();
        }
        // Forwarding stays on once a network needs it.
        let before = lab.snapshot().ignoring("forwarding");
        let both = ["10.2.0.2/24", "fd00:2::2/64"];
        bridge.add(&container, "eth0", &config(keys(200), &both)).failure().mentions("fd00:2::1");
        lab.assert_unchanged_since(&before);
        // An existing gateway interface stays.
        bridge
            .add(&container, "eth0", &config(keys(100), &["10.1.0.3/24", "fd00:1::3/64"]))
            .failure();
        lab.assert_unchanged_since(&before);
        first.ping("10.1.0.1");
    });
}

#[test]
fn a_bridge_name_without_room_for_the_vlan_s_gateway_is_refused() {
    with_bridge(|lab, bridge| {
        let container = lab.container("a");
        let before = lab.snapshot();
        let keys = json!({ "bridge": "bridge-of-net", "vlan": 100, "isGateway": true });
        bridge
            .add(&container, "eth0", &config(keys, &["10.1.0.2/24"]))
            .error(7)
            .mentions("bridge-of-net.100");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn many_containers_attached_at_once_share_one_gateway() {
    with_bridge(|lab, bridge| {
        std::thread::scope(|scope| {
            for number in 2..8 {
                scope.spawn(move || {
                    let keys = json!({ "vlan": 100, "isGateway": true });
                    attach(
                        lab,
                        bridge,
                        &format!("c{number}"),
                        &format!("10.1.0.{number}/24"),
                        keys,
                    )
                    .ping("10.1.0.1");
                });
            }
        });
        assert_eq!(addresses(lab.host(), "br0.100"), ["10.1.0.1/24"]);
    });
}

#[test]
fn an_interface_other_than_a_bridge_is_rejected_and_unchanged() {
    with_bridge(|lab, bridge| {
        Netlink::open().unwrap().add_link(&Dummy::new("br0")).unwrap();
        let container = lab.container("a");
        let before = lab.snapshot();
        let config = config(json!({ "vlan": 100 }), &["10.1.0.2/24"]);
        bridge.add(&container, "eth0", &config).error(7).mentions("not a bridge");
        lab.assert_unchanged_since(&before);
    });
}
