//! Calls a plugin with every command in every version of the spec, as a real process, and holds its answers against
//! what the spec says.
//!
//! A plugin that can be called without a network is tested with two lines:
//!
//! ```no_run
//! rscni_conformance::Candidate::new("target/debug/noop").speaks_every_version();
//! ```
//!
//! What an answer has to look like is written out by hand in [`result_in`], so that the library's own conversions are
//! under test too. What the plugin *does* is left to the plugin's own tests, and networks to `rscni-test`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rscni::SpecVersion;
use rscni::invoke::{Exec, Exit, Invocation, Outcome, Process};
use serde_json::{Map, Value, json};

/// A plugin under test.
#[derive(Clone, Debug)]
pub struct Candidate {
    program: PathBuf,
    keys: Map<String, Value>,
    must_be_chained: bool,
}

impl Candidate {
    /// The plugin that is this program.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), keys: Map::new(), must_be_chained: false }
    }

    /// Adds a key that the plugin wants in its configuration.
    #[must_use]
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.into(), value.into());
        self
    }

    /// Says that the plugin refuses, with code 7, an ADD or CHECK without `prevResult`.
    #[must_use]
    pub fn must_be_chained(mut self) -> Self {
        self.must_be_chained = true;
        self
    }

    /// A configuration of `version` with the plugin's keys and, if it is given, `prevResult`.
    pub fn config(&self, version: SpecVersion, prev_result: Option<&Value>) -> Value {
        let mut config = json!({ "cniVersion": version, "name": "conformance", "type": "candidate" });
        for (key, value) in &self.keys {
            config[key] = value.clone();
        }
        if let Some(prev_result) = prev_result {
            config["prevResult"] = prev_result.clone();
        }
        config
    }

    /// Calls the plugin for container `conformance-1`, interface `eth0`.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn call(&self, command: &str, config: &Value) -> Outcome {
        self.call_without(&[], command, config)
    }

    /// The same, but with these variables not set.
    ///
    /// # Panics
    /// If the program cannot be started.
    pub fn call_without(&self, absent: &[&str], command: &str, config: &Value) -> Outcome {
        let vars: BTreeMap<_, _> = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "conformance-1"),
            ("CNI_NETNS", "/nowhere/netns"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
            ("CNI_PATH", "/opt/cni/bin:/usr/lib/cni"),
        ]
        .into_iter()
        .filter(|(name, _)| !absent.contains(name))
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
        let stdin = config.to_string().into_bytes();
        let invocation = Invocation { plugin: "candidate".into(), program: self.program.clone(), vars, stdin };
        Process.exec(&invocation).unwrap_or_else(|error| panic!("start {}: {error}", self.program.display()))
    }

    /// Walks through all versions and commands. The plugin has to pass `prevResult` on as it is.
    ///
    /// # Panics
    /// At the first answer that is not what the spec says.
    pub fn speaks_every_version(&self) {
        self.reports_every_version();
        for version in SpecVersion::ALL {
            self.adds_in(version);
            self.deletes_in(version);
            self.has_only_the_commands_of(version);
        }
        for version in ["1.2.0", "1.3.0", "2.0.0"] {
            let mut config = self.config(SpecVersion::LATEST, None);
            config["cniVersion"] = version.into();
            for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
                let what = format!("{command} in {version}, which is no version of the spec");
                assert_error(&what, &self.call(command, &config), 1, SpecVersion::LATEST);
            }
        }
    }

    fn reports_every_version(&self) {
        let outcome = self.call_without(&["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"], "VERSION", &json!({}));
        let reply = assert_result("VERSION", &outcome);
        assert_eq!(reply, json!({ "cniVersion": "1.1.0", "supportedVersions": SpecVersion::ALL }), "VERSION");
    }

    fn adds_in(&self, version: SpecVersion) {
        let what = format!("ADD in {version} with prevResult");
        let prev_result = result_in(version);
        let outcome = self.call("ADD", &self.config(version, Some(&prev_result)));
        assert_eq!(assert_result(&what, &outcome), prev_result, "{what}");

        let what = format!("ADD in {version} without prevResult");
        let outcome = self.call("ADD", &self.config(version, None));
        if self.must_be_chained {
            assert_error(&what, &outcome, 7, version);
        } else {
            let reply = assert_result(&what, &outcome);
            assert_eq!(reply, json!({ "cniVersion": version }), "{what}");
        }
    }

    fn deletes_in(&self, version: SpecVersion) {
        let prev_result = result_in(version);
        for (what, absent, prev_result) in [
            ("", &[][..], Some(&prev_result)),
            (" without prevResult", &[], None),
            (" without CNI_NETNS and prevResult", &["CNI_NETNS"], None),
        ] {
            let outcome = self.call_without(absent, "DEL", &self.config(version, prev_result));
            assert_silent(&format!("DEL in {version}{what}"), &outcome);
        }
    }

    fn has_only_the_commands_of(&self, version: SpecVersion) {
        let config = self.config(version, Some(&result_in(version)));
        for (command, since) in
            [("CHECK", SpecVersion::V0_4_0), ("GC", SpecVersion::V1_1_0), ("STATUS", SpecVersion::V1_1_0)]
        {
            let what = format!("{command} in {version}");
            let outcome = self.call(command, &config);
            if version >= since {
                assert_silent(&what, &outcome);
            } else {
                assert_error(&what, &outcome, 1, version);
            }
        }
    }
}

/// A result with all that `version` knows, written out by hand.
pub fn result_in(version: SpecVersion) -> Value {
    let mut result = match version {
        SpecVersion::V0_1_0 | SpecVersion::V0_2_0 => json!({
            "ip4": { "ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{ "dst": "0.0.0.0/0", "gw": "10.1.0.1" }] },
            "ip6": { "ip": "fd00::5/64", "gateway": "fd00::1", "routes": [{ "dst": "::/0" }] },
        }),
        SpecVersion::V0_3_0 | SpecVersion::V0_3_1 | SpecVersion::V0_4_0 => json!({
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
        SpecVersion::V1_0_0 => json!({
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
    result["cniVersion"] = version.as_str().into();
    result["dns"] = json!({
        "nameservers": ["10.1.0.1"], "domain": "example.net", "search": ["example.org"], "options": ["ndots:2"]
    });
    result
}

/// The one JSON document on stdout of a call that succeeded.
///
/// # Panics
/// If it failed, or stdout holds anything else.
pub fn assert_result(what: &str, outcome: &Outcome) -> Value {
    assert_eq!(outcome.exit, Exit::Status(0), "{what}: {}", shown(outcome));
    only_document(what, outcome)
}

/// A call that succeeded and printed nothing to stdout.
///
/// # Panics
/// If it did not.
pub fn assert_silent(what: &str, outcome: &Outcome) {
    assert_eq!(outcome.exit, Exit::Status(0), "{what}: {}", shown(outcome));
    assert!(outcome.stdout.is_empty(), "{what}: success is silent; {}", shown(outcome));
}

/// A call that failed with the error reply `code`, in `version`. Gives the reply's details.
///
/// # Panics
/// If it succeeded, or the reply lacks one of its four keys or has another code or version.
pub fn assert_error(what: &str, outcome: &Outcome, code: u32, version: SpecVersion) -> String {
    assert_ne!(outcome.exit, Exit::Status(0), "{what}: {}", shown(outcome));
    let reply = only_document(what, outcome);
    assert_eq!((&reply["code"], &reply["cniVersion"]), (&json!(code), &json!(version)), "{what}: {reply}");
    assert!(reply["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{what}: {reply}");
    reply["details"].as_str().unwrap_or_else(|| panic!("{what}: no details: {reply}")).to_owned()
}

fn only_document(what: &str, outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{what}: stdout is not one JSON document: {error}; {}", shown(outcome)))
}

fn shown(outcome: &Outcome) -> String {
    let [stdout, stderr] = [&outcome.stdout, &outcome.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    format!("{:?}, stdout {stdout:?}, stderr {stderr:?}", outcome.exit)
}
