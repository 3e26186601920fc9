//! The capabilities that SECURITY.md lists for plugins whose link kinds many kernels lack, and
//! findings of `rscni doctor` that need a second user.
//!
//! Run in User-Mode Linux: `cargo xtask test --only uml`.

#[path = "security/capabilities.rs"]
mod capabilities;
mod support;

use std::{
    os::unix::fs::{MetadataExt, chown},
    process::Command,
};

use serde_json::Value;

use support::{RSCNI, sh};

/// `tap` is tested here because only root can open `/dev/net/tun` on many machines.
#[test]
fn plugins_need_the_documented_capabilities_and_no_others() {
    // In the private network the module cannot be loaded any more.
    sh("modprobe tun");
    capabilities::assert_documented(|row| row.needs_uml() || row.plugin == "tap");
}

#[test]
fn the_command_that_doctor_suggests_takes_a_directory_from_another_user() {
    let dir = tempfile::tempdir().unwrap();
    chown(dir.path(), Some(1000), None).unwrap();
    let found = || {
        let mut doctor = Command::new(RSCNI);
        let output =
            doctor.args(["doctor", "-o", "json"]).env("NETCONFPATH", dir.path()).output().unwrap();
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = json["findings"].as_array().unwrap();
        all.iter().find(|finding| finding["id"] == "owner-not-root").cloned()
    };
    let finding = found().unwrap();
    assert!(finding["what"].as_str().unwrap().ends_with("belongs to user 1000"), "{finding:#}");
    sh(finding["mend"].as_str().unwrap());
    assert_eq!((found(), dir.path().metadata().unwrap().uid()), (None, 0));
}
