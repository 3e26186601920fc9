//! What the debug plugins write; both, the synchronous and the asynchronous one, have to pass.

use std::{fs, path::Path};

use rscni_test::{Versions, result_in};
use serde_json::Value;

/// The plugin of the package that this test is compiled for.
const PROGRAM: &str = match (
    option_env!("CARGO_BIN_EXE_rscni-debug"),
    option_env!("CARGO_BIN_EXE_async-rscni-debug"),
) {
    (Some(program), _) | (None, Some(program)) => program,
    (None, None) => panic!("the package has no debug plugin"),
};

const LATEST: &str = "1.1.0";

fn debug(directory: &Path) -> Versions {
    Versions::of(PROGRAM).key("cniOutput", directory.to_str())
}

fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn speaks_every_version() {
    let directory = tempfile::tempdir().unwrap();
    debug(directory.path()).speak();
    assert_eq!(names_in(directory.path()), ["c1-Add", "c1-Check", "c1-Del"]);
}

#[test]
fn each_command_has_its_file_with_all_that_was_given() {
    let directory = tempfile::tempdir().unwrap();
    // The directory is made if need be.
    let directory = directory.path().join("to/be/made");
    let config = debug(&directory).config(LATEST, Some(&result_in(LATEST)));
    for (command, name) in [("ADD", "Add"), ("DEL", "Del"), ("CHECK", "Check")] {
        debug(&directory)
            .call(command, &config)
            .env("CNI_PATH", "/opt/cni/bin:/usr/lib/cni")
            .run()
            .success();
        assert_eq!(
            fs::read_to_string(directory.join(format!("c1-{name}"))).unwrap(),
            format!(
                "CNI_COMMAND: {name}\n\
                 CNI_CONTAINERID: c1\n\
                 CNI_IFNAME: eth0\n\
                 CNI_NETNS: /nowhere/netns\n\
                 CNI_PATH: /opt/cni/bin:/usr/lib/cni\n\
                 CNI_ARGS: IgnoreUnknown=1;K8S_POD_NAME=web\n\
                 STDIN_DATA: {config}\n\
                 --------------------\n"
            )
        );
    }
}

#[test]
fn a_file_holds_the_last_call_and_all_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let long = debug(directory.path()).key("blob", "x".repeat(1 << 20));
    for plugin in [&long, &debug(directory.path())] {
        let config = plugin.config(LATEST, None);
        plugin.call("ADD", &config).run().success();
        let text = fs::read_to_string(directory.path().join("c1-Add")).unwrap();
        assert_eq!(text.lines().count(), 8);
        let stdin = text.lines().find_map(|line| line.strip_prefix("STDIN_DATA: ")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(stdin).unwrap(), config);
    }
}

#[test]
fn what_is_not_given_is_an_empty_line() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = debug(directory.path());
    let call = plugin.call("DEL", &plugin.config(LATEST, None));
    call.without("CNI_NETNS").without("CNI_ARGS").without("CNI_PATH").run().success();
    let text = fs::read_to_string(directory.path().join("c1-Del")).unwrap();
    assert!(text.contains("CNI_NETNS: \nCNI_PATH: \nCNI_ARGS: \nSTDIN_DATA: {"), "{text}");
}

#[test]
fn without_an_output_directory_it_is_misconfigured() {
    let plugin = Versions::of(PROGRAM);
    for command in ["ADD", "DEL", "CHECK"] {
        plugin.call(command, &plugin.config(LATEST, None)).run().error(7).mentions("cniOutput");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_an_io_failure() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let plugin = debug(file.path());
    let outcome = plugin.call("ADD", &plugin.config(LATEST, None)).run();
    outcome.error(5).mentions(file.path().to_str().unwrap());
}
