//! `cargo xtask dist`: the one static binary, as it goes onto nodes.
//!
//! The flags are given to the last compiler call only, in which all code is generated: procedural macros, which are
//! built for this machine on the way, have to be shared objects.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::program;

/// Builds it and says where it is.
pub(crate) fn run() -> Result<ExitCode> {
    let output = build("release", "rscni-cli", "rscni")?;
    let size = std::fs::metadata(&output)?.len();
    println!("{}: static, {} kB", output.display(), size / 1000);
    Ok(ExitCode::SUCCESS)
}

/// Builds a program of the workspace as a static one, and makes sure that it needs no loader.
pub(crate) fn build(profile: &str, package: &str, program: &str) -> Result<PathBuf> {
    let mut command = program::cargo();
    command.args(["rustc", "--profile", profile, "--package", package, "--bin", program]);
    let output = program::built(command.args(["--message-format=json-render-diagnostics", "--"]).args(FLAGS))?;
    ensure!(is_static(&output)?, "{} asks for a loader, so it is not static", output.display());
    Ok(output)
}

const FLAGS: [&str; 6] = [
    "-C",
    "target-feature=+crt-static",
    // A program at a fixed address has nothing to relocate before `main`.
    "-C",
    "relocation-model=static",
    // A panic aborts: nobody unwinds.
    "-C",
    "force-unwind-tables=no",
];

/// Whether an ELF file names no program interpreter.
fn is_static(program: &Path) -> Result<bool> {
    let headers = program::capture(Command::new("readelf").arg("--program-headers").arg(program))
        .context("readelf (Debian package binutils) looks at what was built")?;
    Ok(!headers.contains("INTERP"))
}
