//! Plugins and configurations to hold against the specification, and what comes out.

#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const RSCNI: &str = env!("CARGO_BIN_EXE_rscni");

/// The configurations, one for each plugin of this program.
pub(crate) fn cases() -> Vec<Value> {
    serde_json::from_str(include_str!("plugins.json")).unwrap()
}

fn case(plugin: &str) -> Value {
    cases().into_iter().find(|case| case["plugin"] == plugin).unwrap()
}

/// The plugins that are for User-Mode Linux, or those that are not.
pub(crate) fn names(uml: bool) -> BTreeSet<String> {
    let of = cases().into_iter().filter(|case| case["uml"] == uml);
    of.map(|case| case["plugin"].as_str().unwrap().to_owned()).collect()
}

/// The plugins for User-Mode Linux that have a master on the host, or those that have none: two programs, which run at the
/// same time.
pub(crate) fn uml_names(master: bool) -> BTreeSet<String> {
    let has_master = |name: &String| {
        case(name)["options"].as_array().unwrap().contains(&"--host-interface".into())
    };
    names(true).into_iter().filter(|name| has_master(name) == master).collect()
}

/// The plugins of this program under their names, and the plugin's configuration.
pub(crate) fn node(plugin: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for entry in rscni_plugins::ALL {
        std::os::unix::fs::symlink(RSCNI, dir.path().join(entry.name)).unwrap();
    }
    let config = dir.path().join("config");
    std::fs::write(&config, case(plugin)["config"].to_string()).unwrap();
    (dir, config)
}

/// Holds the plugin in the first of these directories that has it against the specification.
pub(crate) fn conformance(plugin: &str, dirs: &[&Path], config: &Path, options: &[&str]) -> Output {
    command(plugin, dirs, config, options).output().unwrap()
}

/// The command that does so.
pub(crate) fn command(plugin: &str, dirs: &[&Path], config: &Path, options: &[&str]) -> Command {
    let case = case(plugin);
    let mut command = Command::new(RSCNI);
    command.args(["conformance", "--plugin", plugin, "--config"]).arg(config);
    for dir in dirs {
        command.arg("--path").arg(dir);
    }
    let daemon = format!("{}/dhcp daemon", dirs[0].display());
    for own in case["options"].as_array().unwrap().iter().filter_map(Value::as_str) {
        command.arg(own.replace("DHCP_DAEMON", &daemon));
    }
    command.args(options);
    command
}

/// The report, which was asked for as JSON.
#[track_caller]
pub(crate) fn entries(output: &Output) -> Vec<Value> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    report["requirements"].as_array().unwrap().clone()
}

/// The ids of what is not met, of all requirements.
#[track_caller]
fn failures(output: &Output) -> BTreeSet<String> {
    let entries = entries(output);
    assert_eq!(entries.len(), rscni_conformance::ALL.len());
    let failed = entries.iter().filter(|entry| entry["verdict"] == "fail");
    failed.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

/// The plugin meets all requirements that concern it.
#[track_caller]
pub(crate) fn conforms(plugin: &str) {
    let (dir, config) = node(plugin);
    let output =
        conformance(plugin, &[dir.path()], &config, &["--format", "json", "--timeout", "10m"]);
    let of_interest = |entry: &Value| entry["verdict"] == "fail" || entry["id"] == "add-in-1.1.0";
    let told: Vec<_> = entries(&output).into_iter().filter(of_interest).collect();
    assert_eq!(failures(&output), BTreeSet::new(), "{told:#?}");
    // Where nothing can be attached, nothing concerns it.
    assert_eq!(told[0]["verdict"], "pass", "{told:#?}");
}

/// A test for each plugin, and the list of them.
macro_rules! each_conforms {
    ($($test:ident $plugin:literal)*) => {
        const TESTED: &[&str] = &[$($plugin),*];

        mod the_specification_is_met_by {
            $(#[test] fn $test() { super::subjects::conforms($plugin); })*
        }
    };
}
pub(crate) use each_conforms;
