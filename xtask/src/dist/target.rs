//! The target that programs for nodes are built for, and the Rust libraries that it needs.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, anyhow, ensure};

use crate::program;

/// The target for programs linked with musl, for the architecture of this machine.
pub(super) fn musl() -> String {
    with("musl")
}

/// The target for programs linked with the C library of this name.
pub(super) fn with(libc: &str) -> String {
    format!("{}-unknown-linux-{libc}", std::env::consts::ARCH)
}

/// Makes sure that the toolchain in use has the Rust libraries for the musl target: what is missing is installed with
/// rustup.
///
/// # Errors
///
/// If they cannot be installed; the message says what to type.
pub(super) fn ensure_musl() -> Result<()> {
    let target = musl();
    if has_libraries(&target) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", &target]);
    println!("{}: installing the Rust libraries for this target", program::shown(&rustup));
    rustup.stdin(Stdio::null());
    program::capture(&mut rustup)
        .map_err(|error| anyhow!("{error:#}\n\n{}", what_to_type(&target)))?;
    ensure!(
        has_libraries(&target),
        "rustup installed {target}, but not for the compiler in use. {}",
        what_to_type(&target)
    );
    Ok(())
}

/// Whether the compiler in use has the standard library for a target.
fn has_libraries(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    program::capture(Command::new(rustc).args(["--print", "target-libdir", "--target", target]))
        .is_ok_and(|directory| has_std(Path::new(directory.trim())))
}

/// Whether the standard library is in this directory: an interrupted installation may leave it empty.
fn has_std(directory: &Path) -> bool {
    let Ok(files) = directory.read_dir() else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

fn what_to_type(target: &str) -> String {
    format!(
        "The binary is linked with musl, and the Rust libraries for {target} are not installed.\n\
         Type this, then start again:\n\n    rustup target add {target}\n\n\
         Without rustup, install them with the tool that installed Rust."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_a_standard_library_is_missing() {
        assert!(!has_libraries("x86_64-unknown-none-nothing"));
        assert!(!has_std(Path::new("/nowhere")));
        let directory = tempfile::tempdir().unwrap();
        assert!(!has_std(directory.path()));
        std::fs::write(directory.path().join("libstd-1234.rlib"), "").unwrap();
        assert!(has_std(directory.path()));
    }

    #[test]
    fn the_error_says_what_to_type() {
        let message = what_to_type("x86_64-unknown-linux-musl");
        assert!(
            message.contains("\n    rustup target add x86_64-unknown-linux-musl\n"),
            "{message}"
        );
    }
}
