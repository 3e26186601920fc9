//! A copy of an example builds outside of this workspace, with the dependencies of the READMEs.

use std::{fs, os::unix::fs::symlink, path::Path, process::Command};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The first `toml` block of a page.
fn manifest_in(page: &str) -> String {
    let text = fs::read_to_string(Path::new(ROOT).join(page)).unwrap();
    let (_, block) = text.split_once("```toml\n").unwrap_or_else(|| panic!("{page}: no TOML"));
    block.split_once("```").unwrap().0.to_owned()
}

/// Copies an example beside a checkout, and replaces its dependencies by `dependencies`.
fn copy_example(directory: &Path, name: &str, dependencies: &str) {
    let (from, to) = (Path::new(ROOT).join("examples").join(name), directory.join(name));
    fs::create_dir_all(to.join("src")).unwrap();
    fs::copy(from.join("src/main.rs"), to.join("src/main.rs")).unwrap();
    let manifest = fs::read_to_string(from.join("Cargo.toml")).unwrap();
    let (package, _) = manifest.split_once("# A copy outside").unwrap();
    fs::write(to.join("Cargo.toml"), format!("{package}{dependencies}")).unwrap();
    // The versions that this workspace has already fetched.
    fs::copy(Path::new(ROOT).join("Cargo.lock"), to.join("Cargo.lock")).unwrap();
}

/// Runs cargo without a network, with the artefacts of earlier runs. Returns its output.
fn cargo(directory: &Path, arguments: &[&str]) -> String {
    let out = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--offline")
        .current_dir(directory)
        .env("CARGO_TARGET_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/outside"))
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "cargo {arguments:?}:\n{stderr}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn an_example_builds_with_the_dependencies_of_the_readmes() {
    let directory = tempfile::tempdir().unwrap();
    symlink(ROOT, directory.path().join("rscni")).unwrap();
    for page in ["README.md", "crates/rscni/README.md"] {
        copy_example(directory.path(), "noop", &manifest_in(page));
        cargo(&directory.path().join("noop"), &["build"]);
    }
    let tree = cargo(&directory.path().join("noop"), &["tree", "--prefix", "none"]);
    assert!(tree.contains("rscni v") && !tree.contains("syn v"), "macros slow the build:\n{tree}");
    // The README of rscni-test has only the dependencies of tests. They are found, not built.
    let both = manifest_in("crates/rscni/README.md") + &manifest_in("crates/rscni-test/README.md");
    copy_example(directory.path(), "noop", &both);
    cargo(&directory.path().join("noop"), &["tree", "--edges", "dev"]);
}
