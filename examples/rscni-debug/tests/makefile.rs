//! `make start` and `make stop`, with fake programs `kind` and `docker` that record their
//! arguments.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use tempfile::TempDir;

/// A directory for PATH with the fake `kind` and `docker`; `docker cp` also copies the file.
struct Programs(TempDir);

impl Programs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path().display();
        for (name, then) in
            [("kind", "true"), ("docker", "cp \"$2\" $DIR/copied.$(basename \"$3\")")]
        {
            let file = directory.path().join(name);
            let script = format!("#!/bin/sh\nDIR={dir}\necho {name} \"$@\" >>$DIR/calls\n{then}\n");
            fs::write(&file, script).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(directory)
    }

    /// Runs make in a directory of the examples. The plugin is built without optimizations, which
    /// are slow, without network access, and in its own target directory, since cargo may have
    /// locked that of the workspace.
    fn make(&self, directory: &str, arguments: &[&str]) -> Output {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        let output = Command::new("make")
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory))
            .env("PATH", path)
            .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("make"))
            .envs([("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")])
            .envs([("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"), ("CARGO_NET_OFFLINE", "true")])
            .output()
            .expect("start make");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// Returns the calls so far, without the directories of copied files.
    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.0.path().join("calls")).unwrap();
        let short = |word: &str| {
            if word.starts_with('/') { word.rsplit('/').next().unwrap() } else { word }.to_owned()
        };
        calls.lines().map(|line| line.split(' ').map(short).collect::<Vec<_>>().join(" ")).collect()
    }

    fn copied(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(format!("copied.{name}"))
    }
}

/// Returns the text about a plugin.
fn about(plugin: &Path) -> String {
    let output = Command::new(plugin)
        .env_remove("CNI_COMMAND")
        .output()
        .expect("start the plugin that was copied");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn start_installs_plugin_and_list_and_stop_deletes_the_cluster() {
    for (asynchronous, package) in [("false", "rscni-debug"), ("true", "async-rscni-debug")] {
        let programs = Programs::new();
        programs.make(".", &["start", &format!("ASYNC={asynchronous}")]);
        assert_eq!(
            programs.calls(),
            [
                "kind create cluster --name kind",
                &format!("docker cp {package} kind-control-plane:/opt/cni/bin/rscni-debug"),
                "docker cp netconf.json kind-control-plane:/etc/cni/net.d/01-rscni-debug.conflist",
            ]
        );
        let plugin = programs.copied("rscni-debug");
        assert!(about(&plugin).starts_with(&format!("{package}: ")), "{}", about(&plugin));
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("netconf.json");
        let copied = fs::read(programs.copied("01-rscni-debug.conflist")).unwrap();
        assert_eq!(copied, fs::read(list).unwrap());

        programs.make(".", &["stop"]);
        assert_eq!(programs.calls()[3..], ["kind delete cluster --name kind"]);
    }
}

#[test]
fn the_makefile_of_the_examples_forwards() {
    let programs = Programs::new();
    programs.make("..", &["start", "ASYNC=true", "CLUSTER=mine"]);
    programs.make("..", &["stop", "CLUSTER=mine"]);
    assert_eq!(
        programs.calls(),
        [
            "kind create cluster --name mine",
            "docker cp async-rscni-debug mine-control-plane:/opt/cni/bin/rscni-debug",
            "docker cp netconf.json mine-control-plane:/etc/cni/net.d/01-rscni-debug.conflist",
            "kind delete cluster --name mine",
        ]
    );
}

#[test]
fn the_list_ends_with_the_debug_plugin() {
    let list: serde_json::Value = serde_json::from_str(include_str!("../netconf.json")).unwrap();
    let types: Vec<_> =
        list["plugins"].as_array().unwrap().iter().map(|plugin| plugin["type"].clone()).collect();
    assert_eq!(types, ["ptp", "portmap", "rscni-debug"]);
    assert_eq!(list["plugins"][0]["ipam"]["type"], "host-local");
    assert_eq!(list["plugins"][2]["cniOutput"], "/tmp/cni");
}
