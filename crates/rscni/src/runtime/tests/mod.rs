//! Operations with scripted plugins: which calls are made, in which order, with which input.

mod chain;
mod gc;
mod network;
mod networks;
mod sandbox;

use std::{ffi::OsString, path::Path, sync::Mutex};

use serde_json::{Map, Value, json};

use super::{
    lock::{Lock, Mode},
    *,
};
use crate::{
    SpecVersion,
    invoke::{Exit, find_plugin},
};

/// Plugins that record their calls. ADD returns an address with the number of the call. All calls
/// succeed except those in `fails`; a plugin named `missing` is not installed.
#[derive(Default)]
struct Script {
    fails: Vec<(&'static str, &'static str)>,
    calls: Mutex<Vec<Invocation>>,
}

impl Exec for &Script {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        if plugin == "missing" {
            find_plugin(plugin, path)
        } else {
            Ok(Path::new("/plugins").join(plugin))
        }
    }

    fn exec(&self, invocation: &Invocation) -> io::Result<Outcome> {
        let number = self.calls.lock().unwrap().len();
        self.calls.lock().unwrap().push(invocation.clone());
        let command = invocation.vars["CNI_COMMAND"].to_str().unwrap();
        let (status, stdout) = if command == "VERSION" {
            (0, json!({ "cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0", "2.0.0"] }))
        } else if self.fails.contains(&(command, &invocation.plugin)) {
            let details = format!("{} cannot", invocation.plugin);
            (1, json!({ "code": 100 + number, "msg": "no", "details": details }))
        } else {
            let address = format!("10.0.0.{number}/24");
            (0, json!({ "cniVersion": "1.1.0", "ips": [{ "address": address }] }))
        };
        let stdout = if matches!(command, "ADD" | "VERSION") || status > 0 {
            stdout.to_string().into_bytes()
        } else {
            Vec::new()
        };
        Ok(Outcome { exit: Exit::Status(status), stdout, stderr: Vec::new() })
    }
}

impl Script {
    fn failing(fails: &[(&'static str, &'static str)]) -> Self {
        Self { fails: fails.to_vec(), ..Self::default() }
    }

    /// Takes the calls: command, plugin, and the address in `prevResult`.
    fn calls(&self) -> Vec<String> {
        let describe = |call: &Invocation| {
            let config: Value = serde_json::from_slice(&call.stdin).unwrap();
            let previous = config["prevResult"]["ips"][0]["address"].as_str().unwrap_or("none");
            format!("{} {} {previous}", call.vars["CNI_COMMAND"].to_str().unwrap(), call.plugin)
        };
        std::mem::take(&mut *self.calls.lock().unwrap()).iter().map(describe).collect()
    }
}

struct Net {
    dir: tempfile::TempDir,
    list: NetConfList,
    cache: Cache,
    params: AttachmentParams,
}

impl Net {
    fn new(version: &str, plugins: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let json = json!({ "cniVersion": version, "name": "net", "plugins": plugins });
        Self {
            list: NetConfList::from_json(json.to_string().as_bytes()).unwrap(),
            cache: Cache::new(dir.path()),
            params: AttachmentParams::new("box", "/run/netns/box", "eth0"),
            dir,
        }
    }

    /// A network with the plugins a, b and c.
    fn of_three() -> Self {
        Self::new("1.0.0", &json!([{ "type": "a" }, { "type": "b" }, { "type": "c" }]))
    }

    fn runtime<'a>(&self, script: &'a Script) -> Runtime<&'a Script> {
        Runtime::new(script, ["/x", "/y"]).with_cache(self.cache.clone())
    }

    fn is_cached(&self) -> bool {
        self.cache.file("net", &self.params).unwrap().exists()
    }

    fn add(&self) {
        self.runtime(&Script::default()).add(&self.list, &self.params).unwrap();
    }
}

/// The attachment of another container.
fn other(container_id: &str) -> AttachmentParams {
    AttachmentParams::new(container_id, format!("/run/netns/{container_id}"), "eth0")
}

fn valid(params: &AttachmentParams) -> Attachment {
    Attachment { container_id: params.container_id.clone(), ifname: params.ifname.clone() }
}
