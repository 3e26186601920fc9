//! The portmap plugin, with packets.

mod backends;
mod calls;
mod checks;
mod cost;
mod handover;
mod packets;
mod published;
mod sctp;
#[path = "../support/mod.rs"]
mod support;
mod udp;
