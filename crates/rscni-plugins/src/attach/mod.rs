//! Shared by plugins that attach a container: its namespace, its links, the host side, and the IPAM
//! client.

pub(crate) mod container_link;
pub(crate) mod gateway;
pub(crate) mod ipam;
pub(crate) mod link;
pub(crate) mod mac;
pub(crate) mod master;
pub(crate) mod routing_table;
pub(crate) mod sandbox;
pub(crate) mod veth;

pub(crate) use self::{
    container_link::{Addresses, ContainerLink},
    ipam::Ipam,
    link::HostLinks,
    master::Master,
    sandbox::{Reach, Sandbox},
};
