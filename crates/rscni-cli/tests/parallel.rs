//! Many calls at the same time.

mod support;

use serde_json::json;

use support::{Attached, Network, V4, V6, assert_gone};

#[test]
fn twenty_containers_attach_and_detach_concurrently() {
    rscni_test::run(|lab| {
        let network =
            Network::bridge(lab, &[V4, V6], &json!({ "macspoofchk": true, "ipMasq": true }));
        let names: Vec<String> = (0..20).map(|n| format!("c{n}")).collect();
        let attached: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                names.iter().map(|name| scope.spawn(|| network.attach(lab, name))).collect();
            threads.into_iter().map(|thread| thread.join().expect("an ADD")).collect()
        });
        let mut ips: Vec<_> = attached.iter().map(Attached::v4).collect();
        ips.sort();
        ips.dedup();
        assert_eq!(ips.len(), 20);
        for a in &attached {
            a.check().success();
        }
        attached[0].ping(attached[19].v6());
        std::thread::scope(|scope| {
            for a in &attached {
                scope.spawn(|| a.del().success());
            }
        });
        assert_gone(lab, &["ctr-", "veth"]);
    });
}

#[test]
fn calls_that_fail_do_not_disturb_those_that_succeed() {
    rscni_test::run(|lab| {
        let good = Network::bridge(lab, &[V4, V6], &json!({ "macspoofchk": true, "ipMasq": true }));
        let mut ipam = good.config["ipam"].clone();
        ipam["routes"] = json!([{ "dst": "192.0.2.0/24", "gw": "203.0.113.1" }]);
        let bad = good.with(&json!({ "ipam": ipam }));
        let containers: Vec<_> = (0..8).map(|n| lab.container(&format!("c{n}"))).collect();
        // The bridge may vanish with the last failed ADD, or the subnet's chain with the last DEL.
        std::thread::scope(|scope| {
            for (n, container) in containers.iter().enumerate() {
                let (good, bad) = (&good, &bad);
                scope.spawn(move || {
                    for _ in 0..3 {
                        if n % 2 == 0 {
                            bad.add(container).error(5).mentions("203.0.113.1");
                            bad.del(container).success();
                        } else {
                            let attached = good.attach_as(container, "eth0");
                            attached.check().success();
                            attached.del().success();
                        }
                    }
                });
            }
        });
        assert_gone(lab, &["ctr-", "veth"]);
    });
}

#[test]
fn ten_containers_attach_and_detach_concurrently_with_iptables() {
    rscni_test::run(|lab| {
        let keys = json!({ "ipMasq": true, "ipMasqBackend": "iptables" });
        let network = Network::bridge(lab, &[V4, V6], &keys);
        let names: Vec<String> = (0..10).map(|n| format!("c{n}")).collect();
        std::thread::scope(|scope| {
            for name in &names {
                scope.spawn(|| {
                    let a = network.attach(lab, name);
                    a.check().success();
                    a.del().success();
                });
            }
        });
        assert_gone(lab, &["ctr-", "CNI-"]);
    });
}
