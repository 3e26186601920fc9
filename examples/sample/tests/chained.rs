//! The plugin as a link of a chain.

use rscni_test::{Versions, result_in};
use serde_json::json;

const LATEST: &str = "1.1.0";

/// The plugin, without the key that it requires.
fn bare() -> Versions {
    Versions::of(env!("CARGO_BIN_EXE_sample"))
}

fn sample() -> Versions {
    bare().key("anotherAwesomeArg", "awesome")
}

#[test]
fn speaks_every_version() {
    sample().must_be_chained().speak();
}

#[test]
fn its_required_key_is_required() {
    let wrong = [bare(), bare().key("anotherAwesomeArg", ""), sample().key("myAwesomeFlag", "yes")];
    for plugin in wrong {
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
fn has_to_be_chained_for_add_and_check_but_not_for_del() {
    let config = sample().config(LATEST, None);
    for command in ["ADD", "CHECK"] {
        sample().call(command, &config).run().error(7).mentions("chained");
    }
    sample().call("DEL", &config).run().success();
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
    let plugin = sample()
        .key("myAwesomeFlag", true)
        .key("runtimeConfig", json!({ "sample": { "key": "value" }, "mac": "x" }));
    let outcome = plugin.call("ADD", &plugin.config("0.3.0", Some(&prev_result))).run();
    assert_eq!(*outcome.success(), prev_result);
    assert_eq!(
        outcome.stderr(),
        "sample: [\"10.1.0.5/16\"], flag true, arg \"awesome\", runtimeConfig.sample {\"key\":\"value\"}\n"
    );
}

#[test]
fn a_container_without_address_is_an_error() {
    let prev_result = json!({ "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "sandbox": "/nowhere/netns" }] });
    sample()
        .call("ADD", &sample().config(LATEST, Some(&prev_result)))
        .run()
        .error(7)
        .mentions("no address");
}
