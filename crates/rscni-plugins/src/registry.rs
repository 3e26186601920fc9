//! The list of the plugins.

pub(crate) mod alias;
pub(crate) mod inventory;

use crate::{
    interface::{
        bridge::BRIDGE, dummy::DUMMY, host_device::HOST_DEVICE, ipvlan::IPVLAN, loopback::LOOPBACK,
        macvlan::MACVLAN, ptp::PTP, tap::TAP, vlan::VLAN,
    },
    ipam::{dhcp::DHCP, host_local::HOST_LOCAL, r#static::STATIC},
    meta::{
        bandwidth::BANDWIDTH, firewall::FIREWALL, flannel::FLANNEL, portmap::PORTMAP, sbr::SBR,
        tuning::TUNING, vrf::VRF,
    },
    plugin::Plugin,
};

/// Every plugin, by name.
pub static ALL: &[Plugin] = &[
    BANDWIDTH,
    BRIDGE,
    DHCP,
    DUMMY,
    FIREWALL,
    FLANNEL,
    HOST_DEVICE,
    HOST_LOCAL,
    IPVLAN,
    LOOPBACK,
    MACVLAN,
    PORTMAP,
    PTP,
    SBR,
    STATIC,
    TAP,
    TUNING,
    VLAN,
    VRF,
];

/// Returns the plugin of that name.
pub fn find(name: &str) -> Option<&'static Plugin> {
    ALL.iter().find(|plugin| plugin.name == name)
}
