//! Plugins that add an interface to the container.

pub(crate) mod bridge;
pub(crate) mod dummy;
pub(crate) mod host_device;
pub(crate) mod ipvlan;
pub(crate) mod loopback;
pub(crate) mod macvlan;
pub(crate) mod ptp;
pub(crate) mod tap;
pub(crate) mod vlan;
