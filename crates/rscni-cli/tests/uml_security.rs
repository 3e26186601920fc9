//! The capabilities that SECURITY.md lists for plugins whose link kinds many kernels lack; those of the others are in
//! `security`.
//!
//! Run in User-Mode Linux, which has them: `cargo xtask test --only uml`.

#[path = "security/capabilities.rs"]
mod capabilities;
mod support;

use std::process::Command;

use rstest::rstest;

use capabilities::needs_what_is_documented_and_no_more;

#[rstest]
fn a_plugin_needs_the_capabilities_that_are_documented_and_no_others(
    #[values("dummy", "ipvlan", "tap", "vlan", "vrf")] plugin: &str,
) {
    // The file that taps are opened by is there once the module is. The others' are loaded when they are asked for.
    if plugin == "tap" {
        assert!(Command::new("modprobe").arg("tun").status().unwrap().success());
    }
    needs_what_is_documented_and_no_more(plugin);
}
