//! Versions of the measured programs, and the machine they ran on.

use std::{path::Path, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;
use xtask::program;

use crate::pool;

/// Programs and machine.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Environment {
    date: String,
    rscni: String,
    peer: String,
    iptables: String,
    kernel: String,
    processor: String,
    processors: usize,
    memory_mib: u64,
}

impl Environment {
    pub(crate) fn read(peer: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.current_dir(program::workspace_root()).args(["describe", "--always", "--dirty"]);
        let commit = program::capture(&mut git).unwrap_or_default();
        let read = |file| std::fs::read_to_string(file).with_context(|| format!("read {file}"));
        let date = program::capture(Command::new("date").args(["--utc", "+%Y-%m-%d"]))?;
        let iptables = program::capture(Command::new("iptables").arg("--version"))?;
        Ok(Self {
            date: first_line(&date),
            rscni: format!("{} {}", env!("CARGO_PKG_VERSION"), commit.trim()).trim().to_owned(),
            peer: version_of(peer)?,
            iptables: first_line(&iptables),
            kernel: first_line(&read("/proc/sys/kernel/osrelease")?),
            processor: field(&read("/proc/cpuinfo")?, "model name").unwrap_or("unknown").to_owned(),
            processors: pool::processors(),
            memory_mib: memory(&read("/proc/meminfo")?).context("read /proc/meminfo")?,
        })
    }

    /// A sentence about the programs, and one about the machine.
    pub(crate) fn lines(&self) -> [String; 2] {
        let Self { date, rscni, peer, iptables, kernel, processor, processors, memory_mib } = self;
        [
            format!("rscni {rscni} against the Go plugins {peer} with {iptables}"),
            format!("Linux {kernel}, {processors} × {processor}, {memory_mib} MiB, {date}"),
        ]
    }
}

/// Version of a set of Go plugins, as its bridge plugin prints it without `CNI_COMMAND`.
fn version_of(plugins: &Path) -> Result<String> {
    let output = Command::new(plugins.join("bridge")).env_remove("CNI_COMMAND").output();
    let output = output.context("ask the Go plugins for their version")?;
    // Older releases print it on stderr.
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    let line = text.iter().map(|text| first_line(text)).find(|line| !line.is_empty());
    let line = line.context("the Go plugins print no version")?;
    Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// The first value of `key` in a file like `/proc/cpuinfo`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(name, value)| (name.trim() == key).then(|| value.trim()))
}

fn memory(meminfo: &str) -> Option<u64> {
    let kibibytes: u64 = field(meminfo, "MemTotal")?.split(' ').next()?.parse().ok()?;
    Some(kibibytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_and_memory_are_read_from_proc() {
        let cpuinfo = "processor\t: 0\nmodel name\t: A CPU @ 2GHz\n";
        assert_eq!(field(cpuinfo, "model name"), Some("A CPU @ 2GHz"));
        assert_eq!(memory("MemTotal:        8048576 kB\nMemFree: 1 kB\n"), Some(7859));
    }
}
