//! Which IPAM plugin is called: the one in `CNI_PATH`, without a process if that is this binary.

mod support;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use support::{Network, V4, V6};

/// A directory with a `host-local` that notes that it was called, and answers as Debian's.
fn noting(lab: &Lab) -> PathBuf {
    let dir = lab.dir().join("noting");
    std::fs::create_dir_all(&dir).unwrap();
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND >> {}/log\nexec /usr/lib/cni/host-local\n",
        dir.display()
    );
    std::fs::write(dir.join("host-local"), script).unwrap();
    std::fs::set_permissions(dir.join("host-local"), PermissionsExt::from_mode(0o755)).unwrap();
    dir
}

/// The programs that a call starts, its own left out.
fn started(lab: &Lab, network: &Network, command: &str) -> Vec<String> {
    let log = lab.dir().join("strace");
    let program = network.plugin.program().to_str().unwrap();
    let tracer = lab.dir().join(network.config["type"].as_str().unwrap());
    // The name by which it is called is what says which plugin it is.
    let script =
        format!("#!/bin/sh\nexec strace -f -qq -e trace=execve -o {} {program}\n", log.display());
    std::fs::write(&tracer, script).unwrap();
    std::fs::set_permissions(&tracer, PermissionsExt::from_mode(0o755)).unwrap();
    let plugin = lab.plugin(&tracer).cni_path(["/run/rscni-test/bin"]);
    let container = lab.container(&format!("traced-{command}"));
    let call = plugin.call(command).attachment(&container, "eth0").config(&network.config);
    call.run().success();
    let text = std::fs::read_to_string(log).unwrap();
    let calls = text.lines().filter(|line| line.contains("execve(") && line.ends_with("= 0"));
    calls.skip(1).map(ToOwned::to_owned).collect()
}

#[rstest]
fn this_binarys_own_host_local_is_no_process(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        let keys = json!({ "bridge": "br0", "isGateway": true, "ipam": support::host_local(&[V4, V6]), "ipMasq": true });
        let network = Network::new(lab, plugin, &keys);
        for command in ["ADD", "DEL"] {
            assert_eq!(started(lab, &network, command), [""; 0], "{command}");
        }
    });
}

/// Installs two plugins under other names: with a prefix that distributions use, as links to the
/// plugins' entries, and with a prefix of one's own.
fn renamed(lab: &Lab, names: [&str; 2]) -> Network {
    support::install(lab);
    for (name, plugin) in names.into_iter().zip(["bridge", "host-local"]) {
        if name.ends_with(plugin) {
            lab.install(name, env!("CARGO_BIN_EXE_rscni"));
        } else {
            std::os::unix::fs::symlink(plugin, Path::new("/run/rscni-test/bin").join(name))
                .unwrap();
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
fn under_another_name_it_is_no_process_either(
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
            attached.del().success();
            lab.remove_namespace(attached);
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn neither_are_the_plugins_that_flannel_calls() {
    rscni_test::run(|lab| {
        std::fs::create_dir("/run/flannel").unwrap();
        let lease = "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        std::fs::write("/run/flannel/subnet.env", lease).unwrap();
        let network = Network::new(lab, "flannel", &json!({}));
        for command in ["ADD", "DEL"] {
            assert_eq!(started(lab, &network, command), [""; 0], "{command}");
        }
    });
}

#[test]
fn it_is_called_where_cni_path_has_none() {
    rscni_test::run(|lab| {
        let mut network = Network::bridge(lab, &[V4], &json!({}));
        network.plugin = network.plugin.cni_path([Path::new("/nowhere")]);
        let a = network.attach(lab, "a");
        assert_eq!(a.v4().to_string(), "10.1.0.2");
        a.del().success();
    });
}

#[test]
fn another_one_that_comes_first_is_executed() {
    rscni_test::run(|lab| {
        let mut network = Network::bridge(lab, &[V4, V6], &json!({ "cniVersion": "1.0.0" }));
        let dir = noting(lab);
        network.plugin = network.plugin.cni_path([dir.as_path(), Path::new("/run/rscni-test/bin")]);
        let a = network.attach(lab, "a");
        a.ping("10.1.0.1");
        a.check().success();
        a.del().success();
        assert_eq!(std::fs::read_to_string(dir.join("log")).unwrap(), "ADD\nCHECK\nDEL\n");
        assert!(!lab.snapshot().to_string().contains("ctr-a"), "{}", lab.snapshot());
    });
}

#[test]
fn another_one_that_comes_second_is_not() {
    rscni_test::run(|lab| {
        let mut network = Network::bridge(lab, &[V4], &json!({}));
        let dir = noting(lab);
        network.plugin = network.plugin.cni_path([Path::new("/run/rscni-test/bin"), dir.as_path()]);
        network.attach(lab, "a").del().success();
        assert!(!dir.join("log").exists());
    });
}

#[test]
fn addresses_of_this_one_are_released_by_the_other_and_the_other_way_round() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4, V6], &json!({ "cniVersion": "1.0.0" }));
        let mut with_other = network.clone();
        with_other.plugin = with_other.plugin.cni_path(["/usr/lib/cni"]);
        for (add, del, name) in [(&network, &with_other, "a"), (&with_other, &network, "b")] {
            let a = add.attach(lab, name);
            del.plugin.check(&a, "eth0", &a.config()).success();
            del.plugin.del(&a, "eth0", &a.config()).success();
            assert!(!lab.snapshot().to_string().contains(a.id()), "{}", lab.snapshot());
        }
    });
}

#[test]
fn of_the_runtimes_environment_another_one_gets_what_the_protocol_has_and_path() {
    rscni_test::run(|lab| {
        let dir = noting(lab);
        let script = format!(
            "#!/bin/sh\ntr '\\0' '\\n' </proc/$$/environ >{0}/$CNI_COMMAND\nexec /usr/lib/cni/host-local\n",
            dir.display()
        );
        std::fs::write(dir.join("host-local"), script).unwrap();
        let network = Network::bridge(lab, &[V4], &json!({ "cniVersion": "1.0.0" }));
        let plugin = network.plugin.cni_path([dir.as_path(), Path::new("/run/rscni-test/bin")]);
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
                format!("CNI_PATH={}:/run/rscni-test/bin", dir.display()),
                "TRACEPARENT=00-1-2-01".to_owned(),
            ];
            assert_eq!(variables, expected, "{command}");
        }
    });
}

#[test]
fn strace_shows_a_process_where_there_is_one() {
    // What the first test relies on.
    rscni_test::run(|lab| {
        let log = lab.dir().join("log");
        let status = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=execve", "-o"])
            .arg(&log)
            .args(["sh", "-c", "true; /bin/true; true"])
            .status()
            .unwrap();
        assert!(status.success());
        assert_eq!(
            std::fs::read_to_string(log).unwrap().lines().filter(|l| l.contains("execve(")).count(),
            2
        );
    });
}
