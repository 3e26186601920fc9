//! DEL removes what the attachment owns and nothing else.

mod support;

use rscni_linux::{Bridge, LinkChange, Veth};
use serde_json::json;

use support::{Network, V4, assert_gone, host_local, up};

/// Keys of the protocol with invalid values.
fn wrong_keys() -> [(&'static str, serde_json::Value); 8] {
    [
        ("ipMasq", json!("yes")),
        ("ipMasq", json!(1)),
        ("capabilities", json!(["mac"])),
        ("runtimeConfig", json!("none")),
        ("args", json!([])),
        ("dns", json!({ "nameservers": "10.0.0.1" })),
        ("prevResult", json!({ "ips": "10.0.0.1" })),
        ("mtu", json!("1500")),
    ]
}

#[test]
fn a_wrong_key_does_not_stop_del_of_any_plugin() {
    rscni_test::run(|lab| {
        let a = lab.container("a");
        let keys = wrong_keys().into_iter().chain([
            ("ipam", json!("host-local")),
            ("ipam", json!({ "type": 5 })),
            ("dataDir", json!(5)),
            ("vrfname", json!(5)),
            ("delegate", json!([])),
            ("subnetFile", json!(false)),
            ("master", json!({})),
            ("device", json!(1)),
        ]);
        for (key, value) in keys {
            for plugin in rscni_plugins::ALL {
                let mut network = Network::new(lab, plugin.name, &json!({ key: value }));
                if ["host-local", "static", "dhcp"].contains(&plugin.name) {
                    if key == "ipam" {
                        continue;
                    }
                    network = network.with(&json!({ "ipam": { "type": plugin.name } }));
                }
                println!("{} with {key} {value}", plugin.name);
                network.del(&a).success();
            }
        }
    });
}

#[rstest::rstest]
fn del_removes_everything_with_a_wrong_key(#[values("bridge", "ptp")] plugin: &str) {
    rscni_test::run(|lab| {
        support::install(lab);
        let before = support::snapshot(lab).ignoring("br0");
        let network = match plugin {
            "bridge" => Network::bridge(lab, &[V4], &json!({ "ipMasq": true })),
            _ => Network::ptp(lab, &[V4], &json!({ "ipMasq": true })),
        };
        for (key, value) in wrong_keys() {
            let a = network.attach(lab, "a");
            let wrong = network.with(&json!({ key: value }));
            wrong.del(&a).success();
            lab.remove_namespace(&a);
            lab.assert_unchanged_since(&before);
        }
    });
}

#[test]
fn del_of_host_local_takes_a_wrong_data_dir_for_the_default() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "host-local", &json!({ "ipam": host_local(&[V4]) }));
        let a = lab.container("a");
        network.add(&a).success();
        let file = std::path::Path::new("/var/lib/cni/networks/net/10.1.0.2");
        for data_dir in [json!(5), json!("/a\0b")] {
            std::fs::write(file, "ctr-a\r\neth0").unwrap();
            let mut wrong = network.clone();
            wrong.config["ipam"]["dataDir"] = data_dir;
            // GC fails, since it does not know what to keep.
            wrong.gc(&[]).error(7).mentions("dataDir");
            assert!(file.exists());
            wrong.del(&a).success();
            assert!(!file.exists());
        }
    });
}

#[test]
fn an_interface_of_another_network_is_not_removed() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let a = network.attach(lab, "a");
        // Another network of the same host fails to attach the same interface, and the runtime
        // cleans up.
        let second = network.with(&json!({ "name": "net2", "ipam": host_local(&["10.2.0.0/24"]) }));
        second.add(&a).error(4).mentions("eth0");
        second.del(&a).success();
        a.check().success();
        a.ping("10.1.0.1");
        // A bridge in the container with that name is not removed either.
        let b = lab.container("b");
        b.netlink().add_bridge(&Bridge::new("eth0")).unwrap();
        network.del(&b).success();
        assert!(b.netlink().find_link("eth0").unwrap().is_some());
    });
}

#[test]
fn an_interface_with_another_owner_tag_is_not_removed() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let a = network.attach(lab, "a");
        let port = a.reply.interfaces()[1].to_owned();
        let mut host = lab.host().netlink();
        let index = host.link_by_name(&port).unwrap().index;
        let alias = |text: &str| LinkChange { alias: Some(text.into()), ..LinkChange::default() };
        host.set_link(index, &alias("rscni net2 ctr-other eth0")).unwrap();
        a.del().success();
        assert!(host.find_link(&port).unwrap().is_some());
        // Any other text is not an owner tag.
        host.set_link(index, &alias("a note by hand")).unwrap();
        a.del().success();
        assert!(host.find_link(&port).unwrap().is_none());
    });
}

#[test]
fn del_finds_an_attachment_whose_interface_was_removed_or_renamed_by_hand() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let a = network.attach(lab, "a");
        a.netlink().del_link(a.link().index).unwrap();
        a.del().success();
        let b = network.attach(lab, "b");
        let index = b.link().index;
        b.netlink().set_link(index, &up(false)).unwrap();
        b.netlink()
            .set_link(index, &LinkChange { name: Some("other".into()), ..LinkChange::default() })
            .unwrap();
        b.del().success();
        assert!(b.netlink().find_link("other").unwrap().is_none());
        assert_gone(lab, &["10.1.0.2"]);
    });
}

#[test]
fn a_veth_of_the_go_plugin_is_found_in_the_container() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let a = lab.container("a");
        let netns = rscni_linux::Netns::open(a.path()).unwrap();
        let veth = Veth { peer_netns: Some(&netns), ..Veth::new("vethdeadbeef", "eth0") };
        lab.host().netlink().add_veth(&veth).unwrap();
        drop(netns);
        network.del(&a).success();
        assert!(lab.host().netlink().find_link("vethdeadbeef").unwrap().is_none());
    });
}

#[test]
fn a_late_del_keeps_the_next_container_at_the_same_path() {
    rscni_test::run(|lab| {
        let network = Network::bridge(lab, &[V4], &json!({}));
        let old = network.attach(lab, "a");
        lab.remove_namespace(&old);
        let path = lab.container("a");
        let add =
            network.plugin.call("ADD").attachment(&path, "eth0").env("CNI_CONTAINERID", "next");
        let reply = add.config(&network.config).run().success();
        old.del().success();
        let check =
            network.plugin.call("CHECK").attachment(&path, "eth0").env("CNI_CONTAINERID", "next");
        check.config(&reply.follow(&network.config)).run().success();
        path.ping("10.1.0.1");
    });
}
