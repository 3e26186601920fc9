//! The examples in `docs/plugins` that need features many kernels lack.
//!
//! Run in User-Mode Linux: `cargo xtask test --only uml`.

mod documentation;
