//! The tables of nftables and iptables that plugins work on.

pub(crate) mod container_chains;
pub(crate) mod family;
pub(crate) mod iptables;
pub(crate) mod iptables_legacy;
pub(crate) mod iptables_save;
pub(crate) mod nftable;
pub(crate) mod program;

pub(crate) use self::{
    container_chains::{ContainerChains, NAT},
    family::{AddressFamily, FAMILIES},
    iptables::IpTable,
    iptables_legacy::Legacy,
    iptables_save::{SavedRule, SavedTable},
    nftable::{Elements, Found},
};
