//! What several plugins do to attach a container: its namespace, links and addresses in it, the
//! host side, and the IPAM plugin.

pub(crate) mod container_link;
pub(crate) mod gateway;
pub(crate) mod ipam;
pub(crate) mod link;
pub(crate) mod mac;
pub(crate) mod master;
pub(crate) mod routing_table;
pub(crate) mod sandbox;
pub(crate) mod veth;
