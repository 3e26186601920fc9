//! The CNI reference plugins: the protocol of `rscni` on top of the kernel of `rscni-linux`.
//!
//! Each plugin is a module that reads top to bottom: its configuration, then `add`, `check`, `del`, `gc`, `status`.
//! What several of them do stands once, beside them. [`ALL`] is the list of them; a program that links them runs one
//! with [`Entry::run`], or calls it in the same process through [`Linked`].

#![forbid(unsafe_code)]

mod alias;
mod bandwidth;
mod bridge;
mod chained;
mod commands;
mod container_link;
mod dbus;
mod dhcp;
mod dummy;
mod failure;
mod firewall;
mod flannel;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod holdings;
mod host;
mod host_device;
mod host_local;
mod ipam;
mod iptables;
mod ipvlan;
mod linked;
mod lock;
mod loopback;
mod mac;
mod macvlan;
mod masquerade;
mod master;
mod nftable;
mod own;
mod owner;
mod portmap;
mod ptp;
mod registry;
pub mod repair;
mod routing_table;
mod sandbox;
mod sbr;
mod state_file;
mod r#static;
mod tap;
mod tuning;
mod undo;
mod vlan;
mod vrf;

pub use alias::{Certainty, is_named_as_this_program, kind, resolve};
pub use dhcp::Daemon as DhcpDaemon;
pub use linked::Linked;
pub use registry::{ALL, EQUIVALENT_RELEASE, Entry, find};

/// What the README shows is what happens: its Rust is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
