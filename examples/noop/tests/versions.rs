//! The plugin in every version of the spec.

use rscni_test::Versions;
use serde_json::json;

#[test]
fn speaks_every_version() {
    Versions::of(env!("CARGO_BIN_EXE_noop")).speak();
}

#[test]
fn keys_of_other_plugins_do_not_matter() {
    let noop = Versions::of(env!("CARGO_BIN_EXE_noop"));
    noop.key("ipam", json!({})).key("dns", json!({})).key("bridge", "cni0").speak();
}
