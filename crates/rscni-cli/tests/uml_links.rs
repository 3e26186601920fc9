//! The tests of `links` for plugins whose link kinds many kernels lack.
//!
//! Run in User-Mode Linux: `cargo xtask test --only uml`.

mod links;
