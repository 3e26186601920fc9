//! Finds, builds and runs the tests for User-Mode Linux.
//!
//! They are files `tests/uml_SOMETHING.rs` of any crate of the workspace, named in its Cargo.toml
//! as
//!
//! ```toml
//! [[test]]
//! name = "uml_SOMETHING"
//! test = false
//! ```
//!
//! `test = false` keeps them out of a plain `cargo test`, where they would fail on a kernel without
//! the link kind. The step `uml` of `cargo xtask test` builds and runs them. A file without the
//! entry is an error.

use std::{
    io::Write,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Message, camino::Utf8PathBuf};
use xtask::{packages, program, tally::Tally};

use super::Job;
use crate::pool;

/// A test program for User-Mode Linux.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    name: String,
    program: String,
    /// Working directory for cargo's tests: the directory of the package.
    directory: PathBuf,
}

/// Attempts on a processor whose registers are hidden (see [`start`](mod@super::start)). A program
/// that clears its environment loses the tunables and may fail there; a wrong test fails each time.
const ATTEMPTS: usize = 4;

/// Builds all programs and runs each inside, several at a time: User-Mode Linux has one processor
/// and waits a lot.
pub(crate) fn run() -> Result<ExitCode> {
    packages::ensure("tests in User-Mode Linux", packages::FOR_UML)?;
    println!(
        "   These need features that the running kernel may lack, such as VLANs on bridges. Each\n   \
         program runs in User-Mode Linux, an ordinary process that leaves nothing behind.\n   \
         Building them ..."
    );
    let targets = build()?;
    ensure!(!targets.is_empty(), "the workspace has no test target named uml_*");
    let passed = pool::run(targets, 2 * pool::processors(), |target| {
        let start = Instant::now();
        let (code, lines) = target.run()?;
        let mut tally = Tally::default();
        for line in &lines {
            tally.read(line);
        }
        ensure!(tally != Tally::default(), "{} ran no test in User-Mode Linux", target.name);
        let took = start.elapsed();
        let mut out = std::io::stdout().lock();
        writeln!(out, "     Ran {} in User-Mode Linux\n{}", target.name, lines.join("\n"))?;
        writeln!(out, "     {} took {took:.0?} with booting\n", target.name)?;
        Ok((target.name, code == 0))
    })?;
    let failed: Vec<_> =
        passed.into_iter().filter_map(|(name, passed)| (!passed).then_some(name)).collect();
    ensure!(failed.is_empty(), "failed in User-Mode Linux: {}", failed.join(", "));
    Ok(ExitCode::SUCCESS)
}

impl Target {
    /// Runs the program until it passes or there are no attempts left; returns its exit code and
    /// output.
    fn run(&self) -> Result<(i32, Vec<String>)> {
        let command = vec![self.program.clone(), "--test-threads=4".to_owned()];
        let job = Job {
            in_use: true,
            limit: Duration::from_secs(900),
            ..Job::new(command, &self.directory)
        };
        let mut left = if super::start::tunables().is_empty() { 1 } else { ATTEMPTS };
        loop {
            let mut lines = Vec::new();
            let code = job
                .run(&mut |line| lines.push(line.to_owned()))
                .with_context(|| format!("{}, which printed:\n{}", self.name, lines.join("\n")));
            left -= 1;
            match code {
                Ok(code) if code == 0 || left == 0 => return Ok((code, lines)),
                Err(error) if left == 0 => return Err(error),
                _ => println!("     {} failed; retrying, registers may have been lost", self.name),
            }
        }
    }
}

fn build() -> Result<Vec<Target>> {
    let mut command = program::cargo();
    command.args(["test", "--workspace", "--all-features", "--no-run", "--quiet"]);
    command
        .args(["--test", "uml_*", program::JSON_MESSAGES])
        .stderr(std::process::Stdio::inherit());
    targets(&program::capture(&mut command)?)
}

/// Reads the messages of `cargo test --no-run`.
fn targets(messages: &str) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for message in Message::parse_stream(messages.as_bytes()) {
        let Message::CompilerArtifact(artifact) = message? else { continue };
        let Some(program) = artifact.executable.filter(|_| artifact.target.is_test()) else {
            continue;
        };
        let name = artifact.target.name;
        if artifact.target.test {
            bail!(
                "the test {name} runs in User-Mode Linux only: add this to {}\n\n\
                 [[test]]\nname = \"{name}\"\ntest = false\n",
                artifact.manifest_path
            );
        }
        let directory = artifact.manifest_path.parent().map(Utf8PathBuf::from).unwrap_or_default();
        targets.push(Target { name, program: program.into(), directory: directory.into() });
    }
    Ok(targets)
}

#[cfg(test)]
mod unit {
    use serde_json::json;

    use super::*;

    fn message(kind: &str, is_run_by_cargo_test: bool) -> String {
        let profile = json!({"opt_level": "0", "debuginfo": 1, "debug_assertions": true,
            "overflow_checks": true, "test": true});
        let target = json!({"kind": [kind], "crate_types": ["bin"], "name": "uml_vlan",
            "src_path": "/w/plug/tests/uml_vlan.rs", "edition": "2024", "doc": false,
            "doctest": false, "test": is_run_by_cargo_test});
        json!({"reason": "compiler-artifact", "package_id": "plug 0.1.0",
            "manifest_path": "/w/plug/Cargo.toml", "target": target, "profile": profile,
            "features": [], "filenames": [], "executable": "/w/target/uml_vlan", "fresh": true})
        .to_string()
    }

    #[test]
    fn a_test_program_has_the_directory_of_its_package() {
        let expected = Target {
            name: "uml_vlan".into(),
            program: "/w/target/uml_vlan".into(),
            directory: "/w/plug".into(),
        };
        assert_eq!(targets(&message("test", false)).unwrap(), [expected]);
    }

    #[test]
    fn a_test_that_cargo_test_runs_too_is_rejected_with_the_entry_to_add() {
        let error = targets(&message("test", true)).unwrap_err();
        assert!(error.to_string().contains("name = \"uml_vlan\"\ntest = false"));
    }

    #[test]
    fn a_program_that_is_no_test_is_ignored() {
        assert_eq!(targets(&message("bin", false)).unwrap(), []);
    }
}
