//! Code for the tasks (`cargo xtask TASK`) and the test rigs (the package `rscni-rigs`).

#![expect(
    clippy::missing_panics_doc,
    reason = "they are bugs of the tasks, and the library is unpublished"
)]

pub mod digest;
pub mod dist;
pub mod go;
pub mod image;
pub mod oci;
pub mod packages;
pub mod program;
pub mod rigs;
pub mod tally;
