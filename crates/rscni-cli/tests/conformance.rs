//! `rscni conformance`: the plugins of this program conform, and defects of plugins are found.

#[path = "conformance/defects.rs"]
mod defects;
#[path = "conformance/subjects.rs"]
mod subjects;

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use rstest::rstest;
use tempfile::TempDir;

use defects::{DEFECTS, Group};
use subjects::{RSCNI, assert_conform, command, conformance, entries, in_parallel, node};

/// The others are tested in `uml_conformance` and `uml_conformance_master`.
#[test]
fn plugins_conform() {
    assert_conform(|row| !row.needs_uml());
}

/// Distributions and operators install plugins under other file names.
#[rstest]
#[case::known_prefix("bridge", ["buildkit-cni-bridge", "buildkit-cni-host-local"])]
#[case::link("host-local", ["uplink", "pool"])]
fn plugins_conform_under_other_names(#[case] plugin: &str, #[case] names: [&str; 2]) {
    let (dir, config) = node(plugin);
    let mut text = std::fs::read_to_string(&config).unwrap();
    let mut tested = plugin;
    for (own, name) in ["bridge", "host-local"].into_iter().zip(names) {
        std::os::unix::fs::symlink(own, dir.path().join(name)).unwrap();
        text = text.replace(&format!("\"type\":\"{own}\""), &format!("\"type\":\"{name}\""));
        tested = if own == plugin { name } else { tested };
    }
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(RSCNI);
    command.args(["conformance", "--format", "json", "--timeout", "10m", "--plugin", tested]);
    let output = command.arg("--config").arg(&config).arg("--path").arg(dir.path());
    let entries = entries(&output.output().unwrap());
    let failed: Vec<_> = entries.iter().filter(|entry| entry["verdict"] == "fail").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let passed = entries.iter().filter(|entry| entry["verdict"] == "pass").count();
    assert!(passed > entries.len() / 2, "{passed} of {}", entries.len());
}

#[test]
fn every_requirement_has_a_defect() {
    let broken: BTreeSet<_> = DEFECTS.iter().map(|(id, ..)| *id).collect();
    assert_eq!(broken.len(), DEFECTS.len());
    let without: Vec<_> =
        rscni_conformance::ALL.iter().map(|r| r.id).filter(|id| !broken.contains(id)).collect();
    assert_eq!(without, [""; 0]);
}

/// Checks one requirement at a time, of a plugin with the defect.
#[rstest]
fn each_defect_fails_its_requirement(
    #[values("host-local", "bridge", "ptp", "tuning")] plugin: &str,
) {
    let defects: Vec<_> =
        DEFECTS.iter().filter(|(_, of, _)| *of == plugin).map(|defect| vec![defect]).collect();
    assert_eq!(misjudged(plugin, &defects, defects::ids), [""; 0]);
}

/// Checks all requirements, of a plugin with several defects.
#[rstest]
fn defects_fail_no_other_requirements(
    #[values("host-local", "bridge", "ptp", "tuning")] plugin: &str,
) {
    let all = |_: &Group| rscni_conformance::ALL.iter().map(|requirement| requirement.id).collect();
    assert_eq!(misjudged(plugin, &defects::groups(plugin), all), [""; 0]);
}

/// Returns the requirements with a wrong verdict on plugins with these defects.
fn misjudged(
    plugin: &str,
    groups: &[Group],
    asked: impl Fn(&Group) -> Vec<&'static str> + Sync,
) -> Vec<String> {
    let (dir, config) = node(plugin);
    in_parallel(groups, 2, |group| {
        let program = defects::install(group, dir.path());
        let asked = asked(group);
        let options = ["--format", "json", "--timeout", "10m", "--only", &asked.join(",")];
        let output = conformance(plugin, &[&program, dir.path()], &config, &options);
        let (entries, broken) = (entries(&output), defects::broken_by_all(group));
        assert_eq!(entries.len(), asked.len());
        let is_wrong = |entry: &&serde_json::Value| {
            broken.contains(entry["id"].as_str().unwrap()) != (entry["verdict"] == "fail")
        };
        let wrong = entries.iter().filter(is_wrong);
        wrong.map(|entry| format!("{:?}: {entry:#}", defects::ids(group))).collect()
    })
}

#[test]
fn should_requirements_fail_the_run_only_with_strict() {
    let (dir, config) = node("host-local");
    let broken = defects::install(&[defects::of("check-after-del")], dir.path());
    let only = ["--only", "check-after-del,version-reply"];
    let run = |options: &[&str]| {
        conformance("host-local", &[&broken, dir.path()], &config, &[&only, options].concat())
    };
    let lax = run(&[]);
    assert_eq!(lax.status.code(), Some(0));
    let text = String::from_utf8(lax.stdout).unwrap();
    let last = "2 requirements: 1 passed, 0 MUST and 1 SHOULD failed, 0 not applicable";
    assert_eq!(text.lines().last(), Some(last), "{text}");
    assert_eq!(run(&["--strict"]).status.code(), Some(1));
    let xml = String::from_utf8(run(&["--strict", "--format", "junit"]).stdout).unwrap();
    assert!(xml.contains(r#"tests="2" failures="1" errors="0" skipped="0""#), "{xml}");
}

/// An IPAM plugin without state has nothing that CHECK could miss.
#[test]
fn check_after_del_does_not_apply_to_plugins_without_state() {
    let (dir, config) = node("static");
    let output = conformance(
        "static",
        &[dir.path()],
        &config,
        &["--only", "check-after-del", "--format", "json"],
    );
    assert_eq!(entries(&output)[0]["verdict"], "not applicable");
}

#[test]
fn a_missing_plugin_is_reported_with_its_path() {
    let (dir, config) = node("bridge");
    let empty = dir.path().join("empty");
    let output = conformance("bridge", &[&empty], &config, &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains(&empty.join("bridge").display().to_string()), "{told}");
}

/// Installs a script as the plugin bridge, and returns the command that checks it.
fn of_script(text: &str, mode: u32, options: &[&str]) -> (TempDir, Command) {
    let (dir, config) = node("bridge");
    let program = dir.path().join("own/bridge");
    std::fs::create_dir(dir.path().join("own")).unwrap();
    std::fs::write(&program, text).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
    let command = command("bridge", &[&dir.path().join("own")], &config, options);
    (dir, command)
}

/// Runs that command.
fn script(text: &str, mode: u32, options: &[&str]) -> (TempDir, Output) {
    let (dir, mut command) = of_script(text, mode, options);
    let output = command.output().unwrap();
    (dir, output)
}

#[rstest]
#[case("#!/bin/sh\n", 0o644, "it is not executable")]
#[case("#!/nowhere/sh\n", 0o755, "the interpreter that its first line names")]
#[case("neither program nor script", 0o755, "it is for another kind of machine")]
#[case("#!/bin/sh\nexec sleep 1000\n", 0o755, "does not answer VERSION: still running after 100ms")]
#[case("#!/bin/sh\nexec yes\n", 0o755, "does not answer VERSION: still running after 100ms")]
fn a_program_that_is_not_a_plugin_is_reported_once(
    #[case] text: &str,
    #[case] mode: u32,
    #[case] told: &str,
) {
    let (_dir, output) = script(text, mode, &["--timeout", "100ms"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
    assert!(stderr.contains(told), "{stderr}");
}

/// A plugin that answers VERSION, hangs otherwise, and logs its calls.
const HANGING: &str = r#"#!/bin/sh
echo "$CNI_COMMAND" >> "${0%/*}/calls"
[ "$CNI_COMMAND" = VERSION ] && exec echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}'
exec sleep 1000
"#;

#[test]
fn a_plugin_that_hangs_is_given_up_after_three_requirements() {
    let (dir, output) = script(HANGING, 0o755, &["--timeout", "5s", "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let entries = entries(&output);
    assert_eq!(entries.len(), rscni_conformance::ALL.len());
    let (tried, others) = entries.split_at(3);
    for entry in tried {
        assert_eq!(entry["verdict"], "fail", "{entry:#}");
        assert_eq!(entry["call"]["end"], "still running after 5s; killed", "{entry:#}");
    }
    for entry in others {
        assert_eq!(entry["verdict"], "not applicable", "{entry:#}");
        assert!(
            entry["reason"]
                .as_str()
                .unwrap()
                .starts_with("not tried: in three requirements in a row"),
            "{entry:#}"
        );
    }
    // Each requirement has its own worker, which asks for the version first.
    let calls = std::fs::read_to_string(dir.path().join("own/calls")).unwrap();
    assert_eq!(calls.lines().collect::<Vec<_>>(), ["VERSION", "ADD"].repeat(3));
}

/// These requirements do not apply if the first ADD is not answered.
#[test]
fn requirements_that_were_not_tried_do_not_pass() {
    let only = "add-interface,add-stdout,del-silent,del-twice";
    let (_dir, output) = script(HANGING, 0o755, &["--timeout", "5s", "--only", only]);
    let text = String::from_utf8(output.stdout).unwrap();
    let last = "4 requirements: 0 passed, 0 MUST and 0 SHOULD failed, 4 not applicable";
    assert_eq!((output.status.code(), text.lines().last()), (Some(1), Some(last)), "{text}");
}

#[test]
fn leftover_processes_of_a_plugin_are_killed() {
    let text = "#!/bin/sh\nsetsid sh -c 'echo $$ >> \"$0\"; exec sleep 1000' \"${0%/*}/pids\" >/dev/null 2>&1 </dev/null &\n";
    let (dir, output) = script(text, 0o755, &["--only", "version-reply,command-unknown"]);
    let pids = std::fs::read_to_string(dir.path().join("own/pids")).unwrap();
    assert!(pids.lines().count() >= 2, "{output:?}");
    let running: Vec<_> =
        pids.lines().filter(|pid| Path::new("/proc").join(pid).exists()).collect();
    assert_eq!(running, [""; 0]);
}

/// Returns the descendants of a process.
fn descendants(pid: u32) -> Vec<u32> {
    let children =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|child| child.parse().unwrap());
    children.flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

/// A zombie has no command line.
fn is_running(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|command| !command.is_empty())
}

/// The processes are a worker with its guard, a plugin, and a daemon that it started.
#[test]
fn a_killed_run_leaves_no_processes() {
    let text = HANGING.replace(
        "exec sleep",
        "setsid sh -c 'echo $$ > \"$0\"; exec sleep 999' \"${0%/*}/daemon\" &\nexec sleep",
    );
    let (dir, mut command) = of_script(&text, 0o755, &["--timeout", "1h"]);
    let mut run = command.stdout(Stdio::null()).spawn().unwrap();
    let daemon = rscni_test::eventually("the daemon's start", || {
        std::fs::read_to_string(dir.path().join("own/daemon")).ok()?.trim_end().parse().ok()
    });
    let all = [descendants(run.id()), vec![daemon]].concat();
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(all.len() >= 4, "{all:?}");
    rscni_test::eventually("their end", || (!all.iter().any(|pid| is_running(*pid))).then_some(()));
}
