//! An ADD that fails leaves nothing behind, wherever it fails; and DEL, which runtimes call then, succeeds.

mod support;

use std::os::unix::fs::PermissionsExt;

use rscni_linux::{AddressFlags, Bridge, Veth};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use support::{Network, V4, V6, fixed, host_link, host_local};

/// A script in place of a plugin, in a directory of its own that a network's `CNI_PATH` begins with.
fn script(lab: &Lab, network: &Network, name: &str, text: &str) -> Network {
    let dir = lab.dir().join("scripts");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(name), format!("#!/bin/sh\ncat > /dev/null\n{text}\n")).unwrap();
    std::fs::set_permissions(dir.join(name), PermissionsExt::from_mode(0o755)).unwrap();
    let plugin = network.plugin.clone().cni_path([dir.to_str().unwrap(), "/run/rscni-test/bin"]);
    Network { plugin, config: network.config.clone() }
}

/// Asserts that ADD on `a`, with everything as it is now, fails with this code and word, and changes nothing; nor does
/// the DEL after it.
#[track_caller]
fn assert_fails(lab: &Lab, network: &Network, code: u64, word: &str) {
    let a = lab.container("a");
    assert_fails_on(lab, network, &a, code, word);
}

#[track_caller]
fn assert_fails_on(lab: &Lab, network: &Network, a: &rscni_test::Container, code: u64, word: &str) {
    let before = support::snapshot(lab);
    network.plugin.add(a, "eth0", &network.config).error(code).mentions(word);
    lab.assert_unchanged_since(&before);
    network.plugin.del(a, "eth0", &network.config).success();
    lab.assert_unchanged_since(&before);
}

/// Both plugins that make links, with addresses of both families, masquerading, and what else makes something.
fn networks(lab: &Lab) -> [Network; 2] {
    let keys = json!({ "ipMasq": true, "macspoofchk": true });
    [Network::bridge(lab, &[V4, V6], &keys), Network::ptp(lab, &[V4, V6], &keys)]
}

#[test]
fn the_name_is_taken_in_the_container() {
    rscni_test::run(|lab| {
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let container = lab.container(name);
            container.netlink().add_bridge(&Bridge::new("eth0")).unwrap();
            assert_fails_on(lab, network, &container, 4, "eth0");
        }
    });
}

#[test]
fn the_name_is_taken_on_the_host() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let name = network.attach(lab, "a").port_name();
        let a = Network::bridge(lab, &[V4], &json!({}));
        let container = lab.container("b");
        let host_end = a.attach_as(&container, "eth0").port_name();
        a.plugin.del(&container, "eth0", &a.config).success();
        assert_ne!(name, host_end);
        lab.host().netlink().add_veth(&Veth::new(&host_end, "peer")).unwrap();
        let before = support::snapshot(lab);
        a.plugin.add(&container, "eth0", &a.config).error(11).mentions(&host_end);
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn no_address_is_left() {
    rscni_test::run(|lab| {
        let mut ipam = host_local(&[V4, "fd01::/126"]);
        ipam["ranges"][1][0]["rangeEnd"] = "fd01::2".into();
        for network in networks(lab) {
            let network = network.with(&json!({ "name": network.config["type"], "ipam": ipam }));
            let first =
                network.attach_as(&lab.container(network.config["type"].as_str().unwrap()), "eth0");
            let name = format!("second-{}", first.name());
            assert_fails_on(lab, &network, &lab.container(&name), 11, "fd01::");
            first.check().success();
        }
    });
}

#[rstest]
#[case::of_another_subnet("10.9.0.1")]
#[case::of_another_family("fd01::1")]
fn the_gateway_is_bad(#[case] gateway: &str) {
    rscni_test::run(|lab| {
        let mut ipam = fixed(&[("10.1.0.5/24", gateway), ("fd01::5/64", "fd01::1")]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
        let a = lab.container("a");
        let network = Network::bridge(lab, &[], &json!({ "ipam": ipam, "ipMasq": true }));
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).failure();
        lab.assert_unchanged_since(&before);
        network.plugin.del(&a, "eth0", &network.config).success();
    });
}

#[test]
fn a_route_leads_to_a_router_that_is_not_there() {
    rscni_test::run(|lab| {
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let network = network.with(&json!({ "ipam": ipam }));
            assert_fails_on(lab, &network, &lab.container(name), 5, "203.0.113.1");
        }
    });
}

#[test]
fn the_bridge_is_none() {
    rscni_test::run(|lab| {
        lab.host().netlink().add_veth(&Veth::new("br0", "peer")).unwrap();
        assert_fails(lab, &networks(lab)[0], 7, "br0");
    });
}

#[rstest]
#[case(json!({ "vlan": 100 }))]
#[case(json!({ "vlanTrunk": [{ "minID": 5, "maxID": 7 }] }))]
fn the_bridge_does_not_filter_vlans(#[case] keys: Value) {
    rscni_test::run(|lab| {
        lab.host().netlink().add_bridge(&Bridge { up: true, ..Bridge::new("br0") }).unwrap();
        assert_fails(lab, &networks(lab)[0].with(&keys), 7, "vlan_filtering");
    });
}

#[test]
fn a_bridge_that_was_down_is_down_again() {
    rscni_test::run(|lab| {
        let index = lab.host().netlink().add_bridge(&Bridge::new("br0")).unwrap().index;
        let other = "10.9.0.1/24".parse().unwrap();
        lab.host().netlink().add_address(index, other, AddressFlags::default()).unwrap();
        let network = networks(lab)[0].with(&json!({ "promiscMode": true }));
        assert_fails(lab, &network, 7, "forceAddress");
    });
}

#[test]
fn the_bridge_has_an_address_in_the_way_of_the_second_gateway() {
    rscni_test::run(|lab| {
        let index = lab
            .host()
            .netlink()
            .add_bridge(&Bridge { up: true, ..Bridge::new("br0") })
            .unwrap()
            .index;
        let other = "fd01::99/48".parse().unwrap();
        lab.host()
            .netlink()
            .add_address(index, other, AddressFlags { nodad: true, ..AddressFlags::default() })
            .unwrap();
        assert_fails(lab, &networks(lab)[0], 7, "forceAddress");
    });
}

#[test]
fn a_replaced_address_of_the_bridge_is_back_if_forwarding_cannot_be_switched_on() {
    rscni_test::run(|lab| {
        let index = lab
            .host()
            .netlink()
            .add_bridge(&Bridge { up: true, ..Bridge::new("br0") })
            .unwrap()
            .index;
        let other = "10.9.0.1/24".parse().unwrap();
        lab.host().netlink().add_address(index, other, AddressFlags::default()).unwrap();
        let network = networks(lab)[0].with(&json!({ "forceAddress": true }));
        read_only("/proc/sys/net/ipv4/ip_forward");
        assert_fails(lab, &network, 5, "ip_forward");
        assert_fails_on(lab, &networks(lab)[1], &lab.container("b"), 5, "ip_forward");
    });
}

/// Has writing to a file fail, for whoever tries.
fn read_only(path: &str) {
    for flags in [&["--bind", path, path][..], &["-o", "remount,bind,ro", path]] {
        let status = std::process::Command::new("mount").args(flags).status().unwrap();
        assert!(status.success(), "mount {flags:?}");
    }
}

#[test]
fn the_namespace_is_gone_or_none() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        lab.remove_namespace(&a);
        for network in networks(lab) {
            assert_fails_on(lab, &network, &a, 8, "/run/netns/a");
        }
        std::fs::write(a.path(), "no namespace").unwrap();
        for network in networks(lab) {
            let before = support::snapshot(lab);
            network.plugin.add(&a, "eth0", &network.config).error(8).mentions("/run/netns/a");
            network.plugin.del(&a, "eth0", &network.config).success();
            lab.assert_unchanged_since(&before);
        }
    });
}

#[rstest]
#[case::contradiction(json!({ "hairpinMode": true, "promiscMode": true }), 7, "hairpinMode")]
#[case::hardware_address(json!({ "runtimeConfig": { "mac": "no:such:thing" } }), 7, "mac")]
#[case::mtu_too_small(json!({ "mtu": 60 }), 5, "mtu")]
#[case::backend(json!({ "ipMasqBackend": "ipfw" }), 7, "ipfw")]
#[case::bridge_name(json!({ "bridge": "longer-than-names-can-be" }), 7, "longer")]
#[case::ipam_is_itself(json!({ "ipam": { "type": "bridge" } }), 7, "bridge gives no addresses")]
#[case::ipam_is_none(json!({ "ipam": { "type": "flannel" } }), 7, "flannel gives no addresses")]
#[case::no_such_ipam(json!({ "ipam": { "type": "nothing" } }), 7, "nothing")]
fn the_configuration_is_wrong(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        let network = networks(lab)[0].with(&keys);
        let a = lab.container("a");
        let before = support::snapshot(lab);
        network.plugin.add(&a, "eth0", &network.config).error(code).mentions(word);
        lab.assert_unchanged_since(&before);
        if word != "nothing" {
            network.plugin.del(&a, "eth0", &network.config).success();
            network.gc(&[]).success();
            lab.assert_unchanged_since(&before);
        }
    });
}

#[test]
fn ipam_is_the_plugin_itself_under_another_name() {
    rscni_test::run(|lab| {
        for (name, target) in [("cnv-bridge", "rscni"), ("edge-ptp", "rscni"), ("uplink", "bridge")]
        {
            let target = match target {
                "rscni" => env!("CARGO_BIN_EXE_rscni"),
                entry => entry,
            };
            let network = networks(lab)[0].with(&json!({ "ipam": { "type": name } }));
            let link = std::path::Path::new("/run/rscni-test/bin").join(name);
            std::os::unix::fs::symlink(target, link).unwrap();
            let a = lab.container(&format!("a-{name}"));
            let before = support::snapshot(lab);
            let outcome = network.plugin.add(&a, "eth0", &network.config);
            outcome.error(7).mentions(&format!("{name} gives no addresses"));
            network.plugin.del(&a, "eth0", &network.config).success();
            network.gc(&[]).success();
            lab.assert_unchanged_since(&before);
        }
    });
}

#[rstest]
#[case::fails(
    r#"echo '{"cniVersion":"1.1.0","code":123,"msg":"out of luck"}'; exit 1"#,
    123,
    "out of luck"
)]
#[case::fails_without_a_word("exit 3", 999, "status 3")]
#[case::is_killed("kill -9 $$", 999, "signal 9")]
#[case::prints_garbage("echo nonsense", 6, "fussy")]
#[case::prints_nothing("true", 6, "fussy")]
#[case::gives_no_address(r#"echo '{"cniVersion":"1.1.0"}'"#, 7, "no address")]
fn the_ipam_plugin(#[case] adds: &str, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let log = lab.dir().join(format!("{name}.log"));
            let text = format!(
                "echo $CNI_COMMAND >> {}\ntest $CNI_COMMAND = ADD || exit 0\n{adds}",
                log.display()
            );
            let network =
                script(lab, &network.with(&json!({ "ipam": { "type": "fussy" } })), "fussy", &text);
            assert_fails_on(lab, &network, &lab.container(name), code, word);
            // It is asked to clean up after its failure too, and once more by the DEL.
            assert_eq!(std::fs::read_to_string(log).unwrap(), "ADD\nDEL\nDEL\n");
        }
    });
}

#[test]
fn iptables_is_missing() {
    rscni_test::run(|lab| {
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let mut network = network.with(&json!({ "ipMasqBackend": "iptables" }));
            network.plugin = network.plugin.env("PATH", "");
            assert_fails_on(lab, &network, &lab.container(name), 5, "iptables");
        }
    });
}

#[test]
fn iptables_works_for_one_family_only() {
    rscni_test::run(|lab| {
        // The table itself stays, as that of every iptables rule does.
        let network = Network::bridge(
            lab,
            &["10.7.0.0/24"],
            &json!({ "ipMasq": true, "ipMasqBackend": "iptables" }),
        );
        network.attach(lab, "first").del().success();
        let dir = lab.dir().join("path");
        std::fs::create_dir_all(&dir).unwrap();
        std::os::unix::fs::symlink("/usr/sbin/iptables-restore", dir.join("iptables-restore"))
            .unwrap();
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let keys = json!({ "ipMasqBackend": "iptables", "bridge": "br1" });
            let mut network = network.with(&keys);
            network.plugin = network.plugin.env("PATH", &dir);
            assert_fails_on(lab, &network, &lab.container(name), 5, "ip6tables");
        }
    });
}

#[test]
fn the_other_containers_of_the_bridge_are_not_harmed() {
    rscni_test::run(|lab| {
        let network = networks(lab)[0].clone();
        let other = network.attach(lab, "other");
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
        assert_fails(lab, &network.with(&json!({ "ipam": ipam })), 5, "203.0.113.1");
        other.check().success();
        other.ping("10.1.0.1");
        assert!(host_link(lab, "br0").up);
    });
}
