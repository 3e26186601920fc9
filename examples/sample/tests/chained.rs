//! The plugin in a chain.

use rscni_test::{Versions, result_in};
use serde_json::json;

const LATEST: &str = "1.1.0";

/// The plugin without its required key.
fn without_key() -> Versions {
    Versions::of(env!("CARGO_BIN_EXE_sample"))
}

fn sample() -> Versions {
    without_key().key("anotherAwesomeArg", "awesome")
}

#[test]
fn all_versions_are_supported() {
    sample().must_be_chained().speak();
}

#[test]
fn missing_and_wrong_keys_are_code_7() {
    let empty = without_key().key("anotherAwesomeArg", "");
    for plugin in [without_key(), empty, sample().key("myAwesomeFlag", "yes")] {
        for command in ["ADD", "DEL", "CHECK", "STATUS"] {
            let outcome =
                plugin.call(command, &plugin.config(LATEST, Some(&result_in(LATEST)))).run();
            let error = outcome.error(7);
            assert!(
                error.details().contains("Awesome") || error.details().contains("boolean"),
                "{outcome}"
            );
        }
    }
}

#[test]
fn add_and_check_require_a_chain_but_del_does_not() {
    let config = sample().config(LATEST, None);
    for command in ["ADD", "CHECK"] {
        sample().call(command, &config).run().error(7).mentions("chained");
    }
    sample().call("DEL", &config).run().success();
}

#[test]
fn add_uses_only_the_addresses_of_the_container() {
    let prev_result = json!({
        "cniVersion": "0.3.0",
        "interfaces": [{ "name": "cni0" }, { "name": "eth0", "sandbox": "/nowhere/netns" }],
        "ips": [
            { "version": "4", "address": "10.1.0.1/16", "interface": 0 },
            { "version": "4", "address": "10.1.0.5/16", "interface": 1 },
        ],
    });
    let plugin = sample()
        .key("myAwesomeFlag", true)
        .key("runtimeConfig", json!({ "sample": { "key": "value" }, "mac": "x" }));
    let outcome = plugin.call("ADD", &plugin.config("0.3.0", Some(&prev_result))).run();
    assert_eq!(*outcome.success(), prev_result);
    assert_eq!(
        outcome.stderr(),
        "sample: [\"10.1.0.5/16\"], flag true, arg \"awesome\", \
         runtimeConfig.sample {\"key\":\"value\"}\n"
    );
}

#[test]
fn a_container_without_address_is_code_7() {
    let interfaces = json!([{ "name": "eth0", "sandbox": "/nowhere/netns" }]);
    let prev_result = json!({ "cniVersion": "1.1.0", "interfaces": interfaces });
    sample()
        .call("ADD", &sample().config(LATEST, Some(&prev_result)))
        .run()
        .error(7)
        .mentions("no address");
}
