//! The CNI reference plugins: the protocol of `rscni` on top of the kernel of `rscni-linux`.
//!
//! Each plugin is a module that reads top to bottom: its configuration, then `add`, `check`, `del`, `gc`, `status`.
//! What several of them do stands once, beside them. [`ALL`] is the list of them; a program that links them runs one
//! with [`Entry::run`], or calls it in the same process through [`Linked`].

#![forbid(unsafe_code)]

mod host_local;
mod linked;
mod registry;
mod r#static;

pub use linked::Linked;
pub use registry::{ALL, Entry, find};
