//! `cargo xtask image`: the container image of the pod network, without a container engine.
//!
//! It contains the static programs `rscni` and `rscnid`, their bills of materials where scanners
//! find them, and licences. The same sources make the same image.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde_json::json;

use crate::{
    dist::{self, licences},
    oci::{self, Files, Image},
    program,
};

/// The image, as a runtime completes `rscni:VERSION` in `deploy/rscni.yaml`.
pub const NAME: &str = concat!("docker.io/library/rscni:", env!("CARGO_PKG_VERSION"));

/// The archive is smaller than this, as docs/kubernetes.md promises.
const SIZE_LIMIT: usize = 20_000_000;

/// Packages with their programs.
const PROGRAMS: [(&str, &str); 2] = [("rscni-cli", "rscni"), ("rscnid", "rscnid")];

/// musl is linked in, and its licence is not part of the Rust toolchain.
const MUSL: &str = include_str!("musl.txt");

/// Builds the image and prints where it is.
pub fn run() -> Result<ExitCode> {
    let (path, image) = build()?;
    println!("{}: {NAME}, {} kB", path.display(), image.archive.len() / 1000);
    println!("{}", image.digest);
    Ok(ExitCode::SUCCESS)
}

/// Builds the image, and returns it with the path of its archive.
pub fn build() -> Result<(PathBuf, Image)> {
    let mut files = Files::new();
    let mut directory = PathBuf::new();
    for (package, program) in PROGRAMS {
        let (built, bill) = dist::build_with_bill(package, program)?;
        files.insert(program.to_owned(), (0o755, fs::read(&built)?));
        files.insert(format!("{program}.cdx.json"), (0o644, fs::read(bill)?));
        built.parent().context("a program is in a directory")?.clone_into(&mut directory);
    }
    add_licences(&mut files)?;
    let image = assemble(&files)?;
    let size = image.archive.len();
    ensure!(is_small(size), "the image has {size} bytes; the limit is {SIZE_LIMIT}");
    let path = directory.join("rscni-image.tar");
    fs::write(&path, &image.archive)?;
    Ok((path, image))
}

fn is_small(size: usize) -> bool {
    size < SIZE_LIMIT
}

fn assemble(files: &Files) -> Result<Image> {
    let config = json!({
        "Entrypoint": ["/rscnid"],
        "Env": ["PATH=/"],
        "Labels": {
            "org.opencontainers.image.title": "rscni",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            "org.opencontainers.image.source": env!("CARGO_PKG_REPOSITORY"),
        },
    });
    oci::image(NAME, oci::tar(files)?, &config)
}

fn add_licences(files: &mut Files) -> Result<()> {
    files.insert("licenses/".to_owned(), (0o755, Vec::new()));
    let mut add = |name: &str, content: Vec<u8>| {
        files.insert(format!("licenses/{name}"), (0o644, content));
    };
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        add(name, fs::read(program::workspace_root().join(name))?);
    }
    add("crates.txt", licences::of(&PROGRAMS.map(|(package, _)| package))?.into_bytes());
    add("musl.txt", MUSL.into());
    let sysroot = program::output_of("rustc --print sysroot")?;
    let std = PathBuf::from(sysroot.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    let std = fs::read(std).context("read the licences of Rust's standard library")?;
    add("rust-std.html", std);
    Ok(())
}

#[cfg(test)]
mod tests;
