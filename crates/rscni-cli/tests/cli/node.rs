//! `rscni add`, `check` and `del` with real plugins in a private network.

use std::{path::Path, process::Command};

use rscni_test::Lab;
use serde_json::json;

use crate::fixture::{CommandOutput, RSCNI, run};

/// Creates the network `mynet`, a bridge with addresses, in the lab's directory.
fn network(lab: &Lab) {
    let dir = lab.dir().join("net.d");
    std::fs::create_dir(&dir).unwrap();
    let ipam = json!({
        "type": "host-local", "dataDir": lab.dir().join("addresses"),
        "ranges": [[{ "subnet": "10.1.0.0/16" }]],
    });
    let bridge = json!({ "type": "bridge", "isDefaultGateway": true, "ipam": ipam });
    let list = json!({ "cniVersion": "1.0.0", "name": "mynet", "plugins": [bridge] });
    std::fs::write(dir.join("10-mynet.conflist"), list.to_string()).unwrap();
}

/// Runs `rscni` with the plugins of `bin`. The lab's directory has none.
fn rscni(lab: &Lab, bin: &Path, words: &[&str]) -> CommandOutput {
    let mut command = Command::new(RSCNI);
    command.args(words).env("NETCONFPATH", lab.dir().join("net.d")).env("CNI_PATH", bin);
    run(command.arg("--cache-dir").arg(lab.dir().join("cache")))
}

#[test]
fn create_netns_mounts_the_namespace_like_ip_netns() {
    rscni_test::run(|lab| {
        network(lab);
        let none = lab.dir();
        let refused = rscni(lab, none, &["add", "mynet", "testing"]);
        assert!(
            refused.stderr.contains("--create-netns") && refused.status == 1,
            "{}",
            refused.stderr
        );
        for _ in 0..2 {
            let added =
                rscni(lab, none, &["add", "mynet", "testing", "--create-netns", "-o", "text"])
                    .succeeded();
            assert!(
                added.stdout.starts_with("testing is attached to mynet as eth0\n"),
                "{}",
                added.stdout
            );
            assert!(added.stdout.contains("addresses   10.1.0."), "{}", added.stdout);
            rscni(lab, none, &["check", "mynet", "testing"]).succeeded();
            rscni(lab, none, &["del", "mynet", "testing"]).succeeded();
        }
        // The directory and the namespace are shared mounts. The mounts of the machine come before
        // that of the private /run.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts: Vec<_> = mounts.lines().collect();
        let point = |line: &str| line.split(' ').nth(4).unwrap().to_owned();
        let run = mounts.iter().rposition(|line| point(line) == "/run").unwrap();
        let mounts = &mounts[run + 1..];
        let mounts: Vec<_> = mounts.iter().filter(|line| line.contains(" /run/netns")).collect();
        assert!(mounts.iter().all(|line| line.contains(" shared:")), "{mounts:#?}");
        let points: Vec<_> = mounts.iter().map(|line| point(line)).collect();
        assert_eq!(points, ["/run/netns", "/run/netns/testing"]);
    });
}

#[test]
fn timeout_runs_own_plugins_as_processes() {
    rscni_test::run(|lab| {
        network(lab);
        lab.container("testing");
        let before = lab
            .snapshot()
            .ignoring("last_reserved_ip")
            .ignoring("/lock")
            .ignoring("/.index/")
            .ignoring("forward");
        let long = &["--timeout", "10m"];
        rscni(lab, lab.dir(), &[&["add", "mynet", "testing"], &long[..]].concat()).succeeded();
        rscni(lab, lab.dir(), &[&["check", "mynet", "testing"], &long[..]].concat()).succeeded();
        rscni(lab, lab.dir(), &[&["del", "mynet", "testing"], &long[..]].concat()).succeeded();
        lab.host()
            .netlink()
            .del_link(lab.host().netlink().link_by_name("cni0").unwrap().index)
            .unwrap();
        lab.assert_unchanged_since(&before);

        // The plugin blocks on host-local's lock until it is killed.
        let addresses = lab.dir().join("addresses/mynet");
        std::fs::create_dir_all(&addresses).unwrap();
        let lock = std::fs::File::create(addresses.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let out = rscni(lab, lab.dir(), &["add", "mynet", "testing", "--timeout", "1s"]);
        assert!(out.status == 1 && out.stderr.contains("longer than 1s"), "{}", out.stderr);
    });
}

#[test]
fn failed_add_removes_only_a_created_namespace() {
    rscni_test::run(|lab| {
        network(lab);
        let list =
            json!({ "cniVersion": "1.0.0", "name": "bad", "plugins": [{ "type": "nothing" }] });
        std::fs::write(lab.dir().join("net.d/20-bad.conflist"), list.to_string()).unwrap();
        lab.container("mine");
        for (name, is_left) in [("new", false), ("mine", true)] {
            let out = rscni(lab, lab.dir(), &["add", "bad", name, "--create-netns"]);
            assert!(
                out.status == 1 && out.stderr.contains("nothing is not installed"),
                "{}",
                out.stderr
            );
            assert_eq!(Path::new("/run/netns").join(name).exists(), is_left, "{name}");
        }
        let path = lab.dir().join("elsewhere");
        let out =
            rscni(lab, lab.dir(), &["add", "mynet", path.to_str().unwrap(), "--create-netns"]);
        assert!(out.status == 1 && out.stderr.contains("(code 8)"), "{}", out.stderr);
        assert!(!path.exists());
    });
}
