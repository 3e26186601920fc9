//! `cargo xtask api`: the public API of the libraries beside its record in the repository.
//!
//! rustdoc describes a crate as JSON, which the crate `public-api` turns into lines. This format is
//! not stable, so rustdoc is told to accept it with `RUSTC_BOOTSTRAP`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use xtask::program;

/// The libraries whose API is recorded.
const LIBRARIES: [&str; 3] = ["rscni", "rscni-linux", "rscni-test"];

/// The format of rustdoc's JSON that the crate `public-api` reads.
const FORMAT: u32 = 57;

/// Traits that the compiler implements, and that no user of a library names.
const UNNAMED: [&str; 5] = [
    "impl core::marker::Freeze for ",
    "impl core::marker::Unpin for ",
    "impl core::marker::UnsafeUnpin for ",
    "impl core::panic::unwind_safe::RefUnwindSafe for ",
    "impl core::panic::unwind_safe::UnwindSafe for ",
];

/// Compares the API of the libraries with the records, or writes the records.
pub(crate) fn run(is_write: bool) -> Result<()> {
    let mut differences = Vec::new();
    for (library, json) in LIBRARIES.into_iter().zip(documented()?) {
        let api = api(&json).with_context(|| format!("read the public API of {library}"))?;
        let record = format!("crates/{library}/public-api.txt");
        let path = program::workspace_root().join(&record);
        if is_write {
            fs_err::write(path, api)?;
            continue;
        }
        let recorded = fs_err::read_to_string(path)?;
        differences.extend(difference(&recorded, &api).map(|lines| format!("{record}:\n{lines}")));
    }
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "the public API differs from its record in {}\
         `cargo xtask api --write` updates the record; CONTRIBUTING.md says what an incompatible \
         change needs",
        differences.join("")
    )
}

/// Lets rustdoc describe the libraries; returns its files.
fn documented() -> Result<[PathBuf; 3]> {
    // A directory of its own: build scripts run again if `RUSTC_BOOTSTRAP` changes.
    let target = program::workspace_root().join("target/api");
    let mut cargo = program::cargo();
    cargo.args(["doc", "--quiet", "--all-features", "--no-deps"]);
    cargo.args(LIBRARIES.map(|library| ["--package", library]).concat());
    cargo.arg("--target-dir").arg(&target);
    cargo.env("RUSTC_BOOTSTRAP", "1");
    cargo.env("RUSTDOCFLAGS", "-Zunstable-options --output-format=json --cap-lints=allow");
    program::foreground(&mut cargo)?;
    Ok(LIBRARIES.map(|library| target.join("doc").join(library.replace('-', "_") + ".json")))
}

/// The items of a library, one a line.
fn api(json: &Path) -> Result<String> {
    #[derive(Deserialize)]
    struct Header {
        format_version: u32,
    }
    let Header { format_version } = serde_json::from_slice(&fs_err::read(json)?)?;
    ensure!(
        format_version == FORMAT,
        "this Rust describes crates in format {format_version}, and the crate public-api of xtask \
         reads {FORMAT}; update it, or run `rustup run 1.95 cargo xtask api`"
    );
    let api = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).build()?;
    let lines = api.items().map(|item| format!("{item}\n"));
    Ok(lines.filter(|line| !UNNAMED.iter().any(|name| line.contains(name))).collect())
}

/// The lines that were removed and added; `None` if there are none.
fn difference(recorded: &str, present: &str) -> Option<String> {
    let [old, new] = [recorded, present].map(|text| text.lines().collect::<BTreeSet<_>>());
    let removed = old.difference(&new).map(|line| format!("- {line}\n"));
    let added = new.difference(&old).map(|line| format!("+ {line}\n"));
    let lines: String = removed.chain(added).collect();
    (!lines.is_empty()).then_some(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_added_items_are_listed() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert_eq!(difference("a\nb\n", "b\nc\n").as_deref(), Some("- a\n+ c\n"));
    }

    #[test]
    fn another_format_is_an_error_that_says_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), r#"{ "format_version": 7 }"#).unwrap();
        let error = api(file.path()).unwrap_err().to_string();
        assert!(error.contains("in format 7") && error.contains("rustup run"), "{error}");
    }
}
