//! The plugin in all versions of the spec.

use rscni_test::Versions;
use serde_json::json;

#[test]
fn all_versions_are_supported() {
    Versions::of(env!("CARGO_BIN_EXE_noop")).speak();
}

#[test]
fn keys_of_other_plugins_are_ignored() {
    let noop = Versions::of(env!("CARGO_BIN_EXE_noop"));
    noop.key("ipam", json!({})).key("dns", json!({})).key("bridge", "cni0").speak();
}
