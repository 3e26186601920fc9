//! The tuning plugin after bridge.

mod support;

use std::path::Path;

use rscni_linux::{Link, LinkChange, Netns, sysctl};
use rscni_test::{Lab, Outcome, VERSIONS, Versions};
use rstest::rstest;
use serde_json::{Value, json};

use support::{Attached, Network, V4, V6, change, sh};

const FILE: &str = "/run/cni/tuning/ctr-a_eth0.json";
const MAC: &str = "02:00:00:00:00:11";

fn bridged(lab: &Lab, name: &str) -> Attached {
    Network::bridge(lab, &[V4, V6], &json!({})).attach(lab, name)
}

fn tuning(lab: &Lab, keys: &Value) -> Network {
    Network::new(lab, "tuning", keys)
}

/// Attributes of a link that tuning can change.
fn attributes(link: &Link) -> Value {
    json!({
        "mac": link.mac.unwrap().to_string(), "promisc": link.promisc, "mtu": link.mtu, "allmulti": link.allmulticast,
        "txQLen": link.txqlen,
    })
}

/// The attributes with some of them changed.
fn with(attributes: &Value, changed: &Value) -> Value {
    let mut all = attributes.clone();
    all.as_object_mut().unwrap().extend(changed.as_object().unwrap().clone());
    all
}

/// The container's setting.
fn setting(a: &Attached, key: &str) -> String {
    sysctl::get_in(&Netns::open(a.path()).unwrap(), key).unwrap()
}

fn set(a: &Attached, key: &str, value: &str) {
    sysctl::set_in(&Netns::open(a.path()).unwrap(), key, value).unwrap();
}

#[rstest]
#[case::mac(json!({ "mac": MAC }))]
#[case::promisc(json!({ "promisc": true }))]
#[case::mtu(json!({ "mtu": 1400 }))]
#[case::allmulti(json!({ "allmulti": true }))]
#[case::queue(json!({ "txQLen": 20000 }))]
#[case::no_queue(json!({ "txQLen": 0 }))]
#[case::all(json!({ "mac": MAC, "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 20000 }))]
fn an_attribute_is_set_and_restored(#[case] keys: Value, #[values("key", "args")] place: &str) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let before = lab.snapshot();
        let was = attributes(&first.link());
        let tuning = tuning(
            lab,
            &if place == "key" { keys.clone() } else { json!({ "args": { "cni": keys } }) },
        );
        let a = tuning.after(&first);
        assert_eq!(attributes(&a.link()), with(&was, &keys));
        let saved: Value = serde_json::from_slice(&std::fs::read(FILE).unwrap()).unwrap();
        for key in keys.as_object().unwrap().keys() {
            assert_eq!(saved[key], was[key]);
        }
        for address in ["10.1.0.1", "fd01::1"] {
            a.ping(address);
        }
        lab.host().ping(a.v4());
        a.check().success();
        a.del().success();
        assert_eq!(attributes(&a.link()), was);
        a.del().success();
        lab.assert_unchanged_since(&before.ignoring("directory /run/cni"));
    });
}

#[test]
fn promisc_and_allmulti_can_be_unset_and_are_restored() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let on =
            LinkChange { allmulticast: Some(true), promisc: Some(true), ..LinkChange::default() };
        change(&mut first.netlink(), "eth0", &on);
        // `promisc: false` keeps the present value.
        let a = tuning(lab, &json!({ "allmulti": false, "promisc": false })).after(&first);
        assert!(!a.link().allmulticast && a.link().promisc);
        a.check().success();
        a.del().success();
        assert!(a.link().allmulticast && a.link().promisc);
    });
}

#[rstest]
#[case::configuration(json!({ "mac": MAC }), "")]
#[case::cni_args(json!({ "mac": "02:00:00:00:00:99" }), "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:11")]
#[case::cni_args_alone(json!({}), "MAC=02:00:00:00:00:11")]
#[case::runtime(json!({ "runtimeConfig": { "mac": MAC }, "mac": "02:00:00:00:00:98" }), "MAC=02:00:00:00:00:99")]
#[case::args(
    json!({ "args": { "cni": { "mac": MAC } }, "runtimeConfig": { "mac": "02:00:00:00:00:98" } }),
    "MAC=02:00:00:00:00:99"
)]
fn a_hardware_address_can_be_set_by_each_source(#[case] keys: Value, #[case] cni_args: &str) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let other = bridged(lab, "b");
        let was = first.link().mac;
        // Both sides know the old address.
        other.ping(first.v4());
        other.ping(first.v6());
        let mut tuning = tuning(lab, &keys);
        tuning.plugin = tuning.plugin.env("CNI_ARGS", cni_args);
        let a = tuning.after(&first);
        assert_eq!(a.link().mac.unwrap().to_string(), MAC);
        let mut expected = first.reply.json().clone();
        expected["interfaces"][2]["mac"] = MAC.into();
        assert_eq!(*a.reply.json(), expected);
        support::assert_talk(lab, &a, &other, true);
        support::assert_talk(lab, &a, &other, false);
        a.check().success();
        // CHECK of the previous plugin accepts the result of the list.
        first.network.plugin.check(&a, "eth0", &a.reply.follow(&first.network.config)).success();
        a.del().success();
        assert_eq!(a.link().mac, was);
    });
}

#[test]
fn the_result_has_the_mtu_that_the_interface_has() {
    rscni_test::run(|lab| {
        let a = tuning(lab, &json!({ "mtu": 1400 })).after(&bridged(lab, "a"));
        let mtus: Vec<_> =
            a.reply["interfaces"].as_array().unwrap().iter().map(|i| i["mtu"].clone()).collect();
        assert_eq!(mtus, [1400, 1400, 1400]);
    });
}

#[rstest]
fn check_of_the_previous_plugin_accepts_the_new_mtu(
    #[values("0.4.0", "1.0.0", "1.1.0")] version: &str,
) {
    rscni_test::run(|lab| {
        let tap = Network::new(lab, "tap", &json!({ "cniVersion": version, "mtu": 1400 }))
            .attach(lab, "a");
        let a = tuning(lab, &json!({ "cniVersion": version, "mtu": 1300 })).after(&tap);
        a.check().success();
        tap.network.plugin.check(&tap, "eth0", &a.reply.follow(&tap.network.config)).success();
    });
}

#[test]
fn sysctls_are_set_in_the_container_and_nowhere_else() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let host: Vec<_> = ["net/core/somaxconn", "net/ipv4/conf/all/log_martians"]
            .map(|key| lab.host().sysctl(key))
            .into();
        let keys = json!({
            "sysctl": {
                "net.core.somaxconn": "511", "net/ipv4/conf/all/log_martians": "1", "net.ipv4.conf.IFNAME.arp_filter": "1",
                "net.ipv4.ip_local_port_range": "2000 3000", "net.ipv6.conf.all.disable_ipv6": "0",
                "net.ipv4.route.flush": "1",
            },
            "args": { "cni": { "sysctl": { "net.core.somaxconn": "512", "net.ipv6.conf.IFNAME.hop_limit": "33" } } },
        });
        set(&first, "net/ipv6/conf/lo/disable_ipv6", "1");
        let a = tuning(lab, &keys).after(&first);
        for (key, value) in [
            ("net/core/somaxconn", "512"),
            ("net/ipv4/conf/all/log_martians", "1"),
            ("net/ipv4/conf/eth0/arp_filter", "1"),
            ("net/ipv4/ip_local_port_range", "2000\t3000"),
            ("net/ipv6/conf/eth0/hop_limit", "33"),
            // `all` is 0 already; the write changes the interfaces.
            ("net/ipv6/conf/lo/disable_ipv6", "0"),
        ] {
            assert_eq!(setting(&a, key), value, "{key}");
        }
        let now: Vec<_> = ["net/core/somaxconn", "net/ipv4/conf/all/log_martians"]
            .map(|key| lab.host().sysctl(key))
            .into();
        assert_eq!(now, host);
        assert_eq!(a.reply.json(), first.reply.json());
        assert!(!Path::new(FILE).exists());
        a.check().success();
        a.del().success();
    });
}

#[test]
fn an_interface_with_a_dot_in_its_name_has_its_sysctls() {
    rscni_test::run(|lab| {
        let first =
            Network::bridge(lab, &[V4], &json!({})).attach_as(&lab.container("a"), "eth0.5");
        let a = tuning(
            lab,
            &json!({ "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" }, "mtu": 1400 }),
        )
        .after(&first);
        assert_eq!(setting(&a, "net/ipv4/conf/eth0.5/arp_filter"), "1");
        a.check().success();
        a.del().success();
        assert_eq!(a.link().mtu, 1500);
    });
}

#[test]
fn without_limits_nothing_changes() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let before = lab.snapshot();
        let a = tuning(lab, &json!({ "promisc": false, "mtu": 0, "mac": "", "sysctl": {} }))
            .after(&first);
        assert_eq!(a.reply.json(), first.reply.json());
        a.check().success();
        lab.assert_unchanged_since(&before);
        a.del().success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn every_version_works() {
    rscni_test::run(|lab| {
        let versions = Versions::of(tuning(lab, &json!({})).plugin.program()).must_be_chained();
        versions.key("cni.dev/valid-attachments", json!([])).speak();
    });
}

#[test]
fn every_version_shows_the_new_address_where_it_shows_any() {
    rscni_test::run(|lab| {
        for version in VERSIONS {
            let keys = json!({ "cniVersion": version });
            let first = Network::bridge(lab, &[V4, V6], &keys).attach(lab, version);
            let a = tuning(lab, &keys).with(&json!({ "mac": MAC, "mtu": 1400 })).after(&first);
            let mut expected = first.reply.json().clone();
            if expected.get("interfaces").is_some() {
                expected["interfaces"][2]["mac"] = MAC.into();
            }
            if version == "1.1.0" {
                // The other end and the bridge follow.
                for interface in expected["interfaces"].as_array_mut().unwrap() {
                    interface["mtu"] = 1400.into();
                }
            }
            assert_eq!(*a.reply.json(), expected, "{version}");
            if VERSIONS[4..].contains(&version) {
                a.check().success();
            }
            a.del().success();
            assert_eq!(attributes(&a.link()), attributes(&first.link()));
            first.del().success();
        }
    });
}

/// Writes the node's allow list, even on a machine without `/etc/cni`.
fn allow(text: &str) {
    if !Path::new("/etc/cni").is_dir() {
        sh("mount -t tmpfs none /etc");
    }
    std::fs::create_dir_all("/etc/cni/tuning").unwrap();
    std::fs::write("/etc/cni/tuning/allowlist.conf", text).unwrap();
}

#[test]
fn the_allow_list_says_which_sysctls_may_be_set() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        allow("^net.ipv4.conf.IFNAME.[a-z_]*$\n\n  ^net\\.core\\.(somaxconn|x)$  \n");
        let before = lab.snapshot();
        for (key, is_allowed) in [
            ("net.core.somaxconn", true),
            ("net.ipv4.conf.IFNAME.arp_filter", true),
            ("net/ipv4/conf/IFNAME/arp_filter", true),
            ("net/core/somaxconn", false),
            ("net.ipv4.conf.eth0.arp_filter", false),
            ("net.ipv4.ip_forward", false),
        ] {
            let tuning = tuning(lab, &json!({ "sysctl": { key: "1" }, "mtu": 1400 }));
            if is_allowed {
                tuning.status().success();
                tuning.after(&first).del().success();
            } else {
                tuning.status().error(7).mentions(key).mentions("allowlist.conf");
                tuning
                    .call_after(&first)
                    .error(7)
                    .mentions(key)
                    .mentions("^net\\.core\\.(somaxconn|x)$");
            }
        }
        set(&first, "net/core/somaxconn", "4096");
        set(&first, "net/ipv4/conf/eth0/arp_filter", "0");
        lab.assert_unchanged_since(&before.ignoring("directory /run/cni"));
        // It does not apply to attributes.
        tuning(lab, &json!({ "mtu": 1400 })).after(&first).del().success();
    });
}

#[test]
fn an_allow_list_that_cannot_be_read_or_understood_allows_nothing() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let tuning = tuning(lab, &json!({ "sysctl": { "net.core.somaxconn": "1" } }));
        allow("");
        tuning.call_after(&first).error(7).mentions("net.core.somaxconn");
        allow("net.core.(\n");
        tuning.call_after(&first).error(7).mentions("net.core.(");
        std::fs::remove_file("/etc/cni/tuning/allowlist.conf").unwrap();
        std::fs::create_dir("/etc/cni/tuning/allowlist.conf").unwrap();
        tuning.call_after(&first).error(5).mentions("allowlist.conf");
        assert_eq!(setting(&first, "net/core/somaxconn"), "4096");
    });
}

#[rstest]
#[case::of_no_network(json!({ "sysctl": { "kernel.hostname": "x" } }), 7, "kernel.hostname")]
#[case::elsewhere(json!({ "sysctl": { "net/../kernel/hostname": "x" } }), 7, "hostname")]
#[case::no_such_sysctl(json!({ "sysctl": { "net.core.somaxconn": "77", "net.core.nothing": "1" } }), 5, "net/core/nothing")]
#[case::bad_value(json!({ "sysctl": { "net.core.somaxconn": "77", "net.ipv4.ip_forward": "x" } }), 5, "ip_forward")]
#[case::mtu_too_small(json!({ "sysctl": { "net.core.somaxconn": "77" }, "mac": MAC, "mtu": 1 }), 5, "mtu")]
#[case::group_address(json!({ "mac": "01:00:00:00:00:00" }), 7, "group")]
#[case::negative(json!({ "mtu": -5 }), 7, "-5")]
#[case::data_dir(json!({ "mtu": 1400, "dataDir": "/proc/nothing" }), 5, "/proc/nothing")]
#[case::data_dir_is_none(json!({ "mtu": 1400, "dataDir": "/proc/version" }), 5, "/proc/version")]
fn add_rolls_back_when_it_fails(#[case] keys: Value, #[case] code: u64, #[case] word: &str) {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        std::fs::create_dir_all("/run/cni/tuning").unwrap();
        let before = lab.snapshot();
        let tuning = tuning(lab, &keys);
        tuning.call_after(&first).error(code).mentions(word);
        lab.assert_unchanged_since(&before);
        tuning.del(&first).success();
        lab.assert_unchanged_since(&before);
    });
}

#[test]
fn a_duplicate_sysctl_is_rejected() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let tuning = tuning(lab, &json!({}));
        let text = first.reply.follow(&tuning.config).to_string();
        let twice = r#"{"sysctl":{"net.core.somaxconn":"1","net.core.somaxconn":"2"},"#;
        let call = tuning
            .plugin
            .call("ADD")
            .attachment(&first, "eth0")
            .stdin(text.replacen('{', twice, 1));
        call.run().error(7).mentions("duplicated");
    });
}

#[test]
fn add_needs_the_interface_and_a_previous_result() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let tuning = tuning(lab, &json!({ "mtu": 1400 }));
        tuning.add(&first).error(7).mentions("prevResult");
        let config = first.reply.follow(&tuning.config);
        tuning.plugin.add(&first, "eth1", &config).error(5).mentions("eth1");
        tuning.check(&first).error(7).mentions("prevResult");
        lab.remove_namespace(&first);
        tuning.plugin.add(&first, "eth0", &config).error(8);
        assert!(!Path::new(FILE).exists());
    });
}

type Damage = fn(&Attached);

#[test]
fn check_names_changes() {
    rscni_test::run(|lab| {
        let keys = json!({
            "mac": MAC, "promisc": true, "mtu": 1400, "allmulti": true, "txQLen": 20000,
            "sysctl": { "net.core.somaxconn": "512", "net.ipv4.conf.IFNAME.arp_filter": "1" },
        });
        let damages: [(Damage, &str); 9] = [
            (|a| set(a, "net/core/somaxconn", "513"), "sysctl net.core.somaxconn is \"513\""),
            (|a| set(a, "net/ipv4/conf/eth0/arp_filter", "0"), "net.ipv4.conf.IFNAME.arp_filter"),
            (
                |a| {
                    adjust(
                        a,
                        &LinkChange {
                            mac: "02:00:00:00:00:99".parse().ok(),
                            ..LinkChange::default()
                        },
                    );
                },
                "mac 02:00:00:00:00:99",
            ),
            (
                |a| adjust(a, &LinkChange { promisc: Some(false), ..LinkChange::default() }),
                "promisc false, ADD left promisc true",
            ),
            (
                |a| adjust(a, &LinkChange { mtu: Some(1399), ..LinkChange::default() }),
                "mtu 1399, ADD left mtu 1400",
            ),
            (
                |a| adjust(a, &LinkChange { allmulticast: Some(false), ..LinkChange::default() }),
                "allmulti false",
            ),
            (|a| adjust(a, &LinkChange { txqlen: Some(5), ..LinkChange::default() }), "txQLen 5"),
            (|_| std::fs::remove_file(FILE).unwrap(), FILE),
            (|a| a.netlink().del_link(a.link().index).unwrap(), "eth0 is missing"),
        ];
        let first = bridged(lab, "a");
        for (damage, word) in damages {
            let a = tuning(lab, &keys).after(&first);
            a.check().success();
            damage(&a);
            a.check_misses(word);
            a.del().success();
        }
    });
}

fn adjust(a: &Attached, to: &LinkChange<'_>) {
    change(&mut a.netlink(), "eth0", to);
}

#[rstest]
#[case::without_the_result(Attached::del_without_result, true)]
#[case::without_the_namespace(Attached::del_without_netns, false)]
fn del_removes_the_file_in_every_case(
    #[case] del: fn(&Attached) -> Outcome,
    #[case] restores: bool,
) {
    rscni_test::run(|lab| {
        let a = tuning(lab, &json!({ "mtu": 1400 })).after(&bridged(lab, "a"));
        del(&a).success();
        assert_eq!(a.link().mtu, if restores { 1500 } else { 1400 });
        assert!(!Path::new(FILE).exists());
        del(&a).success();
    });
}

#[rstest]
#[case::the_namespace(|lab: &Lab, a: &Attached| lab.remove_namespace(a))]
#[case::the_interface(|_: &Lab, a: &Attached| a.netlink().del_link(a.link().index).unwrap())]
#[case::the_sense_of_the_file(|_: &Lab, _: &Attached| std::fs::write(FILE, "{ \"mtu\": 14").unwrap())]
fn del_removes_the_file_if_something_is_gone(#[case] lose: fn(&Lab, &Attached)) {
    rscni_test::run(|lab| {
        let a = tuning(lab, &json!({ "mtu": 1400 })).after(&bridged(lab, "a"));
        lose(lab, &a);
        a.del().success();
        assert!(!Path::new(FILE).exists());
        a.del().success();
    });
}

#[test]
fn del_removes_the_file_if_the_interface_cannot_be_restored() {
    rscni_test::run(|lab| {
        let a = tuning(lab, &json!({ "mtu": 1400, "txQLen": 7 })).after(&bridged(lab, "a"));
        let text = std::fs::read_to_string(FILE).unwrap();
        std::fs::write(FILE, text.replace("\"mtu\": 1500", "\"mtu\": 4000000000")).unwrap();
        a.del().error(5).mentions("MTU");
        assert_eq!((a.link().mtu, a.link().txqlen), (1400, 1000));
        assert!(!Path::new(FILE).exists());
        a.del().success();
    });
}

#[test]
fn a_late_del_keeps_the_next_container_at_the_same_path() {
    rscni_test::run(|lab| {
        let tuning = tuning(lab, &json!({ "mtu": 1400 }));
        let old = tuning.after(&bridged(lab, "a"));
        lab.remove_namespace(&old);
        let path = lab.container("a");
        let bridge = Network::bridge(lab, &[V4, V6], &json!({}));
        let next = |network: &Network, config: &Value| {
            let call = network.plugin.call("ADD").attachment(&path, "eth0");
            call.env("CNI_CONTAINERID", "next").config(config).run().success()
        };
        let reply = next(&bridge, &bridge.config);
        next(&tuning, &reply.follow(&tuning.config));
        old.del().success();
        assert_eq!(path.netlink().link_by_name("eth0").unwrap().mtu, 1400);
        assert!(!Path::new(FILE).exists());
        assert!(Path::new("/run/cni/tuning/next_eth0.json").exists());
    });
}

#[test]
fn two_tuning_plugins_of_a_list_restore_the_original_values() {
    rscni_test::run(|lab| {
        let first = bridged(lab, "a");
        let was = attributes(&first.link());
        let one = tuning(lab, &json!({ "mtu": 1400, "mac": MAC })).after(&first);
        let two = tuning(lab, &json!({ "mtu": 1300, "txQLen": 5 })).after(&one);
        assert_eq!(
            attributes(&two.link()),
            with(&was, &json!({ "mac": MAC, "mtu": 1300, "txQLen": 5 }))
        );
        two.del().success();
        one.del().success();
        assert_eq!(attributes(&one.link()), was);
    });
}

#[test]
fn gc_removes_files_of_stale_attachments() {
    rscni_test::run(|lab| {
        let dir = lab.dir().join("saved");
        let network = tuning(lab, &json!({ "mtu": 1400, "dataDir": dir }));
        let [kept, gone] = ["a", "b"].map(|name| network.after(&bridged(lab, name)));
        let other = network.with(&json!({ "name": "net2" })).after(&bridged(lab, "c"));
        // A file of the Go plugin, which could belong to any network, and another file.
        std::fs::write(dir.join("ctr-d_eth0.json"), "{\n \"mtu\": 1500\n}").unwrap();
        std::fs::write(dir.join("notes"), "").unwrap();
        lab.remove_namespace(&gone);
        network.gc(&[&kept]).success();
        let mut left: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["ctr-a_eth0.json", "ctr-c_eth0.json", "ctr-d_eth0.json", "notes"]);
        kept.check().success();
        other.check().success();
        network.plugin.gc(&network.config).success();
        network.with(&json!({ "dataDir": "/run/nowhere" })).gc(&[]).success();
    });
}

#[test]
fn status_reads_the_configuration() {
    rscni_test::run(|lab| {
        let network = tuning(lab, &json!({ "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } }));
        network.status().success();
        network
            .plugin
            .status(&network.with(&json!({ "mac": "x" })).config)
            .error(7)
            .mentions("mac");
    });
}

#[rstest]
fn either_plugin_undoes_changes_of_the_other(#[values(true, false)] is_ours_first: bool) {
    rscni_test::run(|lab| {
        let first = Network::bridge(lab, &[V4], &json!({ "cniVersion": "1.0.0" })).attach(lab, "a");
        let was = attributes(&first.link());
        // All keys of Debian's plugin.
        let keys = json!({
            "cniVersion": "1.0.0", "mac": MAC, "promisc": true, "mtu": 1400, "allmulti": true,
            "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" },
        });
        let ours = tuning(lab, &keys);
        let theirs = Network { plugin: lab.plugin("/usr/lib/cni/tuning"), ..ours.clone() };
        let (adds, deletes) = if is_ours_first { (&ours, &theirs) } else { (&theirs, &ours) };
        let mut a = adds.after(&first);
        a.network = deletes.clone();
        assert_eq!(attributes(&a.link())["mac"], MAC);
        a.check().success();
        a.del().success();
        assert_eq!(attributes(&a.link()), was);
        assert!(!Path::new(FILE).exists());
    });
}
