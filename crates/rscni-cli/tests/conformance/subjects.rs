//! `rscni conformance` with the plugins of this program and the configurations of the catalogue.

#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Mutex,
};

use rscni_catalogue::{Row, Values, row, rows};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const RSCNI: &str = env!("CARGO_BIN_EXE_rscni");

/// Returns a directory with the plugins of this program, and a file in it with the configuration of
/// one of them.
pub(crate) fn node(plugin: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for entry in rscni_plugins::ALL {
        std::os::unix::fs::symlink(RSCNI, dir.path().join(entry.name)).unwrap();
    }
    let config = dir.path().join("config");
    let list = row(plugin).list("1.1.0", "conformance", &Values::default());
    std::fs::write(&config, list.to_string()).unwrap();
    (dir, config)
}

/// Checks the plugin in the first of these directories that has it.
pub(crate) fn conformance(plugin: &str, dirs: &[&Path], config: &Path, options: &[&str]) -> Output {
    command(plugin, dirs, config, options).output().unwrap()
}

/// Returns the command of [`conformance`].
pub(crate) fn command(plugin: &str, dirs: &[&Path], config: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(RSCNI);
    command.args(["conformance", "--plugin", plugin, "--config"]).arg(config);
    for dir in dirs {
        command.arg("--path").arg(dir);
    }
    command.args(row(plugin).conformance_options(&Values::default(), dirs[0])).args(options);
    command
}

/// Returns the requirements of a report in JSON.
#[track_caller]
pub(crate) fn entries(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    report["requirements"].as_array().unwrap().clone()
}

/// Asserts that each plugin of these rows meets all requirements that apply to it.
#[track_caller]
pub(crate) fn assert_conform(is_tested: fn(&Row) -> bool) {
    let tested: Vec<Row> = rows().into_iter().filter(is_tested).collect();
    assert!(!tested.is_empty());
    let failed = in_parallel(&tested, 6, |row| failures(&row.plugin));
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// Returns the requirements that the plugin fails.
fn failures(plugin: &str) -> Vec<String> {
    let (dir, config) = node(plugin);
    let options = ["--format", "json", "--timeout", "10m"];
    let entries = entries(&conformance(plugin, &[dir.path()], &config, &options));
    assert_eq!(entries.len(), rscni_conformance::ALL.len(), "{plugin}");
    // If nothing can be attached, no other requirement applies.
    let is_failure = |entry: &&Value| {
        entry["verdict"] == "fail" || (entry["id"] == "add-in-1.1.0" && entry["verdict"] != "pass")
    };
    entries.iter().filter(is_failure).map(|entry| format!("{plugin}: {entry:#}")).collect()
}

/// Calls `job` with each item in this many threads, and returns all that it finds.
pub(crate) fn in_parallel<T: Sync>(
    items: &[T],
    threads: usize,
    job: impl Fn(&T) -> Vec<String> + Sync,
) -> Vec<String> {
    let (left, found) = (Mutex::new(items.iter()), Mutex::new(Vec::new()));
    let work = || {
        while let Some(item) = { left.lock().unwrap().next() } {
            let new = job(item);
            found.lock().unwrap().extend(new);
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    found.into_inner().unwrap()
}
