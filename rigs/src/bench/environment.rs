//! What was measured, and on what: without that, numbers say nothing.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

use xtask::program;

/// Programs and machine.
#[derive(Debug, Serialize)]
pub(crate) struct Environment {
    pub(crate) date: String,
    pub(crate) rscni: String,
    pub(crate) peer: String,
    pub(crate) iptables: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
}

impl Environment {
    pub(crate) fn read(peer: &Path) -> Result<Self> {
        let commit = program::capture(program::git().args(["describe", "--always", "--dirty"]))
            .unwrap_or_default();
        let version = env!("CARGO_PKG_VERSION");
        Ok(Self {
            date: first_line(&program::capture(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?),
            rscni: format!("{version} {}", commit.trim()).trim().to_owned(),
            peer: version_of(peer)?,
            iptables: first_line(&program::capture(Command::new("iptables").arg("--version"))?),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: field(&std::fs::read_to_string("/proc/cpuinfo")?, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            processors: std::thread::available_parallelism()?.get(),
            memory_mib: memory(&std::fs::read_to_string("/proc/meminfo")?)
                .context("read /proc/meminfo")?,
        })
    }

    /// As a sentence for each of the two.
    pub(crate) fn lines(&self) -> [String; 2] {
        [
            format!(
                "rscni {} against the Go plugins {} with {}",
                self.rscni, self.peer, self.iptables
            ),
            format!(
                "Linux {}, {} × {}, {} MiB, {}",
                self.kernel, self.processors, self.processor, self.memory_mib, self.date
            ),
        ]
    }
}

/// The version of a set of Go plugins, as its bridge plugin tells it when it is called without `CNI_COMMAND`.
fn version_of(plugins: &Path) -> Result<String> {
    let output = Command::new(plugins.join("bridge")).env_remove("CNI_COMMAND").output();
    let output = output.context("ask the Go plugins for their version")?;
    // Older releases tell it on stderr.
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let line = text.iter().map(|text| first_line(text)).find(|line| !line.is_empty());
    let line = line.context("the Go plugins do not tell their version")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The first value of `key`, in the manner of `/proc/cpuinfo` and `/proc/meminfo`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })
}

fn memory(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = field(meminfo, "MemTotal")?.split(' ').next()?.parse().ok()?;
    Some(kibibytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_and_memory_are_read_as_the_kernel_writes_them() {
        assert_eq!(
            field("processor\t: 0\nmodel name\t: A CPU @ 2GHz\n", "model name"),
            Some("A CPU @ 2GHz")
        );
        assert_eq!(memory("MemTotal:        8048576 kB\nMemFree: 1 kB\n"), Some(7859));
    }
}
