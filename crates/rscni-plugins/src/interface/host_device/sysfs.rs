//! Devices in sysfs: their interface and their driver.

use std::path::{Path, PathBuf};

use rscni::Error;

use crate::plugin::Result;

/// Drivers for programs in user space, such as those with DPDK. The device is then no network
/// interface.
const USERSPACE_DRIVERS: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];

/// A sysfs: `/sys`, or a directory in tests.
pub(super) struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self { root: "/sys".into() }
    }
}

impl Sysfs {
    pub(super) fn has_pci(&self, id: &str) -> bool {
        is_pci_address(id) && self.pci(id).exists()
    }

    pub(super) fn has_auxiliary(&self, id: &str) -> bool {
        is_plain_name(id) && self.auxiliary(id).exists()
    }

    /// Whether a PCI device has a driver for user space.
    ///
    /// # Errors
    /// If the device does not exist or has no driver.
    pub(super) fn has_userspace_driver(&self, address: &str) -> Result<bool> {
        if !self.pci(address).exists() {
            return Err(failed(format!("PCI device {address} not found")));
        }
        let driver = self.pci(address).join("driver");
        let target = std::fs::read_link(&driver).map_err(|error| {
            failed(format!(
                "PCI device {address} has no driver ({}: {error}): bind it to one",
                driver.display()
            ))
        })?;
        Ok(target
            .file_name()
            .is_some_and(|name| USERSPACE_DRIVERS.iter().any(|driver| *driver == name)))
    }

    /// Returns the interface of a PCI device. That of a virtio device is one level deeper.
    pub(super) fn interface_of_pci(&self, address: &str) -> Result<String> {
        let device = self.pci(address);
        if device.join("net").exists() {
            return first_interface(&device);
        }
        let virtio = names(&device)?
            .into_iter()
            .find(|name| name.starts_with("virtio") && device.join(name).join("net").exists());
        virtio.map_or_else(
            || {
                Err(failed(format!(
                    "PCI device {address} is not a network interface: {} has no net",
                    device.display()
                )))
            },
            |name| first_interface(&device.join(name)),
        )
    }

    /// Returns the interface of a device on the auxiliary bus.
    pub(super) fn interface_of_auxiliary(&self, name: &str) -> Result<String> {
        first_interface(&self.auxiliary(name))
    }

    /// Returns the interface of a device, given its path below `/sys/`.
    pub(super) fn interface_of_device(&self, path: &str) -> Result<String> {
        first_interface(&self.root.join(path.trim_start_matches("/sys/")))
    }

    fn pci(&self, address: &str) -> PathBuf {
        self.root.join("bus/pci/devices").join(address)
    }

    fn auxiliary(&self, name: &str) -> PathBuf {
        self.root.join("bus/auxiliary/devices").join(name)
    }
}

/// Whether this is a PCI address: domain, bus, device and function, as `0000:3b:00.1`.
pub(super) fn is_pci_address(text: &str) -> bool {
    let hex = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(rest), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Some((device, function)) = rest.split_once('.') else { return false };
    // Some bridges have domains of more than four digits.
    hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1)
}

/// Whether this is a file name and not a path.
pub(super) fn is_plain_name(text: &str) -> bool {
    (1..=255).contains(&text.len()) && !matches!(text, "." | "..") && !text.contains(['/', '\0'])
}

fn first_interface(device: &Path) -> Result<String> {
    let net = device.join("net");
    let first = names(&net)?.into_iter().next();
    first.ok_or_else(|| {
        failed(format!("{} is empty: the interface is in another network namespace", net.display()))
    })
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> Result<Vec<String>> {
    let failed = |error: std::io::Error| failed(format!("read {}: {error}", directory.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn failed(problem: impl std::fmt::Display) -> crate::plugin::Failure {
    Error::IOFailure(format!("host-device: {problem}")).into()
}

#[cfg(test)]
mod tests {
    use std::{fs::create_dir_all, os::unix::fs::symlink};

    use super::*;

    fn sysfs() -> (tempfile::TempDir, Sysfs) {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = Sysfs { root: dir.path().to_owned() };
        (dir, sysfs)
    }

    fn pci(dir: &tempfile::TempDir, address: &str, driver: &str, below: &str) {
        let device = dir.path().join("bus/pci/devices").join(address);
        create_dir_all(device.join(below)).unwrap();
        symlink(format!("../../../../bus/pci/drivers/{driver}"), device.join("driver")).unwrap();
    }

    #[test]
    fn the_interface_of_a_pci_device_is_the_first_by_name() {
        let (dir, sysfs) = sysfs();
        pci(&dir, "0000:3b:00.1", "ixgbe", "net/ens2");
        create_dir_all(dir.path().join("bus/pci/devices/0000:3b:00.1/net/ens1")).unwrap();
        assert_eq!(sysfs.interface_of_pci("0000:3b:00.1").unwrap(), "ens1");
        assert!(!sysfs.has_userspace_driver("0000:3b:00.1").unwrap());
    }

    #[test]
    fn the_interface_of_a_virtio_device_is_a_level_deeper() {
        let (dir, sysfs) = sysfs();
        pci(&dir, "0000:00:03.0", "virtio-pci", "virtio1/net/eth1");
        create_dir_all(dir.path().join("bus/pci/devices/0000:00:03.0/virtio0")).unwrap();
        assert_eq!(sysfs.interface_of_pci("0000:00:03.0").unwrap(), "eth1");
    }

    #[test]
    fn a_device_without_interface_is_an_error() {
        let (dir, sysfs) = sysfs();
        pci(&dir, "0000:00:01.0", "nvme", "nvme");
        pci(&dir, "0000:00:02.0", "ixgbe", "net");
        create_dir_all(dir.path().join("bus/pci/devices/0000:00:04.0/net/x")).unwrap();
        let error = |outcome: Result<String>| outcome.unwrap_err().to_string();
        assert!(error(sysfs.interface_of_pci("0000:00:01.0")).contains("not a network interface"));
        assert!(
            error(sysfs.interface_of_pci("0000:00:02.0")).contains("another network namespace")
        );
        assert!(error(sysfs.interface_of_pci("0000:00:09.0")).contains("0000:00:09.0"));
        assert!(
            sysfs
                .has_userspace_driver("0000:00:04.0")
                .unwrap_err()
                .to_string()
                .contains("no driver")
        );
        assert!(
            sysfs
                .has_userspace_driver("0000:00:09.0")
                .unwrap_err()
                .to_string()
                .contains("0000:00:09.0 not found")
        );
    }

    #[test]
    fn drivers_for_user_space_are_known() {
        let (dir, sysfs) = sysfs();
        for (number, driver) in USERSPACE_DRIVERS.iter().enumerate() {
            let address = format!("0000:00:0{number}.0");
            pci(&dir, &address, driver, "");
            assert!(sysfs.has_userspace_driver(&address).unwrap(), "{driver}");
        }
    }

    #[test]
    fn devices_are_found_by_bus_and_by_path() {
        let (dir, sysfs) = sysfs();
        pci(&dir, "0000:3b:00.1", "mlx5_core", "net/ens1");
        create_dir_all(dir.path().join("bus/auxiliary/devices/mlx5_core.sf.4/net/enp8s0f0s4"))
            .unwrap();
        create_dir_all(dir.path().join("devices/virtual/usb/net/usb0")).unwrap();
        assert!(
            sysfs.has_pci("0000:3b:00.1")
                && !sysfs.has_pci("mlx5_core.sf.4")
                && !sysfs.has_pci("../devices")
        );
        assert!(sysfs.has_auxiliary("mlx5_core.sf.4") && !sysfs.has_auxiliary(".."));
        assert_eq!(sysfs.interface_of_auxiliary("mlx5_core.sf.4").unwrap(), "enp8s0f0s4");
        assert_eq!(sysfs.interface_of_device("/sys/devices/virtual/usb").unwrap(), "usb0");
    }

    #[test]
    fn a_pci_address_has_four_numbers() {
        for address in ["0000:3b:00.1", "0000:AF:1f.7", "10000:01:00.0"] {
            assert!(is_pci_address(address), "{address}");
        }
        for other in [
            "",
            "3b:00.1",
            "0000:3b:00",
            "0000:3b:00.1/..",
            "../../x:00:00.0",
            "0000:3b:00.g",
            "a:b:c:d.e",
        ] {
            assert!(!is_pci_address(other), "{other}");
        }
    }
}
