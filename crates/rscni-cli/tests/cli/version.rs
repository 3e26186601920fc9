//! What a plugin says of its version without `CNI_COMMAND`, read as other programs read it.

use std::{os::unix::process::CommandExt, process::Command};

use regex_lite::Regex;
use rscni_plugins::EQUIVALENT_RELEASE;

use crate::world::{RSCNI, Ran, run};

/// A plugin called without `CNI_COMMAND`.
fn asked(plugin: &str, arguments: &[&str]) -> Ran {
    run(Command::new(RSCNI).arg0(format!("/opt/cni/bin/{plugin}")).args(arguments)).succeeded()
}

/// The version that nerdctl finds: what follows a prefix on a line of stderr, if it is one of
/// Semantic Versioning with or without a `v`. Its three numbers.
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

/// The version that Nomad finds: the first word on both streams that is one to
/// hashicorp/go-version.
fn for_nomad(ran: &Ran) -> Option<String> {
    let parts = r"[0-9A-Za-z\-~]+(\.[0-9A-Za-z\-~]+)*";
    let pattern = format!(r"^v?[0-9]+(\.[0-9]+)*(-{parts})?(\+{parts})?$");
    let regex = Regex::new(&pattern).unwrap();
    let both = format!("{}{}", ran.stdout, ran.stderr);
    both.split_whitespace().find(|word| regex.is_match(word)).map(ToOwned::to_owned)
}

#[test]
fn every_plugin_tells_its_version_as_the_go_plugins_do() {
    let version = format!("{EQUIVALENT_RELEASE}+rscni.{}", env!("CARGO_PKG_VERSION"));
    let page = include_str!("../../../../docs/rscni.md");
    assert!(page.contains(&format!("CNI bridge plugin {version}\n")), "docs/rscni.md is outdated");
    for plugin in rscni_plugins::ALL {
        for arguments in [&[][..], &["--version"]] {
            let ran = asked(plugin.name, arguments);
            assert_eq!(ran.stdout, "", "{}", plugin.name);
            assert_eq!(
                ran.stderr,
                format!(
                    "CNI {} plugin {version}\n\
                     CNI protocol versions supported: 0.1.0, 0.2.0, 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0\n",
                    plugin.name
                )
            );
            assert_eq!(for_nomad(&ran), Some(version.clone()));
            assert_eq!(for_nerdctl(plugin.name, &ran.stderr), Some([1, 10, 0]));
        }
    }
}

#[test]
fn the_parsers_reject_what_they_reject_elsewhere() {
    assert_eq!(for_nerdctl("firewall", "Foo\nCNI firewall plugin v1.1.0\nBar\n"), Some([1, 1, 0]));
    assert_eq!(
        for_nerdctl("firewall", "CNI plugin firewall (rscni 0.3.0): lets packets in\n"),
        None
    );
    assert_eq!(for_nerdctl("firewall", "CNI firewall plugin version unknown\n"), None);
    let ran = |stderr: &str| Ran { status: 0, stdout: String::new(), stderr: stderr.into() };
    let before =
        "CNI plugin bridge (rscni 0.3.0): a pair\nCNI protocol versions supported: 0.1.0, 0.2.0\n";
    assert_eq!(for_nomad(&ran(before)), Some("0.2.0".into()));
}

#[test]
fn version_is_told_whatever_the_environment_holds() {
    for name in ["bridge", "dhcp", "cnv-host-local", "edge-static"] {
        let mut command = Command::new(RSCNI);
        command.arg0(name).arg("--version").env("CNI_COMMAND", "ADD");
        let ran = run(&mut command).succeeded();
        let plugin = name.trim_start_matches("cnv-").trim_start_matches("edge-");
        assert!(ran.stderr.starts_with(&format!("CNI {plugin} plugin v")), "{ran:?}");
    }
    // Set to nothing is not set.
    let mut command = Command::new(RSCNI);
    let ran = run(command.arg0("bridge").env("CNI_COMMAND", "")).succeeded();
    assert!(ran.stderr.starts_with("CNI bridge plugin v"), "{ran:?}");
}
