//! `rscni conformance` of the plugins whose link kinds many kernels lack, without a host interface.
//!
//! Run in User-Mode Linux: `cargo xtask test --only uml`.

#[path = "conformance/subjects.rs"]
mod subjects;

#[test]
fn plugins_without_a_host_interface_conform() {
    subjects::assert_conform(|row| row.needs_uml() && !row.needs_device());
}
