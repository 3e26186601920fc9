//! Files and directories: whatever the umask of the caller is, and whatever others have put in the way.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Command,
};

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use crate::support::{Network, V4, host_local};

/// Has the plugin of a network called under a umask.
fn under(lab: &Lab, umask: &str, mut network: Network) -> Network {
    let program = network.plugin.program().to_owned();
    let script =
        lab.dir().join(format!("umask-{umask}-{}", network.config["type"].as_str().unwrap()));
    fs::write(&script, format!("#!/bin/sh\numask {umask}\nexec {}\n", program.display())).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    network.plugin = lab.plugin(&script).cni_path(["/run/rscni-test/bin"]);
    network
}

/// Every file and directory below, with its mode.
fn modes(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        all.push(format!("{:o} {}", metadata.permissions().mode() & 0o7777, path.display()));
        if metadata.is_dir() {
            all.extend(modes(&path));
        }
    }
    all.sort_by_key(|line| line.split_once(' ').unwrap().1.to_owned());
    all
}

#[rstest]
fn what_plugins_keep_has_the_same_modes_whatever_the_umask(
    #[values("000", "077", "777")] umask: &str,
) {
    rscni_test::run(|lab| {
        // Short, and the same for both.
        let dir = Path::new("/run/modes");
        fs::create_dir(dir).unwrap();
        let ipam =
            json!({ "type": "host-local", "subnet": V4, "dataDir": "/run/modes/a/networks" });
        let bridge = under(lab, umask, Network::bridge(lab, &[], &json!({ "ipam": ipam })));
        let a = bridge.attach(lab, "a");
        let tuning =
            Network::new(lab, "tuning", &json!({ "dataDir": "/run/modes/b/tuning", "mtu": 1400 }));
        under(lab, umask, tuning).after(&a);
        fs::write(
            "/run/subnet.env",
            "FLANNEL_NETWORK=10.2.0.0/16\nFLANNEL_SUBNET=10.2.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        )
        .unwrap();
        let keys = json!({ "subnetFile": "/run/subnet.env", "dataDir": "/run/modes/c/flannel" });
        under(lab, umask, Network::new(lab, "flannel", &keys)).attach(lab, "b");
        let expected = [
            "755 /run/modes/a",
            "755 /run/modes/a/networks",
            "700 /run/modes/a/networks/.index",
            "600 /run/modes/a/networks/.index/net",
            "755 /run/modes/a/networks/net",
            "600 /run/modes/a/networks/net/10.1.0.2",
            "600 /run/modes/a/networks/net/last_reserved_ip.0",
            "600 /run/modes/a/networks/net/lock",
            "755 /run/modes/b",
            "755 /run/modes/b/tuning",
            "600 /run/modes/b/tuning/ctr-a_eth0.json",
            "755 /run/modes/c",
            "700 /run/modes/c/flannel",
            "600 /run/modes/c/flannel/ctr-b",
        ];
        assert_eq!(modes(dir), expected);
    });
}

#[rstest]
fn an_installation_has_the_same_modes_whatever_the_umask(
    #[values("000", "077", "777")] umask: &str,
) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "umask {umask}; exec {} install {}/cni/bin",
        env!("CARGO_BIN_EXE_rscni"),
        dir.path().display()
    );
    let status = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(status.success());
    let modes = modes(dir.path());
    let modes: Vec<_> = modes.iter().filter(|line| !line.starts_with("777 ")).collect();
    let [cni, bin, program] = &modes[..] else { panic!("{modes:?}") };
    assert!(
        cni.starts_with("755 ") && bin.starts_with("755 ") && program.starts_with("755 "),
        "{modes:?}"
    );
}

/// Who may write into a directory that a configuration names has links wait there under names that are foreseen.
#[test]
fn no_link_in_the_place_of_a_file_is_followed() {
    rscni_test::run(|lab| {
        let dir = lab.dir().join("shared");
        let victim = lab.dir().join("victim");
        fs::create_dir(&dir).unwrap();
        fs::write(&victim, "untouched").unwrap();
        let ipam = json!({ "type": "host-local", "subnet": V4, "dataDir": dir });
        let network = Network::bridge(lab, &[], &json!({ "ipam": ipam }));
        let container = lab.container("a");

        for file in ["lock", "last_reserved_ip.0"] {
            fs::create_dir(dir.join("net")).unwrap();
            symlink(&victim, dir.join("net").join(file)).unwrap();
            network.plugin.add(&container, "eth0", &network.config).error(5).mentions(file);
            fs::remove_dir_all(dir.join("net")).unwrap();
        }
        let elsewhere = lab.dir().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, dir.join("net")).unwrap();
        network.plugin.add(&container, "eth0", &network.config).error(5).mentions("shared/net");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        fs::remove_file(dir.join("net")).unwrap();

        // An address, a draft and an index that are links are in nobody's way.
        fs::create_dir_all(dir.join("net")).unwrap();
        fs::remove_file(dir.join(".index/net")).unwrap();
        for link in ["net/.reservation", "net/10.1.0.2", ".index/net"] {
            symlink(&victim, dir.join(link)).unwrap();
        }
        let a = network.attach_as(&container, "eth0");
        let tuning = Network::new(lab, "tuning", &json!({ "dataDir": dir, "mtu": 1400 }));
        symlink(&victim, dir.join("ctr-a_eth0.json")).unwrap();
        tuning.call_after(&a).error(5).mentions("ctr-a_eth0.json");
        assert_eq!(a.link().mtu, 1500);
        a.del().success();

        fs::write(
            "/run/subnet.env",
            "FLANNEL_NETWORK=10.2.0.0/16\nFLANNEL_SUBNET=10.2.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n",
        )
        .unwrap();
        let flannel = Network::new(
            lab,
            "flannel",
            &json!({ "subnetFile": "/run/subnet.env", "dataDir": dir }),
        );
        symlink(&victim, dir.join("ctr-b")).unwrap();
        flannel.plugin.add(&lab.container("b"), "eth0", &flannel.config).error(5).mentions("ctr-b");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    });
}

/// An operator may have moved the directory of all networks to another file system.
#[test]
fn the_data_directory_itself_may_be_a_link() {
    rscni_test::run(|lab| {
        let (real, link) = (lab.dir().join("real"), lab.dir().join("link"));
        fs::create_dir(&real).unwrap();
        symlink(&real, &link).unwrap();
        let mut ipam = host_local(&[V4]);
        ipam["dataDir"] = json!(link);
        let network = Network::bridge(lab, &[], &json!({ "ipam": ipam }));
        network.plugin.status(&network.config).success();
        let a = network.attach(lab, "a");
        assert!(real.join("net/10.1.0.2").is_file());
        a.del().success();
    });
}
