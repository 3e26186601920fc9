//! The plugin in every version of the spec.

use rscni_conformance::Candidate;
use serde_json::json;

#[test]
fn speaks_every_version() {
    Candidate::new(env!("CARGO_BIN_EXE_noop")).speaks_every_version();
}

#[test]
fn keys_of_other_plugins_do_not_matter() {
    let noop = Candidate::new(env!("CARGO_BIN_EXE_noop"));
    noop.key("ipam", json!({})).key("dns", json!({})).key("bridge", "cni0").speaks_every_version();
}
