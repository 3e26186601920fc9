//! `cargo xtask dist`: the one static binary, as it goes onto nodes.
//!
//! It is linked with musl, whose start is a few system calls. glibc's asks the processor some seventy times what it can
//! do, and in a virtual machine each of these questions goes to the hypervisor: that takes longer than all else that
//! an operation of a plugin does in user space. Rust's libraries for musl are installed with rustup if they are missing
//! ([`target`]).
//!
//! Beside the binary lies its bill of materials ([`bom`]).

mod bom;
mod target;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};

use crate::{digest::sha256, program};

/// What the project promises: a file that is small to ship, and of which little is to be read before it runs.
const SIZE_LIMIT: u64 = 4_000_000;

/// Builds it, makes sure that it is small, and says where it is.
pub fn run() -> Result<ExitCode> {
    let output = build("rscni-cli", "rscni")?;
    let size = std::fs::metadata(&output)?.len();
    ensure!(is_small(size), "{} has {size} bytes; the limit is {SIZE_LIMIT}", output.display());
    println!("{}: static, with musl, {} kB", output.display(), size / 1000);
    let bill = bom::of("rscni-cli", &target::musl(), &std::fs::read(&output)?)?;
    let file = output.with_extension("cdx.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&bill)?)
        .with_context(|| format!("write {}", file.display()))?;
    println!("{}: what is linked into it (CycloneDX)", file.display());
    Ok(ExitCode::SUCCESS)
}

/// Builds a program of the workspace as it is built for nodes.
pub fn build(package: &str, program: &str) -> Result<PathBuf> {
    target::ensure_musl()?;
    build_for(&target::musl(), package, program)
}

/// Builds a static program with glibc, as most static programs are. It has that in its file's name.
pub fn build_with_glibc(package: &str, program: &str) -> Result<PathBuf> {
    let built = build_for(&target::with("gnu"), package, program)?;
    let named = built.with_file_name(format!("{program}-glibc"));
    std::fs::rename(&built, &named)
        .with_context(|| format!("rename {} to {}", built.display(), named.display()))?;
    Ok(named)
}

fn build_for(target: &str, package: &str, program: &str) -> Result<PathBuf> {
    place(&built(&mut cargo_build(target, package, program)?)?, target)
}

fn cargo_build(target: &str, package: &str, program: &str) -> Result<Command> {
    let mut command = program::cargo();
    command.args([
        "build",
        "--release",
        "--target",
        target,
        "--package",
        package,
        "--bin",
        program,
    ]);
    // Before all other ways to give flags, whatever the environment has. They concern the target alone: procedural
    // macros and build scripts are built for this machine.
    command
        .env("CARGO_ENCODED_RUSTFLAGS", flags()?.join("\x1f"))
        .arg("--message-format=json-render-diagnostics");
    Ok(command)
}

fn built(command: &mut Command) -> Result<PathBuf> {
    let built = program::built(command)?;
    ensure!(is_static(&built)?, "{} asks for a loader, so it is not static", built.display());
    Ok(built)
}

/// Builds a program as a static one, but for development: in seconds, from what the tests have built already.
pub fn build_for_development(package: &str, program: &str) -> Result<PathBuf> {
    let mut command = program::cargo();
    command.args([
        "rustc",
        "--package",
        package,
        "--bin",
        program,
        "--message-format=json-render-diagnostics",
        "--",
    ]);
    built(command.args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"]))
}

fn flags() -> Result<Vec<String>> {
    let script = program::workspace_root().join("xtask/src/dist/no_unwinding.ld");
    let content = std::fs::read(&script).with_context(|| format!("read {}", script.display()))?;
    Ok(vec![
        // The default for musl.
        "-Ctarget-feature=+crt-static".into(),
        // A program at a fixed address has nothing to relocate before `main`.
        "-Crelocation-model=static".into(),
        // The profile says so too, but cargo ignores it for a package with settings of its own.
        "-Cstrip=symbols".into(),
        // A panic aborts, so nothing unwinds. The second and third leave out the tables of code that was compiled
        // before.
        "-Cforce-unwind-tables=no".into(),
        format!("-Clink-arg=-Wl,--script={}", script.display()),
        "-Clink-arg=-Wl,--no-eh-frame-hdr".into(),
        // Cargo does not look into linker scripts: this links again when the script has changed.
        format!("--cfg=linker_script=\"{}\"", sha256(&content)),
        // Names are hashed, a few bytes each. Detecting the processor's instructions takes longer than it saves.
        "--cfg=sha2_backend=\"soft\"".into(),
        "--cfg=sha2_backend_soft=\"compact\"".into(),
    ])
}

/// Puts what was built for a target to where cargo puts what it builds for none, `target/release`.
///
/// The file there may be another name of one that cargo keeps, or be running: it is replaced, not written to.
fn place(built: &Path, target: &str) -> Result<PathBuf> {
    let output: PathBuf = built.iter().filter(|folder| *folder != target).collect();
    let new = output.with_extension("new");
    let folder = output.parent().context("a program is in a folder")?;
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::copy(built, &new))
        .and_then(|_| std::fs::rename(&new, &output))
        .with_context(|| format!("copy {} to {}", built.display(), output.display()))?;
    Ok(output)
}

fn is_small(size: u64) -> bool {
    size <= SIZE_LIMIT
}

/// Whether an ELF file names no program interpreter.
fn is_static(program: &Path) -> Result<bool> {
    let headers = program::capture(Command::new("readelf").arg("--program-headers").arg(program))
        .context("readelf (Debian package binutils) looks at what was built")?;
    Ok(!headers.contains("INTERP"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_was_built_for_a_target_replaces_the_file_of_target_release_and_leaves_its_other_names_alone()
     {
        let folder = tempfile::tempdir().unwrap();
        let built = folder.path().join("x-unknown-linux-musl/release/rscni");
        let output = folder.path().join("release/rscni");
        let kept = folder.path().join("release/deps-rscni");
        for file in [&built, &output] {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        }
        std::fs::write(&built, "static").unwrap();
        std::fs::write(&output, "dynamic").unwrap();
        std::fs::hard_link(&output, &kept).unwrap();

        assert_eq!(place(&built, "x-unknown-linux-musl").unwrap(), output);

        assert_eq!(std::fs::read_to_string(&output).unwrap(), "static");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "dynamic");
        assert_ne!(
            std::fs::metadata(&output).unwrap().ino(),
            std::fs::metadata(&kept).unwrap().ino()
        );
    }

    #[test]
    fn a_program_of_four_million_bytes_is_small_enough_and_a_larger_one_is_not() {
        assert!(is_small(4_000_000));
        assert!(!is_small(4_000_001));
    }

    #[test]
    fn a_program_that_names_a_loader_is_not_static() {
        assert!(!is_static(&std::env::current_exe().unwrap()).unwrap());
    }
}
