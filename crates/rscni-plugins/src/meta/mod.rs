//! Chained plugins, which change what the previous plugins in the list have created, and flannel,
//! which delegates to another plugin.

pub(crate) mod bandwidth;
pub(crate) mod firewall;
pub(crate) mod flannel;
pub(crate) mod portmap;
pub(crate) mod sbr;
pub(crate) mod tuning;
pub(crate) mod vrf;
