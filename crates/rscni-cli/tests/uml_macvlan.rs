//! The plugin macvlan on an old kernel, which rejects names that are in use on the host.
//!
//! Run in User-Mode Linux: `cargo xtask test --only uml`. The other tests are in `macvlan` and
//! `links`.

mod container_link;
mod support;

use container_link::{
    lan, names_of_the_host_do_not_matter, network, one_of_several_calls_gets_the_name,
};

#[test]
fn a_link_gets_a_name_that_the_host_has() {
    rscni_test::run(|lab| {
        lan(lab);
        let network = network(lab, "macvlan");
        names_of_the_host_do_not_matter(lab, &network);
        one_of_several_calls_gets_the_name(lab, &network);
    });
}
