//! Devices are found in the kernel and in sysfs.

use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use super::{MAC, assert_fails, bare, device, host_link, network, snapshot, support};

/// Mounts a tree on `/sys` that has the interface `dev0` below the device at `path`.
pub(super) fn sysfs(lab: &Lab, path: &str, driver: Option<&str>) {
    let root = lab.dir().join("sys");
    let device = root.join(path);
    std::fs::create_dir_all(&device).unwrap();
    let name = if path.contains("virtio") { device.parent().unwrap() } else { &device };
    match driver {
        Some("vfio-pci") => {}
        _ => std::fs::create_dir_all(device.join("net/dev0")).unwrap(),
    }
    if let Some(driver) = driver {
        std::os::unix::fs::symlink(format!("../../../drivers/{driver}"), name.join("driver"))
            .unwrap();
    }
    let mounted =
        std::process::Command::new("mount").arg("--bind").arg(&root).arg("/sys").status().unwrap();
    assert!(mounted.success());
}

pub(super) const PCI: &str = "0000:3b:00.1";

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
fn a_device_is_found_in_sysfs(
    #[case] keys: Value,
    #[case] path: &str,
    #[case] driver: Option<&str>,
) {
    rscni_test::run(|lab| {
        device(lab);
        support::install(lab);
        sysfs(lab, path, driver);
        let network = bare(lab).with(&json!({ "device": null })).with(&keys);
        let a = network.attach(lab, "a");
        assert_eq!(a.link().mac.unwrap().to_string(), MAC);
        assert_eq!(a.reply["interfaces"][0].get("pciID"), driver.map(|_| json!(PCI)).as_ref());
        a.check().success();
        // The device comes back although it is not in sysfs any more.
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
fn a_dpdk_device_stays_on_the_host_and_has_a_result(#[case] keys: Value) {
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
        assert_eq!(
            a.reply["ips"][0],
            json!({ "interface": 0, "address": "10.1.0.2/24", "gateway": "10.1.0.1" })
        );
        a.check().success();
        a.del().success();
        lab.assert_unchanged_since(&before);
        let alone = network.with(&json!({ "ipam": null })).attach_as(&a, "net1");
        assert_eq!(alone.reply["interfaces"], json!([interface]));
        alone.del().success();
        lab.assert_unchanged_since(&before);
    });
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
fn invalid_devices_are_rejected(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        device(lab);
        let network = network(lab, &keys);
        assert_fails(lab, &network, &lab.container("a"), "eth0", code, word);
        if code == 7 {
            network.status().error(7).mentions(word);
        } else {
            network.status().success();
        }
    });
}
