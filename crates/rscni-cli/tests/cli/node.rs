//! Networks that are real, in a private network of their own.

use std::{path::Path, process::Command};

use rscni_test::Lab;
use serde_json::json;

use crate::world::{RSCNI, Ran, run};

/// The network `mynet`, a bridge with addresses and routes, in the lab's own directory.
fn network(lab: &Lab) {
    let dir = lab.dir().join("net.d");
    std::fs::create_dir(&dir).unwrap();
    let ipam = json!({
        "type": "host-local", "dataDir": lab.dir().join("addresses"), "ranges": [[{ "subnet": "10.1.0.0/16" }]],
    });
    let bridge = json!({ "type": "bridge", "isDefaultGateway": true, "ipam": ipam });
    let list = json!({ "cniVersion": "1.0.0", "name": "mynet", "plugins": [bridge] });
    std::fs::write(dir.join("10-mynet.conflist"), list.to_string()).unwrap();
}

/// `rscni` with these words, and the plugins of `bin`; there are none in the lab's directory.
fn rscni(lab: &Lab, bin: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new(RSCNI);
    command.args(words).env("NETCONFPATH", lab.dir().join("net.d")).env("CNI_PATH", bin);
    run(command.arg("--cache-dir").arg(lab.dir().join("cache")))
}

#[test]
fn a_namespace_is_made_where_asked_and_shared_as_ip_netns_shares_it() {
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
        // One mount for the directory, and one for the namespace, in a group of peers. The machine's own mounts are below
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
fn with_a_limit_the_plugins_inside_are_processes_of_their_own() {
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

        // Stopped before it can do anything: the address file's lock is held by someone else.
        let addresses = lab.dir().join("addresses/mynet");
        std::fs::create_dir_all(&addresses).unwrap();
        let lock = std::fs::File::create(addresses.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let ran = rscni(lab, lab.dir(), &["add", "mynet", "testing", "--timeout", "1s"]);
        assert!(ran.status == 1 && ran.stderr.contains("longer than 1s"), "{}", ran.stderr);
    });
}

#[test]
fn a_namespace_that_was_made_in_vain_is_removed_and_any_other_is_left() {
    rscni_test::run(|lab| {
        network(lab);
        let list =
            json!({ "cniVersion": "1.0.0", "name": "bad", "plugins": [{ "type": "nothing" }] });
        std::fs::write(lab.dir().join("net.d/20-bad.conflist"), list.to_string()).unwrap();
        lab.container("mine");
        for (name, is_left) in [("new", false), ("mine", true)] {
            let ran = rscni(lab, lab.dir(), &["add", "bad", name, "--create-netns"]);
            assert!(
                ran.status == 1 && ran.stderr.contains("nothing is not installed"),
                "{}",
                ran.stderr
            );
            assert_eq!(Path::new("/run/netns").join(name).exists(), is_left, "{name}");
        }
        let path = lab.dir().join("elsewhere");
        let ran =
            rscni(lab, lab.dir(), &["add", "mynet", path.to_str().unwrap(), "--create-netns"]);
        assert!(ran.status == 1 && ran.stderr.contains("(code 8)"), "{}", ran.stderr);
        assert!(!path.exists());
    });
}
