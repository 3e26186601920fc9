//! Modes of files under any umask, and files of other users.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use crate::support::{BIN, Network, RSCNI, V4, host_local, sh, write_script};

/// Returns the network with its plugin called under a umask.
fn under(lab: &Lab, umask: &str, mut network: Network) -> Network {
    let script = write_script(
        lab.dir().join(format!("umask-{umask}-{}", network.kind())),
        &format!("umask {umask}\nexec {}", network.plugin.program().display()),
    );
    network.plugin = lab.plugin(script).cni_path([BIN]);
    network
}

/// Returns every file and directory below, with its mode.
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
fn state_has_the_same_modes_under_any_umask(#[values("000", "077", "777")] umask: &str) {
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
fn an_installation_has_the_same_modes_under_any_umask(#[values("000", "077", "777")] umask: &str) {
    let dir = tempfile::tempdir().unwrap();
    sh(&format!("umask {umask}; exec {RSCNI} install {}/cni/bin", dir.path().display()));
    let modes = modes(dir.path());
    let modes: Vec<_> = modes.iter().filter(|line| !line.starts_with("777 ")).collect();
    let [cni, bin, program] = &modes[..] else { panic!("{modes:?}") };
    assert!(
        cni.starts_with("755 ") && bin.starts_with("755 ") && program.starts_with("755 "),
        "{modes:?}"
    );
}

/// Another user who can write to a configured directory puts symbolic links there.
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
            network.add(&container).error(5).mentions(file);
            fs::remove_dir_all(dir.join("net")).unwrap();
        }
        let elsewhere = lab.dir().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, dir.join("net")).unwrap();
        network.add(&container).error(5).mentions("shared/net");
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0);
        fs::remove_file(dir.join("net")).unwrap();

        // An address, a draft and an index that are links do not matter.
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
        flannel.add(&lab.container("b")).error(5).mentions("ctr-b");
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
        network.status().success();
        let a = network.attach(lab, "a");
        assert!(real.join("net/10.1.0.2").is_file());
        a.del().success();
    });
}
