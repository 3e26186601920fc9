//! `rscni doctor`: each finding is produced in a private network, seen, mended by the command that it names, and gone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rscni_linux::Netns;
use rscni_test::{Lab, eventually};
use serde_json::{Value, json};

use crate::world::{RSCNI, Ran, run, write_program};

/// A node whose directories are the test's own, with every plugin installed.
struct Node<'a> {
    lab: &'a Lab,
}

impl<'a> Node<'a> {
    fn new(lab: &'a Lab) -> Self {
        let node = Self { lab };
        for dir in [node.conf_dir(), node.bin(), node.path("tools")] {
            fs::create_dir(dir).unwrap();
        }
        // What operators call.
        symlink(RSCNI, node.path("tools/rscni")).unwrap();
        node.rscni(&["install", node.bin().to_str().unwrap()]).succeeded();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.lab.dir().join(name)
    }

    fn conf_dir(&self) -> PathBuf {
        self.path("net.d")
    }

    fn bin(&self) -> PathBuf {
        self.path("bin")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(RSCNI);
        command.env("NETCONFPATH", self.conf_dir()).env("CNI_PATH", self.bin());
        command
    }

    fn rscni(&self, words: &[&str]) -> Ran {
        run(self.command().args(words))
    }

    /// Writes a list of a bridge with these keys, and plugins after it.
    fn network(&self, name: &str, subnet: &str, keys: &Value, chained: &[Value]) {
        let mut bridge = json!({
            "type": "bridge", "bridge": format!("br-{name}"), "isGateway": true,
            "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]] },
        });
        bridge.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let plugins: Vec<_> = [bridge].into_iter().chain(chained.iter().cloned()).collect();
        self.list(name, &json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins }));
    }

    fn list(&self, file: &str, list: &Value) {
        fs::write(self.conf_dir().join(format!("{file}.conflist")), list.to_string()).unwrap();
    }

    fn add(&self, network: &str, container: &str) {
        self.lab.container(container);
        self.rscni(&["add", network, container, "--container-id", container]).succeeded();
    }

    fn findings(&self) -> Vec<Value> {
        let ran = self.rscni(&["doctor", "-o", "json"]);
        let findings = ran.json()["findings"].as_array().unwrap().clone();
        let has_error = findings.iter().any(|finding| finding["severity"] == "error");
        assert_eq!(ran.status, i32::from(has_error), "{ran:?}");
        findings
    }

    fn find(&self, id: &str) -> Option<Value> {
        self.findings().into_iter().find(|finding| finding["id"] == id)
    }

    /// The finding of that id, whose text has `what`.
    #[track_caller]
    fn sees(&self, id: &str, severity: &str, what: &str) -> Value {
        let all = self.findings();
        let found = all.iter().find(|finding| finding["id"] == id).unwrap_or_else(|| panic!("no {id}: {all:#?}"));
        assert!(found["severity"] == severity && found["what"].as_str().unwrap().contains(what), "{found:#}");
        assert_eq!(found["why"].is_string(), severity != "ok", "{found:#}");
        found.clone()
    }

    /// Sees the finding, does what it says, and sees it no more.
    #[track_caller]
    fn is_mended(&self, id: &str, severity: &str, what: &str) {
        let found = self.sees(id, severity, what);
        let mend = found["mend"].as_str().unwrap_or_else(|| panic!("{found:#}"));
        let tools = format!("{}:{}", self.path("tools").display(), std::env::var("PATH").unwrap());
        let ran = run(Command::new("sh").args(["-ec", mend]).env("PATH", tools));
        assert_eq!(ran.status, 0, "{mend}: {ran:?}");
        assert_eq!(self.find(id), None, "after {mend}: {ran:?}");
    }
}

fn in_node(test: impl FnOnce(&Node<'_>)) {
    rscni_test::run(|lab| test(&Node::new(lab)));
}

const RESERVATIONS: &str = "/var/lib/cni/networks";

#[test]
fn a_node_in_order_has_nothing_but_ok_and_is_left_as_it_is() {
    in_node(|node| {
        let chained = [json!({ "type": "portmap", "capabilities": { "portMappings": true } })];
        node.network("net", "10.1.0.0/24", &json!({ "ipMasq": true }), &chained);
        node.add("net", "a");
        let before = node.lab.snapshot();
        let ran = node.rscni(&["doctor"]).succeeded();
        node.lab.snapshot().assert_same(&before);
        assert!(ran.stdout.lines().count() > 7, "{}", ran.stdout);
        let (lines, last) = ran.stdout.trim_end().rsplit_once('\n').unwrap();
        assert!(lines.lines().all(|line| line.starts_with("ok       ")), "{}", ran.stdout);
        assert_eq!(last, "0 errors, 0 warnings");
        node.sees("list-first", "ok", "net.conflist (network net)");
    });
}

#[test]
fn directories() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        fs::set_permissions(node.conf_dir(), fs::Permissions::from_mode(0o777)).unwrap();
        node.is_mended("writable-by-all", "error", "net.d can be changed by everyone (mode 777)");
        fs::set_permissions(node.bin().join("rscni"), fs::Permissions::from_mode(0o757)).unwrap();
        node.is_mended("writable-by-all", "error", "bin/");
        fs::remove_dir_all(node.bin()).unwrap();
        node.sees("plugin-missing", "warning", "plugin bridge of net is not in");
        node.is_mended("plugin-dir-missing", "warning", "bin is not there");
        fs::remove_dir_all(node.conf_dir()).unwrap();
        node.is_mended("conf-dir-missing", "error", "net.d is not there");
    });
}

#[test]
fn networks() {
    in_node(|node| {
        node.sees("no-network", "error", "has no network configuration");
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        assert_eq!(node.find("no-network"), None);
        fs::write(node.conf_dir().join("20-bad.conf"), "{ oops").unwrap();
        node.is_mended("list-unreadable", "error", "20-bad.conf: key must be a string");
        let single = json!({ "cniVersion": "1.1.0", "name": "net", "type": "loopback" });
        fs::write(node.conf_dir().join("30-it's $2.conf"), single.to_string()).unwrap();
        node.is_mended("list-duplicate", "warning", "another file has a network named net too");
        for name in ["40-net.yaml", "50-net.conf~", "60-net.conflist.txt"] {
            fs::write(node.conf_dir().join(name), single.to_string()).unwrap();
            node.is_mended("list-ignored", "warning", &format!("{name} is read by no runtime"));
        }
        node.list("70-old", &json!({ "cniVersion": "0.3.1", "name": "old", "plugins": [{ "type": "loopback" }] }));
        node.sees("list-old", "warning", "network old has cniVersion 0.3.1");
    });
}

#[test]
fn plugins() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[json!({ "type": "portmap" })]);
        let plugin = node.bin().join("portmap");
        fs::remove_file(&plugin).unwrap();
        node.is_mended("plugin-missing", "error", "plugin portmap of net is not in");
        fs::remove_file(&plugin).unwrap();
        fs::write(&plugin, "").unwrap();
        node.is_mended("plugin-not-executable", "error", "bin/portmap is not executable");
        node.is_mended("plugin-broken", "error", "does not say which versions it supports");
        fs::remove_file(&plugin).unwrap();
        symlink("/usr/lib/cni/portmap", &plugin).unwrap();
        node.sees("plugins-mixed", "ok", "portmap of others");
        node.is_mended("plugin-version", "error", "does not support cniVersion 1.1.0 of network net, but 0.1.0");
        assert_eq!(node.find("plugins-mixed"), None);
        node.list("other", &json!({ "cniVersion": "1.1.0", "name": "other", "plugins": [{ "type": "theirs" }] }));
        let found = node.sees("plugin-missing", "error", "plugin theirs of other is not in");
        assert_eq!(found["mend"], Value::Null);
        fs::remove_file(node.conf_dir().join("other.conflist")).unwrap();

        let second = node.path("second");
        fs::create_dir(&second).unwrap();
        write_program(&second.join("bridge"), "#!/bin/sh\n");
        let path = format!("{}:{}", node.bin().display(), second.display());
        let doctor = || run(node.command().args(["doctor", "-o", "json"]).env("CNI_PATH", &path)).json();
        let shadowed = |json: &Value| {
            let all = json["findings"].as_array().unwrap().iter();
            all.clone().find(|finding| finding["id"] == "plugin-shadowed").cloned()
        };
        let found = shadowed(&doctor()).unwrap();
        assert!(found["what"].as_str().unwrap().contains("second/bridge is never used"), "{found}");
        run(Command::new("sh").args(["-ec", found["mend"].as_str().unwrap()])).succeeded();
        assert_eq!(shadowed(&doctor()), None);
    });
}

#[test]
fn features_of_the_kernel() {
    in_node(|node| {
        node.lab.host().netlink().add_veth(&rscni_linux::Veth::new("lower", "upper")).unwrap();
        let mut missing = Vec::new();
        for (kind, keys) in [
            ("macvlan", json!({ "master": "lower" })),
            ("ipvlan", json!({ "master": "lower" })),
            ("vlan", json!({ "master": "lower", "vlanId": 5 })),
            ("dummy", json!({})),
            ("vrf", json!({ "vrfname": "blue" })),
            ("tap", json!({})),
        ] {
            let mut plugin = json!({ "type": kind });
            plugin.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
            node.list(kind, &json!({ "cniVersion": "1.1.0", "name": kind, "plugins": [plugin] }));
            let ip: &[&str] = match kind {
                "vrf" => &["type", "vrf", "table", "10"],
                "dummy" => &["type", "dummy"],
                "vlan" => &["link", "lower", "type", "vlan", "id", "5"],
                "tap" => continue,
                _ => &["link", "lower", "type", kind],
            };
            let made = Command::new("ip").args(["link", "add", "x"]).args(ip).stderr(Stdio::null()).status().unwrap();
            if made.success() {
                Command::new("ip").args(["link", "del", "x"]).status().unwrap();
            } else {
                missing.push(kind);
            }
        }
        let found: Vec<_> = node
            .findings()
            .iter()
            .filter(|finding| finding["id"] == "kernel-feature-missing")
            .map(|finding| finding["what"].as_str().unwrap().to_owned())
            .collect();
        // Without the right to make a namespace there is no way to try.
        let mut unable = Command::new("setpriv");
        unable.args(["--bounding-set=-sys_admin", RSCNI, "doctor", "-o", "json"]);
        let ran = run(unable.env("NETCONFPATH", node.conf_dir()).env("CNI_PATH", node.bin()));
        let unknown = ran.stdout.matches("\"kernel-feature-unknown\"").count();
        let is_tried = !Path::new("/lib/modules").exists();
        assert!(!is_tried || unknown >= 5 && !ran.stdout.contains("kernel-feature-missing"), "{ran:?}");
        let named = |kind: &&&str| {
            found.iter().any(|what| what.starts_with(&format!("the kernel has no {kind}, which {kind} needs")))
        };
        assert!(
            missing.iter().filter(named).count() == missing.len() && found.len() == missing.len(),
            "{missing:?} {found:?}"
        );
    });
}

#[test]
fn forwarding() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[json!({ "type": "sbr" })]);
        node.add("net", "a");
        for (key, value) in [("ip_forward", "0"), ("conf/all/rp_filter", "1")] {
            fs::write(Path::new("/proc/sys/net/ipv4").join(key), value).unwrap();
        }
        node.is_mended(
            "forwarding-off",
            "error",
            "net.ipv4.ip_forward is 0; attachments whose gateway is this host: 1",
        );
        node.is_mended("rp-filter-strict", "warning", "net.ipv4.conf.all.rp_filter is 1");
        // One that the runtime has forgotten counts as well.
        fs::remove_file("/var/lib/cni/results/net-a-eth0").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        node.is_mended(
            "forwarding-off",
            "error",
            "net.ipv4.ip_forward is 0; attachments whose gateway is this host: 1",
        );

        run(Command::new("iptables").args(["-P", "FORWARD", "DROP"])).succeeded();
        node.is_mended("forward-policy-drop", "warning", "iptables drops what is forwarded, and net has no plugin");
        run(Command::new("iptables").args(["-P", "FORWARD", "DROP"])).succeeded();
        let firewall = json!({ "type": "firewall", "ingressPolicy": "isolated" });
        node.network("net", "10.1.0.0/24", &json!({}), &[firewall]);
        assert_eq!(node.find("forward-policy-drop"), None);
        assert_eq!(node.find("bridge-not-filtered"), None);
        fs::remove_file(node.bin().join("firewall")).unwrap();
        symlink("/usr/lib/cni/firewall", node.bin().join("firewall")).unwrap();
        let value = fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables");
        if value.as_ref().is_ok_and(|value| value.trim() == "1") {
            assert_eq!(node.find("bridge-not-filtered"), None);
            fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0").unwrap();
        }
        let what = "is not 1, and a network has ingressPolicy isolated";
        if value.is_ok() {
            node.is_mended("bridge-not-filtered", "warning", what);
        } else {
            // Only the host can load what the setting belongs to.
            let found = node.sees("bridge-not-filtered", "warning", what);
            assert!(found["mend"].as_str().unwrap().starts_with("modprobe br_netfilter && sysctl -w "));
        }
    });
}

#[test]
fn remains_and_other_reservations() {
    in_node(|node| {
        node.network("net", "10.1.0.0/28", &json!({}), &[]);
        node.add("net", "a");
        let file = |name: &str| Path::new(RESERVATIONS).join("net").join(name);
        fs::write(file("10.1.0.9"), "").unwrap();
        node.is_mended("address-remains", "warning", "net/10.1.0.9 says of no container");
        // Without GC there are other commands.
        let list = fs::read_to_string(node.conf_dir().join("net.conflist")).unwrap();
        fs::write(node.conf_dir().join("net.conflist"), list.replace("1.1.0", "1.0.0")).unwrap();
        fs::create_dir(file("10.1.0.9")).unwrap();
        node.is_mended("address-remains", "warning", "net/10.1.0.9 says of no container");
        fs::write(file("10.1.0.9"), "cut off\r\n").unwrap();
        node.is_mended("address-remains", "warning", "net/10.1.0.9 says of no container");
        fs::write(node.conf_dir().join("net.conflist"), list).unwrap();
        drop(std::os::unix::net::UnixListener::bind(file("10.1.0.9")).unwrap());
        node.is_mended("address-unreadable", "warning", "net/10.1.0.9 cannot be read");

        for n in 3..14 {
            fs::write(file(&format!("10.1.0.{n}")), format!("gone-{n}\r\neth0")).unwrap();
        }
        node.is_mended("range-nearly-full", "warning", "12 of 13 addresses of 10.1.0.1-10.1.0.14 are reserved (");
        for n in 3..15 {
            fs::write(file(&format!("10.1.0.{n}")), format!("gone-{n}\r\neth0")).unwrap();
        }
        node.is_mended("range-full", "error", "13 of 13 addresses of 10.1.0.1-10.1.0.14 are reserved (");

        // A call of this boot has made the index, and nobody changed the directory since.
        node.rscni(&["check", "net", "a", "--container-id", "a"]).succeeded();
        let index = Path::new(RESERVATIONS).join(".index/net");
        let mut bytes = fs::read(&index).unwrap();
        bytes[4096..8192].fill(0);
        fs::write(&index, bytes).unwrap();
        node.is_mended("index-differs", "error", ".index/net says something else");

        node.network("other", "10.1.0.0/24", &json!({}), &[]);
        node.add("other", "b");
        node.sees("address-duplicate", "warning", "10.1.0.2 is reserved 2 times: /var/lib/cni/networks/net/10.1.0.2, ");
        node.network("net", "10.7.0.0/24", &json!({}), &[]);
        node.sees("address-outside", "warning", "net/10.1.0.2 is in no range of its network");
        node.network("net", "10.7.0.1/24", &json!({}), &[]);
        node.sees("range-invalid", "error", "network net: range set 0: subnet");
    });
}

/// Waits until the kernel has taken the host's end of a veth away whose namespace is gone.
fn leave(container: &str) {
    let veths = || {
        let links = rscni_linux::Netlink::open().unwrap().links().unwrap();
        links.iter().filter(|link| link.kind.as_deref() == Some("veth")).count()
    };
    let before = veths();
    Netns::unbind(Path::new("/run/netns").join(container)).unwrap();
    eventually(&format!("the end of the veth of {container}"), || (veths() < before).then_some(()));
}

#[test]
fn what_is_remembered() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        node.add("net", "a");
        leave("a");
        node.is_mended(
            "attachment-gone",
            "warning",
            "a/eth0 is attached to net, and its namespace /var/run/netns/a is gone",
        );
        node.add("net", "b");
        fs::write("/var/lib/cni/results/net-c-eth0", "{").unwrap();
        node.is_mended("cache-unreadable", "warning", "net-c-eth0: EOF while parsing");
        fs::remove_file(node.conf_dir().join("net.conflist")).unwrap();
        node.is_mended("attachment-without-network", "warning", "b/eth0 is attached to net, which no file in");
        assert_eq!(node.find("orphaned-address"), None);
    });
}

#[test]
fn what_is_left_of_containers_that_are_gone() {
    in_node(|node| {
        let chained = [
            json!({ "type": "tuning", "mtu": 1400 }),
            json!({ "type": "bandwidth", "egressRate": 8000, "egressBurst": 80_000 }),
        ];
        node.network("net", "10.1.0.0/24", &json!({ "ipMasq": true }), &chained);
        node.network("old", "10.2.0.0/24", &json!({ "ipMasq": true, "ipMasqBackend": "iptables" }), &[]);
        let lose = |network: &str, container: &str| {
            node.add(network, container);
            fs::remove_file(format!("/var/lib/cni/results/{network}-{container}-eth0")).unwrap();
            assert_eq!(node.find("orphaned-address"), None, "its interface is there");
            leave(container);
        };
        for (id, what, n) in [
            ("orphaned-address", "network net: address /var/lib/cni/networks/net/10.1.0.", 1),
            ("orphaned-element", "network net: element inet rscni masquerade4 10.1.0.", 2),
            ("orphaned-file", "network net: file /run/cni/tuning/gone-3_eth0.json of gone-3/eth0", 3),
            ("orphaned-link", "network net: link bwp", 4),
        ] {
            lose("net", &format!("gone-{n}"));
            node.is_mended(id, "warning", what);
            assert!(!node.findings().iter().any(|finding| finding["severity"] != "ok"), "{:#?}", node.findings());
        }
        lose("old", "gone-5");
        node.is_mended("orphaned-chain", "warning", "network old: chain iptables nat CNI-");
        // And where nothing but marks is left of the network.
        lose("net", "gone-6");
        fs::remove_file(node.conf_dir().join("net.conflist")).unwrap();
        node.is_mended("orphaned-element", "warning", "10.1.0.");
        assert_eq!(node.find("orphaned-link"), None);
        fs::create_dir_all("/run/cni/tuning").unwrap();
        fs::write("/run/cni/tuning/a_eth0.json", "").unwrap();
        node.is_mended("file-cut-off", "warning", "/run/cni/tuning/a_eth0.json is not what a plugin writes");
    });
}

#[test]
fn the_daemon_of_dhcp() {
    in_node(|node| {
        let socket = node.path("dhcp.sock");
        let ipam = json!({ "ipam": { "type": "dhcp", "daemonSocketPath": socket } });
        node.network("net", "10.1.0.0/24", &ipam, &[]);
        let found = node.sees("dhcp-daemon", "error", "nobody answers at");
        let mend = found["mend"].as_str().unwrap();
        if mend.starts_with("systemctl ") {
            return;
        }
        let tools = format!("{}:{}", node.path("tools").display(), std::env::var("PATH").unwrap());
        let mut daemon = Command::new("sh")
            .args(["-c", &format!("exec {mend}")])
            .env("PATH", tools)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the daemon listens", || socket.exists().then_some(()));
        let after = node.find("dhcp-daemon");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        assert_eq!(after, None);
    });
}
