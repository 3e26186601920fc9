//! Checks that every published crate packages, with what its page in a registry needs: part of the
//! step `supply`.

use anyhow::{Result, ensure};
use cargo_metadata::Package;
use xtask::program;

/// The files that every package contains.
const FILES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Checks the crates of the workspace that are not `publish = false`.
pub(crate) fn check(packages: &[Package]) -> Result<()> {
    let is_ours = |package: &&Package| package.source.is_none() && package.publish.is_none();
    let ours: Vec<_> = packages.iter().filter(is_ours).collect();
    ensure!(!ours.is_empty(), "the workspace has no crate to publish");
    let mut problems: Vec<_> = ours.iter().flat_map(|package| problems(package)).collect();
    for package in &ours {
        let list = program::capture(cargo_package(&[package]).arg("--list"))?;
        problems.extend(missing_files(&list).map(|file| format!("{}: no {file}", package.name)));
    }
    ensure!(problems.is_empty(), "crates cannot be published:\n{}", problems.join("\n"));
    // Together, since none of their dependencies on each other is in the registry.
    program::capture(&mut cargo_package(&ours))?;
    println!("   {} crates package, with licences, readme and metadata", ours.len());
    Ok(())
}

fn cargo_package(packages: &[&Package]) -> std::process::Command {
    let mut cargo = program::cargo();
    cargo.args(["package", "--quiet", "--offline", "--no-verify", "--allow-dirty"]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package.name.as_str()]));
    cargo
}

fn missing_files(list: &str) -> impl Iterator<Item = &'static str> {
    FILES.into_iter().filter(|file| !list.lines().any(|line| line == *file))
}

fn problems(package: &Package) -> Vec<String> {
    let is_library = package.targets.iter().any(cargo_metadata::Target::is_lib);
    let docs = &package.metadata["docs"]["rs"];
    let checks = [
        (package.description.is_none(), "no description"),
        (package.readme.is_none(), "no readme"),
        (package.repository.is_none(), "no repository"),
        (package.keywords.is_empty() || package.keywords.len() > 5, "not 1 to 5 keywords"),
        (package.categories.is_empty(), "no categories"),
        (is_library && docs["all-features"] != true, "docs.rs: no all-features"),
        (
            is_library && docs["rustdoc-args"] != serde_json::json!(["--cfg", "docsrs"]),
            "docs.rs: no `--cfg docsrs`",
        ),
        (is_library && !labels_features(package), "no `cfg_attr(docsrs, feature(doc_cfg))`"),
    ];
    let problems = checks.into_iter().filter(|(is_wrong, _)| *is_wrong);
    problems.map(|(_, problem)| format!("{}: {problem}", package.name)).collect()
}

/// Whether the documentation on docs.rs shows which feature an item needs.
fn labels_features(package: &Package) -> bool {
    let library = package.targets.iter().find(|target| target.is_lib());
    library.is_some_and(|library| {
        fs_err::read_to_string(library.src_path.as_std_path())
            .is_ok_and(|text| text.contains("#![cfg_attr(docsrs, feature(doc_cfg))]"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn package(change: impl FnOnce(&mut Value)) -> Package {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/rscni");
        let mut package = json!({"name": "a", "version": "1.0.0", "id": "a", "dependencies": [],
            "description": "d", "readme": "README.md", "repository": "https://x",
            "keywords": ["k"], "categories": ["c"], "features": {}, "edition": "2024",
            "metadata": { "docs": { "rs": { "all-features": true,
                                            "rustdoc-args": ["--cfg", "docsrs"] } } },
            "targets": [{ "name": "a", "kind": ["lib"], "crate_types": ["lib"],
                          "src_path": format!("{root}/src/lib.rs") }],
            "manifest_path": "/x/Cargo.toml"});
        change(&mut package);
        serde_json::from_value(package).unwrap()
    }

    #[test]
    fn each_missing_key_of_a_manifest_is_reported() {
        assert_eq!(problems(&package(|_| {})), [""; 0]);
        for key in ["description", "readme", "repository", "keywords", "categories"] {
            let lacking =
                package(|it| it[key] = if it[key].is_array() { json!([]) } else { Value::Null });
            let found = problems(&lacking);
            assert!(found.len() == 1 && found[0].contains(key), "{key}: {found:?}");
        }
        assert_eq!(problems(&package(|it| it["metadata"] = Value::Null)).len(), 2);
        let main = concat!(env!("CARGO_MANIFEST_DIR"), "/src/main.rs");
        let source = |it: &mut Value| it["targets"][0]["src_path"] = main.into();
        assert_eq!(problems(&package(source)), ["a: no `cfg_attr(docsrs, feature(doc_cfg))`"]);
    }

    #[test]
    fn a_missing_file_of_a_package_is_named() {
        let list = "Cargo.toml\nLICENSE-APACHE\nREADME.md\nsrc/lib.rs\n";
        assert_eq!(missing_files(list).collect::<Vec<_>>(), ["LICENSE-MIT"]);
    }
}
