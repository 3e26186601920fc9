//! The plugin macvlan on an old kernel, which minds the names that the host has.
//!
//! Run in User-Mode Linux, which is one: `cargo xtask test --only uml`. All else is in `macvlan`.

mod container_link;
mod support;

use serde_json::json;

use container_link::{does_not_mind_the_names_on_the_host, gives_a_name_once, lan, network};
use support::{V4, V6};

#[test]
fn a_link_gets_a_name_that_the_host_has() {
    rscni_test::run(|lab| {
        lan(lab);
        let network = network(lab, "macvlan", &[V4, V6], &json!({ "master": "lan0" }));
        does_not_mind_the_names_on_the_host(lab, &network);
        gives_a_name_once(lab, &network);
    });
}
