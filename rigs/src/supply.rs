//! The step `supply` of `cargo xtask test`: dependencies have the licences, come from the places, and are there in one
//! version each, as deny.toml says.
//!
//! These are the checks `licenses`, `bans` and `sources` of `cargo deny`, from the same file, for machines that have
//! neither that program nor a network. A crate counts by what its `Cargo.toml` says; `cargo deny` reads the texts of
//! licences besides, and asks for advisories.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use xtask::program;

/// What deny.toml says.
#[derive(Debug, PartialEq, Eq)]
struct Rules {
    licenses: Vec<String>,
    banned: Vec<String>,
    /// Crates, `NAME@MAJOR` or by their name alone, that may be there beside another version.
    skipped: Vec<String>,
    registries: Vec<String>,
}

/// As `cargo metadata` prints it.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Clone, Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// None for those of the workspace.
    source: Option<String>,
}

/// Checks the dependencies of everything in the workspace, tests and tasks too.
pub(crate) fn check() -> Result<ExitCode> {
    let path = program::workspace_root().join("deny.toml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rules = Rules::read(&text)?;
    let packages = packages()?;
    let problems = rules.problems(&packages);
    ensure!(
        problems.is_empty(),
        "the dependencies are not as deny.toml has them:\n{}",
        problems.join("\n")
    );
    println!(
        "   {} crates, as deny.toml has them; advisories need a network: see CONTRIBUTING.md",
        packages.len()
    );
    Ok(ExitCode::SUCCESS)
}

fn packages() -> Result<Vec<Package>> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = |more: &[&str]| {
        let mut cargo = program::cargo();
        cargo.args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--all-features",
            "--filter-platform",
            &target,
        ]);
        program::capture(cargo.args(more))
    };
    // What has been built is there. On a machine that has built nothing yet, cargo has to fetch it.
    let text = metadata(&["--offline"]).or_else(|_| metadata(&[]))?;
    let Metadata { packages } =
        serde_json::from_str(&text).context("read what cargo metadata says")?;
    ensure!(
        packages.iter().any(|package| package.source.is_some()),
        "cargo metadata says that nothing is needed"
    );
    Ok(packages)
}

impl Rules {
    /// Reads the lists that are checked here.
    ///
    /// # Errors
    /// If one of them is missing: it would be a check that nothing fails.
    fn read(text: &str) -> Result<Self> {
        let list = |section: &str, key: &str| {
            strings(text, section, key)
                .with_context(|| format!("deny.toml has no {key} in [{section}]"))
        };
        let rules = Self {
            licenses: list("licenses", "allow")?,
            banned: list("bans", "deny")?,
            skipped: list("bans", "skip")?,
            registries: list("sources", "allow-registry")?,
        };
        ensure!(
            !rules.licenses.is_empty() && !rules.registries.is_empty(),
            "deny.toml allows nothing at all"
        );
        ensure!(
            list("sources", "allow-git")?.is_empty(),
            "sources that are git repositories are not checked here"
        );
        Ok(rules)
    }

    fn problems(&self, packages: &[Package]) -> Vec<String> {
        let mut problems = Vec::new();
        let mut versions: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
        for package in packages {
            let Package { name, version, .. } = package;
            versions.entry(name).or_default().push(package);
            match package.license.as_deref().map(|license| self.allows(license)) {
                Some(Ok(true)) => {}
                Some(Ok(false)) => problems.push(format!(
                    "{name} {version}: the licence {:?} is not one of {}",
                    package.license.as_deref().unwrap_or_default(),
                    self.licenses.join(", ")
                )),
                Some(Err(problem)) => problems.push(format!("{name} {version}: {problem}")),
                None => problems.push(format!("{name} {version}: it does not say its licence")),
            }
            let is_from = |registry: &String| {
                package.source.as_deref() == Some(&*format!("registry+{registry}"))
            };
            if package.source.is_some() && !self.registries.iter().any(is_from) {
                let source = package.source.as_deref().unwrap_or_default();
                problems.push(format!(
                    "{name} {version}: it comes from {source}, which is not allowed"
                ));
            }
            if self.banned.contains(name) {
                problems.push(format!("{name} {version}: it is banned"));
            }
        }
        for (name, all) in versions {
            let counted: Vec<_> = all
                .iter()
                .filter(|package| !self.skips(package))
                .map(|one| &*one.version)
                .collect();
            if counted.len() > 1 {
                problems.push(format!("{name}: there are the versions {}", counted.join(" and ")));
            }
        }
        problems
    }

    fn skips(&self, package: &Package) -> bool {
        self.skipped.iter().any(|skipped| match skipped.split_once('@') {
            None => *skipped == package.name,
            Some((name, version)) => {
                name == package.name
                    && (version == package.version
                        || package.version.starts_with(&format!("{version}.")))
            }
        })
    }

    /// Whether an SPDX expression can be met with the licences that are allowed. An old `/` is an `OR`.
    fn allows(&self, expression: &str) -> Result<bool, String> {
        let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let (is_allowed, rest) = self
            .any_of(&words)
            .ok_or_else(|| format!("{expression:?} is no licence expression"))?;
        if rest.is_empty() {
            Ok(is_allowed)
        } else {
            Err(format!("{expression:?} is no licence expression"))
        }
    }

    fn any_of<'a, 'w>(&self, words: &'w [&'a str]) -> Option<(bool, &'w [&'a str])> {
        let (mut is_allowed, mut words) = self.all_of(words)?;
        while let ["OR", rest @ ..] = words {
            let (other, rest) = self.all_of(rest)?;
            (is_allowed, words) = (is_allowed || other, rest);
        }
        Some((is_allowed, words))
    }

    fn all_of<'a, 'w>(&self, words: &'w [&'a str]) -> Option<(bool, &'w [&'a str])> {
        let (mut is_allowed, mut words) = self.one(words)?;
        while let ["AND", rest @ ..] = words {
            let (other, rest) = self.one(rest)?;
            (is_allowed, words) = (is_allowed && other, rest);
        }
        Some((is_allowed, words))
    }

    fn one<'a, 'w>(&self, words: &'w [&'a str]) -> Option<(bool, &'w [&'a str])> {
        let has = |license: &str| self.licenses.iter().any(|allowed| allowed == license);
        match words {
            ["(", rest @ ..] => match self.any_of(rest)? {
                (is_allowed, [")", rest @ ..]) => Some((is_allowed, rest)),
                _ => None,
            },
            ["OR" | "AND" | "WITH" | ")", ..] | [] => None,
            // An exception allows more, but it is another licence: cargo deny wants it listed too.
            [license, "WITH", exception, rest @ ..] => {
                Some((has(&format!("{license} WITH {exception}")), rest))
            }
            [license, rest @ ..] => Some((has(license), rest)),
        }
    }
}

/// The strings of a list in TOML as deny.toml has it; of tables in it those of their key `crate`. None if there is no
/// such list.
fn strings(text: &str, section: &str, key: &str) -> Option<Vec<String>> {
    let mut lines =
        text.lines().map(str::trim).skip_while(|line| *line != format!("[{section}]")).skip(1);
    let start = lines.by_ref().take_while(|line| !line.starts_with('[')).find_map(|line| {
        line.strip_prefix(key)?.trim_start().strip_prefix('=')?.trim_start().strip_prefix('[')
    })?;
    let mut found = Vec::new();
    let mut line = start;
    loop {
        let line_without_comment = if line.starts_with('#') { "" } else { line };
        let (entries, is_last) = match line_without_comment.strip_suffix(']') {
            Some(entries) => (entries, true),
            None => (line_without_comment, false),
        };
        if entries.contains('{') {
            found.push(entries.split_once("crate = \"")?.1.split_once('"')?.0.to_owned());
        } else {
            found.extend(entries.split('"').skip(1).step_by(2).map(str::to_owned));
        }
        if is_last {
            return Some(found);
        }
        line = lines.next()?;
    }
}

#[cfg(test)]
mod tests {
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

    fn package(name: &str, version: &str, license: &str) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            license: Some(license.into()),
            source: Some("registry+https://example.org/index".into()),
        }
    }

    #[test]
    fn the_lists_of_deny_toml_are_read() {
        assert_eq!(
            rules(),
            Rules {
                licenses: ["MIT", "Apache-2.0", "Unicode-3.0"].map(Into::into).into(),
                banned: ["openssl-sys", "cc"].map(Into::into).into(),
                skipped: vec!["syn@2".into()],
                registries: vec!["https://example.org/index".into()],
            }
        );
        for key in ["allow = [\"MIT", "deny =", "skip =", "allow-registry", "allow-git"] {
            assert!(Rules::read(&TEXT.replace(key, "other = [\"x\"]\n")).is_err(), "{key}");
        }
        assert!(
            Rules::read(&TEXT.replace("allow-git = []", "allow-git = [\"https://x\"]")).is_err()
        );
    }

    #[test]
    fn licence_expressions_are_met_or_not() {
        for good in [
            "MIT",
            "GPL-3.0 OR MIT",
            "MIT/Apache-2.0",
            "Apache-2.0 / GPL-3.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR MIT",
        ] {
            assert_eq!(rules().allows(good), Ok(true), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "Apache-2.0 WITH LLVM-exception",
            "MIT AND (GPL-3.0 OR LGPL-3.0)",
        ] {
            assert_eq!(rules().allows(bad), Ok(false), "{bad}");
        }
        for none in ["", "MIT OR", "(MIT", "MIT)", "MIT Apache-2.0", "AND"] {
            assert!(rules().allows(none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_is_not_as_the_file_says_is_told() {
        let good = [
            package("a", "1.0.0", "MIT"),
            package("syn", "2.1.0", "MIT"),
            package("syn", "3.0.0", "MIT"),
        ];
        assert_eq!(rules().problems(&good), [""; 0]);
        let unlicensed = Package { license: None, ..package("b", "1.0.0", "") };
        let elsewhere = Package {
            source: Some("git+https://example.org/x".into()),
            ..package("c", "1.0.0", "MIT")
        };
        for (bad, word) in [
            (package("a", "2.0.0", "MIT"), "versions 1.0.0 and 2.0.0"),
            (package("syn", "20.0.0", "MIT"), "versions 3.0.0 and 20.0.0"),
            (package("b", "1.0.0", "GPL-3.0"), "GPL-3.0"),
            (package("cc", "1.0.0", "MIT"), "banned"),
            (unlicensed, "does not say"),
            (elsewhere, "git+https://example.org/x"),
        ] {
            let problems = rules().problems(&[&good[..], &[bad]].concat());
            assert!(problems.len() == 1 && problems[0].contains(word), "{problems:?}");
        }
    }
}
