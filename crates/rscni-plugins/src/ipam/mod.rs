//! The plugins that allocate addresses.

pub(crate) mod dhcp;
pub(crate) mod host_local;
pub(crate) mod r#static;
