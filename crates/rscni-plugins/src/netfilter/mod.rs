//! The tables of nftables and iptables that plugins work on.

pub(crate) mod iptables;
pub(crate) mod nftable;
