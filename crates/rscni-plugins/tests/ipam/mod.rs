//! In-process calls of IPAM plugins through the dispatcher.

use std::{collections::BTreeMap, ffi::OsString};

use rscni::{Reply, Request};
use serde_json::Value;

/// A call of a plugin, by default for the interface `eth0` of a container.
pub(crate) struct Call {
    plugin: &'static str,
    vars: BTreeMap<String, OsString>,
    conf: Value,
}

impl Call {
    pub(crate) fn new(plugin: &'static str, command: &str, container: &str, conf: &Value) -> Self {
        let vars = [
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", "/run/netns/none"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.into()));
        Self { plugin, vars: vars.into(), conf: conf.clone() }
    }

    /// Sets a variable.
    pub(crate) fn var(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.into(), value.into());
        self
    }

    /// Sets a top-level key of the configuration.
    pub(crate) fn key(mut self, key: &str, value: Value) -> Self {
        self.conf[key] = value;
        self
    }

    pub(crate) fn reply(self) -> Reply {
        let request = Request::new(self.vars, self.conf.to_string().into_bytes());
        rscni_plugins::find(self.plugin).expect("the plugin is linked in").reply(&request)
    }

    /// Returns the result of a call that must succeed, or null.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        let reply = self.reply();
        assert!(reply.error.is_none(), "{:?}", reply.error);
        if reply.stdout.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&reply.stdout).unwrap()
        }
    }

    /// Returns code and details of a call that must fail.
    #[track_caller]
    pub(crate) fn error(self) -> (u32, String) {
        let reply = self.reply();
        let error = reply.error.expect("the call must fail");
        let written: Value = serde_json::from_slice(&reply.stdout).unwrap();
        assert_eq!(written["code"], error.code());
        assert_eq!(written["details"], error.details());
        (error.code(), error.details().to_owned())
    }

    /// Asserts that the call fails with this code and these words.
    #[track_caller]
    pub(crate) fn fails(self, code: u32, problem: &str) {
        let (found, details) = self.error();
        assert!(found == code && details.contains(problem), "{found} {details}");
    }
}

/// Returns the addresses of a result with their prefix lengths.
pub(crate) fn addresses(result: &Value) -> Vec<String> {
    let ips = result["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
    ips.iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}
