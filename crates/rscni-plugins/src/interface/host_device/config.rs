//! The keys of host-device, validated, and the lookup of the device that they name.

use std::fmt::Display;

use rscni::{
    Error,
    name::{check_path, interface_name_problem},
};
use rscni_linux::{Link, Netlink};
use serde::Deserialize;

use super::sysfs::{self, Sysfs};
use crate::plugin::{Call, Failure, Result, error};

/// The keys of the Go plugin.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    device: Option<String>,
    hwaddr: Option<String>,
    kernelpath: Option<String>,
    #[serde(rename = "pciBusID")]
    pci_bus_id: Option<String>,
    #[serde(rename = "DPDKMode")]
    dpdk_mode: Option<bool>,
    use_interface_network: Option<bool>,
}

/// A validated configuration. The device has not been looked up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Config {
    /// The device. Of several keys the first in the order of [`Device`] counts.
    device: Option<Device>,
    /// A PCI device, which may have a driver for user space.
    pci: Option<String>,
    /// `runtimeConfig.deviceID`: a device on the PCI bus or the auxiliary bus. It overrides `pci`.
    device_id: Option<String>,
    dpdk: bool,
    /// Whether the container gets the addresses, routes and rules of the device on the host.
    pub(super) use_interface_network: bool,
}

/// The key that names a device.
#[derive(Debug, PartialEq, Eq)]
enum Device {
    Name(String),
    HardwareAddress(Vec<u8>),
    /// A directory below `/sys/devices`.
    KernelPath(String),
}

pub(super) enum Found {
    /// A device with a driver for user space, which stays on the host, and its PCI address.
    Dpdk(Option<String>),
    /// An interface of the host, and its PCI address.
    Link(Box<Link>, Option<String>),
}

impl Config {
    pub(super) fn new(call: &Call<'_>) -> Result<Self> {
        let keys: Keys = call.conf.custom_as()?;
        let given = |value: Option<String>| value.filter(|text| !text.is_empty());
        let device_id = given(call.args.runtime_config()?.device_id);
        let pci = given(keys.pci_bus_id);
        if let Some(address) = pci.as_ref().filter(|address| !sysfs::is_pci_address(address)) {
            return Err(invalid(format!(
                "pciBusID: {address:?} is not a PCI address such as 0000:3b:00.1"
            )));
        }
        if let Some(id) = device_id.as_ref().filter(|id| !sysfs::is_plain_name(id)) {
            return Err(invalid(format!(
                "runtimeConfig.deviceID: {id:?} is not the name of a device"
            )));
        }
        let name = given(keys.device).map(|name| match interface_name_problem(&name) {
            None => Ok(Device::Name(name)),
            Some(problem) => Err(invalid(format!("device: {name:?} {problem}"))),
        });
        let address = given(keys.hwaddr).map(|text| {
            let bytes = parse_hardware_address(&text);
            bytes
                .map(Device::HardwareAddress)
                .ok_or_else(|| invalid(format!("hwaddr: {text:?} is not a MAC address")))
        });
        let path = given(keys.kernelpath).map(|path| {
            let is_below =
                path.starts_with("/sys/devices/") && !path.split('/').any(|part| part == "..");
            if is_below && check_path("kernelpath", &path).is_ok() {
                Ok(Device::KernelPath(path))
            } else {
                Err(invalid(format!(
                    "kernelpath: {path:?} must be absolute and begin with /sys/devices/"
                )))
            }
        });
        let device = name.or(address).or(path).transpose()?;
        if device.is_none() && pci.is_none() && device_id.is_none() {
            let problem = "which device? Set one of \"device\", \"hwaddr\", \"kernelpath\", \
                           \"pciBusID\", or have the runtime pass deviceID";
            return Err(invalid(problem));
        }
        Ok(Self {
            device,
            pci,
            device_id,
            dpdk: keys.dpdk_mode.unwrap_or_default(),
            use_interface_network: keys.use_interface_network.unwrap_or_default(),
        })
    }

    pub(super) fn find(&self, host: &mut Netlink, sysfs: &Sysfs) -> Result<Found> {
        let (pci, auxiliary) = self.on_a_bus(sysfs)?;
        if self.is_left_to_a_program(pci.as_deref(), sysfs)? {
            return Ok(Found::Dpdk(pci));
        }
        let name = match &self.device {
            Some(Device::Name(name)) => name.clone(),
            Some(Device::HardwareAddress(address)) => {
                let is_it = |link: &Link| link.hardware_address == *address;
                let link = host.links()?.into_iter().find(is_it).ok_or_else(|| {
                    let address: Vec<_> =
                        address.iter().map(|byte| format!("{byte:02x}")).collect();
                    missing(format!(
                        "the host has no interface with the address {}",
                        address.join(":")
                    ))
                })?;
                return Ok(Found::Link(Box::new(link), pci));
            }
            Some(Device::KernelPath(path)) => sysfs.interface_of_device(path)?,
            None => match (&pci, auxiliary) {
                (Some(pci), _) => sysfs.interface_of_pci(pci)?,
                (None, Some(auxiliary)) => sysfs.interface_of_auxiliary(auxiliary)?,
                (None, None) => return Err(missing("no device is configured").into()),
            },
        };
        let link = host
            .find_link(&name)?
            .ok_or_else(|| missing(format!("the host has no interface {name}")))?;
        Ok(Found::Link(Box::new(link), pci.filter(|_| self.device.is_none())))
    }

    /// Whether the device has a driver for user space, and therefore no interface.
    pub(super) fn is_dpdk(&self, sysfs: &Sysfs) -> Result<bool> {
        let (pci, _) = self.on_a_bus(sysfs)?;
        self.is_left_to_a_program(pci.as_deref(), sysfs)
    }

    fn is_left_to_a_program(&self, pci: Option<&str>, sysfs: &Sysfs) -> Result<bool> {
        pci.map_or(Ok(self.dpdk), |pci| sysfs.has_userspace_driver(pci))
    }

    /// Returns the PCI address, or the name on the auxiliary bus.
    fn on_a_bus(&self, sysfs: &Sysfs) -> Result<(Option<String>, Option<&str>)> {
        match &self.device_id {
            None => Ok((self.pci.clone(), None)),
            Some(id) if sysfs.has_pci(id) => Ok((Some(id.clone()), None)),
            Some(id) if sysfs.has_auxiliary(id) => Ok((None, Some(id))),
            Some(id) => Err(missing(format!(
                "runtimeConfig.deviceID: {id} is neither on the PCI bus nor on the auxiliary bus"
            ))
            .into()),
        }
    }

    /// Returns the name of the device, if the configuration uses it.
    pub(super) fn device_name(&self) -> Option<&str> {
        match &self.device {
            Some(Device::Name(name)) => Some(name),
            _ => None,
        }
    }
}

/// Parses a MAC address in the notations of Go: 6, 8 or 20 bytes with colons or hyphens, or in
/// groups of two with dots.
fn parse_hardware_address(text: &str) -> Option<Vec<u8>> {
    let (separator, digits) = match text.find([':', '-', '.']).map(|at| text.as_bytes()[at]) {
        Some(b':') => (':', 2),
        Some(b'-') => ('-', 2),
        _ => ('.', 4),
    };
    let mut bytes = Vec::new();
    for group in text.split(separator) {
        if group.len() != digits || !group.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let number = u16::from_str_radix(group, 16).ok()?;
        bytes.extend(&number.to_be_bytes()[(4 - digits) / 2..]);
    }
    [6, 8, 20].contains(&bytes.len()).then_some(bytes)
}

fn missing(problem: impl std::fmt::Display) -> Error {
    Error::IOFailure(format!("host-device: {problem}"))
}

fn invalid(problem: impl Display) -> Failure {
    error::invalid("host-device", problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_parsed_as_go_parses_them() {
        let mac = Some(vec![2, 0, 0x5e, 0x10, 0, 1]);
        for text in ["02:00:5e:10:00:01", "02-00-5E-10-00-01", "0200.5e10.0001"] {
            assert_eq!(parse_hardware_address(text), mac, "{text}");
        }
        let infiniband = "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01";
        assert_eq!(parse_hardware_address(infiniband).unwrap().len(), 20);
        assert_eq!(parse_hardware_address("02:00:5e:10:00:00:00:01").unwrap().len(), 8);
        for other in [
            "",
            "02",
            "02:00:5e:10:00",
            "2:0:5e:10:0:1",
            "02:00:5e:10:00:0g",
            "02:00-5e:10:00:01",
            "0200.5e10",
        ] {
            assert_eq!(parse_hardware_address(other), None, "{other}");
        }
    }
}
