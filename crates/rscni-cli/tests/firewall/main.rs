//! The firewall plugin, with packets between two networks and a third one without the plugin.

#[path = "../support/mod.rs"]
mod support;

mod bus;
mod check;
mod configuration;
mod firewalld;
mod iptables;
mod lists;
mod policy;
mod published;
mod removal;
