//! The CNI reference plugins, built on `rscni` (the protocol) and `rscni-linux` (the kernel).
//!
//! [`ALL`] lists the plugins. A program that links this crate runs one with [`Plugin::run`], or
//! calls it in-process through [`Linked`]. Each plugin is a module under `interface`, `ipam` or
//! `meta` with the same order: configuration, `add`, `check`, `del`, `gc`, `status`.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]

mod attach;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod interface;
mod ipam;
mod linked;
mod meta;
mod nat;
mod netfilter;
mod plugin;
mod registry;
mod state;

pub mod inventory {
    //! The resources of attachments on this node.

    pub use crate::{
        ipam::host_local::{Reservations, Usage, release_incomplete, usage},
        registry::{
            inventory::{Inventory, StateDirs, gc_list},
            node::NodeSnapshot,
        },
        state::{
            inventory::{Item, Owned, OwnedBy, Purpose},
            namespaces::{Live, live},
            presence::{Presence, is_of_process, namespace, presence},
        },
    };
}

pub mod forward_policy {
    //! Whether the chains at the hook `forward` accept the packets of a container.

    pub use crate::meta::firewall::forward_policy::{
        DroppingChain, Packet, dropped_by, dropping_chains,
    };
}

pub use ipam::dhcp::Daemon as DhcpDaemon;
pub use linked::{EQUIVALENT_RELEASE, Linked, LinkedFirst};
pub use plugin::{
    Plugin,
    facts::{GatewayBridge, KernelFeature},
};
pub use registry::{
    ALL,
    alias::{Certainty, is_named_as_this_program, kind, resolve},
    find,
};

/// The Rust examples of the README, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
