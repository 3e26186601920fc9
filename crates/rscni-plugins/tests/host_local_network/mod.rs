//! A network of host-local with its own directory of reservations.

use std::{fs, path::PathBuf};

use rscni::SpecVersion;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::ipam::{Call, addresses};

/// A network with its own directory of reservations.
pub(crate) struct Network {
    pub(crate) dir: TempDir,
    pub(crate) conf: Value,
}

impl Network {
    /// Creates a network of this version with these keys of `ipam`.
    pub(crate) fn new(version: SpecVersion, ipam: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut conf =
            json!({ "cniVersion": version, "name": "net", "type": "bridge", "ipam": ipam });
        conf["ipam"]["type"] = "host-local".into();
        conf["ipam"]["dataDir"] = dir.path().to_str().into();
        Self { dir, conf }
    }

    /// Creates a network with a range set for each subnet.
    pub(crate) fn of(subnets: &[&str]) -> Self {
        let ranges: Vec<_> = subnets.iter().map(|s| json!([{ "subnet": s }])).collect();
        Self::new(SpecVersion::LATEST, &json!({ "ranges": ranges }))
    }

    pub(crate) fn call(&self, command: &str, container: &str) -> Call {
        Call::new("host-local", command, container, &self.conf)
    }

    #[track_caller]
    pub(crate) fn add(&self, container: &str) -> Vec<String> {
        addresses(&self.call("ADD", container).ok())
    }

    pub(crate) fn gc(&self, valid: &Value) -> Call {
        self.call("GC", "").key("cni.dev/valid-attachments", valid.clone())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("net").join(name)
    }

    /// Writes a file without the index, like the Go plugin or a killed process.
    pub(crate) fn write(&self, file: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.dir.path().join("net")).unwrap();
        fs::write(self.file(file), content).unwrap();
    }

    /// Returns the reserved addresses.
    pub(crate) fn reserved(&self) -> Vec<String> {
        let Ok(files) = fs::read_dir(self.dir.path().join("net")) else { return Vec::new() };
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let own = ["lock", "last_reserved_ip.0", "last_reserved_ip.1"];
        let mut names: Vec<_> = names.filter(|name| !own.contains(&name.as_str())).collect();
        names.sort();
        names
    }
}
