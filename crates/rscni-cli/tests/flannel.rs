//! The flannel plugin, with a subnet file in place of the daemon.

mod support;

use std::{os::unix::fs::PermissionsExt, path::Path};

use rscni_linux::LinkChange;
use rscni_test::{Container, Lab, VERSIONS};
use rstest::rstest;
use serde_json::{Value, json};

use support::{
    Attached, Network, addresses, assert_gone, assert_talk, change, host_link, up, wait_until_gone,
    write_script,
};

const SUBNET_FILE: &str = "/run/flannel/subnet.env";
const DATA_DIR: &str = "/var/lib/cni/flannel";

const V4: &str = "FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/24\n";
const V6: &str = "FLANNEL_IPV6_NETWORK=fd00:42::/56\nFLANNEL_IPV6_SUBNET=fd00:42:0:1::1/64\n";

/// Writes the subnet file of the daemon.
fn lease(subnets: &str) {
    lease_at(SUBNET_FILE, subnets, 1450, false);
}

fn lease_at(path: &str, subnets: &str, mtu: u32, ip_masq: bool) {
    std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
    std::fs::write(path, format!("{subnets}FLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={ip_masq}\n"))
        .unwrap();
}

fn flannel(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "flannel", keys)
}

/// Asserts that nothing is left except the empty directory.
fn assert_nothing_left(lab: &Lab) {
    let left = lab.snapshot().to_string();
    let is_left = |line: &&str| {
        let words = ["ctr-", "veth", "10.42.1.2", "fd00:42:0:1::2", "10.43.1.2", "CNI-"];
        words.iter().any(|word| line.contains(word)) && !line.contains("/last_reserved_ip.")
    };
    let left: Vec<&str> = left.lines().filter(is_left).collect();
    assert!(left.is_empty(), "{left:#?}");
    assert_eq!(saved_names(DATA_DIR), [""; 0]);
}

fn saved_names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn saved(container: &Container) -> Value {
    saved_as(container.id())
}

fn saved_as(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(Path::new(DATA_DIR).join(name)).unwrap()).unwrap()
}

#[rstest]
#[case::v4(V4.into())]
#[case::v6(V6.into())]
#[case::dual(format!("{V4}{V6}"))]
fn two_containers_talk_with_addresses_of_the_lease(#[case] subnets: String) {
    rscni_test::run(|lab| {
        support::install(lab);
        lease(&subnets);
        let network = flannel(lab, &json!({}));
        // The first attachment creates what belongs to the network.
        network.attach(lab, "first").del().success();
        let before = support::snapshot(lab).ignoring("netns first");
        let [a, b] = ["a", "b"].map(|name| network.attach(lab, name));
        for v4 in [true, false]
            .into_iter()
            .filter(|v4| subnets.contains(if *v4 { "10.42" } else { "fd00" }))
        {
            assert_talk(lab, &a, &b, v4);
            a.ping(if v4 { "10.42.1.1" } else { "fd00:42:0:1::1" });
        }
        assert_eq!((a.link().mtu, host_link(lab, "cni0").mtu), (1450, 1450));
        a.check().success();
        support::assert_del_restores(lab, &before, &[&a, &b]);
        assert_nothing_left(lab);
    });
}

/// The file that flannel's own plugin saves for the same keys, which omits `dns`.
#[rstest]
#[case::defaults(
    json!({}),
    json!({
        "type": "bridge", "isGateway": true, "ipMasq": true, "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.42.1.0/24" }], [{ "subnet": "fd00:42:0:1::/64" }]],
            "routes": [{ "dst": "10.42.0.0/16" }, { "dst": "fd00:42::/56" }],
        },
    })
)]
#[case::as_k3s_has_it(
    json!({ "delegate": { "hairpinMode": true, "forceAddress": true, "isDefaultGateway": true } }),
    json!({
        "hairpinMode": true, "forceAddress": true, "isDefaultGateway": true,
        "type": "bridge", "isGateway": true, "ipMasq": true, "mtu": 1450,
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.42.1.0/24" }], [{ "subnet": "fd00:42:0:1::/64" }]],
            "routes": [{ "dst": "10.42.0.0/16" }, { "dst": "fd00:42::/56" }],
        },
    })
)]
#[case::what_delegate_says_counts(
    json!({
        "delegate": {
            "bridge": "br1", "isGateway": false, "ipMasq": false, "mtu": 1300, "name-of-mine": 1,
            "runtimeConfig": { "mac": "c2:11:22:33:44:55" }
        },
        "ipam": {
            "ranges": [[{ "subnet": "10.9.0.0/24" }]], "dataDir": "/run/addresses",
            "routes": [{ "dst": "10.96.0.0/12", "gw": "10.42.1.7", "mtu": 1200 }],
        },
        "runtimeConfig": { "mac": "c2:11:22:33:44:66" },
    }),
    json!({
        "bridge": "br1", "isGateway": false, "ipMasq": false, "mtu": 1300, "name-of-mine": 1, "type": "bridge",
        "runtimeConfig": { "mac": "c2:11:22:33:44:66" },
        "ipam": {
            "type": "host-local", "dataDir": "/run/addresses",
            "ranges": [[{ "subnet": "10.42.1.0/24" }], [{ "subnet": "fd00:42:0:1::/64" }]],
            "routes": [
                { "dst": "10.96.0.0/12", "gw": "10.42.1.7", "mtu": 1200 },
                { "dst": "10.42.0.0/16" }, { "dst": "fd00:42::/56" },
            ],
        },
    })
)]
#[case::another_plugin(
    json!({ "delegate": { "type": "ptp" }, "dns": { "domain": "x" }, "args": { "cni": {} } }),
    json!({
        "type": "ptp", "ipMasq": true, "mtu": 1450, "dns": { "domain": "x" },
        "ipam": {
            "type": "host-local",
            "ranges": [[{ "subnet": "10.42.1.0/24" }], [{ "subnet": "fd00:42:0:1::/64" }]],
            "routes": [{ "dst": "10.42.0.0/16" }, { "dst": "fd00:42::/56" }],
        },
    })
)]
fn the_delegate_gets_these_keys(#[case] keys: Value, #[case] expected: Value) {
    rscni_test::run(|lab| {
        lease(&format!("{V4}{V6}"));
        let a = flannel(lab, &keys).attach(lab, "a");
        let mut expected = expected.clone();
        expected["cniVersion"] = "1.1.0".into();
        expected["name"] = "net".into();
        expected["rscni"] = json!({ "ifname": "eth0" });
        assert_eq!(saved(&a), expected);
        a.check().success();
        if let Some(mac) = keys["runtimeConfig"]["mac"].as_str() {
            assert_eq!(a.link().mac.unwrap().to_string(), mac);
        }
        a.del().success();
        assert_nothing_left(lab);
    });
}

#[rstest]
#[case::daemon_masquerades(true, false)]
#[case::daemon_does_not(false, true)]
fn either_the_daemon_or_the_plugin_masquerades(#[case] daemon: bool, #[case] plugin: bool) {
    rscni_test::run(|lab| {
        lease_at(SUBNET_FILE, V4, 1450, daemon);
        let network = flannel(lab, &json!({ "delegate": { "isDefaultGateway": true } }));
        let a = network.attach(lab, "a");
        let beyond = lab.container("beyond");
        let netns = rscni_linux::Netns::open(beyond.path()).unwrap();
        let veth = rscni_linux::Veth {
            peer_netns: Some(&netns),
            up: true,
            ..rscni_linux::Veth::new("uplink", "eth0")
        };
        let uplink = lab.host().netlink().add_veth(&veth).unwrap();
        let mut inside = beyond.netlink();
        let eth0 = inside.link_by_name("eth0").unwrap().index;
        change(&mut inside, "eth0", &up(true));
        let flags = rscni_linux::AddressFlags::default();
        lab.host()
            .netlink()
            .add_address(uplink.index, "192.0.2.1/24".parse().unwrap(), flags)
            .unwrap();
        inside.add_address(eth0, "192.0.2.2/24".parse().unwrap(), flags).unwrap();
        let back = rscni_linux::Route {
            gateway: Some("192.0.2.1".parse().unwrap()),
            ..rscni_linux::Route::new("10.42.0.0/16".parse::<ipnet::IpNet>().unwrap())
        };
        inside.add_route(&back).unwrap();
        let server = beyond.serve_tcp(80);
        let seen_as = a.tcp("192.0.2.2:80").seen_as.to_string();
        assert_eq!(seen_as, if plugin { "192.0.2.1" } else { "10.42.1.2" });
        drop(server);
        a.del().success();
    });
}

#[test]
fn file_and_directory_are_where_the_keys_say() {
    rscni_test::run(|lab| {
        lease_at("/run/other/lease", V4, 1400, true);
        let keys = json!({ "subnetFile": "/run/other/lease", "dataDir": "/var/lib/cni/other/dir" });
        let a = flannel(lab, &keys).attach(lab, "a");
        assert_eq!(saved_names("/var/lib/cni/other/dir"), [a.id()]);
        let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode("/var/lib/cni/other/dir"), 0o700);
        assert_eq!(mode(&format!("/var/lib/cni/other/dir/{}", a.id())), 0o600);
        a.del().success();
        assert_eq!(saved_names("/var/lib/cni/other/dir"), [""; 0]);
        assert!(!Path::new(DATA_DIR).exists());
    });
}

#[rstest]
#[case::name(json!({ "delegate": { "name": "x" } }), 7, "\"name\"")]
#[case::ipam(json!({ "delegate": { "ipam": {} } }), 7, "\"ipam\"")]
#[case::type_is_no_name(json!({ "delegate": { "type": 1 } }), 7, "delegate.type: 1")]
#[case::type_is_a_path(json!({ "delegate": { "type": "../sh" } }), 7, "../sh")]
#[case::type_is_nowhere(json!({ "delegate": { "type": "nowhere" } }), 7, "nowhere")]
#[case::type_is_flannel_itself(json!({ "delegate": { "type": "flannel" } }), 7, "another plugin than flannel")]
#[case::type_is_flannel_renamed(
    json!({ "delegate": { "type": "cnv-flannel" } }),
    7,
    "another plugin than flannel"
)]
#[case::delegate_is_a_list(json!({ "delegate": [] }), 7, "delegate: [] is not an object")]
#[case::routes(json!({ "ipam": { "routes": [{ "dst": "everywhere" }] } }), 7, "ipam.routes")]
#[case::of_the_delegate(json!({ "delegate": { "hairpinMode": true, "promiscMode": true } }), 7, "promiscMode")]
fn invalid_config_is_rejected_naming_the_key(
    #[case] keys: Value,
    #[case] code: u64,
    #[case] word: &str,
) {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &keys);
        let a = lab.container("a");
        let before = support::snapshot(lab).ignoring(DATA_DIR);
        network.add(&a).error(code).mentions(word);
        network.status().error(code).mentions(word);
        lab.assert_unchanged_since(&before);
        assert_eq!(saved_names(DATA_DIR), [""; 0]);
    });
}

#[test]
fn a_saved_configuration_of_flannel_itself_counts_as_broken() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({ "delegate": { "type": "flannel" } }));
        let a = lab.container("a");
        let before = support::snapshot(lab).ignoring(DATA_DIR);
        let renamed = flannel(lab, &json!({ "delegate": { "type": "cnv-flannel" } }));
        let saved = renamed.with(&json!({ "type": "cnv-flannel" }));
        let default = flannel(lab, &json!({}));
        for (network, saved) in
            [(&network, &network), (&default, &default), (&default, &saved), (&renamed, &saved)]
        {
            std::fs::create_dir_all(DATA_DIR).unwrap();
            std::fs::write(Path::new(DATA_DIR).join(a.id()), saved.config.to_string()).unwrap();
            network.gc(&[]).success();
            network.del(&a).success();
            assert_eq!(saved_names(DATA_DIR), [""; 0]);
        }
        lab.assert_unchanged_since(&before);
    });
}

#[rstest]
#[case::not_there(None, 11, SUBNET_FILE)]
#[case::empty(Some(""), 6, "missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET")]
#[case::half(Some("FLANNEL_NETWORK=10.42.0.0/16\n"), 6, "FLANNEL_MTU, FLANNEL_IPMASQ")]
#[case::nonsense(Some("FLANNEL_NETWORK=10.42.0.0\n"), 6, "is not a CIDR")]
fn without_a_subnet_file_add_and_status_fail_and_del_works(
    #[case] text: Option<&str>,
    #[case] code: u64,
    #[case] word: &str,
) {
    rscni_test::run(|lab| {
        if let Some(text) = text {
            std::fs::create_dir_all("/run/flannel").unwrap();
            std::fs::write(SUBNET_FILE, text).unwrap();
        }
        let network = flannel(lab, &json!({}));
        let a = lab.container("a");
        let before = lab.snapshot();
        network.add(&a).error(code).mentions(word).mentions("daemon");
        network.status().error(50).mentions(word);
        network.del(&a).success();
        network.gc(&[]).success();
        lab.assert_unchanged_since(&before);
        lease(V4);
        network.status().success();
        network.attach_as(&a, "eth0").del().success();
    });
}

#[test]
fn status_asks_the_other_plugin_too() {
    rscni_test::run(|lab| {
        lease("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.1.1/30\n");
        let network = flannel(lab, &json!({}));
        network.status().success();
        network.attach(lab, "a");
        network.status().error(50).mentions("10.42.1");
    });
}

#[test]
fn an_add_that_fails_leaves_nothing() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({}));
        let a = network.attach(lab, "a");
        let before = support::snapshot(lab);
        // The name is taken.
        network.add(&a).error(4).mentions("eth0");
        lab.assert_unchanged_since(&before);
        a.check().success();
        // An unreachable route fails in the last step but one.
        let bad = network.with(
            &json!({ "ipam": { "routes": [{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }] } }),
        );
        let b = lab.container("b");
        let before = support::snapshot(lab);
        network.plugin.add(&b, "eth0", &bad.config).error(5).mentions("203.0.113.1");
        lab.assert_unchanged_since(&before);
        network.plugin.del(&b, "eth0", &bad.config).success();
        lab.assert_unchanged_since(&before);
        // The directory cannot be written.
        std::fs::write("/run/file", "").unwrap();
        let bad = network.with(&json!({ "dataDir": "/run/file" }));
        let before = support::snapshot(lab);
        network.plugin.add(&b, "eth0", &bad.config).error(5).mentions("/run/file");
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn del_cleans_up_after_a_killed_add() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({ "delegate": { "type": "fussy" } }));
        let dir = lab.dir().join("scripts");
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("log");
        let text = format!(
            "cat > /dev/null\necho $CNI_COMMAND >> {}\ntest $CNI_COMMAND = ADD || exit 0\nkill -9 $PPID",
            log.display()
        );
        write_script(dir.join("fussy"), &text);
        let mut network = network;
        network.plugin = network.plugin.cni_path([dir.as_path()]);
        let a = lab.container("a");
        let call = network.plugin.call("ADD").attachment(&a, "eth0").config(&network.config);
        assert_ne!(call.run().exit_code(), Some(0));
        assert_eq!(saved_names(DATA_DIR), [a.id()]);
        network.del(&a).success();
        assert_eq!(saved_names(DATA_DIR), [""; 0]);
        // Nothing is saved any more, and the delegate may fail without a subnet.
        network.del(&a).success();
        assert_eq!(std::fs::read_to_string(log).unwrap(), "ADD\nDEL\n");
    });
}

#[rstest]
fn del_is_complete(
    #[values(
        "with_result",
        "without_result",
        "without_netns",
        "netns_gone",
        "lease_gone",
        "lease_changed",
        "saved_gone",
        "saved_broken",
        "saved_and_lease_gone",
        "saved_and_everything_gone"
    )]
    how: &str,
) {
    rscni_test::run(|lab| {
        lease(&format!("{V4}{V6}"));
        let network = flannel(lab, &json!({}));
        let a = network.attach(lab, "a");
        let file = Path::new(DATA_DIR).join(a.id());
        if how.contains("saved_") && how.contains("gone") {
            std::fs::remove_file(&file).unwrap();
        }
        if how.contains("lease") && how.contains("gone") || how.contains("everything") {
            std::fs::remove_file(SUBNET_FILE).unwrap();
        }
        match how {
            "without_netns" => a.del_without_netns(),
            "without_result" | "saved_and_lease_gone" => a.del_without_result(),
            "netns_gone" | "saved_and_everything_gone" => {
                lab.remove_namespace(&a);
                a.del_without_netns()
            }
            "lease_changed" => {
                lease("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.9.1/24\n");
                a.del()
            }
            "saved_broken" => {
                std::fs::write(&file, "{ \"type\": \"bri").unwrap();
                a.del()
            }
            _ => a.del(),
        }
        .success();
        assert_nothing_left(lab);
        a.del().success();
    });
}

#[test]
fn del_that_fails_can_be_repeated() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({ "ipam": { "dataDir": "/run/addresses" } }));
        let a = network.attach(lab, "a");
        std::fs::rename("/run/addresses", "/run/elsewhere").unwrap();
        std::fs::write("/run/addresses", "").unwrap();
        a.del().failure();
        assert_eq!(saved_names(DATA_DIR), [a.id()]);
        std::fs::remove_file("/run/addresses").unwrap();
        std::fs::rename("/run/elsewhere", "/run/addresses").unwrap();
        a.del().success();
        assert_nothing_left(lab);
        assert!(!Path::new("/run/addresses/net/10.42.1.2").exists());
    });
}

#[test]
fn two_interfaces_and_two_networks_of_one_container_do_not_mix() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({}));
        let a = network.attach(lab, "a");
        let second = network.attach_as(&a.container, "eth1");
        lease_at(
            "/run/other",
            "FLANNEL_NETWORK=10.43.0.0/16\nFLANNEL_SUBNET=10.43.1.1/24\n",
            1400,
            false,
        );
        let keys =
            json!({ "name": "other", "subnetFile": "/run/other", "delegate": { "bridge": "br2" } });
        let other = network.with(&keys).attach_as(&a.container, "eth2");
        assert_eq!(saved(&a)["name"], "net");
        assert_eq!(saved_as(&format!("{}:eth1", a.id()))["name"], "net");
        assert_eq!(saved_as(&format!("{}:eth2", a.id()))["name"], "other");
        for attached in [&a, &second, &other] {
            attached.check().success();
        }
        // A second DEL does not remove the file of another interface.
        second.del().success();
        second.del().success();
        second.check().error(100).mentions(DATA_DIR);
        a.check().success();
        other.check().success();
        let third = network.attach_as(&a.container, "eth3");
        a.del().success();
        a.del().success();
        third.check().success();
        other.check().success();
        for attached in [&other, &third] {
            attached.del().success();
        }
        assert_nothing_left(lab);
    });
}

#[test]
fn gc_distinguishes_interfaces_of_a_container() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({}));
        let a = network.attach(lab, "a");
        let second = network.attach_as(&a.container, "eth1");
        let third = network.attach_as(&a.container, "eth2");
        network.gc(&[&second]).success();
        second.check().success();
        assert_eq!(saved_names(DATA_DIR), [format!("{}:eth1", a.id())]);
        for gone in [&a, &third] {
            gone.check().error(100).mentions(DATA_DIR);
        }
        second.del().success();
        assert_nothing_left(lab);
    });
}

/// A file of Go, or of an earlier release, does not name its interface.
#[test]
fn a_second_interface_keeps_the_file_that_go_saved() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({}));
        let a = network.attach(lab, "a");
        let file = Path::new(DATA_DIR).join(a.id());
        let mut go = saved(&a);
        go.as_object_mut().unwrap().shift_remove("rscni");
        std::fs::write(&file, go.to_string()).unwrap();
        let second = network.attach_as(&a.container, "eth1");
        assert_eq!(saved(&a), go);
        second.del().success();
        a.check().success();
        a.del().success();
        assert_nothing_left(lab);
    });
}

#[test]
fn dns_of_the_network_is_in_the_result_unless_the_other_plugin_has_its_own() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({ "dns": { "nameservers": ["192.0.2.53"] } }));
        assert_eq!(network.attach(lab, "a").reply["dns"], json!({ "nameservers": ["192.0.2.53"] }));
        let own = network.with(&json!({ "delegate": { "dns": { "domain": "example.net" } } }));
        assert_eq!(own.attach(lab, "b").reply["dns"], json!({ "domain": "example.net" }));
    });
}

#[test]
fn check_names_what_differs() {
    rscni_test::run(|lab| {
        lease(&format!("{V4}{V6}"));
        let network = flannel(lab, &json!({}));
        let a = network.attach(lab, "a");
        network.check(&a).error(7).mentions("prevResult");
        // The lease may change while containers run.
        std::fs::remove_file(SUBNET_FILE).unwrap();
        a.check().success();
        change(&mut a.netlink(), "eth0", &up(false));
        a.check_misses("eth0");
        change(&mut a.netlink(), "eth0", &up(true));
        change(
            &mut lab.host().netlink(),
            &a.port_name(),
            &LinkChange { up: Some(false), ..LinkChange::default() },
        );
        a.check_misses(&a.port_name());
        std::fs::remove_file(Path::new(DATA_DIR).join(a.id())).unwrap();
        a.check_misses(DATA_DIR);
    });
}

#[test]
fn gc_keeps_valid_attachments_and_removes_stale_ones() {
    rscni_test::run(|lab| {
        lease(&format!("{V4}{V6}"));
        let network = flannel(lab, &json!({}));
        let [kept, stale] = ["kept", "stale"].map(|name| network.attach(lab, name));
        // Attached with another configuration and lease.
        lease("FLANNEL_NETWORK=10.42.0.0/16\nFLANNEL_SUBNET=10.42.9.1/24\n");
        let old = network
            .with(&json!({ "delegate": { "type": "ptp" }, "ipam": { "dataDir": "/run/old" } }));
        let old = old.attach(lab, "old");
        lease("FLANNEL_NETWORK=10.43.0.0/16\nFLANNEL_SUBNET=10.43.1.1/24\n");
        let other = network
            .with(&json!({ "name": "other", "delegate": { "bridge": "br2" } }))
            .attach(lab, "other");
        lease(&format!("{V4}{V6}"));
        std::fs::write(Path::new(DATA_DIR).join("half-written"), "{").unwrap();
        std::fs::write(Path::new(DATA_DIR).join(".hidden"), "{").unwrap();
        network.gc(&[&kept, &stale, &old]).success();
        for attached in [&kept, &stale, &old, &other] {
            attached.check().success();
        }
        network.gc(&[&kept]).success();
        kept.check().success();
        kept.ping("10.42.1.1");
        let mut names = saved_names(DATA_DIR);
        names.sort();
        assert_eq!(names, [".hidden", kept.id(), other.id(), "half-written"]);
        for name in ["old", "stale"] {
            assert_gone(lab, &[&format!("ctr-{name}")]);
        }
        other.check().success();
        network.plugin.gc(&network.config).success();
    });
}

#[test]
fn gc_needs_no_lease() {
    rscni_test::run(|lab| {
        lease(V4);
        let network = flannel(lab, &json!({}));
        let a = network.attach(lab, "a");
        std::fs::remove_file(SUBNET_FILE).unwrap();
        std::fs::remove_file(Path::new(DATA_DIR).join(a.id())).unwrap();
        network.gc(&[]).success();
        assert_nothing_left(lab);
    });
}

#[test]
fn the_result_is_that_of_the_other_plugin_in_every_version() {
    rscni_test::run(|lab| {
        lease(&format!("{V4}{V6}"));
        for version in VERSIONS {
            let network = flannel(lab, &json!({ "cniVersion": version }));
            let a = network.attach(lab, &format!("a{version}"));
            assert_eq!(a.reply["cniVersion"], *version);
            assert_eq!(saved(&a)["cniVersion"], *version);
            let legacy = ["0.1.0", "0.2.0"].contains(&version);
            let first = if legacy { &a.reply["ip4"]["ip"] } else { &a.reply["ips"][0]["address"] };
            assert_eq!(first, "10.42.1.2/24", "{version}");
            let routes = if legacy { &a.reply["ip6"]["routes"] } else { &a.reply["routes"] };
            assert!(routes.to_string().contains("fd00:42::/56"), "{version} {routes}");
            if ["0.4.0", "1.0.0", "1.1.0"].contains(&version) {
                a.check().success();
            } else {
                a.check().error(1).mentions("0.4.0");
            }
            a.del().success();
            a.del().success();
            assert_nothing_left(lab);
            // Without host-local's state, each version gets the same address.
            std::fs::remove_dir_all("/var/lib/cni/networks/net").unwrap();
        }
        let network = flannel(lab, &json!({ "cniVersion": null }));
        assert_eq!(network.attach(lab, "none").reply["cniVersion"], "0.1.0");
        assert_eq!(network.plugin.version().success()["supportedVersions"], json!(VERSIONS));
    });
}

#[test]
fn attachments_are_checked_collected_and_deleted_in_another_version() {
    rscni_test::run(|lab| {
        lease(V4);
        let old = flannel(lab, &json!({ "cniVersion": "0.3.1" }));
        let new = flannel(lab, &json!({}));
        let [mut a, b] = ["a", "b"].map(|name| old.attach(lab, name));
        a.network = new.clone();
        a.check().success();
        new.gc(&[&a]).success();
        assert_eq!(saved_names(DATA_DIR), [a.id()]);
        assert_gone(lab, &[&format!("{} eth0", b.id())]);
        a.del().success();
        assert_nothing_left(lab);
    });
}

/// Go's flannel plugin calls the bridge plugin with what it saved.
#[rstest]
fn attachments_of_the_go_plugin_are_checked_and_deleted(
    #[values("with_result", "without_result", "netns_gone_gc")] how: &str,
) {
    rscni_test::run(|lab| {
        lease(&format!("{V4}{V6}"));
        let ours =
            flannel(lab, &json!({ "cniVersion": "1.0.0", "delegate": { "hairpinMode": true } }));
        let saved = json!({
            "cniVersion": "1.0.0", "hairpinMode": true, "ipMasq": true, "ipam": {
                "ranges": [[{ "subnet": "10.42.1.0/24" }], [{ "subnet": "fd00:42:0:1::/64" }]],
                "routes": [{ "dst": "10.42.0.0/16" }, { "dst": "fd00:42::/56" }], "type": "host-local"
            },
            "isGateway": true, "mtu": 1450, "name": "net", "type": "bridge"
        });
        let theirs = Network { config: saved.clone(), ..ours.clone() }.with_go(lab);
        let container = lab.container("a");
        let Attached { reply, .. } = theirs.attach_as(&container, "eth0");
        std::fs::create_dir_all(DATA_DIR).unwrap();
        std::fs::write(Path::new(DATA_DIR).join(container.id()), saved.to_string()).unwrap();
        let a = Attached { network: ours.clone(), container, ifname: "eth0".into(), reply };
        a.check().success();
        a.end(lab, how).success();
        wait_until_gone(lab, "link veth");
        assert_nothing_left(lab);
    });
}

#[test]
fn the_host_has_the_gateways_and_forwards() {
    rscni_test::run(|lab| {
        lease(&format!("{V4}{V6}"));
        flannel(lab, &json!({})).attach(lab, "a");
        assert_eq!(addresses(lab.host(), "cni0"), ["10.42.1.1/24", "fd00:42:0:1::1/64"]);
        assert_eq!(lab.host().sysctl("net/ipv4/ip_forward"), "1");
    });
}
