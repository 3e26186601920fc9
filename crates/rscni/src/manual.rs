//! The manual: longer chapters with complete programs.
//!
//! - [A chained plugin from scratch](chained_plugin)
//! - [Delegation and IPAM](delegation)
#![cfg_attr(feature = "runtime", doc = "- [A runtime in 30 lines](runtime)")]
#![cfg_attr(feature = "shim", doc = "- [A shim and a daemon](shim)")]
//! - [Testing a plugin](testing)
//! - [Coming from Go](from_go)
//! - [Migrating from the older crates](migrating)

#[doc = include_str!("../manual/chained_plugin.md")]
pub mod chained_plugin {}

#[doc = include_str!("../manual/delegation.md")]
pub mod delegation {}

#[cfg(feature = "runtime")]
#[doc = include_str!("../manual/runtime.md")]
pub mod runtime {}

#[cfg(feature = "shim")]
#[doc = include_str!("../manual/shim.md")]
pub mod shim {}

#[doc = include_str!("../manual/testing.md")]
pub mod testing {}

#[doc = include_str!("../manual/from_go.md")]
pub mod from_go {}

#[doc = include_str!("../manual/migrating.md")]
pub mod migrating {}
