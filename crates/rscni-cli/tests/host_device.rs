//! The host-device plugin, with packets. The device is one end of a veth pair; the other stands for the network that it
//! is connected to.

mod support;

use std::path::Path;

use rscni_linux::{AddressFlags, Bridge, Link, LinkChange, Netns, Veth};
use rscni_test::{Container, Lab, Snapshot};
use rstest::rstest;
use serde_json::{Value, json};

use support::{Attached, Network, V4, V6, addresses, change, fixed, host_local, up};

const GO: &str = "/usr/lib/cni";
const MAC: &str = "02:00:00:00:00:01";
const STATE: &str = "/run/cni/host-device";

/// What is there, but for the directory that the plugin keeps.
#[track_caller]
fn snapshot(lab: &Lab) -> Snapshot {
    support::snapshot(lab).ignoring(&format!("directory {STATE}")).ignoring("directory /run/cni ")
}

/// The device `dev0`, on, with addresses, an MTU and an alias; and the other end, which has the gateway's addresses.
fn device(lab: &Lab) -> Container {
    let net = lab.container("net");
    let netns = Netns::open(net.path()).unwrap();
    let mut host = lab.host().netlink();
    let veth = Veth { mac: Some(MAC.parse().unwrap()), peer_netns: Some(&netns), ..Veth::new("dev0", "peer") };
    let index = host.add_veth(&veth).unwrap().index;
    let change = LinkChange { mtu: Some(1400), alias: Some("the uplink".into()), ..up(true) };
    host.set_link(index, &change).unwrap();
    let nodad = AddressFlags { nodad: true, ..AddressFlags::default() };
    let plain = AddressFlags { noprefixroute: true, ..nodad };
    for (address, flags) in [("10.5.0.9/24", nodad), ("10.6.0.9/24", plain), ("fd05::9/64", nodad)] {
        host.add_address(index, address.parse().unwrap(), flags).unwrap();
    }
    let mut netlink = net.netlink();
    let index = netlink.link_by_name("peer").unwrap().index;
    netlink.set_link(index, &up(true)).unwrap();
    for address in ["10.1.0.1/24", "fd01::1/64", "10.5.0.1/24"] {
        netlink.add_address(index, address.parse().unwrap(), nodad).unwrap();
    }
    net
}

/// A network of that device, with addresses of both families.
fn network(lab: &Lab, keys: &Value) -> Network {
    let ipam = host_local(&[V4, V6]);
    Network::new(lab, "host-device", &json!({ "device": "dev0", "ipam": ipam })).with(keys)
}

/// A network without IPAM, for tests of where the device is.
fn bare(lab: &Lab) -> Network {
    network(lab, &json!({ "ipam": null }))
}

fn host_link(lab: &Lab, name: &str) -> Option<Link> {
    lab.host().netlink().find_link(name).unwrap()
}

#[rstest]
fn a_device_goes_in_talks_and_comes_back_as_it_was(
    #[values("dev0", "net1")] ifname: &str,
    #[values("with_result", "without_result", "without_netns")] how: &str,
) {
    rscni_test::run(|lab| {
        let net = device(lab);
        support::install(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = network(lab, &json!({})).attach_as(&a, ifname);
        assert!(host_link(lab, "dev0").is_none());
        for v4 in [true, false] {
            a.ping(if v4 { "10.1.0.1" } else { "fd01::1" });
            lab.tcp(&net, &a, a.address(v4), 8080);
            lab.udp(&net, &a, a.address(v4), 5353);
        }
        // The name on the host is kept where the Go plugin keeps it.
        assert_eq!(a.link().alias.as_deref(), Some("dev0"));
        assert_eq!((a.link().mtu, a.link().mac.unwrap().to_string().as_str()), (1400, MAC));
        a.check().success();
        let del = || match how {
            "with_result" => a.del(),
            "without_result" => a.del_without_result(),
            _ => a.del_without_netns(),
        };
        del().success();
        lab.assert_unchanged_since(&before.ignoring("sysctl net/ipv6/conf/lo/"));
        net.ping("10.5.0.9");
        del().success();
    });
}

#[test]
fn a_device_that_was_off_comes_back_off() {
    rscni_test::run(|lab| {
        device(lab);
        change(&mut lab.host().netlink(), "dev0", &up(false));
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = bare(lab).attach_as(&a, "eth0");
        assert!(a.link().up);
        // What the container does with it stays in the container.
        let mut netlink = a.netlink();
        change(&mut netlink, "eth0", &up(false));
        let other = LinkChange { mtu: Some(1300), mac: "02:00:00:00:00:77".parse().ok(), ..up(true) };
        change(&mut netlink, "eth0", &other);
        a.del().success();
        lab.assert_unchanged_since(&before.ignoring("/run/rscni-test"));
    });
}

#[test]
fn the_result_has_the_interface_alone() {
    rscni_test::run(|lab| {
        device(lab);
        let a = bare(lab).with(&json!({ "dns": { "nameservers": ["10.1.0.1"] } })).attach(lab, "a");
        let interface = json!({ "name": "eth0", "mac": MAC, "mtu": 1400, "sandbox": a.path() });
        let dns = json!({ "nameservers": ["10.1.0.1"] });
        assert_eq!(*a.reply.json(), json!({ "cniVersion": "1.1.0", "interfaces": [interface], "dns": dns }));
        assert_eq!(addresses(&a, "eth0"), Vec::<String>::new());
        a.check().success();
        a.del().success();
        assert_eq!(addresses(lab.host(), "dev0"), ["10.5.0.9/24", "10.6.0.9/24", "fd05::9/64"]);
    });
}

/// A tree in place of `/sys`, with the interface `dev0` below the device at `path`.
fn sysfs(lab: &Lab, path: &str, driver: Option<&str>) {
    let root = lab.dir().join("sys");
    let device = root.join(path);
    std::fs::create_dir_all(&device).unwrap();
    let name = if path.contains("virtio") { device.parent().unwrap() } else { &device };
    match driver {
        Some("vfio-pci") => {}
        _ => std::fs::create_dir_all(device.join("net/dev0")).unwrap(),
    }
    if let Some(driver) = driver {
        std::os::unix::fs::symlink(format!("../../../drivers/{driver}"), name.join("driver")).unwrap();
    }
    let mounted = std::process::Command::new("mount").arg("--bind").arg(&root).arg("/sys").status().unwrap();
    assert!(mounted.success());
}

const PCI: &str = "0000:3b:00.1";

#[rstest]
#[case::by_name(json!({ "device": "dev0" }))]
#[case::by_name_before_all_else(json!({ "device": "dev0", "hwaddr": "02:00:00:00:00:99", "kernelpath": "/" }))]
#[case::by_address(json!({ "hwaddr": "02:00:00:00:00:01" }))]
#[case::by_address_with_hyphens(json!({ "hwaddr": "02-00-00-00-00-01" }))]
#[case::by_address_with_dots(json!({ "hwaddr": "0200.0000.0001" }))]
#[case::by_address_before_path(json!({ "hwaddr": "02:00:00:00:00:01", "kernelpath": "/nowhere" }))]
fn a_device_is_found_in_the_kernel(#[case] keys: Value) {
    rscni_test::run(|lab| {
        device(lab);
        let a = bare(lab).with(&json!({ "device": null })).with(&keys).attach(lab, "a");
        assert_eq!(a.link().mac.unwrap().to_string(), MAC);
        assert_eq!(a.reply["interfaces"][0].get("pciID"), None);
        a.check().success();
        a.del().success();
        assert!(host_link(lab, "dev0").unwrap().up);
    });
}

#[rstest]
#[case::by_path(json!({ "kernelpath": "/sys/devices/pci0000:00/x" }), "devices/pci0000:00/x", None)]
#[case::by_pci_address(json!({ "pciBusID": PCI }), "bus/pci/devices/0000:3b:00.1", Some("ixgbe"))]
#[case::virtual_pci(json!({ "pciBusID": PCI }), "bus/pci/devices/0000:3b:00.1/virtio3", Some("virtio-pci"))]
#[case::by_the_runtime(json!({ "runtimeConfig": { "deviceID": PCI } }), "bus/pci/devices/0000:3b:00.1", Some("ixgbe"))]
#[case::by_the_runtime_before_the_key(
    json!({ "pciBusID": "0000:00:00.0", "runtimeConfig": { "deviceID": PCI } }),
    "bus/pci/devices/0000:3b:00.1",
    Some("ixgbe")
)]
#[case::auxiliary(
    json!({ "runtimeConfig": { "deviceID": "mlx5_core.sf.4" } }),
    "bus/auxiliary/devices/mlx5_core.sf.4",
    None
)]
fn a_device_is_found_in_sysfs(#[case] keys: Value, #[case] path: &str, #[case] driver: Option<&str>) {
    rscni_test::run(|lab| {
        device(lab);
        support::install(lab);
        sysfs(lab, path, driver);
        let network = bare(lab).with(&json!({ "device": null })).with(&keys);
        let a = network.attach(lab, "a");
        assert_eq!(a.link().mac.unwrap().to_string(), MAC);
        assert_eq!(a.reply["interfaces"][0].get("pciID"), driver.map(|_| json!(PCI)).as_ref());
        a.check().success();
        // Nothing has to be found for it to come back.
        std::fs::remove_dir_all(lab.dir().join("sys").join(path)).unwrap();
        a.del().success();
        assert!(host_link(lab, "dev0").unwrap().up);
    });
}

#[rstest]
#[case::by_its_driver(json!({ "pciBusID": PCI }))]
#[case::by_its_driver_with_a_name(json!({ "pciBusID": PCI, "device": "dev0" }))]
#[case::by_the_runtime(json!({ "runtimeConfig": { "deviceID": PCI } }))]
#[case::by_configuration(json!({ "DPDKMode": true, "device": "dev0" }))]
fn a_device_that_is_left_to_a_program_stays_and_has_a_result(#[case] keys: Value) {
    rscni_test::run(|lab| {
        device(lab);
        support::install(lab);
        sysfs(lab, "bus/pci/devices/0000:3b:00.1", Some("vfio-pci"));
        let a = lab.container("a");
        let before = snapshot(lab);
        let network = network(lab, &json!({ "device": null })).with(&keys);
        let a = network.attach_as(&a, "net1");
        assert!(a.netlink().find_link("net1").unwrap().is_none());
        let mut interface = json!({ "name": "net1", "sandbox": a.path() });
        if keys.get("DPDKMode").is_none() {
            interface["pciID"] = PCI.into();
        }
        assert_eq!(a.reply["interfaces"], json!([interface]));
        assert_eq!(a.reply["ips"][0], json!({ "interface": 0, "address": "10.1.0.2/24", "gateway": "10.1.0.1" }));
        a.check().success();
        a.del().success();
        lab.assert_unchanged_since(&before);
        let alone = network.with(&json!({ "ipam": null })).attach_as(&a, "net1");
        assert_eq!(alone.reply["interfaces"], json!([interface]));
        alone.del().success();
        lab.assert_unchanged_since(&before);
    });
}

/// Asserts that ADD fails and changes nothing.
#[track_caller]
fn assert_fails(lab: &Lab, network: &Network, a: &Container, ifname: &str, code: u64, word: &str) {
    let before = snapshot(lab);
    network.plugin.add(a, ifname, &network.config).error(code).mentions(word);
    lab.assert_unchanged_since(&before);
    network.plugin.del(a, ifname, &network.config).success();
    lab.assert_unchanged_since(&before);
}

#[rstest]
#[case::none(json!({ "device": null }), 7, "which device")]
#[case::name(json!({ "device": "../dev0" }), 7, "../dev0")]
#[case::name_that_is_not_there(json!({ "device": "dev9" }), 5, "dev9")]
#[case::address(json!({ "device": null, "hwaddr": "02:00:00:00:00" }), 7, "hwaddr")]
#[case::address_that_is_not_there(json!({ "device": null, "hwaddr": "02:00:00:00:00:02" }), 5, "02:00:00:00:00:02")]
#[case::path(json!({ "device": null, "kernelpath": "devices/x" }), 7, "/sys/devices/")]
#[case::path_that_leads_elsewhere(json!({ "device": null, "kernelpath": "/sys/devices/../../etc" }), 7, "/sys/devices/")]
#[case::path_that_is_not_there(json!({ "device": null, "kernelpath": "/sys/devices/none" }), 5, "/sys/devices/none")]
#[case::pci(json!({ "device": null, "pciBusID": "../../../etc" }), 7, "pciBusID")]
#[case::pci_that_is_not_there(json!({ "device": null, "pciBusID": "0000:ff:1f.7" }), 5, "0000:ff:1f.7")]
#[case::device_id(json!({ "device": null, "runtimeConfig": { "deviceID": "../x" } }), 7, "deviceID")]
#[case::device_id_that_is_not_there(json!({ "device": null, "runtimeConfig": { "deviceID": "x" } }), 5, "deviceID")]
#[case::loopback(json!({ "device": "lo" }), 5, "lo")]
#[case::type_of_a_key(json!({ "DPDKMode": "yes" }), 7, "yes")]
fn what_is_wrong_with_the_device_is_said(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &keys);
        assert_fails(lab, &network, &lab.container("a"), "eth0", code, word);
        if code == 7 {
            network.plugin.status(&network.config).error(7).mentions(word);
        } else {
            network.plugin.status(&network.config).success();
        }
    });
}

#[rstest]
#[case::no_ipam_plugin(json!({ "ipam": { "type": "nothing" } }), 7, "nothing")]
#[case::route(json!({ "ipam": { "type": "static", "addresses": [{ "address": "10.1.0.5/24" }],
    "routes": [{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }] } }), 5, "203.0.113.1")]
#[case::no_address(json!({ "ipam": { "type": "static" } }), 7, "no address")]
fn a_device_is_back_as_it_was_if_the_rest_fails(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &keys);
        let a = lab.container("a");
        let before = snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).error(code).mentions(word);
        lab.assert_unchanged_since(&before);
        if word != "nothing" {
            network.plugin.del(&a, "eth0", &network.config).success();
            lab.assert_unchanged_since(&before);
        }
    });
}

#[test]
fn an_address_that_another_host_has_is_found_out() {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &json!({ "ipam": fixed(&[("fd01::1/64", "")]) }));
        assert_fails(lab, &network, &lab.container("a"), "eth0", 11, "fd01::1");
    });
}

#[test]
fn names_that_are_taken_are_minded() {
    rscni_test::run(|lab| {
        device(lab);
        let network = bare(lab);
        let a = lab.container("a");
        a.netlink().add_bridge(&Bridge::new("eth0")).unwrap();
        assert_fails(lab, &network, &a, "eth0", 4, "eth0");
        // The name that it has on the host is another's in the container, the one in the container another's on the host.
        a.netlink().add_bridge(&Bridge::new("dev0")).unwrap();
        lab.host().netlink().add_bridge(&Bridge::new("net1")).unwrap();
        let before = snapshot(lab);
        let attached = network.attach_as(&a, "net1");
        attached.check().success();
        attached.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_device_stays_in_use_until_its_name_is_free_on_the_host() {
    rscni_test::run(|lab| {
        device(lab);
        let before = lab.container("a");
        let network = network(lab, &json!({ "ipam": fixed(&[("10.1.0.5/24", "10.1.0.1")]) }));
        let snapshot = snapshot(lab);
        let a = network.attach_as(&before, "net1");
        let other = lab.host().netlink().add_bridge(&Bridge::new("dev0")).unwrap();
        a.del().error(11).mentions("dev0");
        a.ping("10.1.0.1");
        lab.host().netlink().del_link(other.index).unwrap();
        a.del().success();
        lab.assert_unchanged_since(&snapshot);
    });
}

#[rstest]
fn a_device_is_found_although_the_container_changed_it(#[values("renamed", "alias", "no_alias")] how: &str) {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let a = bare(lab).attach_as(&a, "net1");
        let mut netlink = a.netlink();
        let alias = |text: &str| LinkChange { alias: Some(text.into()), ..LinkChange::default() };
        match how {
            "renamed" => {
                change(&mut netlink, "net1", &up(false));
                change(&mut netlink, "net1", &LinkChange { name: Some("mine".into()), ..LinkChange::default() });
                a.check_misses("net1");
            }
            "alias" => {
                change(&mut netlink, "net1", &alias("eth0"));
                a.check_misses("alias eth0, ADD left dev0");
            }
            _ => {
                change(&mut netlink, "net1", &alias(""));
                a.check_misses("alias");
            }
        }
        a.del_without_result().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn check_misses_what_was_changed() {
    rscni_test::run(|lab| {
        device(lab);
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
        let a = network(lab, &json!({ "ipam": ipam })).attach(lab, "a");
        a.check().success();
        let mut netlink = a.netlink();
        change(&mut netlink, "eth0", &up(false));
        a.check_misses("down");
        change(&mut netlink, "eth0", &up(true));
        a.check_misses("route to 192.0.2.0/24");
        let route = rscni_linux::Route {
            gateway: "10.1.0.1".parse().ok(),
            ..rscni_linux::Route::new("192.0.2.0/24".parse::<ipnet::IpNet>().unwrap())
        };
        netlink.add_route(&route).unwrap();
        a.check().success();
        let mac = |mac: &str| LinkChange { mac: mac.parse().ok(), ..LinkChange::default() };
        change(&mut netlink, "eth0", &mac("02:00:00:00:00:77"));
        a.check_misses("02:00:00:00:00:77");
        change(&mut netlink, "eth0", &mac(MAC));
        for address in a.reply.ips() {
            netlink.del_address(a.link().index, address).unwrap();
            a.check_misses(&format!("address {address}"));
            netlink
                .add_address(a.link().index, address, AddressFlags { nodad: true, ..AddressFlags::default() })
                .unwrap();
        }
        std::fs::remove_file("/var/lib/cni/networks/net/10.1.0.2").unwrap();
        a.check().failure();
        netlink.del_link(a.link().index).unwrap();
        a.check().failure();
    });
}

#[rstest]
fn a_virtual_device_goes_with_the_namespace(#[values("with_path", "without_path", "gc")] how: &str) {
    rscni_test::run(|lab| {
        device(lab);
        let a = network(lab, &json!({})).attach(lab, "a");
        lab.remove_namespace(&a);
        match how {
            "with_path" => a.del().success(),
            "without_path" => a.del_without_netns().success(),
            _ => a.network.gc(&[]).success(),
        };
        let left = lab.snapshot().to_string();
        assert!(!left.contains("ctr-a") && !left.contains("file /run/cni"), "{left}");
        a.del().success();
    });
}

/// Has the device of `a` be where the kernel puts a physical one whose namespace goes: on the host, off, without
/// addresses, under this name and with its alias.
fn fall_back(lab: &Lab, a: &Attached, name: &str) {
    let host = Netns::open(lab.host().path()).unwrap();
    let index = a.link().index;
    let change = LinkChange { netns: Some(&host), name: Some(name.into()), ..LinkChange::default() };
    a.netlink().set_link(index, &change).unwrap();
    lab.remove_namespace(a);
}

#[rstest]
fn a_device_that_the_kernel_gave_back_is_as_it_was(
    #[values("eth0", "dev7", "dev0")] name: &str,
    #[values("with_path", "without_path", "gc")] how: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let before = snapshot(lab);
        let a = bare(lab).attach(lab, "a");
        fall_back(lab, &a, name);
        match how {
            "with_path" => a.del().success(),
            "without_path" => a.del_without_netns().success(),
            _ => a.network.gc(&[]).success(),
        };
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn gc_gives_back_what_no_valid_attachment_has() {
    rscni_test::run(|lab| {
        device(lab);
        let a = lab.container("a");
        let before = snapshot(lab);
        let network = network(lab, &json!({}));
        let a = network.attach_as(&a, "eth0");
        network.gc(&[&a]).success();
        a.check().success();
        network.with(&json!({ "name": "other" })).gc(&[]).success();
        a.check().success();
        network.gc(&[]).success();
        lab.assert_unchanged_since(&before);
        network.plugin.gc(&network.config).error(7).mentions("valid-attachments");
    });
}

#[test]
fn a_late_del_spares_the_next_container_at_the_same_path() {
    rscni_test::run(|lab| {
        let net = device(lab);
        let network = network(lab, &json!({ "ipam": fixed(&[("10.1.0.5/24", "10.1.0.1")]) }));
        let old = network.attach(lab, "a");
        fall_back(lab, &old, "dev0");
        let path = lab.container("a");
        let add = network.plugin.call("ADD").attachment(&path, "eth0").env("CNI_CONTAINERID", "next");
        add.config(&network.config).run().success();
        old.del().success();
        old.del_without_netns().success();
        path.ping("10.1.0.1");
        net.ping("10.1.0.5");
    });
}

#[test]
fn an_interface_that_is_no_device_of_the_host_is_left_alone() {
    rscni_test::run(|lab| {
        device(lab);
        let network = bare(lab);
        let other = Network::bridge(lab, &[V4], &json!({ "name": "other" })).attach(lab, "a");
        network.plugin.del(&other, "eth0", &network.config).success();
        other.check().success();
        let b = lab.container("b");
        b.netlink().add_bridge(&Bridge { alias: Some("rscni net2 ctr-b eth0".into()), ..Bridge::new("eth0") }).unwrap();
        network.plugin.del(&b, "eth0", &network.config).success();
        assert!(b.netlink().find_link("eth0").unwrap().is_some());
    });
}

#[test]
fn of_two_calls_for_one_device_one_gets_it() {
    rscni_test::run(|lab| {
        device(lab);
        let network = bare(lab);
        let containers: Vec<Container> = (0..4).map(|number| lab.container(&format!("c{number}"))).collect();
        let before = snapshot(lab);
        let codes: Vec<Option<i32>> = std::thread::scope(|scope| {
            let calls: Vec<_> = containers
                .iter()
                .map(|c| scope.spawn(|| network.plugin.add(c, "eth0", &network.config).exit_code()))
                .collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
        for container in &containers {
            network.plugin.del(container, "eth0", &network.config).success();
        }
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
fn every_version_goes_in_and_out(
    #[values("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &json!({ "cniVersion": version }));
        let a = network.attach(lab, "a");
        let interface = match version {
            "0.1.0" | "0.2.0" => Value::Null,
            "1.1.0" => json!([{ "name": "eth0", "mac": MAC, "mtu": 1400, "sandbox": a.path() }]),
            _ => json!([{ "name": "eth0", "mac": MAC, "sandbox": a.path() }]),
        };
        assert_eq!(a.reply.get("interfaces").unwrap_or(&Value::Null), &interface);
        assert_eq!(a.reply.ips().len(), 2);
        let (check, gc, status) = (a.check(), network.gc(&[&a]), network.plugin.status(&network.config));
        if ["0.4.0", "1.0.0", "1.1.0"].contains(&version) {
            check.success();
        } else {
            check.error(1).mentions("0.4.0");
        }
        if version == "1.1.0" {
            gc.success();
            status.success();
        } else {
            gc.error(1);
            status.error(1);
        }
        a.del().success();
        a.del().success();
        assert!(host_link(lab, "dev0").unwrap().up);
    });
}

#[test]
fn status_asks_ipam_and_not_for_the_device() {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &json!({}));
        network.attach(lab, "a");
        network.plugin.status(&network.config).success();
        let network = network.with(&json!({ "ipam": { "type": "host-local" } }));
        network.plugin.status(&network.config).failure();
    });
}

#[rstest]
fn it_takes_over_from_the_go_plugin_and_hands_back(#[values("with_result", "without_result", "netns_gone")] how: &str) {
    rscni_test::run(|lab| {
        device(lab);
        let ours = network(lab, &json!({ "cniVersion": "1.0.0" }));
        let go = Network { plugin: lab.plugin(Path::new(GO).join("host-device")).cni_path([GO]), ..ours.clone() };
        let mut a = go.attach(lab, "a");
        a.network = ours.clone();
        a.check().success();
        match how {
            "with_result" => a.del().success(),
            "without_result" => a.del_without_result().success(),
            _ => {
                fall_back(lab, &a, "eth0");
                a.del().success()
            }
        };
        let back = host_link(lab, "dev0").unwrap();
        // Nobody knows what it was like before.
        assert_eq!((back.alias.as_deref().unwrap_or_default(), back.up), ("", false));
        assert!(!lab.snapshot().to_string().contains("ctr-a"), "{}", lab.snapshot());

        // A file of an attachment that the Go plugin ended says nothing about the next.
        let b = ours.attach(lab, "b");
        go.plugin.check(&b, "eth0", &b.config()).success();
        go.plugin.del(&b, "eth0", &b.config()).success();
        assert!(host_link(lab, "dev0").is_some());
        let mut c = go.attach(lab, "c");
        c.network = ours;
        c.del().success();
        assert!(host_link(lab, "dev0").is_some());
        b.del().success();
        assert!(!lab.snapshot().to_string().contains("file /run/cni"), "{}", lab.snapshot());
    });
}
