//! Tests of all plugins whose attachment is one link in the container. Those whose link kind many
//! kernels lack run in `uml_links`.

#[path = "container_link/mod.rs"]
mod container_link;
#[path = "support/mod.rs"]
mod support;

use rscni_catalogue::{Row, rows};
use rstest::rstest;

use container_link::{self as link, Assertion};

/// Whether this program tests the row.
fn is_tested(row: &Row) -> bool {
    // On many machines only root can open `/dev/net/tun`.
    let in_uml = row.needs_uml() || row.plugin == "tap";
    row.container_link && in_uml == IN_UML
}

const IN_UML: bool = env!("CARGO_CRATE_NAME").as_bytes()[0] == b'u';

#[rstest]
#[case::versions(link::speaks_every_version, &[])]
#[case::del(link::del_succeeds_whatever_is_left, &[])]
#[case::others(link::links_of_others_are_left_alone, &[])]
#[case::names(link::names_of_the_host_do_not_matter, &[])]
#[case::failure(link::failed_add_leaves_nothing, &[])]
#[case::check(link::check_notices_changes, &[])]
#[case::check_without_result(link::check_needs_the_result, &[])]
#[case::gc(link::gc_releases_addresses, &[])]
#[case::status(link::status_reports_whether_add_can_succeed, &[])]
// A master has one link of a VLAN.
#[case::race(link::one_of_several_calls_gets_the_name, &["vlan"])]
// Debian's Go plugins are without them.
#[case::handover(link::attachments_are_handed_over_from_and_to_the_go_plugin, &["dummy", "tap"])]
#[case::ipam(link::ipam_is_optional, &["dummy", "ipvlan"])]
fn links_in_containers(#[case] assertion: Assertion, #[case] except: &[&str]) {
    assert_all(is_tested, assertion, except);
}

#[rstest]
#[case::announcement(link::neighbours_learn_the_hardware_address)]
#[case::duplicate(link::addresses_of_other_machines_are_rejected)]
#[case::reach(link::containers_reach_the_lan)]
#[case::mtu(link::mtu_is_at_most_that_of_the_master)]
#[case::in_container(link::the_master_can_be_in_the_container)]
fn links_with_a_master(#[case] assertion: Assertion) {
    assert_all(|row| is_tested(row) && row.needs_device(), assertion, &[]);
}

fn assert_all(is_tested: fn(&Row) -> bool, assertion: Assertion, except: &[&str]) {
    if IN_UML {
        // In the private network the module cannot be loaded any more.
        support::sh("modprobe tun");
    }
    for row in rows().iter().filter(|row| is_tested(row) && !except.contains(&&*row.plugin)) {
        println!("{}", row.plugin);
        rscni_test::run(|lab| {
            match row.plugin.as_str() {
                "vlan" => link::lan_with_vlan(lab, 5),
                _ => link::lan(lab),
            };
            assertion(lab, &link::network(lab, &row.plugin));
        });
    }
}
