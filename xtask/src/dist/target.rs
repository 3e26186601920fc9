//! Targets for programs that go onto nodes, and the Rust libraries for them.

use std::{path::Path, process::Command};

use anyhow::{Result, anyhow, ensure};

use crate::program;

/// The target with musl for the architecture of this machine.
pub(super) fn musl() -> String {
    with("musl")
}

/// The target with this C library for the architecture of this machine.
pub(super) fn with(libc: &str) -> String {
    format!("{}-unknown-linux-{libc}", std::env::consts::ARCH)
}

/// Installs the Rust libraries for a target with rustup if the toolchain in use lacks them.
///
/// # Errors
///
/// If they cannot be installed; the message gives the command to type.
pub fn ensure(target: &str) -> Result<()> {
    if has_libraries(target) {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", target]);
    println!("{}: installing the Rust libraries for this target", program::shown(&rustup));
    program::capture(&mut rustup)
        .map_err(|error| anyhow!("{error:#}\n\n{}", instructions(target)))?;
    ensure!(
        has_libraries(target),
        "rustup installed {target}, but not for the compiler in use. {}",
        instructions(target)
    );
    Ok(())
}

/// Whether the compiler in use has the standard library for a target.
fn has_libraries(target: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    program::capture(Command::new(rustc).args(["--print", "target-libdir", "--target", target]))
        .is_ok_and(|directory| has_std(Path::new(directory.trim())))
}

/// Whether the directory contains the standard library. An interrupted installation leaves it
/// empty.
fn has_std(directory: &Path) -> bool {
    let Ok(files) = directory.read_dir() else { return false };
    files.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"))
}

fn instructions(target: &str) -> String {
    format!(
        "The Rust libraries for {target} are not installed.\n\
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
    fn the_error_gives_the_command_to_type() {
        let message = instructions("x86_64-unknown-linux-musl");
        let command = "\n    rustup target add x86_64-unknown-linux-musl\n";
        assert!(message.contains(command), "{message}");
    }
}
