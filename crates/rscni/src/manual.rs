//! The manual: longer chapters with complete programs.
//!
//! - [A chained plugin from scratch](chained_plugin)
//! - [Delegation and IPAM](delegation)
//! - [Testing a plugin](testing)
//! - [Coming from Go](from_go)

#[doc = include_str!("../manual/chained_plugin.md")]
pub mod chained_plugin {}

#[doc = include_str!("../manual/delegation.md")]
pub mod delegation {}

#[doc = include_str!("../manual/testing.md")]
pub mod testing {}

#[doc = include_str!("../manual/from_go.md")]
pub mod from_go {}
