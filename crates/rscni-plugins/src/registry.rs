//! The list of the plugins.

pub(crate) mod alias;
pub(crate) mod inventory;
pub(crate) mod node;

use crate::{interface, ipam, meta, plugin::Plugin};

/// Every plugin, by name.
pub static ALL: &[Plugin] = &[
    meta::bandwidth::BANDWIDTH,
    interface::bridge::BRIDGE,
    ipam::dhcp::DHCP,
    interface::dummy::DUMMY,
    meta::firewall::FIREWALL,
    meta::flannel::FLANNEL,
    interface::host_device::HOST_DEVICE,
    ipam::host_local::HOST_LOCAL,
    interface::ipvlan::IPVLAN,
    interface::loopback::LOOPBACK,
    interface::macvlan::MACVLAN,
    meta::portmap::PORTMAP,
    interface::ptp::PTP,
    meta::sbr::SBR,
    ipam::r#static::STATIC,
    interface::tap::TAP,
    meta::tuning::TUNING,
    interface::vlan::VLAN,
    meta::vrf::VRF,
];

/// Returns the plugin of that name.
pub fn find(name: &str) -> Option<&'static Plugin> {
    ALL.iter().find(|plugin| plugin.name == name)
}
