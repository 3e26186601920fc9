//! What several plugins do to attach a container: its namespace, links and addresses in it, the
//! host side, and the IPAM plugin.

pub(crate) mod container_link;
pub(crate) mod host;
pub(crate) mod ipam;
pub(crate) mod mac;
pub(crate) mod master;
pub(crate) mod own;
pub(crate) mod routing_table;
pub(crate) mod sandbox;
