//! The plugin as a link of a chain.

use rscni::SpecVersion;
use rscni_conformance::{Candidate, assert_error, assert_result, assert_silent, result_in};
use serde_json::json;

const LATEST: SpecVersion = SpecVersion::LATEST;

/// The plugin, without the key that it requires.
fn bare() -> Candidate {
    Candidate::new(env!("CARGO_BIN_EXE_sample"))
}

fn sample() -> Candidate {
    bare().key("anotherAwesomeArg", "awesome")
}

#[test]
fn speaks_every_version() {
    sample().must_be_chained().speaks_every_version();
}

#[test]
fn its_required_key_is_required() {
    let wrong = [bare(), bare().key("anotherAwesomeArg", ""), sample().key("myAwesomeFlag", "yes")];
    for candidate in wrong {
        for command in ["ADD", "DEL", "CHECK", "STATUS"] {
            let outcome = candidate.call(command, &candidate.config(LATEST, Some(&result_in(LATEST))));
            let details = assert_error(command, &outcome, 7, LATEST);
            assert!(details.contains("Awesome") || details.contains("boolean"), "{command}: {details}");
        }
    }
}

#[test]
fn has_to_be_chained_for_add_and_check_but_not_for_del() {
    let config = sample().config(LATEST, None);
    for command in ["ADD", "CHECK"] {
        let details = assert_error(command, &sample().call(command, &config), 7, LATEST);
        assert!(details.contains("chained"), "{details}");
    }
    assert_silent("DEL", &sample().call("DEL", &config));
}

#[test]
fn lists_the_addresses_of_the_container_and_not_the_hosts() {
    let prev_result = json!({
        "cniVersion": "0.3.0",
        "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/nowhere/netns" }],
        "ips": [
            { "version": "4", "address": "10.1.0.1/16", "interface": 0 },
            { "version": "4", "address": "10.1.0.5/16", "interface": 1 },
        ],
    });
    let candidate =
        sample().key("myAwesomeFlag", true).key("runtimeConfig", json!({ "sample": { "key": "value" }, "mac": "x" }));
    let outcome = candidate.call("ADD", &candidate.config(SpecVersion::V0_3_0, Some(&prev_result)));
    assert_eq!(assert_result("ADD", &outcome), prev_result);
    assert_eq!(
        String::from_utf8_lossy(&outcome.stderr),
        "sample: [\"10.1.0.5/16\"], flag true, arg \"awesome\", runtimeConfig.sample {\"key\":\"value\"}\n"
    );
}

#[test]
fn a_container_without_address_is_an_error() {
    let prev_result = json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "sandbox": "/nowhere/netns" }] });
    let outcome = sample().call("ADD", &sample().config(LATEST, Some(&prev_result)));
    assert!(assert_error("ADD", &outcome, 7, LATEST).contains("no address"));
}
