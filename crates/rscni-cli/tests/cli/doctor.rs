//! `rscni doctor`: each finding is produced in a private network, seen, mended by the command that it names, and gone.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

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
        let found = all
            .iter()
            .find(|finding| finding["id"] == id)
            .unwrap_or_else(|| panic!("no {id}: {all:#?}"));
        assert!(
            found["severity"] == severity && found["what"].as_str().unwrap().contains(what),
            "{found:#}"
        );
        assert_eq!(found["why"].is_string(), severity != "ok", "{found:#}");
        found.clone()
    }

    /// Sees the finding, does what it says, and sees it no more.
    #[track_caller]
    fn is_mended(&self, id: &str, severity: &str, what: &str) {
        let found = self.sees(id, severity, what);
        let mend = found["mend"].as_str().unwrap_or_else(|| panic!("{found:#}"));
        let ran = self.mend(mend);
        assert_eq!(ran.status, 0, "{mend}: {ran:?}");
        assert_eq!(self.find(id), None, "after {mend}: {ran:?}");
    }

    /// Does what a finding says.
    fn mend(&self, mend: &str) -> Ran {
        let tools = format!("{}:{}", self.path("tools").display(), std::env::var("PATH").unwrap());
        run(Command::new("sh").args(["-ec", mend]).env("PATH", tools))
    }

    /// Puts a program in the way of the system's own, which cannot do its work in here.
    fn stand_in(&self, name: &str, script: &str) {
        write_program(&self.path("tools").join(name), &format!("#!/bin/sh -e\n{script}\n"));
    }

    /// `doctor` of somebody without these capabilities.
    fn findings_without(&self, capabilities: &str) -> Vec<Value> {
        let mut command = Command::new("setpriv");
        command.args([&format!("--bounding-set={capabilities}"), RSCNI, "doctor", "-o", "json"]);
        let ran = run(command.env("NETCONFPATH", self.conf_dir()).env("CNI_PATH", self.bin()));
        ran.json()["findings"].as_array().unwrap().clone()
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
fn file_systems_that_nothing_can_be_kept_on() {
    in_node(|node| {
        let mount = |options: &str| {
            fs::create_dir_all("/var/lib/cni").unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "none", "/var/lib/cni"]))
                .succeeded();
        };
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        mount("ro");
        node.is_mended(
            "storage-read-only",
            "error",
            "/var/lib/cni is on a file system that nobody can write to",
        );
        let is_full =
            |what: &str| assert_eq!(node.sees("storage-full", "error", what)["mend"], Value::Null);
        mount("size=64k");
        is_full("the file system of /var/lib/cni has 64 KiB left");
        mount("nr_inodes=3");
        is_full("the file system of /var/lib/cni has room for 2 files left");
        mount("size=1m");
        assert_eq!(node.find("storage-full"), None);
        // Where neither is counted.
        mount("size=0,nr_inodes=0");
        assert_eq!(node.find("storage-full"), None);
    });
}

#[test]
fn networks() {
    in_node(|node| {
        node.is_mended("no-network", "error", "has no network configuration");
        // And it is one that works.
        node.add("bridge", "a");
        node.rscni(&["del", "bridge", "a", "--container-id", "a"]).succeeded();
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        fs::write(node.conf_dir().join("20-bad.conf"), "{ oops").unwrap();
        node.is_mended("list-unreadable", "error", "20-bad.conf: key must be a string");
        // A file of the wrong extension gets the right one, unless that does not help.
        let single = json!({ "cniVersion": "1.1.0", "name": "single", "type": "loopback" });
        let list =
            json!({ "cniVersion": "1.1.0", "name": "list", "plugins": [{ "type": "loopback" }] });
        let in_capitals =
            json!({ "CniVersion": "1.1.0", "Name": "list", "Plugins": [{ "Type": "loopback" }] });
        for (text, wrong, right, what) in [
            (
                &list,
                "25-it's.conf",
                "25-it's.conflist",
                "is a list of plugins, and has to be named *.conflist",
            ),
            (
                &in_capitals,
                "26.json",
                "26.conflist",
                "is a list of plugins, and has to be named *.conflist",
            ),
            (
                &single,
                "27.conflist",
                "27.conf",
                "the configuration of one plugin, and has to be named *.conf",
            ),
        ] {
            let text = text.to_string();
            fs::write(node.conf_dir().join(wrong), &text).unwrap();
            node.is_mended("list-unreadable", "error", what);
            assert_eq!(fs::read_to_string(node.conf_dir().join(right)).unwrap(), text);
            fs::write(node.conf_dir().join(wrong), &text).unwrap();
            let exists = format!("{right} exists");
            node.is_mended("list-unreadable", "error", &exists);
            assert!(node.conf_dir().join(format!("{wrong}.disabled")).exists(), "{wrong}");
            fs::remove_file(node.conf_dir().join(right)).unwrap();
        }
        let broken = json!({ "name": "list", "plugins": [{}] }).to_string();
        fs::write(node.conf_dir().join("28.conf"), broken).unwrap();
        node.is_mended(
            "list-unreadable",
            "error",
            "28.conf is a list of plugins that cannot be used",
        );
        assert!(node.conf_dir().join("28.conf.disabled").exists());
        let single = json!({ "cniVersion": "1.1.0", "name": "net", "type": "loopback" });
        fs::write(node.conf_dir().join("30-it's $2.conf"), single.to_string()).unwrap();
        node.is_mended("list-duplicate", "warning", "another file has a network named net too");
        for name in ["40-net.yaml", "50-net.conf~", "60-net.conflist.txt"] {
            fs::write(node.conf_dir().join(name), single.to_string()).unwrap();
            node.is_mended("list-ignored", "warning", &format!("{name} is read by no runtime"));
        }
        node.list(
            "70-old",
            &json!({ "cniVersion": "0.3.1", "name": "old", "plugins": [{ "type": "loopback" }] }),
        );
        node.is_mended("list-old", "warning", "network old has cniVersion 0.3.1");
        // However it is written, and where none is named.
        for (text, version) in [
            (
                r#"{ "cniVersion" : "0.2.0", "name": "old", "plugins": [{ "type": "loopback" }] }"#,
                "0.2.0",
            ),
            (r#"{"name":"old","plugins":[{"type":"loopback"}]}"#, "0.1.0"),
        ] {
            fs::write(node.conf_dir().join("70-old.conflist"), text).unwrap();
            node.is_mended("list-old", "warning", &format!("network old has cniVersion {version}"));
            let written = fs::read_to_string(node.conf_dir().join("70-old.conflist")).unwrap();
            assert!(
                serde_json::from_str::<Value>(&written).is_ok() && written.contains("1.1.0"),
                "{written}"
            );
        }
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
        node.is_mended(
            "plugin-version",
            "error",
            "does not support cniVersion 1.1.0 of network net, but 0.1.0",
        );
        assert_eq!(node.find("plugins-mixed"), None);
        node.list(
            "other",
            &json!({ "cniVersion": "1.1.0", "name": "other", "plugins": [{ "type": "theirs" }] }),
        );
        let found = node.sees("plugin-missing", "error", "plugin theirs of other is not in");
        assert_eq!(found["mend"], Value::Null);
        fs::remove_file(node.conf_dir().join("other.conflist")).unwrap();

        let second = node.path("second");
        fs::create_dir(&second).unwrap();
        write_program(&second.join("bridge"), "#!/bin/sh\n");
        let path = format!("{}:{}", node.bin().display(), second.display());
        let doctor =
            || run(node.command().args(["doctor", "-o", "json"]).env("CNI_PATH", &path)).json();
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
fn plugins_under_other_names_are_known() {
    in_node(|node| {
        // As BuildKit names them, and as an operator may.
        let ipam = |name: &str, subnet: &str| {
            let ranges = json!([[{ "subnet": subnet }]]);
            json!({ "type": name, "dataDir": "/run/pool", "ranges": ranges })
        };
        let bridge = |name: &str, ipam: Value| {
            let keys = json!({ "type": name, "bridge": "br0", "isGateway": true });
            let mut keys = keys.as_object().unwrap().clone();
            keys.insert("ipam".to_owned(), ipam);
            json!({ "cniVersion": "1.1.0", "name": "net", "plugins": [keys] })
        };
        let known = bridge("cnv-bridge", ipam("buildkit-cni-host-local", "10.1.0.0/29"));
        node.list("net", &known);
        let missing = |name: &str| format!("plugin {name} of net is not in");
        let found = node.sees("plugin-missing", "error", &missing("buildkit-cni-host-local"));
        node.mend(found["mend"].as_str().unwrap()).succeeded();
        node.is_mended("plugin-missing", "error", &missing("cnv-bridge"));
        node.add("net", "a");
        // The addresses are looked after.
        let stale = |n| fs::write(format!("/run/pool/net/10.1.0.{n}"), "gone\r\neth0").unwrap();
        (3..7).for_each(stale);
        node.is_mended("range-full", "error", "5 of 5 addresses of 10.1.0.1-10.1.0.6");
        stale(3);
        node.is_mended(
            "orphaned-address",
            "warning",
            "address /run/pool/net/10.1.0.3 of gone/eth0",
        );
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        node.is_mended("forwarding-off", "error", "attachments whose gateway is this host: 1");
        assert_eq!(node.find("plugins-mixed"), None);

        let bin = node.bin();
        let aliases = ["--as", "uplink=bridge", "--as", "pool=host-local"];
        node.rscni(&[&["install", bin.to_str().unwrap()], &aliases[..]].concat()).succeeded();
        node.list("net", &bridge("uplink", ipam("pool", "10.2.0.1/24")));
        // A container is attached, and its runtime needs the file to detach it.
        let found = node.sees("range-invalid", "error", "network net: ipam.ranges[0][0].subnet: ");
        assert_eq!(found["mend"], Value::Null);
        node.list("net", &bridge("uplink", ipam("pool", "10.1.0.0/29")));
        (3..7).for_each(stale);
        node.is_mended("range-full", "error", "5 of 5 addresses of 10.1.0.1-10.1.0.6");
        assert_eq!(node.find("plugins-mixed"), None);

        // Another project's plugin whose name happens to end in that of one of ours.
        node.list("net", &bridge("ovs-bridge", ipam("pool", "10.1.0.0/29")));
        let found = node.sees("plugin-missing", "error", "plugin ovs-bridge of net is not in");
        assert_eq!(found["mend"], Value::Null);
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
            let made = Command::new("ip")
                .args(["link", "add", "x"])
                .args(ip)
                .stderr(Stdio::null())
                .status()
                .unwrap();
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
        // A kernel with the feature cannot be had by a command, so it is what is told that has to be right.
        let settings = Command::new("zcat").arg("/proc/config.gz").output().unwrap();
        let settings = String::from_utf8(settings.stdout).unwrap();
        for what in &found {
            let setting =
                what.rsplit_once(": ").and_then(|(_, rest)| rest.strip_suffix(" is off")).unwrap();
            assert!(setting.starts_with("CONFIG_"), "{what}");
            assert!(
                !settings.lines().any(|line| line.starts_with(&format!("{setting}="))),
                "{setting} is on"
            );
        }
        // Without the right to make a namespace there is no way to try.
        let mut unable = Command::new("setpriv");
        unable.args(["--bounding-set=-sys_admin", RSCNI, "doctor", "-o", "json"]);
        let ran = run(unable.env("NETCONFPATH", node.conf_dir()).env("CNI_PATH", node.bin()));
        let unknown = ran.stdout.matches("\"kernel-feature-unknown\"").count();
        let is_tried = !Path::new("/lib/modules").exists();
        assert!(
            !is_tried || unknown >= 5 && !ran.stdout.contains("kernel-feature-missing"),
            "{ran:?}"
        );
        let named = |kind: &&&str| {
            found.iter().any(|what| {
                what.starts_with(&format!("the kernel has no {kind}, which {kind} needs"))
            })
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
        node.is_mended(
            "forward-policy-drop",
            "warning",
            "iptables drops what is forwarded, and net has no plugin",
        );
        run(Command::new("iptables").args(["-P", "FORWARD", "DROP"])).succeeded();
        // A rule of the operator's is as good.
        node.add("net", "b");
        run(Command::new("iptables").args(["-A", "FORWARD", "-i", "br-net", "-j", "ACCEPT"]))
            .succeeded();
        assert_eq!(node.find("forward-policy-drop"), None);
        let firewall = json!({ "type": "firewall", "ingressPolicy": "isolated" });
        node.network("net", "10.1.0.0/24", &json!({}), &[firewall]);
        assert_eq!(node.find("forward-policy-drop"), None);
        assert_eq!(node.find("bridge-not-filtered"), None);
    });
}

/// Does what the findings of that id say, until there are none.
fn mend_all(node: &Node<'_>, id: &str) -> Vec<String> {
    let mut mends = Vec::new();
    while let Some(found) = node.find(id) {
        assert_eq!(found["severity"], "error", "{found:#}");
        let mend = found["mend"].as_str().unwrap().to_owned();
        assert!(!mends.contains(&mend), "{found:#} after {mends:?}");
        let ran = node.mend(&mend);
        assert_eq!(ran.status, 0, "{mend}: {ran:?}");
        mends.push(mend);
    }
    mends
}

fn system(line: &str) {
    run(Command::new("sh").args(["-ec", line])).succeeded();
}

#[test]
fn published_ports_behind_a_chain_that_drops() {
    const ID: &str = "forward-policy-drop";
    in_node(|node| {
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let chained = [portmap, json!({ "type": "firewall" })];
        node.network("net", "10.1.0.0/24", &json!({}), &chained);
        node.lab.container("a");
        let cap = r#"portMappings=[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#;
        let words = ["add", "net", "a", "--container-id", "a", "--cap", cap];
        node.rscni(&words).succeeded();
        assert_eq!(node.find(ID), None);
        // Our own chain lets both through.
        system("nft add chain inet rscni forward '{ policy drop; }'");
        assert_eq!(node.find(ID), None);
        // iptables comes after the container.
        system("iptables -P FORWARD DROP");
        node.sees(ID, "error", "packets of a/eth0 in network net (10.1.0.2) are dropped: iptables");
        let mends = mend_all(node, ID);
        assert!(mends[0].contains("rscni repair net a"), "{mends:?}");
        // The attachment has moved to iptables, and its rules do not help in our own chain, which
        // drops here.
        let own = |mend: &String| mend.starts_with("nft insert rule inet rscni forward ip ");
        assert!(mends.len() == 3 && mends[1..].iter().all(own), "{mends:?}");
        // The rules are those of an earlier release, or of another plugin.
        system("iptables -D CNI-FORWARD -d 10.1.0.2 -m conntrack --ctstate DNAT -j ACCEPT");
        let what = "connections to published ports of a/eth0 in network net (10.1.0.2) are dropped";
        node.sees(ID, "error", what);
        let mends = mend_all(node, ID);
        assert!(mends.len() == 1 && mends[0].contains("rscni repair net a"), "{mends:?}");
        // A chain of the operator's: this project does not write into it.
        system(
            "nft 'table inet filter { chain forward { \
             type filter hook forward priority 0; policy drop; \
             ct state established,related accept; }; }'",
        );
        node.sees(ID, "error", "nftables inet filter forward drops by policy");
        let mends = mend_all(node, ID);
        assert_eq!(mends.len(), 2, "{mends:?}");
        assert!(
            mends.iter().all(|mend| mend.starts_with("nft insert rule inet filter forward ip"))
        );
        // A port that is not published needs no rule.
        node.rscni(&["del", "net", "a", "--container-id", "a"]).succeeded();
        system(
            "nft add chain inet rscni forward '{ policy accept; }'; \
             nft flush chain inet filter forward; \
             nft add rule inet filter forward iifname br-net accept",
        );
        node.add("net", "b");
        assert_eq!(node.find(ID), None);
    });
}

#[test]
fn rules_of_a_running_attachment_that_are_gone() {
    in_node(|node| {
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let chained = [portmap, json!({ "type": "firewall" })];
        node.network("net", "10.1.0.0/24", &json!({ "ipMasq": true }), &chained);
        for (name, port) in [("a", 8080), ("b", 8081)] {
            node.lab.container(name);
            let cap = format!(
                r#"portMappings=[{{"hostPort":{port},"containerPort":80,"protocol":"tcp"}}]"#
            );
            let words = ["add", "net", name, "--container-id", name, "--cap", &cap];
            node.rscni(&words).succeeded();
        }
        assert_eq!(node.find("attachment-damaged"), None);
        system("nft flush ruleset");
        node.sees("attachment-damaged", "error", "a/eth0 is attached to net and is not as it was");
        let mends = mend_all(node, "attachment-damaged");
        assert_eq!(mends, ["a", "b"].map(|id| mends[0].replace("net a", &format!("net {id}"))));
        node.rscni(&["check", "net", "b", "--container-id", "b"]).succeeded();
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
        node.is_mended(
            "range-nearly-full",
            "warning",
            "12 of 13 addresses of 10.1.0.1-10.1.0.14 are reserved (",
        );
        for n in 3..15 {
            fs::write(file(&format!("10.1.0.{n}")), format!("gone-{n}\r\neth0")).unwrap();
        }
        node.is_mended(
            "range-full",
            "error",
            "13 of 13 addresses of 10.1.0.1-10.1.0.14 are reserved (",
        );

        // A call of this boot has made the index, and nobody changed the directory since.
        node.rscni(&["check", "net", "a", "--container-id", "a"]).succeeded();
        let index = Path::new(RESERVATIONS).join(".index/net");
        let mut bytes = fs::read(&index).unwrap();
        bytes[48..].fill(0);
        fs::write(&index, bytes).unwrap();
        node.is_mended("index-differs", "error", ".index/net says something else");

        node.network("other", "10.1.0.0/24", &json!({}), &[]);
        node.add("other", "b");
        let twice = "10.1.0.2 is reserved 2 times: /var/lib/cni/networks/net/10.1.0.2, ";
        // Both containers are running: no command may cut the connections of one.
        assert_eq!(node.sees("address-duplicate", "warning", twice)["mend"], Value::Null);
        node.network("net", "10.7.0.0/24", &json!({ "forceAddress": true }), &[]);
        let outside = "net/10.1.0.2 is in no range of its network: a/eth0 has it";
        assert_eq!(node.sees("address-outside", "warning", outside)["mend"], Value::Null);
        node.rscni(&["del", "net", "a", "--container-id", "a"]).succeeded();
        node.rscni(&["add", "net", "a", "--container-id", "a"]).succeeded();
        assert_eq!([node.find("address-outside"), node.find("address-duplicate")], [None, None]);
        node.network("net", "10.7.0.1/24", &json!({}), &[]);
        let invalid = "network net: ipam.";
        assert_eq!(node.sees("range-invalid", "error", invalid)["mend"], Value::Null);
        node.rscni(&["del", "net", "a", "--container-id", "a"]).succeeded();
        node.is_mended("range-invalid", "error", invalid);
    });
}

#[test]
fn networks_that_take_no_container() {
    in_node(|node| {
        let none = || assert_eq!(node.find("network-not-ready"), None);
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        none();
        node.network("refused", "10.2.0.0/24", &json!({ "vlan": 5000 }), &[]);
        node.is_mended(
            "network-not-ready",
            "error",
            "network refused: STATUS of bridge (plugin 1 of 1): bridge: vlan",
        );
        none();
        // What else has told of, this does not tell again.
        node.network("wrong", "10.3.0.1/24", &json!({}), &[]);
        node.list(
            "missing",
            &json!({ "cniVersion": "1.1.0", "name": "missing", "plugins": [{ "type": "theirs" }] }),
        );
        for id in ["range-invalid", "plugin-missing"] {
            node.sees(id, "error", "");
        }
        none();
        fs::remove_file(node.conf_dir().join("wrong.conflist")).unwrap();
        // A plugin's own word counts, as long as it is about what it was asked for.
        for (code, is_told) in [(50, true), (51, true), (5, false), (4, false)] {
            let versions = r#"{ "cniVersion": "1.1.0", "supportedVersions": ["1.1.0"] }"#;
            let error = json!({ "cniVersion": "1.1.0", "code": code, "msg": "no", "details": "the agent is away" });
            let script = format!(
                "#!/bin/sh\ncat >/dev/null\n[ $CNI_COMMAND = VERSION ] && echo '{versions}' && exit\necho '{error}'\nexit 1\n"
            );
            write_program(&node.bin().join("theirs"), &script);
            assert_eq!(node.find("network-not-ready").is_some(), is_told, "{code}");
            if is_told {
                let found =
                    node.sees("network-not-ready", "error", "network missing: STATUS of theirs");
                let what = found["what"].as_str().unwrap();
                assert!(
                    what.ends_with("the agent is away") && found["mend"].is_null(),
                    "{found:#}"
                );
            }
        }
    });
}

#[test]
fn networks_that_are_in_each_others_way() {
    in_node(|node| {
        let part = |subnet: &str, start: &str, end: &str| {
            let range = json!({ "subnet": subnet, "rangeStart": start, "rangeEnd": end });
            json!({ "bridge": "br0", "ipam": { "type": "host-local", "ranges": [[range]] } })
        };
        let is_neither = || {
            assert_eq!([node.find("range-overlap"), node.find("gateway-conflict")], [None, None]);
        };
        node.network("a", "10.1.0.0/24", &part("10.1.0.0/24", "10.1.0.10", "10.1.0.99"), &[]);
        // One subnet may be divided, and what leads elsewhere is not the host's.
        node.network("b", "10.1.0.0/24", &part("10.1.0.0/24", "10.1.0.100", "10.1.0.199"), &[]);
        let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/16" }]] });
        let macvlan = json!({ "type": "macvlan", "master": "lo", "ipam": ipam });
        node.list("c", &json!({ "cniVersion": "1.1.0", "name": "c", "plugins": [macvlan] }));
        is_neither();
        let overlapping = part("10.1.0.0/24", "10.1.0.90", "10.1.0.199");
        node.network("b", "10.1.0.0/24", &overlapping, &[]);
        node.is_mended(
            "range-overlap",
            "warning",
            "networks a and b both give the addresses 10.1.0.90 to 10.1.0.99",
        );
        let elsewhere = part("10.2.0.0/24", "10.2.0.10", "10.2.0.99");
        node.network("b", "10.2.0.0/24", &elsewhere, &[]);
        node.add("a", "first");
        node.lab.container("second");
        assert_eq!(node.rscni(&["add", "b", "second"]).status, 1);
        let conflict = "networks a and b want other gateways on bridge br0: 10.1.0.1 and 10.2.0.1";
        node.is_mended("gateway-conflict", "error", conflict);
        let mut forced = elsewhere.clone();
        forced["forceAddress"] = true.into();
        node.network("b", "10.2.0.0/24", &forced, &[]);
        is_neither();
    });
}

/// What a node with running containers has of each thing that a command could take from them.
#[test]
fn no_command_is_suggested_that_affects_a_running_container() {
    in_node(|node| {
        let ports = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        node.network(
            "net",
            "10.1.0.0/24",
            &json!({ "ipMasq": true }),
            std::slice::from_ref(&ports),
        );
        for container in ["a", "b"] {
            node.add("net", container);
        }
        let before = node.lab.snapshot().ignoring("/.index/");
        let no_mend = |id: &str, severity: &str, what: &str| {
            let found = node.sees(id, severity, what);
            assert_eq!(found["mend"], Value::Null, "{found:#}");
        };
        // The reservation of a running container is damaged.
        let reservation = Path::new(RESERVATIONS).join("net/10.1.0.2");
        let content = fs::read(&reservation).unwrap();
        fs::remove_file(&reservation).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&reservation).unwrap());
        no_mend("address-unreadable", "warning", "net/10.1.0.2 cannot be read");
        // Neither where nobody remembers the container.
        fs::rename("/var/lib/cni/results/net-a-eth0", "/var/lib/cni/entry").unwrap();
        no_mend("address-unreadable", "warning", "net/10.1.0.2 cannot be read");
        fs::rename("/var/lib/cni/entry", "/var/lib/cni/results/net-a-eth0").unwrap();
        fs::remove_file(&reservation).unwrap();
        fs::write(&reservation, content).unwrap();

        // The network's file has changed.
        let file = node.conf_dir().join("net.conflist");
        let list = fs::read_to_string(&file).unwrap();
        fs::write(&file, list.replace("1.1.0", "0.3.1")).unwrap();
        no_mend("list-old", "warning", "network net has cniVersion 0.3.1");
        fs::write(&file, list.replace("10.1.0.0/24", "10.1.0.1/24")).unwrap();
        no_mend("range-invalid", "error", "network net: ipam.ranges[0][0].subnet: ");
        fs::write(&file, list.replace("\"ipMasq\":true", "\"vlan\":5000")).unwrap();
        no_mend("network-not-ready", "error", "network net: ");
        fs::write(&file, list.replace("10.1.0.0/24", "10.7.0.0/24")).unwrap();
        no_mend("address-outside", "warning", "net/10.1.0.2 is in no range of its network");
        fs::write(&file, &list).unwrap();
        let single = json!({ "cniVersion": "1.1.0", "name": "net", "type": "loopback" });
        fs::write(node.conf_dir().join("05-net.conf"), single.to_string()).unwrap();
        no_mend("list-duplicate", "warning", "another file has a network named net too");
        fs::remove_file(node.conf_dir().join("05-net.conf")).unwrap();
        fs::remove_file(&file).unwrap();
        no_mend(
            "attachment-without-network",
            "warning",
            "a/eth0 is attached to net, which no file",
        );
        no_mend("no-network", "error", "has no network configuration");
        fs::write(&file, &list).unwrap();
        // What GC would not know of without the file.
        let entry = Path::new("/var/lib/cni/results/net-a-eth0");
        let content = fs::read(entry).unwrap();
        fs::write(entry, "{").unwrap();
        no_mend("cache-unreadable", "warning", "net-a-eth0: EOF while parsing");
        fs::write(entry, content).unwrap();

        // Whatever else is suggested leaves them attached.
        for finding in node.findings() {
            if let Some(mend) = finding["mend"].as_str() {
                node.mend(mend);
            }
        }
        for container in ["a", "b"] {
            node.rscni(&["check", "net", container, "--container-id", container]).succeeded();
        }
        node.lab.snapshot().assert_same(&before);
    });
}

#[test]
fn networks_of_runtimes_are_known() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        let lo = json!({ "type": "loopback" });
        let loopback =
            |name: &str| json!({ "cniVersion": "0.3.1", "name": name, "plugins": [lo.clone()] });
        let bridge = |name: &str, subnet: &str| {
            let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": subnet }]] });
            let plugin = json!({ "type": "bridge", "bridge": format!("br-{name}"), "ipam": ipam });
            json!({ "cniVersion": "1.0.0", "name": name, "plugins": [lo.clone(), plugin] })
        };
        node.lab.container("a");
        for (name, list, ifname) in [
            ("cni-loopback", loopback("cni-loopback"), "lo"),
            ("lo-of-pods", loopback("lo-of-pods"), "lo"),
            ("nomad", bridge("nomad", "10.2.0.0/24"), "eth1"),
            ("buildkit", bridge("buildkit", "10.3.0.0/24"), "eth2"),
        ] {
            node.list(name, &list);
            let options = ["--container-id", "a", "--ifname", ifname];
            node.rscni(&[&["add", name, "a"], &options[..]].concat()).succeeded();
            // A runtime keeps it in its memory.
            fs::remove_file(node.conf_dir().join(format!("{name}.conflist"))).unwrap();
        }
        node.add("net", "b");
        let ran = node.rscni(&["doctor"]).succeeded();
        assert!(ran.stdout.ends_with("0 errors, 0 warnings\n"), "{}", ran.stdout);
        // What they leave behind is told as of any other.
        leave("a");
        let found = node.sees("attachment-gone", "warning", "a/eth2 is attached to buildkit");
        assert!(found["mend"].is_string(), "{found:#}");
    });
}

#[test]
fn one_container_can_be_looked_at() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        node.network("other", "10.2.0.0/24", &json!({}), &[json!({ "type": "theirs" })]);
        node.lab.container("a");
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";
        node.rscni(&["add", "net", "a", "--container-id", "a", "--args", args]).succeeded();
        node.add("net", "b");
        leave("b");
        node.sees("plugin-missing", "error", "plugin theirs of other");
        node.sees("attachment-gone", "warning", "b/eth0");
        for container in ["a", "default/web"] {
            let ran = node.rscni(&["doctor", container]).succeeded();
            assert!(ran.stdout.ends_with("0 errors, 0 warnings\n"), "{container}: {}", ran.stdout);
            assert!(!ran.stdout.contains("theirs"), "{}", ran.stdout);
        }
        let ran = node.rscni(&["doctor", "b"]).succeeded();
        assert!(ran.stdout.contains("attachment-gone: b/eth0"), "{}", ran.stdout);
        assert!(!ran.stdout.contains("theirs"), "{}", ran.stdout);
        let ran = node.rscni(&["doctor", "default/none"]);
        assert!(ran.status == 1 && ran.stderr.contains("pod default/none has no"), "{ran:?}");
    });
}

#[test]
fn what_cannot_be_looked_at_is_told_and_can_be_by_one_who_may() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        node.add("net", "a");
        // They say that nothing is known, not that something is wrong: the command looks, for one who may.
        fs::set_permissions(Path::new(RESERVATIONS).join("net"), fs::Permissions::from_mode(0o000))
            .unwrap();
        for (id, capabilities, told, seen) in [
            (
                "not-looked-at",
                "-dac_override,-dac_read_search",
                "Permission denied",
                "nothing is left of containers",
            ),
            (
                "forward-policy-unknown",
                "-net_admin",
                "Operation not permitted",
                "-P FORWARD ACCEPT\n-P FORWARD ACCEPT",
            ),
        ] {
            let all = node.findings_without(capabilities);
            let found = all
                .iter()
                .find(|finding| finding["id"] == id)
                .unwrap_or_else(|| panic!("no {id}: {all:#?}"));
            let what = found["what"].as_str().unwrap();
            assert!(found["severity"] == "ok" && what.contains(told), "{found:#}");
            assert!(found["why"].is_string(), "{found:#}");
            let ran = node.mend(found["mend"].as_str().unwrap()).succeeded();
            assert!(ran.stdout.contains(seen) && !ran.stdout.contains(id), "{found:#} {ran:?}");
            assert_eq!(node.find(id), None);
        }
    });
}

/// The setting belongs to a module, which only the host can load: a stand-in for `modprobe` makes it, where the files of
/// the kernel's settings are covered up. `sysctl` is the real one.
#[test]
fn what_a_bridge_passes_on_itself_is_shown_to_the_rules_of_another_firewall_plugin() {
    in_node(|node| {
        node.network(
            "net",
            "10.1.0.0/24",
            &json!({}),
            &[json!({ "type": "firewall", "ingressPolicy": "isolated" })],
        );
        fs::remove_file(node.bin().join("firewall")).unwrap();
        symlink("/usr/lib/cni/firewall", node.bin().join("firewall")).unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "none", "/proc/sys/net"])).succeeded();
        let setting = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
        let what = "is not 1, and a network has ingressPolicy isolated";
        node.stand_in(
            "modprobe",
            "[ \"$*\" = br_netfilter ]; mkdir /proc/sys/net/bridge; echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables",
        );
        let loads = node.sees("bridge-not-filtered", "warning", what)["mend"].to_string();
        assert!(loads.contains("modprobe"), "{loads}");
        node.is_mended("bridge-not-filtered", "warning", what);
        // Where it is loaded already.
        fs::write(setting, "0").unwrap();
        let switches = node.sees("bridge-not-filtered", "warning", what)["mend"].to_string();
        assert!(!switches.contains("modprobe"), "{switches}");
        node.is_mended("bridge-not-filtered", "warning", what);
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "1");
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
        let found = node.sees("cache-unreadable", "warning", "net-c-eth0: EOF while parsing");
        assert!(
            found["why"].as_str().unwrap().contains("removes nothing of that network"),
            "{found:#}"
        );
        node.is_mended("cache-unreadable", "warning", "net-c-eth0: EOF while parsing");
        fs::write("/var/lib/cni/results/README", "Hands off").unwrap();
        let found = node.sees("cache-unreadable", "warning", "README: expected value");
        assert!(found["why"].as_str().unwrap().contains("in the way of none"), "{found:#}");
        node.is_mended("cache-unreadable", "warning", "README: expected value");
        fs::create_dir_all("/var/lib/cni/results/net-d-eth0/below").unwrap();
        node.is_mended("cache-unreadable", "warning", "net-d-eth0: read: Is a directory");
        fs::remove_file(node.conf_dir().join("net.conflist")).unwrap();
        let without = "b/eth0 is attached to net, which no file in";
        let found = node.sees("attachment-without-network", "warning", without);
        assert_eq!(found["mend"], Value::Null);
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
        node.network(
            "old",
            "10.2.0.0/24",
            &json!({ "ipMasq": true, "ipMasqBackend": "iptables" }),
            &[],
        );
        let lose = |network: &str, container: &str| {
            node.add(network, container);
            fs::remove_file(format!("/var/lib/cni/results/{network}-{container}-eth0")).unwrap();
            assert_eq!(node.find("orphaned-address"), None, "its interface is there");
            leave(container);
        };
        for (id, what, n) in [
            ("orphaned-address", "network net: address /var/lib/cni/networks/net/10.1.0.", 1),
            ("orphaned-element", "network net: element inet rscni masquerade4 10.1.0.", 2),
            (
                "orphaned-file",
                "network net: file /run/cni/tuning/gone-3_eth0.json of gone-3/eth0",
                3,
            ),
            ("orphaned-link", "network net: link bwp", 4),
        ] {
            lose("net", &format!("gone-{n}"));
            node.is_mended(id, "warning", what);
            assert!(
                !node.findings().iter().any(|finding| finding["severity"] != "ok"),
                "{:#?}",
                node.findings()
            );
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
        node.is_mended(
            "file-cut-off",
            "warning",
            "/run/cni/tuning/a_eth0.json is not what a plugin writes",
        );
    });
}

#[test]
fn the_daemon_of_dhcp() {
    in_node(|node| {
        let socket = node.path("dhcp.sock");
        let ipam = json!({ "ipam": { "type": "dhcp", "daemonSocketPath": socket } });
        node.network("net", "10.1.0.0/24", &ipam, &[]);
        // The unit of systemd is for another socket.
        fs::create_dir_all("/run/systemd/system").unwrap();
        let found = node.sees("dhcp-daemon", "error", "nobody answers at");
        let mend = found["mend"].as_str().unwrap();
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

/// Where systemd runs, its unit does it. There is none in here, so a stand-in for `systemctl` makes what systemd would:
/// the socket that the packaged unit names, with the daemon behind it.
#[test]
fn the_daemon_of_dhcp_where_systemd_runs() {
    in_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({ "ipam": { "type": "dhcp" } }), &[]);
        fs::create_dir_all("/run/systemd/system").unwrap();
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
        let pid = node.path("pid");
        node.stand_in(
            "systemctl",
            &format!(
                "[ \"$1 $2\" = 'enable --now' ]; [ $# = 3 ]\n\
                 socket=$(sed -n 's/^ListenStream=//p' {}/\"$3\")\n\
                 rscni dhcp-daemon --socketpath \"$socket\" >/dev/null 2>&1 &\n\
                 echo $! >{}\n\
                 while ! [ -S \"$socket\" ]; do sleep 0.1; done",
                units.display(),
                pid.display(),
            ),
        );
        node.is_mended("dhcp-daemon", "error", "nobody answers at /run/cni/dhcp.sock");
        run(Command::new("kill").arg(fs::read_to_string(pid).unwrap().trim())).succeeded();
    });
}
