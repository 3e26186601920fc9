//! The command lines of cnitool's tutorial, with plugins of several kinds.

use std::{
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{CommandOutput, RSCNI, run, write_program};

/// A minimal plugin.
const BASH: &str = r#"#!/bin/bash
config=$(cat)
case $CNI_COMMAND in
ADD) echo '{ "cniVersion": "1.1.0",
    "interfaces": [{ "name": "'$CNI_IFNAME'", "sandbox": "'$CNI_NETNS'" }] }' ;;
DEL | GC | STATUS) ;;
CHECK) [[ $config == *prevResult*"$CNI_NETNS"* ]] ||
    { echo '{ "code": 100, "msg": "not mine" }'; exit 1; } ;;
*) exit 1 ;;
esac
"#;

/// Builds the example plugin next to the binary under test.
fn noop() -> PathBuf {
    let target = Path::new(RSCNI).ancestors().nth(2).unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--package", "noop", "--target-dir"]).arg(target);
    run(cargo.args(["--message-format", "short"]).current_dir(env!("CARGO_MANIFEST_DIR")))
        .succeeded();
    target.join("debug/noop")
}

/// Creates the list `mysample` in ./netconf, a namespace, and cnitool.
fn prepare(lab: &Lab, version: &str, plugins: &Value) {
    std::fs::create_dir(lab.dir().join("netconf")).unwrap();
    let list = json!({ "cniVersion": version, "name": "mysample", "plugins": plugins });
    std::fs::write(lab.dir().join("netconf/10-mysample.conflist"), list.to_string()).unwrap();
    symlink(RSCNI, lab.dir().join("cnitool")).unwrap();
    lab.container("testing");
}

/// Prepares a network of bridge and portmap of the Go plugins.
fn prepare_go_plugins(lab: &Lab) {
    symlink("/usr/lib/cni", lab.dir().join("bin")).unwrap();
    let data_dir = lab.dir().join("addresses");
    let ipam = json!({ "type": "host-local", "subnet": "10.1.0.0/16", "dataDir": data_dir });
    let bridge = json!({ "type": "bridge", "isGateway": true, "ipam": ipam });
    let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
    prepare(lab, "1.0.0", &json!([bridge, portmap]));
}

/// Runs a shell command line in the lab's directory, with cnitool and rscni in PATH.
fn shell(lab: &Lab, line: &str) -> CommandOutput {
    let path =
        [lab.dir(), Path::new(RSCNI).parent().unwrap(), Path::new("/usr/sbin:/usr/bin:/sbin:/bin")];
    let path = path.map(|dir| dir.to_str().unwrap()).join(":");
    run(Command::new("bash").args(["-c", line]).current_dir(lab.dir()).env("PATH", path))
}

#[rstest]
fn tutorial_commands_work(#[values("noop", "bash", "go")] kind: &str) {
    let noop = if kind == "noop" { noop() } else { PathBuf::new() };
    rscni_test::run(|lab| {
        let bin = lab.dir().join("bin");
        if kind == "go" {
            prepare_go_plugins(lab);
        } else {
            std::fs::create_dir(&bin).unwrap();
            match kind {
                "noop" => symlink(&noop, bin.join("mine")).unwrap(),
                _ => write_program(&bin.join("mine"), BASH),
            }
            prepare(lab, "1.1.0", &json!([{ "type": "mine" }]));
        }
        let cnitool = |arguments: &str| {
            shell(lab, &format!("CNI_PATH=./bin NETCONFPATH=./netconf cnitool {arguments}"))
        };
        let quiet = |arguments: &str| {
            let out = cnitool(arguments).succeeded();
            assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("", ""), "{arguments}");
        };
        let not_attached = || {
            let out = cnitool("check mysample /var/run/netns/testing");
            assert_eq!((out.status, out.stdout.as_str()), (1, ""));
            assert!(out.stderr.contains("not attached to network mysample"), "{}", out.stderr);
        };
        not_attached();
        for end in ["del", "gc"] {
            let added = cnitool("add mysample /var/run/netns/testing").succeeded().json();
            assert_eq!(added["cniVersion"], if kind == "go" { "1.0.0" } else { "1.1.0" });
            if kind == "go" {
                let address = added["ips"][0]["address"].as_str().unwrap();
                lab.host().ping(address.split('/').next().unwrap());
            }
            quiet("check mysample /var/run/netns/testing");
            quiet("status mysample /var/run/netns/testing");
            quiet(&format!("{end} mysample /var/run/netns/testing"));
            not_attached();
        }
        assert!(!lab.snapshot().to_string().contains("link veth"), "{}", lab.snapshot());
    });
}

#[test]
fn rscni_takes_over_from_cnitool_and_go_plugins() {
    rscni_test::run(|lab| {
        prepare_go_plugins(lab);
        let other = lab.container("other");
        let mapping = r#"{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}"#;
        let variables = "CNI_PATH=./bin NETCONFPATH=./netconf";
        let line =
            format!("{variables} CAP_ARGS='{mapping}' cnitool add mysample /var/run/netns/testing");
        shell(lab, &line).succeeded();
        shell(
            lab,
            &format!("{variables} CNI_IFNAME=net1 cnitool add mysample /var/run/netns/other"),
        )
        .succeeded();
        let listed = shell(lab, "rscni ls").succeeded().stdout;
        let of = |name: &str| {
            listed.lines().find(|line| line.ends_with(&format!("/{name}"))).map(str::to_owned)
        };
        assert!(
            of("testing")
                .is_some_and(|line| line.contains(" eth0 ") && line.contains(" 10.1.0.2/16 ")),
            "{listed}"
        );
        assert!(of("other").is_some_and(|line| line.contains(" net1 ")), "{listed}");

        lab.remove_namespace(&other);
        let removed =
            shell(lab, &format!("{variables} rscni gc mysample --auto")).succeeded().stdout;
        let gone = "/net1 10.1.0.3/16: its namespace /var/run/netns/other is gone\n";
        assert!(removed.starts_with("removed cnitool-") && removed.contains(gone), "{removed}");
        // No CHECK: Debian's portmap expects IPv6 rules without an IPv6 address.
        shell(lab, &format!("{variables} rscni del mysample testing")).succeeded();
        assert_eq!(shell(lab, "rscni ls").succeeded().stdout.lines().count(), 1);
        let rules = shell(lab, "iptables-save").succeeded().stdout;
        assert!(!rules.contains("8080"), "{rules}");
        let held: Vec<_> =
            std::fs::read_dir(lab.dir().join("addresses/mysample")).unwrap().collect();
        let is_address = |name: &str| name.starts_with("10.");
        assert!(
            !held.iter().flatten().any(|entry| is_address(&entry.file_name().to_string_lossy())),
            "{held:?}"
        );
    });
}
