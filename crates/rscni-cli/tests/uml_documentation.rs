//! The examples in `docs/plugins` that need what kernels may lack.
//!
//! Run in User-Mode Linux, which has it: `cargo xtask test --only uml`.

mod documentation;
