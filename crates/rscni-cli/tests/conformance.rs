//! `rscni conformance`: the plugins of this program are held against the specification, and plugins that break it are
//! found out.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rstest::rstest;
use serde_json::Value;
use tempfile::TempDir;

const RSCNI: &str = env!("CARGO_BIN_EXE_rscni");

/// A plugin's entry in the list of configurations.
fn case(plugin: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(include_str!("conformance/plugins.json")).unwrap();
    all.into_iter().find(|case| case["plugin"] == plugin).unwrap()
}

/// The plugins of this program under their names, and the plugin's configuration.
fn node(plugin: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for entry in rscni_plugins::ALL {
        std::os::unix::fs::symlink(RSCNI, dir.path().join(entry.name)).unwrap();
    }
    let config = dir.path().join("config");
    std::fs::write(&config, case(plugin)["config"].to_string()).unwrap();
    (dir, config)
}

fn conformance(plugin: &str, dir: &Path, config: &Path, options: &[&str]) -> Output {
    let case = case(plugin);
    let own: Vec<_> = case["options"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let mut command = Command::new(RSCNI);
    command.args(["conformance", "--plugin", plugin, "--config"]).arg(config).arg("--path").arg(dir);
    command.args(own).args(options).output().unwrap()
}

/// The ids of what is not met.
fn failures(output: &Output) -> BTreeSet<String> {
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let entries = report["requirements"].as_array().unwrap();
    assert_eq!(entries.len(), rscni_conformance::ALL.len());
    let failed = entries.iter().filter(|entry| entry["verdict"] == "fail");
    failed.map(|entry| entry["id"].as_str().unwrap().to_owned()).collect()
}

/// What is not met by each, with the reason in docs/conformance.md.
#[rstest]
#[case::bridge("bridge", &[])]
#[case::host_local("host-local", &[])]
#[case::loopback("loopback", &[])]
#[case::portmap("portmap", &[])]
#[case::ptp("ptp", &[])]
#[case::fixed("static", &["check-after-del"])]
#[case::tuning("tuning", &[])]
fn the_plugins_of_this_program_do_what_the_specification_wants(#[case] plugin: &str, #[case] known: &[&str]) {
    let (dir, config) = node(plugin);
    let output = conformance(plugin, dir.path(), &config, &["--format", "json"]);
    assert_eq!(failures(&output), known.iter().map(|id| (*id).to_owned()).collect());
}

/// host-local, behind a script of a shell that does something wrong: `real` is the plugin, `$config` its stdin.
#[rstest]
#[case::more_on_stdout(r#"[ "$CNI_COMMAND" = ADD ] && [ -n "$CNI_CONTAINERID" ] && echo garbage; real"#, "add-stdout")]
#[case::del_is_loud(r#"[ "$CNI_COMMAND" = DEL ] && echo '[]'; real"#, "del-silent")]
#[case::check_is_loud(r#"[ "$CNI_COMMAND" = CHECK ] && echo '[]'; real"#, "check-silent")]
#[case::gc_is_loud(r#"[ "$CNI_COMMAND" = GC ] && echo '[]'; real"#, "gc-silent")]
#[case::status_is_loud(r#"[ "$CNI_COMMAND" = STATUS ] && echo '[]'; real"#, "status-silent")]
#[case::errors_end_well("real; exit 0", "error-exit")]
#[case::one_version(r#"if [ "$CNI_COMMAND" = VERSION ]; then config='{}'; fi; real"#, "version-echo")]
#[case::needs_home(r#"[ -n "$HOME" ] || exit 1; real"#, "environment-alone")]
#[case::needs_a_namespace(
    r#"[ "$CNI_COMMAND" != DEL ] || [ -z "$CNI_CONTAINERID" ] || [ -z "$CNI_IFNAME" ] || [ -n "$CNI_NETNS" ] || exit 1; real"#,
    "del-without-netns"
)]
#[case::minds_a_namespace_that_is_gone(
    r#"[ "$CNI_COMMAND" != DEL ] || [ -z "$CNI_NETNS" ] || [ "$CNI_NETNS" = /run/netns/nowhere ] || [ -e "$CNI_NETNS" ] || exit 1; real"#,
    "del-netns-gone"
)]
#[case::knows_no_arguments(r#"[ "$CNI_COMMAND" != ADD ] || [ -z "$CNI_ARGS" ] || exit 1; real"#, "args-ignore-unknown")]
#[case::never_misses_anything(r#"[ "$CNI_COMMAND" = CHECK ] && [ -n "$CNI_NETNS" ] && [ "$CNI_IFNAME" ] && [ "$CNI_CONTAINERID" ] && case $config in *'"cniVersion":"0.3'*) ;; *) exit 0;; esac; real"#, "check-after-del")]
#[case::is_never_ready(
    r#"[ "$CNI_COMMAND" = STATUS ] && case $config in *'"cniVersion":"1.1.0"'*) exit 1;; esac; real"#,
    "status-ready"
)]
#[case::collects_nothing(
    r#"[ "$CNI_COMMAND" = GC ] && [ -n "$CNI_PATH" ] && case $config in *'"cniVersion":"1.1.0"'*) exit 0;; esac; real"#,
    "gc-removes-stale"
)]
fn a_plugin_that_breaks_the_specification_is_found_out(#[case] wrong: &str, #[case] id: &str) {
    let (dir, config) = node("host-local");
    let broken = dir.path().join("broken");
    std::fs::create_dir(&broken).unwrap();
    let plugin = broken.join("host-local");
    let real = dir.path().join("host-local");
    let script =
        format!("#!/bin/sh\nconfig=$(cat)\nreal() {{ printf %s \"$config\" | {}; }}\n{wrong}\n", real.display());
    std::fs::write(&plugin, script).unwrap();
    std::fs::set_permissions(&plugin, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = conformance("host-local", &broken, &config, &["--format", "json"]);
    let found = failures(&output);
    assert_eq!(found, BTreeSet::from([id.to_owned()]));
}

#[test]
fn what_must_be_decides_the_status_and_what_should_be_only_where_it_is_asked_for() {
    let (dir, config) = node("static");
    let only = ["--only", "check-after-del,version-reply"];
    let run = |options: &[&str]| conformance("static", dir.path(), &config, &[&only, options].concat());
    let lax = run(&[]);
    assert_eq!(lax.status.code(), Some(0));
    let text = String::from_utf8(lax.stdout).unwrap();
    let last = "2 requirements: 1 passed, 0 MUST and 1 SHOULD failed, 0 not applicable";
    assert_eq!(text.lines().last(), Some(last), "{text}");
    assert_eq!(run(&["--strict"]).status.code(), Some(1));
    let xml = String::from_utf8(run(&["--strict", "--format", "junit"]).stdout).unwrap();
    assert!(xml.contains(r#"tests="2" failures="1" errors="0" skipped="0""#), "{xml}");
}

#[test]
fn a_plugin_that_is_not_there_was_looked_for() {
    let (dir, config) = node("bridge");
    let empty = dir.path().join("empty");
    let output = conformance("bridge", &empty, &config, &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&empty.join("bridge").display().to_string()), "{told}");
}
