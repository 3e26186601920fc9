//! `cargo xtask dist`: the static binary for nodes, and other builds of the workspace's programs.
//!
//! The binary is linked with musl, which starts with a few system calls. glibc executes `cpuid`
//! some seventy times at its start. In a virtual machine each of them traps into the hypervisor,
//! which takes longer than everything else that a plugin does in user space. The Rust libraries for
//! musl are installed with rustup if they are missing (`target`).
//!
//! The bill of materials (`bom`) is written beside the binary.

mod bom;
pub(crate) mod licences;
pub mod target;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;

use crate::{digest::sha256, program};

/// Maximum size of the binary, as README promises it. A small binary is quick to ship and to page
/// in.
const SIZE_LIMIT: u64 = 4_000_000;

/// Builds the binary, checks its size and prints its path.
pub fn run() -> Result<ExitCode> {
    let (output, bill) = build_with_bill("rscni-cli", "rscni")?;
    let size = fs::metadata(&output)?.len();
    ensure!(is_small(size), "{} has {size} bytes; the limit is {SIZE_LIMIT}", output.display());
    println!("{}: static, with musl, {} kB", output.display(), size / 1000);
    println!("{}: bill of materials (CycloneDX)", bill.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds a program as [`build`] does, and writes its bill of materials beside it. Returns both
/// paths.
pub(crate) fn build_with_bill(package: &str, program: &str) -> Result<(PathBuf, PathBuf)> {
    let output = build(package, program)?;
    let bill = bom::of(package, program, &target::musl(), &fs::read(&output)?)?;
    let file = output.with_extension("cdx.json");
    fs::write(&file, serde_json::to_vec_pretty(&bill)?)?;
    Ok((output, file))
}

/// Builds a program of the workspace in the way that the binary for nodes is built.
pub fn build(package: &str, program: &str) -> Result<PathBuf> {
    target::ensure(&target::musl())?;
    build_for(&target::musl(), package, program)
}

/// Builds a static program with glibc, as most static programs are. Its file is named
/// `PROGRAM-glibc`.
pub fn build_with_glibc(package: &str, program: &str) -> Result<PathBuf> {
    let built = build_for(&target::with("gnu"), package, program)?;
    let named = built.with_file_name(format!("{program}-glibc"));
    fs::rename(&built, &named)?;
    Ok(named)
}

/// Builds `rscni` statically, but for development: in seconds, since the tests share its
/// dependencies.
pub fn build_static_for_development() -> Result<PathBuf> {
    let mut cargo = program::cargo();
    cargo.args(["rustc", "--package", "rscni-cli", "--bin", "rscni", program::JSON_MESSAGES]);
    built_static(cargo.args(["--", "-Ctarget-feature=+crt-static", "-Crelocation-model=static"]))
}

/// Builds `rscni` as `cargo build` does.
pub fn build_for_development() -> Result<PathBuf> {
    program::build(program::cargo().args(["build", "-p", "rscni-cli", program::JSON_MESSAGES]))
}

/// Makes a directory of all plugins of an `rscni` program, as an operator does.
pub fn install(rscni: &Path, directory: &Path) -> Result<String> {
    fs::create_dir_all(directory)?;
    program::capture(Command::new(rscni).arg("install").arg(directory))
}

fn build_for(target: &str, package: &str, program: &str) -> Result<PathBuf> {
    let mut cargo = program::cargo();
    cargo.args(["build", "--release", "--target", target, "--package", package, "--bin", program]);
    // These flags replace all others from the environment. They apply to the target alone:
    // procedural macros and build scripts are built for this machine.
    cargo.arg(program::JSON_MESSAGES).env("CARGO_ENCODED_RUSTFLAGS", flags()?.join("\x1f"));
    move_to_release(&built_static(&mut cargo)?, target)
}

fn built_static(command: &mut Command) -> Result<PathBuf> {
    let built = program::build(command)?;
    ensure!(is_static(&built)?, "{} names a loader, so it is not static", built.display());
    Ok(built)
}

fn flags() -> Result<Vec<String>> {
    let root = program::workspace_root();
    // Relative, as rustc runs in the workspace: the flags are part of the symbols' names.
    let script = "xtask/src/dist/no_unwinding.ld";
    let mut flags = vec![
        // The default for musl.
        "-Ctarget-feature=+crt-static".into(),
        // A program at a fixed address has nothing to relocate before `main`.
        "-Crelocation-model=static".into(),
        // The profile says so too, but cargo ignores it for a package with settings of its own.
        "-Cstrip=symbols".into(),
        // A panic aborts, so nothing unwinds. The script and the last flag remove the tables of
        // precompiled code.
        "-Cforce-unwind-tables=no".into(),
        format!("-Clink-arg=-Wl,--script={script}"),
        "-Clink-arg=-Wl,--no-eh-frame-hdr".into(),
        // Cargo does not look into linker scripts. This flag makes it link again after the script
        // has changed.
        format!("--cfg=linker_script=\"{}\"", sha256(&fs::read(root.join(script))?)),
        // Only names of a few bytes are hashed. Detecting the processor's instructions takes longer
        // than it saves.
        "--cfg=sha2_backend=\"soft\"".into(),
        "--cfg=sha2_backend_soft=\"compact\"".into(),
    ];
    // Messages of panics name source files; those of dependencies have absolute paths.
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    flags.push(remap(&root, "."));
    for registry in fs::read_dir(cargo_home()?.join("registry/src")).into_iter().flatten() {
        flags.push(remap(&registry?.path(), "/crates"));
    }
    Ok(flags)
}

fn cargo_home() -> Result<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let default = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo"));
    home.or_else(default).context("neither CARGO_HOME nor HOME is set")
}

/// Copies a program from `target/TARGET/release` to `target/release`.
///
/// The existing file may be a hard link to one that cargo keeps, or be running, so it is replaced
/// and not overwritten.
fn move_to_release(built: &Path, target: &str) -> Result<PathBuf> {
    let output: PathBuf = built.iter().filter(|directory| *directory != target).collect();
    let new = output.with_extension("new");
    fs::create_dir_all(output.parent().context("a program is in a directory")?)?;
    fs::copy(built, &new)?;
    fs::rename(&new, &output)?;
    Ok(output)
}

fn is_small(size: u64) -> bool {
    size <= SIZE_LIMIT
}

/// Whether an ELF file names no program interpreter.
fn is_static(program: &Path) -> Result<bool> {
    let headers = program::capture(Command::new("readelf").arg("--program-headers").arg(program))
        .context("readelf (Debian package binutils) inspects the program")?;
    Ok(!headers.contains("INTERP"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_program_for_a_target_replaces_the_one_in_target_release_but_not_its_hard_links() {
        let directory = tempfile::tempdir().unwrap();
        let built = directory.path().join("x-unknown-linux-musl/release/rscni");
        let output = directory.path().join("release/rscni");
        let link = directory.path().join("release/deps-rscni");
        for file in [&built, &output] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
        }
        fs::write(&built, "static").unwrap();
        fs::write(&output, "dynamic").unwrap();
        fs::hard_link(&output, &link).unwrap();

        assert_eq!(move_to_release(&built, "x-unknown-linux-musl").unwrap(), output);

        assert_eq!(fs::read_to_string(&output).unwrap(), "static");
        assert_eq!(fs::read_to_string(&link).unwrap(), "dynamic");
        assert_ne!(fs::metadata(&output).unwrap().ino(), fs::metadata(&link).unwrap().ino());
    }

    #[test]
    fn the_size_limit_is_four_million_bytes() {
        assert!(is_small(4_000_000));
        assert!(!is_small(4_000_001));
    }

    #[test]
    fn a_program_with_a_loader_is_not_static() {
        assert!(!is_static(&std::env::current_exe().unwrap()).unwrap());
    }
}
