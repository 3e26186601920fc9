//! `rscni doctor`: each finding is caused in a private network, reported, and fixed by its command.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rscni_linux::Netns;
use rscni_test::{Lab, eventually};
use serde_json::{Value, json};

use crate::fixture::{CommandOutput, RSCNI, run, write_program};

/// A node with its own directories and every plugin installed.
struct Node<'a> {
    lab: &'a Lab,
}

impl<'a> Node<'a> {
    fn new(lab: &'a Lab) -> Self {
        let node = Self { lab };
        for dir in [node.conf_dir(), node.bin(), node.path("tools")] {
            fs::create_dir(dir).unwrap();
        }
        // The commands of findings call `rscni`.
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

    fn rscni(&self, words: &[&str]) -> CommandOutput {
        run(self.command().args(words))
    }

    /// Writes a list of a bridge with these keys and of chained plugins.
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
        let out = self.rscni(&["doctor", "-o", "json"]);
        let findings = out.json()["findings"].as_array().unwrap().clone();
        let has_error = findings.iter().any(|finding| finding["severity"] == "error");
        assert_eq!(out.status, i32::from(has_error), "{out:?}");
        findings
    }

    fn find(&self, id: &str) -> Option<Value> {
        self.findings().into_iter().find(|finding| finding["id"] == id)
    }

    /// Asserts that there is a finding with this id, severity and text, and returns it.
    #[track_caller]
    fn reports(&self, id: &str, severity: &str, what: &str) -> Value {
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

    /// Asserts that there is the finding, and that its command fixes it.
    #[track_caller]
    fn fixes(&self, id: &str, severity: &str, what: &str) {
        let found = self.reports(id, severity, what);
        let mend = found["mend"].as_str().unwrap_or_else(|| panic!("{found:#}"));
        let out = self.run_fix(mend);
        assert_eq!(out.status, 0, "{mend}: {out:?}");
        assert_eq!(self.find(id), None, "after {mend}: {out:?}");
    }

    /// Asserts that there is the finding, without a command.
    #[track_caller]
    fn has_no_fix(&self, id: &str, severity: &str, what: &str) {
        let found = self.reports(id, severity, what);
        assert_eq!(found["mend"], Value::Null, "{found:#}");
    }

    /// Runs the command of a finding.
    fn run_fix(&self, mend: &str) -> CommandOutput {
        let tools = format!("{}:{}", self.path("tools").display(), std::env::var("PATH").unwrap());
        run(Command::new("sh").args(["-ec", mend]).env("PATH", tools))
    }

    /// Replaces a program of the system that cannot work in the private network.
    fn replace_program(&self, name: &str, script: &str) {
        write_program(&self.path("tools").join(name), &format!("#!/bin/sh -e\n{script}\n"));
    }

    /// Returns the findings of a caller without these capabilities.
    fn findings_without(&self, capabilities: &str) -> Vec<Value> {
        let mut command = Command::new("setpriv");
        command.args([&format!("--bounding-set={capabilities}"), RSCNI, "doctor", "-o", "json"]);
        let out = run(command.env("NETCONFPATH", self.conf_dir()).env("CNI_PATH", self.bin()));
        out.json()["findings"].as_array().unwrap().clone()
    }
}

fn with_node(test: impl FnOnce(&Node<'_>)) {
    rscni_test::run(|lab| test(&Node::new(lab)));
}

const RESERVATIONS: &str = "/var/lib/cni/networks";

#[test]
fn intact_node_has_only_ok_findings_and_is_not_changed() {
    with_node(|node| {
        let chained = [json!({ "type": "portmap", "capabilities": { "portMappings": true } })];
        node.network("net", "10.1.0.0/24", &json!({ "ipMasq": true }), &chained);
        node.add("net", "a");
        let before = node.lab.snapshot();
        let out = node.rscni(&["doctor"]).succeeded();
        node.lab.snapshot().assert_same(&before);
        assert!(out.stdout.lines().count() > 7, "{}", out.stdout);
        let (lines, last) = out.stdout.trim_end().rsplit_once('\n').unwrap();
        assert!(lines.lines().all(|line| line.starts_with("ok       ")), "{}", out.stdout);
        assert_eq!(last, "0 errors, 0 warnings");
        node.reports("list-first", "ok", "net.conflist (network net)");
        let page = include_str!("../../../../docs/rscni.md").lines();
        for line in page.filter(|it| it.starts_with("ok       ") && it.contains(": ")) {
            let is_shown = line.contains("list-first") || out.stdout.contains(line);
            assert!(is_shown, "docs/rscni.md shows another text: {line}");
        }
    });
}

#[test]
fn missing_and_writable_directories_are_found() {
    with_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        fs::set_permissions(node.conf_dir(), fs::Permissions::from_mode(0o777)).unwrap();
        node.fixes("writable-by-all", "error", "net.d is writable by all users (mode 777)");
        fs::set_permissions(node.bin().join("rscni"), fs::Permissions::from_mode(0o757)).unwrap();
        node.fixes("writable-by-all", "error", "bin/");
        fs::remove_dir_all(node.bin()).unwrap();
        node.reports("plugin-missing", "warning", "plugin bridge of net is not in");
        node.fixes("plugin-dir-missing", "warning", "bin does not exist");
        fs::remove_dir_all(node.conf_dir()).unwrap();
        node.fixes("conf-dir-missing", "error", "net.d does not exist");
    });
}

#[test]
fn read_only_and_full_file_systems_are_found() {
    with_node(|node| {
        let mount = |options: &str| {
            fs::create_dir_all("/var/lib/cni").unwrap();
            run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "none", "/var/lib/cni"]))
                .succeeded();
        };
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        mount("ro");
        node.fixes("storage-read-only", "error", "/var/lib/cni is on a read-only file system");
        let is_full = |what: &str| node.has_no_fix("storage-full", "error", what);
        mount("size=64k");
        is_full("the file system of /var/lib/cni has 64 KiB left");
        mount("nr_inodes=3");
        is_full("the file system of /var/lib/cni has room for 2 files left");
        mount("size=1m");
        assert_eq!(node.find("storage-full"), None);
        // This file system has no limits.
        mount("size=0,nr_inodes=0");
        assert_eq!(node.find("storage-full"), None);
    });
}

#[test]
fn invalid_and_duplicate_network_files_are_found() {
    with_node(|node| {
        node.fixes("no-network", "error", "has no network configuration");
        // The new network works.
        node.add("bridge", "a");
        node.rscni(&["del", "bridge", "a", "--container-id", "a"]).succeeded();
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        fs::write(node.conf_dir().join("20-bad.conf"), "{ oops").unwrap();
        node.fixes("list-unreadable", "error", "20-bad.conf: key must be a string");
        // A file with the wrong extension is renamed, unless the target exists.
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
                "is a list of plugins and must be named *.conflist",
            ),
            (
                &in_capitals,
                "26.json",
                "26.conflist",
                "is a list of plugins and must be named *.conflist",
            ),
            (
                &single,
                "27.conflist",
                "27.conf",
                "the configuration of one plugin and must be named *.conf",
            ),
        ] {
            let text = text.to_string();
            fs::write(node.conf_dir().join(wrong), &text).unwrap();
            node.fixes("list-unreadable", "error", what);
            assert_eq!(fs::read_to_string(node.conf_dir().join(right)).unwrap(), text);
            fs::write(node.conf_dir().join(wrong), &text).unwrap();
            let exists = format!("{right} exists");
            node.fixes("list-unreadable", "error", &exists);
            assert!(node.conf_dir().join(format!("{wrong}.disabled")).exists(), "{wrong}");
            fs::remove_file(node.conf_dir().join(right)).unwrap();
        }
        let broken = json!({ "name": "list", "plugins": [{}] }).to_string();
        fs::write(node.conf_dir().join("28.conf"), broken).unwrap();
        node.fixes("list-unreadable", "error", "28.conf is a list of plugins and invalid");
        assert!(node.conf_dir().join("28.conf.disabled").exists());
        let single = json!({ "cniVersion": "1.1.0", "name": "net", "type": "loopback" });
        fs::write(node.conf_dir().join("30-it's $2.conf"), single.to_string()).unwrap();
        node.fixes("list-duplicate", "warning", "another file also defines network net");
        for name in ["40-net.yaml", "50-net.conf~", "60-net.conflist.txt"] {
            fs::write(node.conf_dir().join(name), single.to_string()).unwrap();
            node.fixes("list-ignored", "warning", &format!("{name} is ignored by runtimes"));
        }
        node.list(
            "70-old",
            &json!({ "cniVersion": "0.3.1", "name": "old", "plugins": [{ "type": "loopback" }] }),
        );
        node.fixes("list-old", "warning", "network old has cniVersion 0.3.1");
        // The version may be spelled in any way, or be missing.
        for (text, version) in [
            (
                r#"{ "cniVersion" : "0.2.0", "name": "old", "plugins": [{ "type": "loopback" }] }"#,
                "0.2.0",
            ),
            (r#"{"name":"old","plugins":[{"type":"loopback"}]}"#, "0.1.0"),
        ] {
            fs::write(node.conf_dir().join("70-old.conflist"), text).unwrap();
            node.fixes("list-old", "warning", &format!("network old has cniVersion {version}"));
            let written = fs::read_to_string(node.conf_dir().join("70-old.conflist")).unwrap();
            assert!(
                serde_json::from_str::<Value>(&written).is_ok() && written.contains("1.1.0"),
                "{written}"
            );
        }
    });
}

#[test]
fn missing_and_broken_plugins_are_found() {
    with_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[json!({ "type": "portmap" })]);
        let plugin = node.bin().join("portmap");
        fs::remove_file(&plugin).unwrap();
        node.fixes("plugin-missing", "error", "plugin portmap of net is not in");
        fs::remove_file(&plugin).unwrap();
        fs::write(&plugin, "").unwrap();
        node.fixes("plugin-not-executable", "error", "bin/portmap is not executable");
        node.fixes("plugin-broken", "error", "does not answer VERSION");
        fs::remove_file(&plugin).unwrap();
        symlink("/usr/lib/cni/portmap", &plugin).unwrap();
        node.reports("plugins-mixed", "ok", "portmap of others");
        node.fixes(
            "plugin-version",
            "error",
            "does not support cniVersion 1.1.0 of network net, but 0.1.0",
        );
        assert_eq!(node.find("plugins-mixed"), None);
        node.list(
            "other",
            &json!({ "cniVersion": "1.1.0", "name": "other", "plugins": [{ "type": "theirs" }] }),
        );
        node.has_no_fix("plugin-missing", "error", "plugin theirs of other is not in");
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
fn plugins_under_aliases_are_recognised() {
    with_node(|node| {
        // Names of BuildKit and of an operator.
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
        let found = node.reports("plugin-missing", "error", &missing("buildkit-cni-host-local"));
        node.run_fix(found["mend"].as_str().unwrap()).succeeded();
        node.fixes("plugin-missing", "error", &missing("cnv-bridge"));
        node.add("net", "a");
        // The reservations are checked.
        let stale = |n| fs::write(format!("/run/pool/net/10.1.0.{n}"), "gone\r\neth0").unwrap();
        (3..7).for_each(stale);
        node.fixes("range-full", "error", "5 of 5 addresses of 10.1.0.1-10.1.0.6");
        stale(3);
        node.fixes("orphaned-address", "warning", "address /run/pool/net/10.1.0.3 of gone/eth0");
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        node.fixes("forwarding-off", "error", "attachments whose gateway is this host: 1");
        assert_eq!(node.find("plugins-mixed"), None);

        let bin = node.bin();
        let aliases = ["--as", "uplink=bridge", "--as", "pool=host-local"];
        node.rscni(&[&["install", bin.to_str().unwrap()], &aliases[..]].concat()).succeeded();
        node.list("net", &bridge("uplink", ipam("pool", "10.2.0.1/24")));
        // The runtime of the attached container needs the file.
        node.has_no_fix("range-invalid", "error", "network net: ipam.ranges[0][0].subnet: ");
        node.list("net", &bridge("uplink", ipam("pool", "10.1.0.0/29")));
        (3..7).for_each(stale);
        node.fixes("range-full", "error", "5 of 5 addresses of 10.1.0.1-10.1.0.6");
        assert_eq!(node.find("plugins-mixed"), None);

        // The plugin of another project may have a name that ends in that of one of ours.
        node.list("net", &bridge("ovs-bridge", ipam("pool", "10.1.0.0/29")));
        node.has_no_fix("plugin-missing", "error", "plugin ovs-bridge of net is not in");
    });
}

#[test]
fn missing_kernel_features_are_found() {
    with_node(|node| {
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
        // No command adds a feature, so the reported setting must be correct.
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
        // Without the permission to create a namespace, features cannot be tested.
        let unable = node.findings_without("-sys_admin");
        let count = |id: &str| unable.iter().filter(|finding| finding["id"] == id).count();
        let is_tried = !Path::new("/lib/modules").exists();
        assert!(
            !is_tried
                || count("kernel-feature-unknown") >= 5 && count("kernel-feature-missing") == 0,
            "{unable:#?}"
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
fn disabled_forwarding_is_found() {
    with_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[json!({ "type": "sbr" })]);
        node.add("net", "a");
        for (key, value) in [("ip_forward", "0"), ("conf/all/rp_filter", "1")] {
            fs::write(Path::new("/proc/sys/net/ipv4").join(key), value).unwrap();
        }
        let off = "net.ipv4.ip_forward is 0; attachments whose gateway is this host: 1";
        node.fixes("forwarding-off", "error", off);
        node.fixes("rp-filter-strict", "warning", "net.ipv4.conf.all.rp_filter is 1");
        // Attachments outside the cache count as well.
        fs::remove_file("/var/lib/cni/results/net-a-eth0").unwrap();
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        node.fixes("forwarding-off", "error", off);

        run(Command::new("iptables").args(["-P", "FORWARD", "DROP"])).succeeded();
        node.fixes(
            "forward-policy-drop",
            "warning",
            "iptables drops forwarded packets, and network net does not use",
        );
        run(Command::new("iptables").args(["-P", "FORWARD", "DROP"])).succeeded();
        // A rule of the operator suffices.
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

/// Runs the commands of all findings with this id. Returns the commands.
fn fix_all(node: &Node<'_>, id: &str) -> Vec<String> {
    let mut fixes = Vec::new();
    while let Some(found) = node.find(id) {
        assert_eq!(found["severity"], "error", "{found:#}");
        let mend = found["mend"].as_str().unwrap().to_owned();
        assert!(!fixes.contains(&mend), "{found:#} after {fixes:?}");
        let out = node.run_fix(&mend);
        assert_eq!(out.status, 0, "{mend}: {out:?}");
        fixes.push(mend);
    }
    fixes
}

fn shell(line: &str) {
    run(Command::new("sh").args(["-ec", line])).succeeded();
}

#[test]
fn chains_that_drop_published_ports_are_found() {
    const ID: &str = "forward-policy-drop";
    with_node(|node| {
        let portmap = json!({ "type": "portmap", "capabilities": { "portMappings": true } });
        let chained = [portmap, json!({ "type": "firewall" })];
        node.network("net", "10.1.0.0/24", &json!({}), &chained);
        node.lab.container("a");
        let cap = r#"portMappings=[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]"#;
        let words = ["add", "net", "a", "--container-id", "a", "--cap", cap];
        node.rscni(&words).succeeded();
        assert_eq!(node.find(ID), None);
        // The chain of our firewall plugin accepts both.
        shell("nft add chain inet rscni forward '{ policy drop; }'");
        assert_eq!(node.find(ID), None);
        // The policy of iptables changes after ADD.
        shell("iptables -P FORWARD DROP");
        node.reports(
            ID,
            "error",
            "packets of a/eth0 in network net (10.1.0.2) are dropped: iptables",
        );
        let fixes = fix_all(node, ID);
        assert!(fixes[0].contains("rscni repair net a"), "{fixes:?}");
        // The firewall plugin has switched to iptables, so its own chain drops the packets.
        let own = |mend: &String| mend.starts_with("nft insert rule inet rscni forward ip ");
        assert!(fixes.len() == 3 && fixes[1..].iter().all(own), "{fixes:?}");
        // Earlier releases and other plugins do not add this rule.
        shell("iptables -D CNI-FORWARD -d 10.1.0.2 -m conntrack --ctstate DNAT -j ACCEPT");
        let what = "connections to published ports of a/eth0 in network net (10.1.0.2) are dropped";
        node.reports(ID, "error", what);
        let fixes = fix_all(node, ID);
        assert!(fixes.len() == 1 && fixes[0].contains("rscni repair net a"), "{fixes:?}");
        // The firewall plugin does not add rules to a chain of the operator.
        shell(
            "nft 'table inet filter { chain forward { \
             type filter hook forward priority 0; policy drop; \
             ct state established,related accept; }; }'",
        );
        node.reports(ID, "error", "nftables inet filter forward has policy drop");
        let fixes = fix_all(node, ID);
        assert_eq!(fixes.len(), 2, "{fixes:?}");
        assert!(
            fixes.iter().all(|mend| mend.starts_with("nft insert rule inet filter forward ip"))
        );
        // A container without port mappings needs no rule for them.
        node.rscni(&["del", "net", "a", "--container-id", "a"]).succeeded();
        shell(
            "nft add chain inet rscni forward '{ policy accept; }'; \
             nft flush chain inet filter forward; \
             nft add rule inet filter forward iifname br-net accept",
        );
        node.add("net", "b");
        assert_eq!(node.find(ID), None);
    });
}

#[test]
fn lost_rules_of_a_running_attachment_are_found() {
    with_node(|node| {
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
        shell("nft flush ruleset");
        node.reports(
            "attachment-damaged",
            "error",
            "a/eth0 is attached to net and has changed since ADD",
        );
        let fixes = fix_all(node, "attachment-damaged");
        assert_eq!(fixes, ["a", "b"].map(|id| fixes[0].replace("net a", &format!("net {id}"))));
        node.rscni(&["check", "net", "b", "--container-id", "b"]).succeeded();
    });
}

#[test]
fn invalid_reservations_and_full_ranges_are_found() {
    with_node(|node| {
        node.network("net", "10.1.0.0/28", &json!({}), &[]);
        node.add("net", "a");
        let file = |name: &str| Path::new(RESERVATIONS).join("net").join(name);
        fs::write(file("10.1.0.9"), "").unwrap();
        node.fixes("address-remains", "warning", "net/10.1.0.9 names no container");
        // Networks without GC get other commands.
        let list = fs::read_to_string(node.conf_dir().join("net.conflist")).unwrap();
        fs::write(node.conf_dir().join("net.conflist"), list.replace("1.1.0", "1.0.0")).unwrap();
        fs::create_dir(file("10.1.0.9")).unwrap();
        node.fixes("address-remains", "warning", "net/10.1.0.9 names no container");
        fs::write(file("10.1.0.9"), "cut off\r\n").unwrap();
        node.fixes("address-remains", "warning", "net/10.1.0.9 names no container");
        fs::write(node.conf_dir().join("net.conflist"), list).unwrap();
        drop(std::os::unix::net::UnixListener::bind(file("10.1.0.9")).unwrap());
        node.fixes("address-unreadable", "warning", "net/10.1.0.9 cannot be read");

        for (taken, id, severity) in
            [(12, "range-nearly-full", "warning"), (13, "range-full", "error")]
        {
            for n in 3..taken + 2 {
                fs::write(file(&format!("10.1.0.{n}")), format!("gone-{n}\r\neth0")).unwrap();
            }
            let what = format!("{taken} of 13 addresses of 10.1.0.1-10.1.0.14 are reserved (");
            node.fixes(id, severity, &what);
        }

        // A call since boot creates the index, and the directory does not change afterwards.
        node.rscni(&["check", "net", "a", "--container-id", "a"]).succeeded();
        let index = Path::new(RESERVATIONS).join(".index/net");
        let mut bytes = fs::read(&index).unwrap();
        bytes[48..].fill(0);
        fs::write(&index, bytes).unwrap();
        node.fixes("index-differs", "error", ".index/net does not match its directory");

        node.network("other", "10.1.0.0/24", &json!({}), &[]);
        node.add("other", "b");
        let twice = "10.1.0.2 is reserved 2 times: /var/lib/cni/networks/net/10.1.0.2, ";
        // Both containers are running, so there is no command.
        node.has_no_fix("address-duplicate", "warning", twice);
        node.network("net", "10.7.0.0/24", &json!({ "forceAddress": true }), &[]);
        let outside = "net/10.1.0.2 is in no range of its network; it is reserved for a/eth0";
        node.has_no_fix("address-outside", "warning", outside);
        node.rscni(&["del", "net", "a", "--container-id", "a"]).succeeded();
        node.rscni(&["add", "net", "a", "--container-id", "a"]).succeeded();
        assert_eq!([node.find("address-outside"), node.find("address-duplicate")], [None, None]);
        node.network("net", "10.7.0.1/24", &json!({}), &[]);
        let invalid = "network net: ipam.";
        node.has_no_fix("range-invalid", "error", invalid);
        node.rscni(&["del", "net", "a", "--container-id", "a"]).succeeded();
        node.fixes("range-invalid", "error", invalid);
    });
}

#[test]
fn networks_that_report_not_ready_are_found() {
    with_node(|node| {
        let none = || assert_eq!(node.find("network-not-ready"), None);
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        none();
        node.network("refused", "10.2.0.0/24", &json!({ "vlan": 5000 }), &[]);
        node.fixes(
            "network-not-ready",
            "error",
            "network refused: STATUS of bridge (plugin 1 of 1): bridge: vlan",
        );
        none();
        // Problems found by another check are not repeated.
        node.network("wrong", "10.3.0.1/24", &json!({}), &[]);
        node.list(
            "missing",
            &json!({ "cniVersion": "1.1.0", "name": "missing", "plugins": [{ "type": "theirs" }] }),
        );
        for id in ["range-invalid", "plugin-missing"] {
            node.reports(id, "error", "");
        }
        none();
        fs::remove_file(node.conf_dir().join("wrong.conflist")).unwrap();
        // Only some error codes of STATUS mean that the network is not ready.
        for (code, is_reported) in [(50, true), (51, true), (5, false), (4, false)] {
            let versions = r#"{ "cniVersion": "1.1.0", "supportedVersions": ["1.1.0"] }"#;
            let details = "the agent is away";
            let error =
                json!({ "cniVersion": "1.1.0", "code": code, "msg": "no", "details": details });
            let script = format!(
                "#!/bin/sh\ncat >/dev/null\n\
                 [ $CNI_COMMAND = VERSION ] && echo '{versions}' && exit\necho '{error}'\nexit 1\n"
            );
            write_program(&node.bin().join("theirs"), &script);
            assert_eq!(node.find("network-not-ready").is_some(), is_reported, "{code}");
            if is_reported {
                let found =
                    node.reports("network-not-ready", "error", "network missing: STATUS of theirs");
                let what = found["what"].as_str().unwrap();
                assert!(what.ends_with(details) && found["mend"].is_null(), "{found:#}");
            }
        }
    });
}

#[test]
fn conflicting_networks_are_found() {
    with_node(|node| {
        let part = |subnet: &str, start: &str, end: &str| {
            let range = json!({ "subnet": subnet, "rangeStart": start, "rangeEnd": end });
            json!({ "bridge": "br0", "ipam": { "type": "host-local", "ranges": [[range]] } })
        };
        let is_neither = || {
            assert_eq!([node.find("range-overlap"), node.find("gateway-conflict")], [None, None]);
        };
        node.network("a", "10.1.0.0/24", &part("10.1.0.0/24", "10.1.0.10", "10.1.0.99"), &[]);
        // Networks may share a subnet with disjoint ranges, and macvlan is not routed by the host.
        node.network("b", "10.1.0.0/24", &part("10.1.0.0/24", "10.1.0.100", "10.1.0.199"), &[]);
        let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/16" }]] });
        let macvlan = json!({ "type": "macvlan", "master": "lo", "ipam": ipam });
        node.list("c", &json!({ "cniVersion": "1.1.0", "name": "c", "plugins": [macvlan] }));
        is_neither();
        let overlapping = part("10.1.0.0/24", "10.1.0.90", "10.1.0.199");
        node.network("b", "10.1.0.0/24", &overlapping, &[]);
        node.fixes(
            "range-overlap",
            "warning",
            "networks a and b both allocate the addresses 10.1.0.90 to 10.1.0.99",
        );
        let elsewhere = part("10.2.0.0/24", "10.2.0.10", "10.2.0.99");
        node.network("b", "10.2.0.0/24", &elsewhere, &[]);
        node.add("a", "first");
        node.lab.container("second");
        assert_eq!(node.rscni(&["add", "b", "second"]).status, 1);
        let conflict =
            "networks a and b have different gateways on bridge br0: 10.1.0.1 and 10.2.0.1";
        node.fixes("gateway-conflict", "error", conflict);
        let mut forced = elsewhere.clone();
        forced["forceAddress"] = true.into();
        node.network("b", "10.2.0.0/24", &forced, &[]);
        is_neither();
    });
}

/// Causes every problem whose fix could affect running containers.
#[test]
fn no_command_affects_a_running_container() {
    with_node(|node| {
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
        // A damaged reservation of a running container.
        let reservation = Path::new(RESERVATIONS).join("net/10.1.0.2");
        let content = fs::read(&reservation).unwrap();
        fs::remove_file(&reservation).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&reservation).unwrap());
        node.has_no_fix("address-unreadable", "warning", "net/10.1.0.2 cannot be read");
        // The same without a cache entry.
        fs::rename("/var/lib/cni/results/net-a-eth0", "/var/lib/cni/entry").unwrap();
        node.has_no_fix("address-unreadable", "warning", "net/10.1.0.2 cannot be read");
        fs::rename("/var/lib/cni/entry", "/var/lib/cni/results/net-a-eth0").unwrap();
        fs::remove_file(&reservation).unwrap();
        fs::write(&reservation, content).unwrap();

        // Changes of the network's file.
        let file = node.conf_dir().join("net.conflist");
        let list = fs::read_to_string(&file).unwrap();
        fs::write(&file, list.replace("1.1.0", "0.3.1")).unwrap();
        node.has_no_fix("list-old", "warning", "network net has cniVersion 0.3.1");
        fs::write(&file, list.replace("10.1.0.0/24", "10.1.0.1/24")).unwrap();
        node.has_no_fix("range-invalid", "error", "network net: ipam.ranges[0][0].subnet: ");
        fs::write(&file, list.replace("\"ipMasq\":true", "\"vlan\":5000")).unwrap();
        node.has_no_fix("network-not-ready", "error", "network net: ");
        fs::write(&file, list.replace("10.1.0.0/24", "10.7.0.0/24")).unwrap();
        node.has_no_fix("address-outside", "warning", "net/10.1.0.2 is in no range of its network");
        fs::write(&file, &list).unwrap();
        let single = json!({ "cniVersion": "1.1.0", "name": "net", "type": "loopback" });
        fs::write(node.conf_dir().join("05-net.conf"), single.to_string()).unwrap();
        node.has_no_fix("list-duplicate", "warning", "another file also defines network net");
        fs::remove_file(node.conf_dir().join("05-net.conf")).unwrap();
        fs::remove_file(&file).unwrap();
        node.has_no_fix(
            "attachment-without-network",
            "warning",
            "a/eth0 is attached to net, which no file",
        );
        node.has_no_fix("no-network", "error", "has no network configuration");
        fs::write(&file, &list).unwrap();
        // GC needs the file to know the container.
        let entry = Path::new("/var/lib/cni/results/net-a-eth0");
        let content = fs::read(entry).unwrap();
        fs::write(entry, "{").unwrap();
        node.has_no_fix("cache-unreadable", "warning", "net-a-eth0: EOF while parsing");
        fs::write(entry, content).unwrap();

        // All other commands keep the containers attached.
        for finding in node.findings() {
            if let Some(mend) = finding["mend"].as_str() {
                node.run_fix(mend);
            }
        }
        for container in ["a", "b"] {
            node.rscni(&["check", "net", container, "--container-id", container]).succeeded();
        }
        node.lab.snapshot().assert_same(&before);
    });
}

#[test]
fn built_in_networks_of_runtimes_are_not_reported() {
    with_node(|node| {
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
            // Runtimes define these networks without a file.
            fs::remove_file(node.conf_dir().join(format!("{name}.conflist"))).unwrap();
        }
        node.add("net", "b");
        let out = node.rscni(&["doctor"]).succeeded();
        assert!(out.stdout.ends_with("0 errors, 0 warnings\n"), "{}", out.stdout);
        // Their stale attachments are reported.
        remove_namespace("a");
        let found = node.reports("attachment-gone", "warning", "a/eth2 is attached to buildkit");
        assert!(found["mend"].is_string(), "{found:#}");
    });
}

#[test]
fn doctor_can_be_limited_to_one_container() {
    with_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        node.network("other", "10.2.0.0/24", &json!({}), &[json!({ "type": "theirs" })]);
        node.lab.container("a");
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web";
        node.rscni(&["add", "net", "a", "--container-id", "a", "--args", args]).succeeded();
        node.add("net", "b");
        remove_namespace("b");
        node.reports("plugin-missing", "error", "plugin theirs of other");
        node.reports("attachment-gone", "warning", "b/eth0");
        for container in ["a", "default/web"] {
            let out = node.rscni(&["doctor", container]).succeeded();
            assert!(out.stdout.ends_with("0 errors, 0 warnings\n"), "{container}: {}", out.stdout);
            assert!(!out.stdout.contains("theirs"), "{}", out.stdout);
        }
        let out = node.rscni(&["doctor", "b"]).succeeded();
        assert!(out.stdout.contains("attachment-gone: b/eth0"), "{}", out.stdout);
        assert!(!out.stdout.contains("theirs"), "{}", out.stdout);
        let out = node.rscni(&["doctor", "default/none"]);
        assert!(out.status == 1 && out.stderr.contains("pod default/none has no"), "{out:?}");
    });
}

#[test]
fn missing_permissions_are_reported_with_a_command_for_root() {
    with_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        node.add("net", "a");
        // The findings have severity ok, and their commands work with all capabilities.
        fs::set_permissions(Path::new(RESERVATIONS).join("net"), fs::Permissions::from_mode(0o000))
            .unwrap();
        for (id, capabilities, told, seen) in [
            (
                "not-looked-at",
                "-dac_override,-dac_read_search",
                "Permission denied",
                "there are no stale resources",
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
            let out = node.run_fix(found["mend"].as_str().unwrap()).succeeded();
            assert!(out.stdout.contains(seen) && !out.stdout.contains(id), "{found:#} {out:?}");
            assert_eq!(node.find(id), None);
        }
    });
}

/// Only the host can load the module, so a replacement of `modprobe` creates the setting on a tmpfs
/// over the kernel's settings. `sysctl` is the real program.
#[test]
fn bridged_packets_that_another_firewall_plugin_does_not_see_are_found() {
    with_node(|node| {
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
        node.replace_program(
            "modprobe",
            "[ \"$*\" = br_netfilter ]; mkdir /proc/sys/net/bridge; \
             echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables",
        );
        let loads = node.reports("bridge-not-filtered", "warning", what)["mend"].to_string();
        assert!(loads.contains("modprobe"), "{loads}");
        node.fixes("bridge-not-filtered", "warning", what);
        // The module is already loaded.
        fs::write(setting, "0").unwrap();
        let switches = node.reports("bridge-not-filtered", "warning", what)["mend"].to_string();
        assert!(!switches.contains("modprobe"), "{switches}");
        node.fixes("bridge-not-filtered", "warning", what);
        assert_eq!(fs::read_to_string(setting).unwrap().trim(), "1");
    });
}

/// Removes the namespace and waits until the kernel has removed the host end of its veth.
fn remove_namespace(container: &str) {
    let veths = || {
        let links = rscni_linux::Netlink::open().unwrap().links().unwrap();
        links.iter().filter(|link| link.kind.as_deref() == Some("veth")).count()
    };
    let before = veths();
    Netns::unbind(Path::new("/run/netns").join(container)).unwrap();
    eventually(&format!("the end of the veth of {container}"), || (veths() < before).then_some(()));
}

#[test]
fn stale_and_unreadable_cache_entries_are_found() {
    with_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({}), &[]);
        node.add("net", "a");
        remove_namespace("a");
        node.fixes(
            "attachment-gone",
            "warning",
            "a/eth0 is attached to net, and its namespace /var/run/netns/a is gone",
        );
        node.add("net", "b");
        fs::write("/var/lib/cni/results/net-c-eth0", "{").unwrap();
        let found = node.reports("cache-unreadable", "warning", "net-c-eth0: EOF while parsing");
        assert!(
            found["why"].as_str().unwrap().contains("removes nothing of that network"),
            "{found:#}"
        );
        node.fixes("cache-unreadable", "warning", "net-c-eth0: EOF while parsing");
        fs::write("/var/lib/cni/results/README", "Hands off").unwrap();
        let found = node.reports("cache-unreadable", "warning", "README: expected value");
        assert!(found["why"].as_str().unwrap().contains("has no effect"), "{found:#}");
        node.fixes("cache-unreadable", "warning", "README: expected value");
        fs::create_dir_all("/var/lib/cni/results/net-d-eth0/below").unwrap();
        node.fixes("cache-unreadable", "warning", "net-d-eth0: cannot read: Is a directory");
        fs::remove_file(node.conf_dir().join("net.conflist")).unwrap();
        let without = "b/eth0 is attached to net, which no file in";
        node.has_no_fix("attachment-without-network", "warning", without);
        assert_eq!(node.find("orphaned-address"), None);
    });
}

#[test]
fn stale_resources_are_found() {
    with_node(|node| {
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
            remove_namespace(container);
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
            node.fixes(id, "warning", what);
            assert!(
                !node.findings().iter().any(|finding| finding["severity"] != "ok"),
                "{:#?}",
                node.findings()
            );
        }
        lose("old", "gone-5");
        node.fixes("orphaned-chain", "warning", "network old: chain iptables nat CNI-");
        // Only owner tags name the network.
        lose("net", "gone-6");
        fs::remove_file(node.conf_dir().join("net.conflist")).unwrap();
        node.fixes("orphaned-element", "warning", "10.1.0.");
        assert_eq!(node.find("orphaned-link"), None);
        fs::create_dir_all("/run/cni/tuning").unwrap();
        fs::write("/run/cni/tuning/a_eth0.json", "").unwrap();
        node.fixes("file-cut-off", "warning", "/run/cni/tuning/a_eth0.json is incomplete");
    });
}

#[test]
fn missing_dhcp_daemon_is_found() {
    with_node(|node| {
        let socket = node.path("dhcp.sock");
        let ipam = json!({ "ipam": { "type": "dhcp", "daemonSocketPath": socket } });
        node.network("net", "10.1.0.0/24", &ipam, &[]);
        // The systemd unit has another socket.
        fs::create_dir_all("/run/systemd/system").unwrap();
        let found = node.reports("dhcp-daemon", "error", "the dhcp daemon does not answer at");
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

/// The test has no systemd, so a replacement of `systemctl` starts the daemon with the socket of
/// the packaged unit.
#[test]
fn missing_dhcp_daemon_is_started_by_systemd() {
    with_node(|node| {
        node.network("net", "10.1.0.0/24", &json!({ "ipam": { "type": "dhcp" } }), &[]);
        fs::create_dir_all("/run/systemd/system").unwrap();
        let units = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/systemd");
        let pid = node.path("pid");
        node.replace_program(
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
        node.fixes("dhcp-daemon", "error", "the dhcp daemon does not answer at /run/cni/dhcp.sock");
        run(Command::new("kill").arg(fs::read_to_string(pid).unwrap().trim())).succeeded();
    });
}
