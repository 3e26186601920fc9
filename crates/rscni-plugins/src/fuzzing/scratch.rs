//! A directory for the files of one run.

use std::{env, fs, path::PathBuf, process, thread};

use serde_json::Value;

pub(crate) struct ScratchDirectory(pub(crate) PathBuf);

impl ScratchDirectory {
    pub(crate) fn new() -> Self {
        // Tests run in threads of one process.
        let thread = format!("{:?}", thread::current().id());
        let thread = thread.replace(|c: char| !c.is_ascii_digit(), "");
        let path = env::temp_dir().join(format!("rscni-fuzzing-{}-{thread}", process::id()));
        fs::create_dir_all(&path).expect("make a directory for files");
        Self(path)
    }

    /// Moves the paths of a configuration into this directory.
    pub(super) fn redirect_paths(&self, value: &mut Value) {
        const PATHS: [&str; 4] = ["dataDir", "resolvConf", "daemonSocketPath", "subnetFile"];
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    match PATHS.iter().find(|path| path.eq_ignore_ascii_case(key)) {
                        Some(path) if value.is_string() => {
                            *value = self.0.join(path).to_string_lossy().into();
                        }
                        _ => self.redirect_paths(value),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(|value| self.redirect_paths(value)),
            _ => {}
        }
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
