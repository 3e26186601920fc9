//! The plugin dummy, with packets.
//!
//! Run in User-Mode Linux, since many kernels lack its links: `cargo xtask test --only uml`.

mod container_link;
mod support;

use rscni_test::Lab;
use rstest::rstest;
use serde_json::json;

use container_link::{Assertion, Damage, assert_noticed, ip, lan, network, remac};
use support::{Network, V4, V6, addresses};
/// A network with addresses of both families.
fn dummy(lab: &Lab) -> Network {
    network(lab, "dummy", &[V4, V6], &json!({}))
}

#[rstest]
#[case::versions(container_link::speaks_every_version)]
#[case::del(container_link::is_deleted_whatever_is_left_of_it)]
#[case::others(container_link::spares_what_belongs_to_others)]
#[case::names(container_link::does_not_mind_the_names_on_the_host)]
#[case::failure(container_link::leaves_nothing_when_it_fails)]
#[case::check_without_result(container_link::needs_the_result_for_check)]
#[case::gc(container_link::gives_back_addresses_with_gc)]
#[case::status(container_link::tells_whether_it_could_add)]
#[case::race(container_link::gives_a_name_once)]
fn it_does_what_every_link_does(#[case] assertion: Assertion) {
    rscni_test::run(|lab| {
        lan(lab);
        assertion(lab, &dummy(lab));
    });
}

#[test]
fn its_addresses_answer_in_the_container_and_by_way_of_its_other_interface() {
    rscni_test::run(|lab| {
        let ptp = Network::ptp(lab, &["10.9.0.0/24", "fd09::/64"], &json!({ "name": "below" }));
        let below = ptp.attach_as(&lab.container("a"), "eth0");
        let a = dummy(lab).attach_as(&below, "dummy0");
        // What is the container's own goes by way of its loopback.
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
        network.plugin.add(&a, "eth0", &network.config).error(7).mentions("ipam");
        network.plugin.status(&network.config).error(7).mentions("ipam");
        network.plugin.del(&a, "eth0", &network.config).success();
    });
}

#[test]
fn check_notices_what_was_changed() {
    const DAMAGES: &[Damage] = &[
        (remac, "02:00:00:00:00:99"),
        (|_, a| ip(a, "link set eth0 down"), "down"),
        (|_, a| ip(a, "link del eth0"), "eth0 is missing"),
        (|_, a| ip(a, "addr del 10.1.0.2/24 dev eth0"), "10.1.0.2/24"),
        (|_, a| ip(a, "addr del fd01::2/64 dev eth0"), "fd01::2/64"),
        (|_, a| ip(a, "route del 192.0.2.0/24"), "route to 192.0.2.0/24"),
    ];
    rscni_test::run(|lab| assert_noticed(lab, &dummy(lab), DAMAGES));
}
