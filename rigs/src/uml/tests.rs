//! Finds, builds and runs the tests that belong into User-Mode Linux.
//!
//! The convention: a file `tests/uml_SOMETHING.rs` in any crate of the workspace, named in its Cargo.toml as
//!
//! ```toml
//! [[test]]
//! name = "uml_SOMETHING"
//! test = false
//! ```
//!
//! `test = false` keeps it from a plain `cargo test`, where it would fail, or worse, quietly do nothing, on a
//! kernel without the link kind; the name makes `cargo xtask test` build it and run it inside. A file with the
//! name but without the entry is an error here, so that none is ever left out.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::pool;
use xtask::{packages, program, tally::Tally};

/// A test program for User-Mode Linux.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) name: String,
    package: String,
    /// Where cargo would run it: the package's directory.
    directory: PathBuf,
}

/// All test programs of the workspace that belong into User-Mode Linux.
pub(crate) fn targets() -> Result<Vec<Target>> {
    let metadata = program::capture(program::cargo().args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]))?;
    let metadata =
        serde_json::from_str(&metadata).context("read the answer of `cargo metadata`")?;
    find(&metadata)
}

/// Builds all of them and runs each inside, several at once, since User-Mode Linux has one processor and waits a lot.
/// What they print is shown when they have ended.
pub(crate) fn run() -> Result<ExitCode> {
    packages::ensure("tests in User-Mode Linux", packages::FOR_UML)?;
    let targets = targets()?;
    if targets.is_empty() {
        bail!("the workspace has no test target named uml_*");
    }
    println!(
        "   These need what the running kernel may lack, such as VLANs on bridges: each program runs in a small"
    );
    println!(
        "   Linux of its own, User-Mode Linux, an ordinary process that leaves nothing here. Building them ..."
    );
    let programs = build(&targets)?;
    let waiting = Mutex::new(programs.into_iter());
    let next = || waiting.lock().expect("no other thread panics").next();
    let at_once = 2 * pool::processors();
    let (done, ended) = mpsc::channel();
    let mut failed = Vec::new();
    std::thread::scope(|scope| {
        for done in std::iter::repeat_n(done, at_once) {
            scope.spawn(move || {
                while let Some((target, program)) = next() {
                    // Nobody listens any more where an earlier one could not be run at all.
                    let _ = done.send((target, run_one(target, program)));
                }
            });
        }
        for (target, ran) in ended {
            let ran = ran?;
            println!("     Ran {}: {} in User-Mode Linux", target.package, target.name);
            let mut tally = Tally::default();
            for line in &ran.lines {
                println!("{line}");
                tally.read(line);
            }
            println!("     {} took {:.0?} with booting\n", target.name, ran.took);
            if tally == Tally::default() {
                bail!("{} ran no test in User-Mode Linux", target.name);
            }
            if ran.code != 0 {
                failed.push(target.name.as_str());
            }
        }
        Ok(())
    })?;
    if !failed.is_empty() {
        bail!("failed in User-Mode Linux: {}", failed.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

/// How a test program ended, and what it printed.
struct Ran {
    code: i32,
    lines: Vec<String>,
    took: Duration,
}

/// Runs a program until it passes: once, but for a processor of which not all registers are kept (see
/// [`start`](mod@super::start)). There a program may fail that cannot be told to do without them, such as what clears its
/// environment; a test that is wrong fails each time.
fn run_one(target: &Target, program: String) -> Result<Ran> {
    // Most of the time tests wait for the kernel to take namespaces apart.
    let command = [program, "--test-threads=4".to_owned()];
    let mut left = if super::start::tunables().is_empty() { 1 } else { ATTEMPTS };
    loop {
        left -= 1;
        match run_once(target, &command) {
            Ok(ran) if ran.code == 0 || left == 0 => return Ok(ran),
            Err(error) if left == 0 => return Err(error),
            _ => {
                println!("     {} failed; once more, as registers may have been lost", target.name);
            }
        }
    }
}

const ATTEMPTS: usize = 4;

fn run_once(target: &Target, command: &[String]) -> Result<Ran> {
    let start = Instant::now();
    let mut lines = Vec::new();
    let code =
        super::run_in_uml(command, &target.directory, &mut |line| lines.push(line.to_owned()))
            .with_context(|| format!("{}, which printed:\n{}", target.name, lines.join("\n")))?;
    Ok(Ran { code, lines, took: start.elapsed() })
}

fn find(metadata: &Value) -> Result<Vec<Target>> {
    let mut found = Vec::new();
    for package in list(metadata, "packages") {
        let manifest = Path::new(text(package, "manifest_path"));
        for target in list(package, "targets") {
            let name = text(target, "name");
            let is_test = list(target, "kind").iter().any(|kind| kind == "test");
            if !is_test || !name.starts_with("uml_") {
                continue;
            }
            if target["test"] != Value::Bool(false) {
                bail!(
                    "the test {name} runs in User-Mode Linux only: add this to {}\n\n\
                     [[test]]\nname = \"{name}\"\ntest = false\n",
                    manifest.display()
                );
            }
            found.push(Target {
                name: name.to_owned(),
                package: text(package, "name").to_owned(),
                directory: manifest.parent().unwrap_or(manifest).to_path_buf(),
            });
        }
    }
    Ok(found)
}

/// Builds the targets, and gives each with the path of its program.
fn build(targets: &[Target]) -> Result<Vec<(&Target, String)>> {
    let mut command = program::cargo();
    command.args(["test", "--workspace", "--all-features", "--no-run", "--quiet"]);
    command.arg("--message-format=json-render-diagnostics");
    for target in targets {
        command.args(["--test", &target.name]);
    }
    command.stderr(std::process::Stdio::inherit());
    let messages = program::capture(&mut command)?;
    let messages: Vec<Value> = messages
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .context("read the messages of `cargo test --no-run`")?;
    targets
        .iter()
        .map(|target| {
            let program = messages
                .iter()
                .find(|message| is_program_of(message, target))
                .map(|message| text(message, "executable").to_owned())
                .with_context(|| format!("cargo built no program for the test {}", target.name))?;
            Ok((target, program))
        })
        .collect()
}

fn is_program_of(message: &Value, target: &Target) -> bool {
    message["reason"] == "compiler-artifact"
        && message["target"]["name"] == target.name.as_str()
        && Path::new(text(message, "manifest_path")).parent() == Some(&target.directory)
        && message["executable"].is_string()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod unit {
    use super::*;
    use serde_json::json;

    fn metadata(target: &Value) -> Value {
        json!({"packages": [{"name": "plug", "manifest_path": "/w/plug/Cargo.toml", "targets": [
            {"name": "plug", "kind": ["lib"], "test": true},
            {"name": "bridge", "kind": ["test"], "test": true},
            target,
        ]}]})
    }

    #[test]
    fn a_test_named_uml_is_found_with_the_directory_it_runs_in() {
        let found =
            find(&metadata(&json!({"name": "uml_vlan", "kind": ["test"], "test": false}))).unwrap();
        let expected =
            Target { name: "uml_vlan".into(), package: "plug".into(), directory: "/w/plug".into() };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn one_that_a_plain_cargo_test_would_run_is_refused_with_what_to_add() {
        let error = find(&metadata(&json!({"name": "uml_vlan", "kind": ["test"], "test": true})))
            .unwrap_err();
        assert!(error.to_string().contains("name = \"uml_vlan\"\ntest = false"));
    }

    #[test]
    fn a_library_of_that_name_is_none_of_ours() {
        let found =
            find(&metadata(&json!({"name": "uml_vlan", "kind": ["lib"], "test": true}))).unwrap();
        assert_eq!(found, []);
    }
}
