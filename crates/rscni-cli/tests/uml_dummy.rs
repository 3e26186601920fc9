//! The plugin dummy, with packets.
//!
//! Run in User-Mode Linux, because many kernels lack its links: `cargo xtask test --only uml`.

mod container_link;
mod support;

use rscni_test::Lab;
use serde_json::json;

use container_link::{assert_noticed, network, remac};
use support::{Network, addresses, ip};

/// A network with addresses of both families.
fn dummy(lab: &Lab) -> Network {
    network(lab, "dummy")
}

#[test]
fn addresses_answer_in_the_container_and_through_its_other_interface() {
    rscni_test::run(|lab| {
        let ptp = Network::ptp(lab, &["10.9.0.0/24", "fd09::/64"], &json!({ "name": "below" }));
        let below = ptp.attach_as(&lab.container("a"), "eth0");
        let a = dummy(lab).attach_as(&below, "dummy0");
        // Packets to the container's own addresses use its loopback.
        ip(&a, "link set lo up");
        for (own, gateway) in [(a.v4(), below.v4()), (a.v6(), below.v6())] {
            a.ping(own);
            lab.tcp(&a, &a, own, 80);
            ip(lab.host(), &format!("route add {own} via {gateway}"));
            lab.host().ping(own);
        }
        a.check().success();
        assert_eq!(addresses(&a, "dummy0"), ["10.1.0.2/24", "fd01::2/64"]);
    });
}

#[test]
fn ipam_is_required() {
    rscni_test::run(|lab| {
        let network = Network::new(lab, "dummy", &json!({}));
        let a = lab.container("a");
        network.add(&a).error(7).mentions("ipam");
        network.status().error(7).mentions("ipam");
        network.del(&a).success();
    });
}

#[test]
fn check_notices_another_hardware_address() {
    rscni_test::run(|lab| assert_noticed(lab, &dummy(lab), &[(remac, "02:00:00:00:00:99")]));
}
