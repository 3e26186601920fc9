//! The licence texts of the crates that are linked into programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use fs_err as fs;
use serde::Deserialize;

use super::{bom, target};
use crate::program;

/// Names of the files with licences begin so, in any case.
const NAMES: [&str; 4] = ["licen", "copying", "notice", "unlicen"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: String,
    manifest_path: PathBuf,
}

/// Returns the texts of the crates of other projects, each text once.
pub(crate) fn of(packages: &[&str]) -> Result<String> {
    let mut linked = BTreeSet::new();
    for package in packages {
        let crates = bom::linked(package, &target::musl())?.into_values();
        linked.extend(crates.map(|it| (it.name, it.version)));
    }
    let mut metadata = program::cargo();
    metadata.args(["metadata", "--format-version", "1", "--locked"]);
    metadata.args(["--filter-platform", &target::musl()]);
    let metadata: Metadata = serde_json::from_str(&program::capture(&mut metadata)?)
        .context("read the output of cargo metadata")?;
    let root = program::workspace_root();
    let is_foreign = |package: &&Package| {
        linked.contains(&(package.name.clone(), package.version.clone()))
            && !package.manifest_path.starts_with(&root)
    };
    let mut by_text: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in metadata.packages.iter().filter(is_foreign) {
        let shown = format!("{} {} ({})", package.name, package.version, package.license);
        for text in texts(package)? {
            by_text.entry(text).or_default().insert(shown.clone());
        }
    }
    ensure!(!by_text.is_empty(), "cargo metadata lists none of the linked crates");
    Ok(together(&by_text))
}

/// Returns the texts in a crate. Without any, only the name of its licence is known.
fn texts(package: &Package) -> Result<Vec<String>> {
    let directory = package.manifest_path.parent().context("a manifest is in a directory")?;
    let mut texts = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        if entry.file_type()?.is_file() && NAMES.iter().any(|start| name.starts_with(start)) {
            texts.push(fs::read_to_string(entry.path())?.trim().replace("\r\n", "\n"));
        }
    }
    if texts.is_empty() {
        texts.push("The crate contains no licence text.".to_owned());
    }
    Ok(texts)
}

fn together(by_text: &BTreeMap<String, BTreeSet<String>>) -> String {
    let mut sections: Vec<_> = by_text.iter().map(|(text, crates)| (crates, text)).collect();
    sections.sort();
    let mut all = String::new();
    for (crates, text) in sections {
        for one in crates {
            // Writing to a string cannot fail.
            let _ = writeln!(all, "{one}");
        }
        let _ = writeln!(all, "\n{text}\n\n{}\n", "-".repeat(72));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_of_linked_crates_of_other_projects_are_listed() {
        let all = of(&["rscni-cli"]).unwrap();
        let has = |name: &str| all.lines().any(|line| line.starts_with(name));
        assert!(has("serde 1.") && has("rustix 1."), "{all}");
        assert!(!has("rscni-linux ") && !has("proptest ") && !has("kube "), "{all}");
        assert!(all.contains("Permission is hereby granted"), "{all}");
    }

    #[test]
    fn text_of_several_crates_is_written_once() {
        let crates = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let by_text =
            [("MIT".to_owned(), crates(&["b 1", "c 1"])), ("ISC".into(), crates(&["a 1"]))];
        let all = together(&by_text.into());
        assert!(all.starts_with("a 1\n\nISC\n\n---") && all.contains("b 1\nc 1\n\nMIT\n"), "{all}");
    }
}
