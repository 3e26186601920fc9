//! The CNI reference plugins: the protocol of `rscni` on top of the kernel of `rscni-linux`.
//!
//! Each plugin is a module that reads top to bottom: its configuration, then `add`, `check`, `del`, `gc`, `status`.
//! What several of them do stands once, beside them. [`ALL`] is the list of them; a program that links them runs one
//! with [`Plugin::run`], or calls it in the same process through [`Linked`].

#![forbid(unsafe_code)]

mod attach;
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

pub use ipam::dhcp::Daemon as DhcpDaemon;
pub use linked::{EQUIVALENT_RELEASE, Linked};
pub use plugin::Plugin;
pub use registry::{
    ALL,
    alias::{Certainty, is_named_as_this_program, kind, resolve},
    find,
};
pub use state::inventory as holdings;

/// What the README shows is what happens: its Rust is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
