//! The CNI reference plugins: the protocol of `rscni` on top of the kernel of `rscni-linux`.
//!
//! Each plugin is a module that reads top to bottom: its configuration, then `add`, `check`, `del`, `gc`, `status`.
//! What several of them do stands once, beside them. [`ALL`] is the list of them; a program that links them runs one
//! with [`Entry::run`], or calls it in the same process through [`Linked`].

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
pub mod repair;
mod state;

pub use ipam::dhcp::Daemon as DhcpDaemon;
pub use linked::Linked;
pub use registry::alias::{Certainty, is_named_as_this_program, kind, resolve};
pub use registry::{ALL, EQUIVALENT_RELEASE, Entry, find};
pub use state::inventory as holdings;

/// What the README shows is what happens: its Rust is compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
