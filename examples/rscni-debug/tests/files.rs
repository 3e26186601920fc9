//! The files of both debug plugins, the blocking and the async one.

use std::{fs, path::Path};

use rscni_test::{Versions, result_in};
use serde_json::Value;

/// The plugin of the package that is tested.
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

#[test]
fn all_versions_are_supported() {
    let directory = tempfile::tempdir().unwrap();
    debug(directory.path()).speak();
    for name in ["c1-Add", "c1-Check", "c1-Del"] {
        assert!(directory.path().join(name).is_file(), "{name}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 3);
}

#[test]
fn the_file_of_a_command_contains_its_variables_and_configuration() {
    let directory = tempfile::tempdir().unwrap();
    // The plugin creates the directory.
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
fn a_file_contains_only_the_last_call() {
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
fn absent_variables_are_empty() {
    let directory = tempfile::tempdir().unwrap();
    let plugin = debug(directory.path());
    let call = plugin.call("DEL", &plugin.config(LATEST, None));
    call.without("CNI_NETNS").without("CNI_ARGS").without("CNI_PATH").run().success();
    let text = fs::read_to_string(directory.path().join("c1-Del")).unwrap();
    assert!(text.contains("CNI_NETNS: \nCNI_PATH: \nCNI_ARGS: \nSTDIN_DATA: {"), "{text}");
}

#[test]
fn a_configuration_without_cni_output_is_code_7() {
    let plugin = Versions::of(PROGRAM);
    for command in ["ADD", "DEL", "CHECK"] {
        plugin.call(command, &plugin.config(LATEST, None)).run().error(7).mentions("cniOutput");
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_code_5() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let plugin = debug(file.path());
    let outcome = plugin.call("ADD", &plugin.config(LATEST, None)).run();
    outcome.error(5).mentions(file.path().to_str().unwrap());
}
