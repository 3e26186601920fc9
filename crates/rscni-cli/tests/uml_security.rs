//! The capabilities that SECURITY.md lists for plugins whose link kinds many kernels lack; those of the others are in
//! `security`. And what of `rscni doctor` needs a second user, whom the namespaces of other tests do not have.
//!
//! Run in User-Mode Linux, which has them: `cargo xtask test --only uml`.

#[path = "security/capabilities.rs"]
mod capabilities;
mod support;

use std::{
    os::unix::fs::{MetadataExt, chown},
    process::Command,
};

use rstest::rstest;
use serde_json::Value;

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

#[test]
fn the_command_of_doctor_takes_a_directory_from_another_user() {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(1000), None).unwrap();
    let found = || {
        let mut doctor = Command::new(env!("CARGO_BIN_EXE_rscni"));
        let output =
            doctor.args(["doctor", "-o", "json"]).env("NETCONFPATH", dir.path()).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = json["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["id"] == "owner-not-root").cloned()
    };
    let finding = found().unwrap();
    assert!(finding["what"].as_str().unwrap().ends_with("belongs to user 1000"), "{finding:#}");
    assert!(
        Command::new("sh")
            .args(["-ec", finding["mend"].as_str().unwrap()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!((found(), dir.path().metadata().unwrap().uid()), (None, 0));
}
