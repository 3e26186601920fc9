//! The version that plugins print without `CNI_COMMAND`, and how other programs parse it.

use std::{os::unix::process::CommandExt, process::Command};

use regex_lite::Regex;
use rscni_plugins::EQUIVALENT_RELEASE;

use crate::fixture::{CommandOutput, RSCNI, run};

/// Calls a plugin without `CNI_COMMAND`.
fn call(plugin: &str, arguments: &[&str]) -> CommandOutput {
    run(Command::new(RSCNI).arg0(format!("/opt/cni/bin/{plugin}")).args(arguments)).succeeded()
}

/// Parses the version like nerdctl: after a prefix on a line of stderr, in Semantic Versioning with
/// or without a `v`.
fn for_nerdctl(plugin: &str, stderr: &str) -> Option<[u32; 3]> {
    let prefix = format!("CNI {plugin} plugin ");
    let version = stderr.lines().find_map(|line| line.strip_prefix(&prefix))?;
    let identifiers = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*";
    let pattern = format!(
        r"^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-{identifiers})?(?:\+{identifiers})?$"
    );
    let found = Regex::new(&pattern).unwrap().captures(version)?;
    Some([1, 2, 3].map(|index| found[index].parse().unwrap()))
}

/// Parses the version like Nomad: the first word of the output that hashicorp/go-version accepts.
fn for_nomad(out: &CommandOutput) -> Option<String> {
    let parts = r"[0-9A-Za-z\-~]+(\.[0-9A-Za-z\-~]+)*";
    let pattern = format!(r"^v?[0-9]+(\.[0-9]+)*(-{parts})?(\+{parts})?$");
    let regex = Regex::new(&pattern).unwrap();
    let both = format!("{}{}", out.stdout, out.stderr);
    both.split_whitespace().find(|word| regex.is_match(word)).map(ToOwned::to_owned)
}

#[test]
fn plugins_print_their_version_like_the_go_plugins() {
    let version = format!("{EQUIVALENT_RELEASE}+rscni.{}", env!("CARGO_PKG_VERSION"));
    let page = include_str!("../../../../docs/rscni.md");
    assert!(page.contains(&format!("CNI bridge plugin {version}\n")), "docs/rscni.md is outdated");
    for plugin in rscni_plugins::ALL {
        for arguments in [&[][..], &["--version"]] {
            let out = call(plugin.name, arguments);
            assert_eq!(out.stdout, "", "{}", plugin.name);
            assert_eq!(
                out.stderr,
                format!(
                    "CNI {} plugin {version}\n\
                     CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n",
                    plugin.name
                )
            );
            assert_eq!(for_nomad(&out), Some(version.clone()));
            assert_eq!(for_nerdctl(plugin.name, &out.stderr), Some([1, 10, 0]));
        }
    }
}

#[test]
fn parsers_behave_like_their_originals() {
    assert_eq!(for_nerdctl("firewall", "Foo\nCNI firewall plugin v1.1.0\nBar\n"), Some([1, 1, 0]));
    assert_eq!(
        for_nerdctl("firewall", "CNI plugin firewall (rscni 0.3.0): lets packets in\n"),
        None
    );
    assert_eq!(for_nerdctl("firewall", "CNI firewall plugin version unknown\n"), None);
    let out =
        |stderr: &str| CommandOutput { status: 0, stdout: String::new(), stderr: stderr.into() };
    let before =
        "CNI plugin bridge (rscni 0.3.0): a pair\nCNI protocol versions supported: 0.1.0, 0.2.0\n";
    assert_eq!(for_nomad(&out(before)), Some("0.2.0".into()));
}

#[test]
fn version_option_ignores_cni_command() {
    for name in ["bridge", "dhcp", "cnv-host-local", "edge-static"] {
        let mut command = Command::new(RSCNI);
        command.arg0(name).arg("--version").env("CNI_COMMAND", "ADD");
        let out = run(&mut command).succeeded();
        let plugin = name.trim_start_matches("cnv-").trim_start_matches("edge-");
        assert!(out.stderr.starts_with(&format!("CNI {plugin} plugin v")), "{out:?}");
    }
    // An empty variable counts as unset.
    let mut command = Command::new(RSCNI);
    let out = run(command.arg0("bridge").env("CNI_COMMAND", "")).succeeded();
    assert!(out.stderr.starts_with("CNI bridge plugin v"), "{out:?}");
}
