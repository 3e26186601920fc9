//! The IPAM plugin is the one in `CNI_PATH`. If that is this binary, it runs in the same process.

mod support;

use std::path::{Path, PathBuf};

use rscni_catalogue::{Values, row};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use support::{BIN, GO, Network, RSCNI, V4, V6, assert_gone, run, write_script, write_strace};

/// Returns a directory with a `host-local` that logs its calls and runs Debian's plugin.
fn noting(lab: &Lab) -> PathBuf {
    let dir = lab.dir().join("noting");
    std::fs::create_dir_all(&dir).unwrap();
    let script = format!("echo $CNI_COMMAND >> {}/log\nexec {GO}/host-local", dir.display());
    write_script(dir.join("host-local"), &script);
    dir
}

/// Returns the programs that a call starts, without the plugin itself.
fn started(lab: &Lab, network: &Network, command: &str) -> Vec<String> {
    let (tracer, log) = write_strace(lab, network.kind(), "execve");
    let plugin = lab.plugin(&tracer).cni_path([BIN]);
    let container = lab.container(&format!("traced-{command}"));
    let call = plugin.call(command).attachment(&container, "eth0").config(&network.config);
    call.run().success();
    let text = std::fs::read_to_string(log).unwrap();
    let calls = text.lines().filter(|line| line.contains("execve(") && line.ends_with("= 0"));
    calls.skip(1).map(ToOwned::to_owned).collect()
}

#[rstest]
fn the_built_in_host_local_starts_no_process(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        let keys = json!({ "bridge": "br0", "isGateway": true, "ipam": support::host_local(&[V4, V6]), "ipMasq": true });
        let network = Network::new(lab, plugin, &keys);
        for command in ["ADD", "DEL"] {
            assert_eq!(started(lab, &network, command), [""; 0], "{command}");
        }
    });
}

/// Installs bridge and host-local under other names.
fn renamed(lab: &Lab, names: [&str; 2]) -> Network {
    support::install(lab);
    for (name, plugin) in names.into_iter().zip(["bridge", "host-local"]) {
        if name.ends_with(plugin) {
            lab.install(name, RSCNI);
        } else {
            std::os::unix::fs::symlink(plugin, Path::new(BIN).join(name)).unwrap();
        }
    }
    let mut ipam = support::host_local(&[V4, V6]);
    ipam["type"] = names[1].into();
    Network::new(
        lab,
        names[0],
        &json!({ "bridge": "br0", "isGateway": true, "ipam": ipam, "ipMasq": true }),
    )
}

#[rstest]
#[case::known_prefix(["buildkit-cni-bridge", "buildkit-cni-host-local"])]
#[case::link(["uplink", "pool"])]
#[case::own_prefix(["edge-bridge", "edge-host-local"])]
fn built_in_plugins_under_other_names_start_no_process(
    #[case] names: [&str; 2],
    #[values("0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        let network = renamed(lab, names).with(&json!({ "cniVersion": version }));
        for command in ["ADD", "DEL"] {
            assert_eq!(started(lab, &network, command), [""; 0], "{command}");
        }
        let before = support::snapshot(lab);
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        support::assert_talk(lab, &a, &b, true);
        for attached in [&a, &b] {
            attached.check().success();
        }
        support::assert_del_restores(lab, &before, &[&a, &b]);
    });
}

#[test]
fn delegates_of_flannel_run_in_the_same_process() {
    rscni_test::run(|lab| {
        let network = Network::of_row(lab, &row("flannel"), &Values::default()).remove(0);
        for command in ["ADD", "DEL"] {
            assert_eq!(started(lab, &network, command), [""; 0], "{command}");
        }
    });
}

#[test]
fn the_built_in_ipam_plugin_is_used_without_one_in_cni_path() {
    rscni_test::run(|lab| {
        let mut network = Network::bridge(lab, &[V4], &json!({}));
        network.plugin = network.plugin.cni_path([Path::new("/nowhere")]);
        let a = network.attach(lab, "a");
        assert_eq!(a.v4().to_string(), "10.1.0.2");
        a.del().success();
    });
}

#[test]
fn the_first_ipam_plugin_in_cni_path_is_executed() {
    rscni_test::run(|lab| {
        let mut network = Network::bridge(lab, &[V4, V6], &json!({ "cniVersion": "1.0.0" }));
        let dir = noting(lab);
        network.plugin = network.plugin.cni_path([dir.as_path(), Path::new(BIN)]);
        let a = network.attach(lab, "a");
        a.ping("10.1.0.1");
        a.check().success();
        a.del().success();
        assert_eq!(std::fs::read_to_string(dir.join("log")).unwrap(), "ADD\nCHECK\nDEL\n");
        assert_gone(lab, &["ctr-a"]);
    });
}

#[test]
fn the_second_ipam_plugin_in_cni_path_is_not_executed() {
    rscni_test::run(|lab| {
        let mut network = Network::bridge(lab, &[V4], &json!({}));
        let dir = noting(lab);
        network.plugin = network.plugin.cni_path([Path::new(BIN), dir.as_path()]);
        network.attach(lab, "a").del().success();
        assert!(!dir.join("log").exists());
    });
}

#[test]
fn either_host_local_releases_addresses_of_the_other() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4, V6], &json!({ "cniVersion": "1.0.0" }));
        let mut with_other = network.clone();
        with_other.plugin = with_other.plugin.cni_path([GO]);
        for (add, del, name) in [(&network, &with_other, "a"), (&with_other, &network, "b")] {
            let a = add.attach(lab, name);
            del.plugin.check(&a, "eth0", &a.config()).success();
            del.plugin.del(&a, "eth0", &a.config()).success();
            assert_gone(lab, &[a.id()]);
        }
    });
}

#[test]
fn an_external_ipam_plugin_gets_only_protocol_variables_and_path() {
    rscni_test::run(|lab| {
        let dir = noting(lab);
        let script = format!(
            "tr '\\0' '\\n' </proc/$$/environ >{0}/$CNI_COMMAND\nexec {GO}/host-local",
            dir.display()
        );
        write_script(dir.join("host-local"), &script);
        let network = Network::bridge(lab, &[V4], &json!({ "cniVersion": "1.0.0" }));
        let plugin = network.plugin.cni_path([dir.as_path(), Path::new(BIN)]);
        let container = lab.container("a");
        for command in ["ADD", "DEL"] {
            let call = plugin.call(command).attachment(&container, "eth0").config(&network.config);
            let call = call
                .env("CNI_ARGS", "IgnoreUnknown=1")
                .env("TRACEPARENT", "00-1-2-01")
                .env("TOKEN", "secret");
            call.env("LD_LIBRARY_PATH", "/nowhere").env("CNI_UNKNOWN", "x").run().success();
            let environment = std::fs::read_to_string(dir.join(command)).unwrap();
            let mut variables: Vec<_> =
                environment.lines().filter(|line| !line.starts_with("PATH=")).collect();
            variables.sort_unstable();
            let expected = [
                "CNI_ARGS=IgnoreUnknown=1".to_owned(),
                format!("CNI_COMMAND={command}"),
                format!("CNI_CONTAINERID={}", container.id()),
                "CNI_IFNAME=eth0".to_owned(),
                format!("CNI_NETNS={}", container.path().display()),
                format!("CNI_PATH={}:{BIN}", dir.display()),
                "TRACEPARENT=00-1-2-01".to_owned(),
            ];
            assert_eq!(variables, expected, "{command}");
        }
    });
}

#[test]
fn strace_shows_a_process_where_there_is_one() {
    // The tests above rely on this.
    rscni_test::run(|lab| {
        let log = lab.dir().join("log");
        let options = ["-f", "-qq", "-e", "trace=execve", "-o", log.to_str().unwrap()];
        run("strace", &[&options[..], &["sh", "-c", "true; /bin/true; true"]].concat());
        assert_eq!(
            std::fs::read_to_string(log).unwrap().lines().filter(|l| l.contains("execve(")).count(),
            2
        );
    });
}
