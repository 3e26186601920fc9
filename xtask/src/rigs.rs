//! The test rigs: the package `rscni-rigs`, which is built when one of them is first needed.

use std::{ffi::OsString, process::Command};

use crate::program;

/// Names and descriptions of the rigs, as `cargo xtask --help` lists them.
pub const RIGS: [(&str, &str); 8] = [
    ("bench", "Measure the cost of a call, beside the Go plugins and bare netlink"),
    (
        "counts",
        "Count system calls and processes of each operation; fail if there are more than before",
    ),
    (
        "conformance",
        "Check every plugin, and the Go plugins, for conformance with the specification",
    ),
    (
        "e2e",
        "Run containerd, BuildKit or a Kubernetes cluster on the plugins; handover with the Go plugins",
    ),
    (
        "faults",
        "Kill the plugins and fail their system calls at every place; nothing may be left behind",
    ),
    ("fuzz", "Run the fuzzers, which need a nightly toolchain and cargo-fuzz"),
    ("uml", "Run a command inside User-Mode Linux, for link kinds that the running kernel lacks"),
    ("upstream", "Run the Go plugins' own test cases against our programs, and compare"),
];

/// The command that builds and runs a rig, in the caller's directory. Cargo becomes the rig, so
/// signals and exit codes are the rig's.
pub fn command(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Command {
    let mut cargo = program::cargo_here();
    let manifest = program::workspace_root().join("Cargo.toml");
    cargo.args(["run", "--quiet", "--manifest-path"]).arg(manifest);
    cargo.args(["--package", "rscni-rigs", "--"]).args(arguments.into_iter().map(Into::into));
    cargo
}

/// The arguments for the rigs' program, if a rig is meant: `bench --quick` or `help bench`.
pub fn arguments(typed: &[OsString]) -> Option<Vec<OsString>> {
    let is_rig = |word: &OsString| RIGS.iter().any(|(name, _)| word == name);
    match typed {
        [help, rig] if help == "help" && is_rig(rig) => Some(vec![rig.clone(), "--help".into()]),
        [rig, ..] if is_rig(rig) => Some(typed.to_vec()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_of_a_rig_are_passed_on_as_they_are() {
        let arguments = |text: &str| {
            let typed: Vec<OsString> = text.split(' ').map(OsString::from).collect();
            Some(arguments(&typed)?.join(" ".as_ref()).into_string().unwrap())
        };
        assert_eq!(arguments("uml -- ip link").as_deref(), Some("uml -- ip link"));
        assert_eq!(arguments("help bench").as_deref(), Some("bench --help"));
        assert_eq!(arguments("demo"), None);
        assert_eq!(arguments("--help"), None);
    }
}
