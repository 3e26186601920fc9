//! `rscni gc` with real attachments in a private network.

use std::{path::Path, process::Command};

use rscni_linux::{AddressFlags, Netns, Veth};
use rscni_test::{Lab, Snapshot};
use rstest::rstest;
use serde_json::{Value, json};

use crate::fixture::{CommandOutput, RSCNI, run};

fn rscni(lab: &Lab, words: &[&str]) -> CommandOutput {
    let mut command = Command::new(RSCNI);
    command.args(words).env("NETCONFPATH", lab.dir().join("net.d")).env("CNI_PATH", lab.dir());
    run(&mut command)
}

/// Creates a network whose attachments have every kind of resource on the host.
fn network(lab: &Lab, version: &str, name: &str, subnet: &str) {
    std::fs::create_dir_all(lab.dir().join("net.d")).unwrap();
    let bridge = json!({
        "type": "bridge", "bridge": format!("br-{name}"), "isGateway": true, "ipMasq": true,
        "macspoofchk": true,
        "ipam": { "type": "host-local", "ranges": [[{ "subnet": subnet }]] },
    });
    let chained = [
        json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
        json!({ "type": "bandwidth", "egressRate": 800_000, "egressBurst": 1_600_000 }),
        json!({ "type": "tuning", "mtu": 1400, "dataDir": "/run/tuning" }),
        json!({ "type": "firewall", "backend": "nftables", "ingressPolicy": "isolated" }),
    ];
    let plugins: Vec<Value> = [bridge].into_iter().chain(chained).collect();
    let list = json!({ "cniVersion": version, "name": name, "plugins": plugins });
    std::fs::write(lab.dir().join(format!("net.d/{name}.conflist")), list.to_string()).unwrap();
}

fn add(lab: &Lab, network: &str, container: &str, port: u16) {
    lab.container(container);
    let mapping = json!([{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }]);
    let cap = format!("portMappings={mapping}");
    rscni(lab, &["add", network, container, "--container-id", container, "--cap", &cap])
        .succeeded();
}

fn remove_cache_entry(network: &str, container: &str) {
    std::fs::remove_file(format!("/var/lib/cni/results/{network}-{container}-eth0")).unwrap();
}

fn remove_namespace(container: &str) {
    Netns::unbind(Path::new("/run/netns").join(container)).unwrap();
}

fn snapshot(lab: &Lab) -> Snapshot {
    let stays = [
        "/last_reserved_ip.",
        "/.index/",
        "/lock",
        "nft table",
        "nft chain",
        "nft rule",
        "nft map",
        "nft set",
        "forward",
    ];
    stays.iter().fold(lab.snapshot(), |snapshot, text| snapshot.ignoring(text))
}

/// Waits until the kernel has removed the veths of removed namespaces.
fn wait_for_veths(lab: &Lab, links: usize) {
    rscni_test::eventually("the end of the veths", || {
        let all = lab.host().netlink().links().unwrap();
        (all.iter().filter(|link| link.kind.as_deref() == Some("veth")).count() == links)
            .then_some(())
    });
}

/// The cache of another runtime may be elsewhere, and host interfaces of the Go plugins have no
/// owner tag.
#[test]
fn containers_of_other_programs_are_kept() {
    rscni_test::run(|lab| {
        network(lab, "1.1.0", "net", "10.1.0.0/24");
        for (container, ifname, mark) in
            [("foreign", "eth0", "foreign\r\neth0"), ("old", "net1", "old")]
        {
            let namespace = lab.container(container);
            let (net, outside) =
                (format!("10.1.0.{}/24", 60 + container.len()), format!("veth-{container}"));
            lab.host()
                .netlink()
                .add_veth(&Veth {
                    peer_netns: Some(&Netns::open(namespace.path()).unwrap()),
                    ..Veth::new(&outside, ifname)
                })
                .unwrap();
            let mut inside = namespace.netlink();
            let index = inside.link_by_name(ifname).unwrap().index;
            inside.add_address(index, net.parse().unwrap(), AddressFlags::default()).unwrap();
            std::fs::create_dir_all("/var/lib/cni/networks/net").unwrap();
            let address = net.strip_suffix("/24").unwrap();
            std::fs::write(format!("/var/lib/cni/networks/net/{address}"), mark).unwrap();
        }
        let before = snapshot(lab);
        assert_eq!(rscni(lab, &["gc", "--auto", "--dry-run"]).succeeded().stdout, "");
        assert!(!rscni(lab, &["doctor"]).stdout.contains("orphaned"));
        rscni(lab, &["gc", "--auto"]).succeeded();
        snapshot(lab).assert_same(&before);
        remove_namespace("foreign");
        remove_namespace("old");
        wait_for_veths(lab, 0);
        assert_eq!(rscni(lab, &["gc", "--auto"]).succeeded().stdout.lines().count(), 2);
    });
}

/// The process id in `/proc/PID/ns/net` may be reused by a process of the host.
#[test]
fn container_whose_process_id_is_reused_is_removed() {
    rscni_test::run(|lab| {
        network(lab, "1.1.0", "net", "10.1.0.0/24");
        add(lab, "net", "first", 8000);
        rscni(lab, &["del", "net", "first", "--container-id", "first"]).succeeded();
        let before = snapshot(lab);
        let host = format!("/proc/{}/ns/net", std::process::id());
        let entry = Path::new("/var/lib/cni/results/net-gone-eth0");
        for words in [["gc", "net", "--auto"], ["del", "net", &host]] {
            add(lab, "net", "gone", 8001);
            let text = std::fs::read_to_string(entry).unwrap();
            std::fs::write(entry, text.replace("/var/run/netns/gone", &host)).unwrap();
            remove_namespace("gone");
            wait_for_veths(lab, 0);
            assert!(rscni(lab, &["ls"]).succeeded().stdout.contains(&format!("{host} (gone)")));
            let words: Vec<_> = words
                .into_iter()
                .chain((words[0] == "del").then_some("--container-id=gone"))
                .collect();
            rscni(lab, &words).succeeded();
            snapshot(lab).assert_same(&before);
        }
    });
}

/// The namespace of a container is also that of the caller inside the container.
#[test]
fn container_of_the_caller_is_kept() {
    rscni_test::run(|lab| {
        network(lab, "1.1.0", "net", "10.1.0.0/24");
        let container = lab.container("inside");
        let mut inside = container.run(|| Command::new("sleep").arg("100").spawn().unwrap());
        let path = format!("/proc/{}/ns/net", inside.id());
        rscni(lab, &["add", "net", &path, "--container-id", "inside"]).succeeded();
        let listed = container.run(|| rscni(lab, &["ls"])).succeeded();
        inside.kill().unwrap();
        inside.wait().unwrap();
        assert!(
            listed.stdout.contains(&path) && !listed.stdout.contains("(gone)"),
            "{}",
            listed.stdout
        );
    });
}

#[rstest]
#[case("1.1.0")]
#[case("1.0.0")]
fn dry_run_lists_what_a_run_removes(#[case] version: &str) {
    rscni_test::run(|lab| {
        network(lab, version, "net", "10.1.0.0/24");
        network(lab, version, "other", "10.2.0.0/24");
        add(lab, "net", "first", 8000);
        rscni(lab, &["del", "net", "first", "--container-id", "first"]).succeeded();
        add(lab, "net", "kept", 8001);
        add(lab, "net", "kept-and-uncached", 8002);
        remove_cache_entry("net", "kept-and-uncached");
        add(lab, "other", "kept-elsewhere", 8003);
        let before = snapshot(lab);
        let nothing = rscni(lab, &["gc", "net", "--auto", "--dry-run"]).succeeded();
        assert_eq!((nothing.stdout.as_str(), nothing.stderr.as_str()), ("", ""));

        add(lab, "net", "gone", 8004);
        add(lab, "net", "gone-and-uncached", 8005);
        remove_cache_entry("net", "gone-and-uncached");
        remove_namespace("gone");
        remove_namespace("gone-and-uncached");
        wait_for_veths(lab, 3);
        if version == "1.1.0" {
            // A link with an owner tag whose name is not derived from the attachment.
            let alias = Some("rscni net stray eth0".to_owned());
            lab.host().netlink().add_veth(&Veth { alias, ..Veth::new("stray", "beyond") }).unwrap();
            std::fs::write("/var/lib/cni/networks/net/10.1.0.77", "").unwrap();
        }

        let dirty = lab.snapshot();
        let dry = rscni(lab, &["gc", "net", "--auto", "--dry-run"]).succeeded();
        lab.snapshot().assert_same(&dirty);
        let uncached =
            "of gone-and-uncached/eth0: not in the cache, and no namespace has its interface\n";
        let uncached = [
            "address /var/lib/cni/networks/net/10.1.0.6",
            "element inet rscni masquerade4 10.1.0.6",
            "element inet rscni masquerade4-inside-24 10.1.0.0 . 10.1.0.6",
            "element inet rscni firewall4 10.1.0.6",
            "element inet rscni hostport4_any port 8005",
        ]
        .map(|what| format!("{what} {uncached}"));
        let others = [
            "gone/eth0 10.1.0.5/24: its namespace /var/run/netns/gone is gone\n",
            "address /var/lib/cni/networks/net/10.1.0.5 of gone/eth0: its namespace",
            "file /run/tuning/gone-and-uncached_eth0.json of",
            "link bwp",
        ];
        for line in uncached.iter().map(String::as_str).chain(others) {
            let line = format!("would remove {line}");
            assert!(dry.stdout.contains(&line), "{line}\n{}", dry.stdout);
        }
        assert_eq!(
            dry.stdout.contains("would remove link stray (veth) of stray/eth0: not in the cache"),
            version == "1.1.0"
        );
        let interrupted = "left by an interrupted call";
        let mut lines = dry.stdout.lines();
        assert_eq!(
            lines.any(|line| line.contains("10.1.0.77 of ") && line.ends_with(interrupted)),
            version == "1.1.0"
        );
        assert!(!dry.stdout.contains("kept"), "{}", dry.stdout);

        let run = rscni(lab, &["gc", "net", "--auto"]).succeeded();
        assert_eq!(run.stdout, dry.stdout.replace("would remove ", "removed "));
        lab.assert_unchanged_since(&before);
        assert_eq!(rscni(lab, &["gc", "net", "--auto"]).succeeded().stdout, "");
        rscni(lab, &["check", "net", "kept", "--container-id", "kept"]).succeeded();
    });
}

#[test]
fn network_known_from_owner_tags_only_is_collected() {
    rscni_test::run(|lab| {
        network(lab, "1.1.0", "net", "10.1.0.0/24");
        network(lab, "1.1.0", "old", "10.2.0.0/24");
        for (name, port) in [("net", 8000), ("old", 8001)] {
            add(lab, name, &format!("first-{name}"), port);
            let first = format!("first-{name}");
            rscni(lab, &["del", name, &first, "--container-id", &first]).succeeded();
            remove_namespace(&first);
        }
        let before = snapshot(lab).ignoring("/run/cni/host-device");
        for (name, port) in [("net", 8000), ("old", 8001)] {
            let gone = format!("gone-{name}");
            add(lab, name, &gone, port);
            remove_cache_entry(name, &gone);
            remove_namespace(&gone);
        }
        wait_for_veths(lab, 0);
        // The saved configuration of flannel.
        std::fs::create_dir_all("/var/lib/cni/flannel").unwrap();
        let saved = json!({ "cniVersion": "1.1.0", "name": "old", "type": "bridge" });
        std::fs::write("/var/lib/cni/flannel/gone-long-ago", saved.to_string()).unwrap();
        std::fs::remove_file(lab.dir().join("net.d/old.conflist")).unwrap();
        assert_eq!(rscni(lab, &["gc", "old", "--valid", "a/eth0"]).status, 1);
        assert_eq!(rscni(lab, &["gc", "unheard-of", "--auto"]).status, 1);
        let dry = rscni(lab, &["gc", "--auto", "--dry-run"]).succeeded().stdout;
        assert!(
            dry.contains("masquerade4 10.1.0.3 of gone-net/eth0")
                && dry.contains("10.2.0.3 of gone-old/eth0")
        );
        assert!(
            dry.contains("would remove file /var/lib/cni/flannel/gone-long-ago of gone-long-ago: "),
            "{dry}"
        );
        let run = rscni(lab, &["gc", "--auto"]).succeeded().stdout;
        assert_eq!(run, dry.replace("would remove ", "removed "));
        std::fs::remove_dir("/var/lib/cni/flannel").unwrap();
        lab.assert_unchanged_since(&before);
        assert_eq!(rscni(lab, &["gc", "--auto"]).succeeded().stdout, "");
    });
}

#[test]
fn port_shared_by_two_attachments_is_listed_for_both_and_removed() {
    rscni_test::run(|lab| {
        network(lab, "1.1.0", "net", "10.1.0.0/24");
        network(lab, "1.1.0", "other", "10.2.0.0/24");
        add(lab, "net", "both", 8001);
        let mapping = json!([{ "hostPort": 8001, "containerPort": 80, "protocol": "tcp" }]);
        let cap = format!("portMappings={mapping}");
        let words =
            ["add", "other", "both", "--container-id", "both", "--ifname", "net1", "--cap", &cap];
        rscni(lab, &words).succeeded();
        remove_namespace("both");
        wait_for_veths(lab, 0);
        let dry = rscni(lab, &["gc", "--auto", "--dry-run"]).succeeded().stdout;
        for (set, attachment) in
            [("hostport4_any", "both/eth0"), ("hostport4_any_standby", "both/net1")]
        {
            let line = format!("element inet rscni {set} port 8001 of {attachment}");
            assert!(dry.contains(&line), "{line}\n{dry}");
        }
        rscni(lab, &["gc", "--auto"]).succeeded();
        let left = lab.snapshot().to_string();
        assert!(!left.contains("both"), "{left}");
    });
}
