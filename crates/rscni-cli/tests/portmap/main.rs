//! The portmap plugin, with packets.

mod backends;
mod calls;
mod checks;
mod cost;
mod handover;
mod packets;
mod published;
mod sctp;
mod shared;
#[path = "../support/mod.rs"]
mod support;
mod udp;
