//! What the tasks (`cargo xtask TASK`) and the test rigs (the package `rscni-rigs`) share.

pub mod digest;
pub mod dist;
pub mod go;
pub mod packages;
pub mod program;
pub mod rigs;
pub mod tally;
