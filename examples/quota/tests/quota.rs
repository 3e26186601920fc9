//! The plugin as a runtime calls it.

use rscni_test::{Container, Plugin, result_in};
use serde_json::{Value, json};

fn config(directory: &std::path::Path) -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "quota", "limit": 2,
            "directory": directory, "prevResult": result_in("1.1.0") })
}

#[test]
fn the_third_container_gets_an_error_with_the_code_of_the_plugin() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path());
    let plugin = Plugin::at(env!("CARGO_BIN_EXE_quota"));
    let [a, b, c] = ["a", "b", "c"].map(|id| Container::at(id, "/nowhere/netns"));
    plugin.add(&a, "eth0", &config).success();
    plugin.add(&b, "eth0", &config).success();
    plugin.add(&c, "eth0", &config).error(100).mentions("2 containers");

    plugin.check(&b, "eth0", &config).success();
    plugin.del(&b, "eth0", &config).success();
    plugin.check(&b, "eth0", &config).error(101);
    plugin.add(&c, "eth0", &config).success();
}

#[test]
fn gc_releases_the_places_of_stale_attachments() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config(directory.path());
    let plugin = Plugin::at(env!("CARGO_BIN_EXE_quota"));
    let [a, b] = ["a", "b"].map(|id| Container::at(id, "/nowhere/netns"));
    plugin.add(&a, "eth0", &config).success();
    plugin.add(&b, "eth0", &config).success();

    config["cni.dev/valid-attachments"] = json!([{ "containerID": "b", "ifname": "eth0" }]);
    plugin.gc(&config).success();
    plugin.check(&a, "eth0", &config).error(101);
    plugin.check(&b, "eth0", &config).success();
}
