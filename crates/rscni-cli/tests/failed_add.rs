//! An ADD that fails leaves nothing behind, and the DEL after it succeeds.

mod support;

use rscni_linux::{Bridge, Veth};
use rscni_test::Lab;
use rstest::rstest;
use serde_json::{Value, json};

use support::{
    BIN, Network, RSCNI, V4, V6, add_address, fixed, host_link, host_local, make_read_only,
    write_script,
};

/// Installs a script as a plugin, in a directory that comes first in `CNI_PATH`.
fn script(lab: &Lab, network: &Network, name: &str, text: &str) -> Network {
    let dir = lab.dir().join("scripts");
    std::fs::create_dir_all(&dir).unwrap();
    write_script(dir.join(name), &format!("cat > /dev/null\n{text}"));
    let plugin = network.plugin.clone().cni_path([dir.to_str().unwrap(), BIN]);
    Network { plugin, config: network.config.clone() }
}

/// Networks of bridge and ptp with addresses of both families, masquerading and `macspoofchk`.
fn networks(lab: &Lab) -> [Network; 2] {
    let keys = json!({ "ipMasq": true, "macspoofchk": true });
    [Network::bridge(lab, &[V4, V6], &keys), Network::ptp(lab, &[V4, V6], &keys)]
}

/// A bridge with an address.
fn add_bridge(lab: &Lab, up: bool, address: &str) {
    lab.host().netlink().add_bridge(&Bridge { up, ..Bridge::new("br0") }).unwrap();
    add_address(lab.host(), "br0", address);
}

#[test]
fn add_fails_when_the_name_exists_in_the_container() {
    rscni_test::run(|lab| {
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let container = lab.container(name);
            container.netlink().add_bridge(&Bridge::new("eth0")).unwrap();
            network.assert_add_fails(lab, &container, 4, "eth0");
        }
    });
}

#[test]
fn add_fails_when_the_name_exists_on_the_host() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let name = network.attach(lab, "a").port_name();
        let a = Network::bridge(lab, &[V4], &json!({}));
        let container = lab.container("b");
        let host_end = a.attach_as(&container, "eth0").port_name();
        a.del(&container).success();
        assert_ne!(name, host_end);
        lab.host().netlink().add_veth(&Veth::new(&host_end, "peer")).unwrap();
        let before = support::snapshot(lab);
        a.add(&container).error(11).mentions(&host_end);
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn add_rolls_back_when_no_address_is_free() {
    rscni_test::run(|lab| {
        let mut ipam = host_local(&[V4, "fd01::/126"]);
        ipam["ranges"][1][0]["rangeEnd"] = "fd01::2".into();
        for network in networks(lab) {
            let network = network.with(&json!({ "name": network.config["type"], "ipam": ipam }));
            let first =
                network.attach_as(&lab.container(network.config["type"].as_str().unwrap()), "eth0");
            let name = format!("second-{}", first.name());
            network.assert_add_fails(lab, &lab.container(&name), 11, "fd01::");
            first.check().success();
        }
    });
}

#[rstest]
#[case::of_another_subnet("10.9.0.1")]
#[case::of_another_family("fd01::1")]
fn add_rolls_back_when_the_gateway_is_invalid(#[case] gateway: &str) {
    rscni_test::run(|lab| {
        let mut ipam = fixed(&[("10.1.0.5/24", gateway), ("fd01::5/64", "fd01::1")]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24" }]);
        let a = lab.container("a");
        let network = Network::bridge(lab, &[], &json!({ "ipam": ipam, "ipMasq": true }));
        let before = support::snapshot(lab);
        network.add(&a).failure();
        lab.assert_unchanged_since(&before);
        network.del(&a).success();
    });
}

#[test]
fn add_rolls_back_when_a_router_is_unreachable() {
    rscni_test::run(|lab| {
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let network = network.with(&json!({ "ipam": ipam }));
            network.assert_add_fails(lab, &lab.container(name), 5, "203.0.113.1");
        }
    });
}

#[test]
fn an_interface_other_than_a_bridge_is_rejected() {
    rscni_test::run(|lab| {
        lab.host().netlink().add_veth(&Veth::new("br0", "peer")).unwrap();
        networks(lab)[0].assert_add_fails(lab, &lab.container("a"), 7, "br0");
    });
}

#[rstest]
#[case(json!({ "vlan": 100 }))]
#[case(json!({ "vlanTrunk": [{ "minID": 5, "maxID": 7 }] }))]
fn a_bridge_without_vlan_filtering_is_rejected(#[case] keys: Value) {
    rscni_test::run(|lab| {
        lab.host().netlink().add_bridge(&Bridge { up: true, ..Bridge::new("br0") }).unwrap();
        networks(lab)[0].with(&keys).assert_add_fails(
            lab,
            &lab.container("a"),
            7,
            "vlan_filtering",
        );
    });
}

#[test]
fn a_failed_add_sets_a_bridge_down_again() {
    rscni_test::run(|lab| {
        add_bridge(lab, false, "10.9.0.1/24");
        let network = networks(lab)[0].with(&json!({ "promiscMode": true }));
        network.assert_add_fails(lab, &lab.container("a"), 7, "forceAddress");
    });
}

#[test]
fn add_rolls_back_when_the_second_gateway_conflicts() {
    rscni_test::run(|lab| {
        add_bridge(lab, true, "fd01::99/48");
        networks(lab)[0].assert_add_fails(lab, &lab.container("a"), 7, "forceAddress");
    });
}

#[test]
fn a_replaced_bridge_address_is_restored_if_forwarding_fails() {
    rscni_test::run(|lab| {
        add_bridge(lab, true, "10.9.0.1/24");
        let network = networks(lab)[0].with(&json!({ "forceAddress": true }));
        make_read_only("/proc/sys/net/ipv4/ip_forward");
        network.assert_add_fails(lab, &lab.container("a"), 5, "ip_forward");
        networks(lab)[1].assert_add_fails(lab, &lab.container("b"), 5, "ip_forward");
    });
}

#[test]
fn add_fails_without_a_valid_namespace() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        lab.remove_namespace(&a);
        for network in networks(lab) {
            network.assert_add_fails(lab, &a, 8, "/run/netns/a");
        }
        std::fs::write(a.path(), "no namespace").unwrap();
        for network in networks(lab) {
            let before = support::snapshot(lab);
            network.add(&a).error(8).mentions("/run/netns/a");
            network.del(&a).success();
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
fn invalid_config_is_rejected(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        let network = networks(lab)[0].with(&keys);
        let a = lab.container("a");
        let before = support::snapshot(lab);
        if word == "nothing" {
            network.add(&a).error(code).mentions(word);
        } else {
            network.assert_add_fails(lab, &a, code, word);
            network.gc(&[]).success();
        }
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn ipam_cannot_be_the_plugin_itself_under_another_name() {
    rscni_test::run(|lab| {
        for (name, target) in [("cnv-bridge", "rscni"), ("edge-ptp", "rscni"), ("uplink", "bridge")]
        {
            let target = match target {
                "rscni" => RSCNI,
                entry => entry,
            };
            let network = networks(lab)[0].with(&json!({ "ipam": { "type": name } }));
            let link = std::path::Path::new(BIN).join(name);
            std::os::unix::fs::symlink(target, link).unwrap();
            let a = lab.container(&format!("a-{name}"));
            let before = support::snapshot(lab);
            let outcome = network.add(&a);
            outcome.error(7).mentions(&format!("{name} gives no addresses"));
            network.del(&a).success();
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
fn add_rolls_back_when_ipam_fails(#[case] adds: &str, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let log = lab.dir().join(format!("{name}.log"));
            let text = format!(
                "echo $CNI_COMMAND >> {}\ntest $CNI_COMMAND = ADD || exit 0\n{adds}",
                log.display()
            );
            let network =
                script(lab, &network.with(&json!({ "ipam": { "type": "fussy" } })), "fussy", &text);
            network.assert_add_fails(lab, &lab.container(name), code, word);
            // It gets a DEL after its failure and another one with DEL.
            assert_eq!(std::fs::read_to_string(log).unwrap(), "ADD\nDEL\nDEL\n");
        }
    });
}

#[test]
fn add_rolls_back_when_iptables_is_missing() {
    rscni_test::run(|lab| {
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let mut network = network.with(&json!({ "ipMasqBackend": "iptables" }));
            network.plugin = network.plugin.env("PATH", "");
            network.assert_add_fails(lab, &lab.container(name), 5, "iptables");
        }
    });
}

#[test]
fn add_rolls_back_when_iptables_works_for_one_family_only() {
    rscni_test::run(|lab| {
        // The table itself stays, like every table of iptables.
        let network = Network::bridge(
            lab,
            &["10.7.0.0/24"],
            &json!({ "ipMasq": true, "ipMasqBackend": "iptables" }),
        );
        network.attach(lab, "first").del().success();
        for (network, name) in networks(lab).iter().zip(["a", "b"]) {
            let keys = json!({ "ipMasqBackend": "iptables", "bridge": "br1" });
            let network = support::without_ip6tables(lab, &network.with(&keys));
            network.assert_add_fails(lab, &lab.container(name), 5, "ip6tables");
        }
    });
}

#[test]
fn a_failed_add_keeps_other_containers_of_the_bridge() {
    rscni_test::run(|lab| {
        let network = networks(lab)[0].clone();
        let other = network.attach(lab, "other");
        let mut ipam = host_local(&[V4, V6]);
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
        network.with(&json!({ "ipam": ipam })).assert_add_fails(
            lab,
            &lab.container("a"),
            5,
            "203.0.113.1",
        );
        other.check().success();
        other.ping("10.1.0.1");
        assert!(host_link(lab, "br0").up);
    });
}
