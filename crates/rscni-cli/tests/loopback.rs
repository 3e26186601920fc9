//! The loopback plugin.

mod support;

use rscni_linux::AddressFlags;
use serde_json::json;

use support::{Network, change, up};

#[test]
fn lo_is_up_until_del() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "loopback", &json!({}));
        let a = lab.container("a");
        // The kernel keeps this address when lo is set down.
        let before = lab.snapshot().ignoring("address 127.0.0.1/8");
        // `CNI_IFNAME` does not matter.
        let attached = network.attach_as(&a, "eth7");
        assert_eq!(attached.reply.interfaces(), ["lo"]);
        assert_eq!(attached.reply["interfaces"][0]["sandbox"], json!(a.path()));
        let expected = json!([{ "interface": 0, "address": "127.0.0.1/8" }, { "interface": 0, "address": "::1/128" }]);
        assert_eq!(attached.reply["ips"], expected);
        a.ping("127.0.0.1");
        a.ping("::1");
        lab.tcp(&a, &a, "127.0.0.1", 8080);
        attached.check().success();
        network.plugin.add(&a, "eth7", &network.config).success();
        attached.del().success();
        attached.del_without_netns().success();
        lab.assert_unchanged_since(&before);
        lab.remove_namespace(&a);
        attached.del().success();
    });
}

#[test]
fn check_reports_that_lo_is_down() {
    rscni_test::run(|lab| {
        let a = Network::new(lab, "loopback", &json!({})).attach(lab, "a");
        change(&mut a.netlink(), "lo", &up(false));
        a.check_misses("lo");
    });
}

#[test]
fn check_names_a_missing_address_of_the_result() {
    rscni_test::run(|lab| {
        let a = Network::new(lab, "loopback", &json!({})).attach(lab, "a");
        a.check().success();
        let lo = a.netlink().link_by_name("lo").unwrap().index;
        a.netlink().del_address(lo, "::1/128".parse().unwrap()).unwrap();
        a.check_misses("::1/128");
    });
}

#[test]
fn check_needs_the_result_and_compares_only_lo() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "loopback", &json!({}));
        let a = network.attach(lab, "a");
        network.plugin.check(&a, "lo", &network.config).error(7).mentions("prevResult");
        let previous = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "eth0", "sandbox": a.path() }],
            "ips": [{ "address": "10.1.0.2/24", "interface": 0 }, { "address": "10.1.0.3/24" }],
            "routes": [{ "dst": "0.0.0.0/0" }],
        });
        network
            .plugin
            .check(&a, "lo", &network.with(&json!({ "prevResult": previous })).config)
            .success();
    });
}

#[test]
fn a_result_of_plugins_before_it_is_passed_on() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "loopback", &json!({}));
        let previous =
            json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "sandbox": "/x" }] });
        let chained = network.with(&json!({ "prevResult": previous }));
        let a = lab.container("a");
        assert_eq!(chained.add(&a).success().json(), &previous);
        a.ping("127.0.0.1");
    });
}

#[test]
fn an_external_address_on_lo_is_rejected() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "loopback", &json!({}));
        let a = lab.container("a");
        let lo = a.netlink().link_by_name("lo").unwrap().index;
        a.netlink()
            .add_address(lo, "10.1.0.1/32".parse().unwrap(), AddressFlags::default())
            .unwrap();
        network.plugin.add(&a, "lo", &network.config).failure().mentions("10.1.0.1");
        assert!(!a.netlink().link_by_name("lo").unwrap().up);
    });
}
