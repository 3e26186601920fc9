//! The step `supply` of `cargo xtask test`: licences, sources and versions of the dependencies, as
//! deny.toml has them; and the packages of the published crates ([`packages`](crate::packages)).
//!
//! These are the checks `licenses`, `bans` and `sources` of `cargo deny`, with the same file, for
//! machines that have neither that program nor a network. A crate's licence is the one in its
//! Cargo.toml; `cargo deny` also reads licence texts, and asks for advisories.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, Result, ensure};
use cargo_metadata::{MetadataCommand, Package};
use serde::Deserialize;
use spdx::{Expression, Licensee, ParseMode};
use xtask::program;

/// The rules of deny.toml that are checked here. A missing list is an error, as it would check
/// nothing.
#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Crate>,
    skip: Vec<Crate>,
}

#[derive(Deserialize)]
struct Crate {
    /// `NAME` or `NAME@MAJOR`.
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
    allow_git: Vec<String>,
}

/// Checks the dependencies of the whole workspace, tests and tasks included.
pub(crate) fn check() -> Result<ExitCode> {
    let file = program::workspace_root().join("deny.toml");
    let rules = Rules::read(&fs_err::read_to_string(file)?).context("read deny.toml")?;
    let packages = packages()?;
    let problems = rules.problems(&packages);
    ensure!(problems.is_empty(), "dependencies violate deny.toml:\n{}", problems.join("\n"));
    println!(
        "   {} crates, as deny.toml has them; advisories need a network: see CONTRIBUTING.md",
        packages.len()
    );
    crate::packages::check(&packages)?;
    Ok(ExitCode::SUCCESS)
}

fn packages() -> Result<Vec<Package>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = |more: &[&str]| {
        let options = ["--locked", "--all-features", "--filter-platform", &target];
        let options = options.iter().chain(more).map(|&option| option.to_owned());
        MetadataCommand::new()
            .manifest_path(program::workspace_root().join("Cargo.toml"))
            .other_options(options.collect::<Vec<_>>())
            .exec()
    };
    // A machine that has built nothing yet needs the network once.
    let packages = metadata(&["--offline"]).or_else(|_| metadata(&[]))?.packages;
    ensure!(
        packages.iter().any(|package| package.source.is_some()),
        "cargo metadata lists no dependency"
    );
    Ok(packages)
}

impl Rules {
    fn read(text: &str) -> Result<Self> {
        let rules: Self = toml::from_str(text)?;
        ensure!(rules.sources.allow_git.is_empty(), "git sources are not checked here");
        Ok(rules)
    }

    fn problems(&self, packages: &[Package]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut versions: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for package in packages {
            let (name, version) = (package.name.as_str(), package.version.to_string());
            let mut add = |problem| problems.push(format!("{name} {version}: {problem}"));
            match package.license.as_deref() {
                None => add("it names no licence".to_owned()),
                Some(license) => match self.allows(license) {
                    Ok(true) => {}
                    Ok(false) => add(format!("the licence {license:?} is not allowed")),
                    Err(error) => add(format!("{license:?}: {error}")),
                },
            }
            if let Some(source) = &package.source {
                let is_from = |it: &String| source.repr.strip_prefix("registry+") == Some(it);
                if !self.sources.allow_registry.iter().any(is_from) {
                    add(format!("the source {source} is not allowed"));
                }
            }
            if self.bans.deny.iter().any(|banned| banned.name == name) {
                add("it is banned".to_owned());
            }
            if !self.bans.skip.iter().any(|skipped| skipped.is(name, &version)) {
                versions.entry(name).or_default().push(version);
            }
        }
        versions.retain(|_, versions| versions.len() > 1);
        let versions = versions.iter();
        let doubled = versions
            .map(|(name, all)| format!("{name}: there are the versions {}", all.join(" and ")));
        problems.extend(doubled);
        problems
    }

    /// Whether the allowed licences satisfy an SPDX expression. Old expressions have `/` for `OR`.
    fn allows(&self, expression: &str) -> Result<bool> {
        let mut allowed = Vec::new();
        for license in &self.licenses.allow {
            allowed.push(Licensee::parse(license).context("read licenses.allow of deny.toml")?);
        }
        let expression = Expression::parse_mode(expression, ParseMode::LAX)
            .map_err(|error| anyhow::anyhow!("{}", error.reason))?;
        Ok(expression.evaluate(|required| allowed.iter().any(|one| one.satisfies(required))))
    }
}

impl Crate {
    fn is(&self, name: &str, version: &str) -> bool {
        match self.name.split_once('@') {
            None => self.name == name,
            Some((own, major)) => {
                own == name && version.strip_prefix(major).is_some_and(|rest| rest.starts_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TEXT: &str = r#"
[licenses]
# allow = ["GPL-3.0"]
allow = ["MIT", "Apache-2.0", "Unicode-3.0"]
[bans]
deny = [
    # Not this one: { crate = "serde" }
    { crate = "openssl-sys", reason = "no [C]" },
    { crate = "cc" },
]
skip = [
    { crate = "syn@2", reason = "x" },
]
[sources]
allow-registry = ["https://example.org/index"]
allow-git = []
"#;

    fn rules() -> Rules {
        Rules::read(TEXT).unwrap()
    }

    fn package(name: &str, version: &str, license: &str, source: &str) -> Package {
        let license = Some(license).filter(|license| !license.is_empty());
        let package = json!({"name": name, "version": version, "license": license,
            "source": source, "id": format!("{source}#{name}@{version}"), "dependencies": [],
            "targets": [], "features": {}, "manifest_path": "/x/Cargo.toml", "edition": "2024"});
        serde_json::from_value(package).unwrap()
    }

    const REGISTRY: &str = "registry+https://example.org/index";

    #[test]
    fn a_missing_list_or_a_git_source_is_an_error() {
        for key in ["allow = [\"MIT", "deny =", "skip =", "allow-registry", "allow-git"] {
            let text = TEXT.replace(key, "other = [\"x\"] #");
            assert!(Rules::read(&text).is_err(), "{key}");
        }
        let git = TEXT.replace("allow-git = []", "allow-git = [\"https://x\"]");
        assert!(Rules::read(&git).is_err());
    }

    #[test]
    fn licence_expressions_are_evaluated() {
        for good in [
            "MIT",
            "GPL-3.0-only OR MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 / GPL-3.0-only",
            "(MIT OR GPL-3.0-only) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert!(rules().allows(good).unwrap(), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND GPL-3.0-only",
            "Apache-2.0 WITH LLVM-exception",
            "MIT AND (GPL-3.0-only OR LGPL-3.0-only)",
        ] {
            assert!(!rules().allows(bad).unwrap(), "{bad}");
        }
        for none in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "AND"] {
            assert!(rules().allows(none).is_err(), "{none}");
        }
    }

    #[test]
    fn each_violation_is_reported() {
        let good = [
            package("a", "1.0.0", "MIT", REGISTRY),
            package("syn", "2.1.0", "MIT", REGISTRY),
            package("syn", "3.0.0", "MIT", REGISTRY),
        ];
        assert_eq!(rules().problems(&good), [""; 0]);
        let git = "git+https://example.org/x";
        for (bad, word) in [
            (package("a", "2.0.0", "MIT", REGISTRY), "versions 1.0.0 and 2.0.0"),
            (package("syn", "20.0.0", "MIT", REGISTRY), "versions 3.0.0 and 20.0.0"),
            (package("b", "1.0.0", "GPL-3.0-only", REGISTRY), "GPL-3.0-only"),
            (package("cc", "1.0.0", "MIT", REGISTRY), "banned"),
            (package("b", "1.0.0", "", REGISTRY), "names no licence"),
            (package("c", "1.0.0", "MIT", git), git),
        ] {
            let problems = rules().problems(&[&good[..], &[bad]].concat());
            assert!(problems.len() == 1 && problems[0].contains(word), "{problems:?}");
        }
    }
}
