//! `rscni conformance` of the plugins whose link kinds many kernels lack, and that have a master on the host.
//!
//! Run in User-Mode Linux, which has them: `cargo xtask test --only uml`.

#[path = "conformance/subjects.rs"]
mod subjects;

use std::collections::BTreeSet;

use subjects::{each_conforms, uml_names};

each_conforms! {
    ipvlan "ipvlan"
    vlan "vlan"
}

#[test]
fn none_is_left_out() {
    assert_eq!(
        TESTED.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>(),
        uml_names(true)
    );
}
