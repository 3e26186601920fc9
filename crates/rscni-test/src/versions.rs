//! Calls of a plugin with every command in every version of the specification.
//!
//! [`result_in`] has the expected answers of plugins without a network. The effects of a plugin are
//! left to its own tests.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Call, Chain, Container, Lab, Plugin, Reply, chain::VALID_ATTACHMENTS, result_faults};

/// Every version of the specification, oldest first.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The newest version.
const LATEST: &str = VERSIONS[VERSIONS.len() - 1];

/// Strings that are not versions of the specification. The first two were releases of the Go
/// library.
const FOREIGN: [&str; 3] = ["1.2.0", "1.3.0", "2.0.0"];

/// A plugin that should support every version of the specification, or [some](Self::only).
///
/// [`speak`](Self::speak) calls it without a private network: container `c1`, interface `eth0`, and
/// the network namespace `/nowhere/netns`, which does not exist.
///
/// ```no_run
/// # macro_rules! env { ($name:literal) => { "my-plugin" } }
/// use rscni_test::Versions;
/// Versions::of(env!("CARGO_BIN_EXE_my-plugin")).key("cniOutput", "/tmp/cni").speak();
/// ```
///
/// A plugin that enters the namespace needs a private network, and a chained one needs an interface
/// too:
///
/// ```no_run
/// # macro_rules! env { ($name:literal) => { "my-plugin" } }
/// # use serde_json::json;
/// use rscni_test::{Chain, Versions};
/// rscni_test::run(|lab| {
///     lab.install("bridge", "/opt/cni/bin/bridge");
///     let plugin = Versions::of(env!("CARGO_BIN_EXE_my-plugin")).only(&["1.0.0", "1.1.0"]);
///     let bridge = Chain::new("net").plugin(json!({ "type": "bridge" }));
///     plugin.after(bridge).speak_in(lab, |_version, reply| assert!(!reply.ips().is_empty()));
/// });
/// ```
#[derive(Clone, Debug)]
pub struct Versions {
    plugin: Plugin,
    container: Container,
    ifname: String,
    keys: Map<String, Value>,
    supported: Vec<&'static str>,
    must_be_chained: bool,
    previous: Option<Chain>,
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
            ifname: "eth0".to_owned(),
            keys: Map::new(),
            supported: VERSIONS.to_vec(),
            must_be_chained: false,
            previous: None,
        }
    }

    /// Adds a key to the configuration.
    #[must_use]
    pub fn key(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.keys.insert(key.to_owned(), value.into());
        self
    }

    /// Sets the versions that the plugin supports. Error 1 is expected in all others.
    ///
    /// ```no_run
    /// # use rscni_test::Versions;
    /// Versions::of("/opt/cni/bin/my-plugin").only(&["0.4.0", "1.0.0"]).speak();
    /// ```
    ///
    /// # Panics
    ///
    /// If one of them is not a version of the specification.
    #[must_use]
    #[track_caller]
    pub fn only(mut self, versions: &[&str]) -> Self {
        for version in versions {
            age(version);
        }
        self.supported.retain(|known| versions.contains(known));
        self
    }

    /// Sets the name of the container's interface, for plugins that have one of their own, such as
    /// `lo`.
    #[must_use]
    pub fn ifname(mut self, ifname: &str) -> Self {
        ifname.clone_into(&mut self.ifname);
        self
    }

    /// Expects error 7 from an ADD without `prevResult`.
    #[must_use]
    pub fn must_be_chained(mut self) -> Self {
        self.must_be_chained = true;
        self
    }

    /// Attaches each container with this chain first, for [`speak_in`](Self::speak_in).
    #[must_use]
    pub fn after(mut self, chain: Chain) -> Self {
        self.previous = Some(chain);
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
        self.plugin.call(command).attachment(&self.container, &self.ifname).config(config)
    }

    /// Asserts that the plugin supports its versions, without a private network:
    ///
    /// - VERSION names exactly these, with no other variable set
    /// - ADD answers in the version of its configuration; a `prevResult` is passed on as it is, and
    ///   without one the result is empty, or error 7 if the plugin [must be
    ///   chained](Self::must_be_chained)
    /// - DEL succeeds in silence, with and without `prevResult` and `CNI_NETNS`
    /// - CHECK succeeds in silence from 0.4.0 on, GC and STATUS from 1.1.0 on; before, they are
    ///   error 1
    /// - other versions of the specification, and strings that are none, are error 1
    ///
    /// # Panics
    ///
    /// At the first wrong answer; the message shows the whole call.
    #[track_caller]
    pub fn speak(&self) {
        self.report();
        for version in &self.supported {
            let prev_result = result_in(version);
            self.add_in(version, &prev_result);
            self.use_only_the_commands_of(version, &prev_result);
            self.del_in(version, &prev_result);
        }
        self.reject_others();
    }

    /// Asserts that the plugin supports its versions, with a new container of the lab for each:
    ///
    /// - VERSION names exactly these
    /// - the result of ADD has no [faults](result_faults) in the version of its configuration;
    ///   `check` asserts its content
    /// - CHECK, STATUS and GC, which lists the attachment as valid, succeed in the versions that
    ///   have them; before, they are error 1
    /// - DEL succeeds with `prevResult`, and again without it and without `CNI_NETNS`
    /// - other versions of the specification, and strings that are none, are error 1 and change
    ///   nothing
    ///
    /// # Panics
    ///
    /// At the first wrong answer; the message shows the whole call.
    #[track_caller]
    pub fn speak_in(&self, lab: &Lab, mut check: impl FnMut(&str, &Reply)) {
        self.report();
        for (index, version) in self.supported.iter().enumerate() {
            let call = Self { container: lab.container(&format!("v{index}")), ..self.clone() };
            let chain = self.previous.as_ref().map(|chain| chain.clone().version(version));
            let previous = chain.map(|chain| chain.attach_as(&call.container, &self.ifname));
            let previous = previous.as_ref();
            if self.must_be_chained {
                call.call("ADD", &self.config(version, None)).run().error(7);
            }
            let config =
                self.config(version, previous.map(|attachment| attachment.result().json()));
            let outcome = call.call("ADD", &config).run();
            let reply = outcome.success();
            let faults = result_faults(version, &reply);
            assert!(faults.is_empty(), "{}\n{outcome}", faults.join("\n"));
            check(version, &reply);
            call.use_only_the_commands_of(version, &reply);
            call.del_in(version, &reply);
            if let Some(attachment) = previous {
                attachment.del().success();
            }
            lab.remove_namespace(&call.container);
        }
        let container = lab.container("other");
        let before = lab.snapshot();
        Self { container, ..self.clone() }.reject_others();
        lab.assert_unchanged_since(&before);
    }

    #[track_caller]
    fn report(&self) {
        let outcome = self.plugin.version();
        let reply = outcome.success();
        let mut reported: Vec<_> =
            reply["supportedVersions"].as_array().into_iter().flatten().collect();
        reported.sort_by_key(|version| VERSIONS.iter().position(|known| **version == **known));
        assert_eq!(reported, self.supported, "\n{outcome}");
    }

    /// Calls every command in versions that the plugin does not support.
    #[track_caller]
    fn reject_others(&self) {
        let unsupported = VERSIONS.into_iter().filter(|known| !self.supported.contains(known));
        for version in unsupported.chain(FOREIGN) {
            let mut config = self.config(LATEST, Some(&result_in(LATEST)));
            config["cniVersion"] = version.into();
            for command in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
                self.call(command, &config).run().error(1);
            }
        }
    }

    #[track_caller]
    fn add_in(&self, version: &str, prev_result: &Value) {
        let outcome = self.call("ADD", &self.config(version, Some(prev_result))).run();
        assert_eq!(*outcome.success(), *prev_result, "\n{outcome}");

        let outcome = self.call("ADD", &self.config(version, None)).run();
        if self.must_be_chained {
            assert_eq!(outcome.error(7)["cniVersion"], version, "\n{outcome}");
        } else {
            assert_eq!(*outcome.success(), json!({ "cniVersion": version }), "\n{outcome}");
        }
    }

    #[track_caller]
    fn del_in(&self, version: &str, prev_result: &Value) {
        self.call("DEL", &self.config(version, Some(prev_result))).run().success();
        self.call("DEL", &self.config(version, None)).run().success();
        self.call("DEL", &self.config(version, None)).without("CNI_NETNS").run().success();
    }

    #[track_caller]
    fn use_only_the_commands_of(&self, version: &str, prev_result: &Value) {
        let mut config = self.config(version, Some(prev_result));
        config[VALID_ATTACHMENTS] =
            json!([{ "containerID": self.container.id(), "ifname": self.ifname }]);
        for (command, since) in
            [("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0"), ("CHECK", "0.4.0")]
        {
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
#[track_caller]
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
