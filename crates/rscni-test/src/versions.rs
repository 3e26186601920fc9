//! Calls of a plugin with every command in every version of the specification.
//!
//! [`result_in`] has the expected answers. The effects of a plugin are left to its own tests, and
//! so are plugins that need a network: test those in a [`Lab`](crate::Lab).

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Call, Container, Plugin};

/// Every version of the specification, oldest first.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The newest version.
const LATEST: &str = VERSIONS[VERSIONS.len() - 1];

/// Strings that are not versions of the specification. The first two were releases of the Go
/// library.
const FOREIGN: [&str; 3] = ["1.2.0", "1.3.0", "2.0.0"];

/// A plugin that should support every version of the specification.
///
/// It is called without a private network: container `c1`, interface `eth0`, and the network
/// namespace `/nowhere/netns`, which does not exist.
///
/// ```no_run
/// # macro_rules! env { ($name:literal) => { "my-plugin" } }
/// rscni_test::Versions::of(env!("CARGO_BIN_EXE_my-plugin")).key("cniOutput", "/tmp/cni").speak();
/// ```
#[derive(Clone, Debug)]
pub struct Versions {
    plugin: Plugin,
    container: Container,
    keys: Map<String, Value>,
    must_be_chained: bool,
}

impl Versions {
    /// Returns the plugin in this file.
    ///
    /// # Panics
    ///
    /// If there is no such file.
    #[track_caller]
    pub fn of(program: impl AsRef<Path>) -> Self {
        Self {
            plugin: Plugin::at(program).env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
            container: Container::at("c1", "/nowhere/netns"),
            keys: Map::new(),
            must_be_chained: false,
        }
    }

    /// Adds a key to the configuration.
    #[must_use]
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    /// Expects error 7 from an ADD without `prevResult`.
    #[must_use]
    pub fn must_be_chained(mut self) -> Self {
        self.must_be_chained = true;
        self
    }

    /// Returns a configuration of `version` with the plugin's keys and, if given, `prevResult`.
    pub fn config(&self, version: &str, prev_result: Option<&Value>) -> Value {
        let mut config = json!({ "cniVersion": version, "name": "net", "type": "plugin" });
        for (key, value) in &self.keys {
            config[key] = value.clone();
        }
        if let Some(prev_result) = prev_result {
            config["prevResult"] = prev_result.clone();
        }
        config
    }

    /// Returns a call for the container.
    pub fn call(&self, command: &str, config: &Value) -> Call<'_> {
        self.plugin.call(command).attachment(&self.container, "eth0").config(config)
    }

    /// Asserts that the plugin supports every version:
    ///
    /// - VERSION names all of them, with no other variable set
    /// - ADD answers in the version of its configuration; a `prevResult` is passed on as it is, and
    ///   without one the result is empty, or error 7 if the plugin [must be
    ///   chained](Self::must_be_chained)
    /// - DEL succeeds in silence, with and without `prevResult` and `CNI_NETNS`
    /// - CHECK succeeds in silence from 0.4.0 on, GC and STATUS from 1.1.0 on; before, they are
    ///   error 1
    /// - strings that are not versions of the specification are error 1
    ///
    /// # Panics
    ///
    /// At the first wrong answer; the message shows the whole call.
    #[track_caller]
    pub fn speak(&self) {
        self.report();
        for version in VERSIONS {
            self.add_in(version);
            self.del_in(version);
            self.use_only_the_commands_of(version);
        }
        for version in FOREIGN {
            let mut config = self.config(LATEST, Some(&result_in(LATEST)));
            config["cniVersion"] = version.into();
            for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
                self.call(command, &config).run().error(1);
            }
        }
    }

    #[track_caller]
    fn report(&self) {
        let outcome = self.plugin.version();
        assert_eq!(outcome.success()["supportedVersions"], json!(VERSIONS), "\n{outcome}");
    }

    #[track_caller]
    fn add_in(&self, version: &str) {
        let prev_result = result_in(version);
        let outcome = self.call("ADD", &self.config(version, Some(&prev_result))).run();
        assert_eq!(*outcome.success(), prev_result, "\n{outcome}");

        let outcome = self.call("ADD", &self.config(version, None)).run();
        if self.must_be_chained {
            assert_eq!(outcome.error(7)["cniVersion"], version, "\n{outcome}");
        } else {
            assert_eq!(*outcome.success(), json!({ "cniVersion": version }), "\n{outcome}");
        }
    }

    #[track_caller]
    fn del_in(&self, version: &str) {
        let prev_result = result_in(version);
        self.call("DEL", &self.config(version, Some(&prev_result))).run().success();
        self.call("DEL", &self.config(version, None)).run().success();
        self.call("DEL", &self.config(version, None)).without("CNI_NETNS").run().success();
    }

    #[track_caller]
    fn use_only_the_commands_of(&self, version: &str) {
        let config = self.config(version, Some(&result_in(version)));
        for (command, since) in [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")] {
            let outcome = self.call(command, &config).run();
            if is_since(version, since) {
                outcome.success();
            } else {
                assert_eq!(outcome.error(1)["cniVersion"], version, "\n{outcome}");
            }
        }
    }
}

/// Whether `version` is `since` or later.
pub(crate) fn is_since(version: &str, since: &str) -> bool {
    age(version) >= age(since)
}

/// Index of a version in [`VERSIONS`].
fn age(version: &str) -> usize {
    let index = VERSIONS.iter().position(|known| *known == version);
    index.unwrap_or_else(|| panic!("{version} is not a version of the specification"))
}

/// Returns a result with all keys of `version`, for `prevResult`.
///
/// # Panics
///
/// If it is not a version of the specification.
#[track_caller]
pub fn result_in(version: &str) -> Value {
    let mut result = match age(version) {
        // Up to 0.2.0.
        ..=1 => json!({
            "ip4": { "ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }] },
            "ip6": { "ip": "fd00::5/64", "gateway": "fd00::1", "routes": [{ "dst": "::/0" }] },
        }),
        // Up to 0.4.0.
        2..=4 => json!({
            "interfaces": [
                { "name": "cni0", "mac": "00:11:22:33:44:55" },
                { "name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/nowhere/netns" },
            ],
            "ips": [
                { "version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1 },
                { "version": "6", "address": "fd00::5/64", "gateway": "fd00::1", "interface": 1 },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }, { "dst": "::/0" }],
        }),
        // 1.0.0.
        5 => json!({
            "interfaces": [
                { "name": "cni0", "mac": "00:11:22:33:44:55" },
                { "name": "eth0", "mac": "99:88:77:66:55:44", "sandbox": "/nowhere/netns" },
            ],
            "ips": [
                { "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1 },
                { "address": "fd00::5/64", "gateway": "fd00::1", "interface": 1 },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }, { "dst": "::/0" }],
        }),
        // 1.1.0.
        _ => json!({
            "interfaces": [
                { "name": "cni0", "mac": "00:11:22:33:44:55", "mtu": 1500 },
                { "name": "eth0", "mac": "99:88:77:66:55:44", "mtu": 1400, "sandbox": "/nowhere/netns",
                  "socketPath": "/run/vhost.sock", "pciID": "0000:04:00.5" },
            ],
            "ips": [
                { "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1 },
                { "address": "fd00::5/64", "gateway": "fd00::1", "interface": 1 },
            ],
            "routes": [
                { "dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360, "table": 100, "scope": 253,
                  "priority": 10 },
                { "dst": "::/0" },
            ],
        }),
    };
    result["cniVersion"] = version.into();
    result["dns"] = json!({
        "nameservers": ["10.1.0.1"], "domain": "example.net", "search": ["example.org"], "options": ["ndots:2"]
    });
    result
}
