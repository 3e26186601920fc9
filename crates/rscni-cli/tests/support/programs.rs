//! Programs that tests run or write.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use rscni_test::{Lab, Namespace};

use super::Network;

/// The binary under test.
pub(crate) const RSCNI: &str = env!("CARGO_BIN_EXE_rscni");
/// Directory of the installed plugins.
pub(crate) const BIN: &str = "/run/rscni-test/bin";
/// Directory of Debian's Go plugins.
pub(crate) const GO: &str = "/usr/lib/cni";

/// Backends of portmap, firewall and masquerading.
pub(crate) const NFTABLES: &str = "nftables";
pub(crate) const IPTABLES: &str = "iptables";

/// Runs a program, asserts that it succeeds, and returns what it prints.
#[track_caller]
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("text")
}

/// Runs a script of the shell, which ends at the first error.
#[track_caller]
pub(crate) fn sh(script: &str) {
    run("sh", &["-ec", script]);
}

/// Runs `nft` with one command.
#[track_caller]
pub(crate) fn nft(command: &str) -> String {
    run("nft", &[command])
}

/// Runs `ip` with these words in a namespace.
#[track_caller]
pub(crate) fn ip(namespace: &Namespace, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    namespace.run(|| run("ip", &words));
}

/// Writes an executable script for `sh`.
#[track_caller]
pub(crate) fn write_script(path: impl AsRef<Path>, text: &str) -> PathBuf {
    let path = path.as_ref();
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).expect("write the script");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).expect("make it executable");
    path.to_owned()
}

/// Makes writes to a file fail, even for root.
#[track_caller]
pub(crate) fn make_read_only(path: &str) {
    sh(&format!("mount --bind {path} {path} && mount -o remount,bind,ro {path}"));
}

/// Writes a script that runs a plugin under `strace`, which logs these calls. Returns the script
/// and the log.
#[track_caller]
pub(crate) fn write_strace(lab: &Lab, plugin: &str, calls: &str) -> (PathBuf, PathBuf) {
    let log = lab.dir().join("strace");
    let text = format!("exec strace -f -qq -e trace={calls} -o {} {BIN}/{plugin}", log.display());
    // The name of the script says which plugin it is.
    (write_script(lab.dir().join(plugin), &text), log)
}

/// Returns the network with a plugin that finds `iptables` and not `ip6tables`.
pub(crate) fn without_ip6tables(lab: &Lab, network: &Network) -> Network {
    let path = path_with(lab, &[("iptables-restore", "iptables-restore")]);
    Network { plugin: network.plugin.clone().env("PATH", path), config: network.config.clone() }
}

/// Returns a directory for `PATH` that holds only these programs of `/usr/sbin`, each with its name
/// in the directory.
pub(crate) fn path_with(lab: &Lab, programs: &[(&str, &str)]) -> PathBuf {
    let dir = lab.dir().join("path");
    std::fs::create_dir_all(&dir).expect("make a directory");
    for (program, name) in programs {
        let program = Path::new("/usr/sbin").join(program);
        let _ = std::fs::remove_file(dir.join(name));
        std::os::unix::fs::symlink(program, dir.join(name)).expect("link a program");
    }
    dir
}
