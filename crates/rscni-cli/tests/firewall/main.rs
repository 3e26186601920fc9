//! The firewall plugin, with packets: two networks on bridges of their own, and a third without the plugin.

#[path = "../support/mod.rs"]
mod support;

mod bus;
mod check;
mod configuration;
mod firewalld;
mod iptables;
mod policy;
mod published;
mod removal;
mod world;
