//! Power loss: the files of host-local and of the runtime after each write, with and without
//! unsynced data.
//!
//! A sequence of operations of the runtime is traced, and the files are recorded whenever a system
//! call has changed them. The disk may hold each of these states after a power loss; and each in
//! which data that the current operation wrote and did not sync is missing or truncated, since a
//! file system may persist names before data. For each state the node starts again:
//!
//! - no address is allocated that belongs to an attachment whose ADD has reported success;
//! - every attachment can be detached, and GC succeeds;
//! - then the whole range can be allocated, and no file is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use nix::libc;
use rscni_test::{Container, Lab, Plugin};
use serde_json::{Value, json};

use super::{
    call::{Ended, output},
    index,
    lists::{self, NETWORK},
    table::Count,
};
use crate::tracer::{self, Call, Watch};

/// The directory that survives a power loss.
const STATE: &str = "/var/lib/cni";
/// Addresses for containers in the range.
const ADDRESSES: usize = 13;

/// Files by their path below [`STATE`]; a directory has no content.
type Files = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// A state of the disk after a power loss.
struct Loss {
    name: String,
    files: Files,
    /// Addresses of attachments whose ADD has reported success and whose DEL has not begun.
    live: BTreeSet<String>,
}

/// Tries each `every`-th state. The runtime is in `ours`, since the Go plugins have none.
pub(super) fn run(lab: &Lab, directory: &Path, ours: &Path, every: usize) -> Result<Count> {
    // Older Go plugins do not support 1.1.0.
    let version = if directory == ours { "1.1.0" } else { "1.0.0" };
    let list = json!({"cniVersion": version, "name": NETWORK, "plugins": [
        {"type": "bridge", "bridge": "br0", "ipam": lists::ipam()}]});
    let networks = lab.dir().join("networks");
    fs::create_dir_all(&networks)?;
    fs::write(networks.join("net.conflist"), list.to_string())?;
    let node = Node {
        directory,
        runtime: ours.join("rscni"),
        version,
        networks,
        containers: ["a", "b", "c"].map(|name| lab.container(name)),
    };
    let mut count = Count::default();
    for loss in node.losses()?.iter().step_by(every.max(1)) {
        let problems = node.restart(loss)?;
        count.add(&problems);
        if !problems.is_empty() {
            println!("  FAILED after {}: cargo xtask faults --kind power", loss.name);
        }
        for line in problems {
            println!("    {line}");
        }
    }
    Ok(count)
}

struct Node<'a> {
    directory: &'a Path,
    runtime: PathBuf,
    version: &'static str,
    networks: PathBuf,
    containers: [Container; 3],
}

impl Node<'_> {
    /// Runs a sequence of operations, and returns all states.
    fn losses(&self) -> Result<Vec<Loss>> {
        let [a, b, c] = &self.containers;
        let (mut losses, mut live) = (Vec::new(), BTreeMap::new());
        for (operation, on) in
            [("add", a), ("add", b), ("del", a), ("add", c), ("add", a), ("gc", a), ("del", c)]
        {
            match operation {
                "del" => drop(live.remove(on.name())),
                "gc" => live.retain(|name, _| *name == on.name()),
                _ => {}
            }
            let mut recorder = Recorder::start()?;
            let mut command = self.rscni(tracer::command(&self.runtime), operation, on);
            let traced = tracer::run(&mut command, b"", &mut recorder)?;
            let ended = Ended::from(traced.output());
            let shown = ended.shown();
            ensure!(ended.succeeded(), "{operation} fails without a power loss: {shown}");
            let name = format!("{operation} of {}", on.name());
            losses.extend(recorder.losses(&name, &live.values().cloned().collect()));
            if operation == "add" {
                let result = ended.json().context("the result of ADD")?;
                live.insert(on.name(), address(&result).context("the address of ADD")?);
            }
        }
        Ok(losses)
    }

    /// Adds the arguments of an operation of the runtime.
    fn rscni(&self, mut command: Command, operation: &str, on: &Container) -> Command {
        command.args([operation, NETWORK]);
        match operation {
            "gc" => command.arg("--valid").arg(format!("{}/eth0", on.id())),
            _ => command.arg(on.path()).args(["--container-id", on.id()]),
        };
        command.env("NETCONFPATH", &self.networks).env("CNI_PATH", self.directory);
        command
    }

    /// Continues with these files; returns the problems.
    fn restart(&self, loss: &Loss) -> Result<Vec<String>> {
        restore(&loss.files)?;
        let mut problems = Vec::new();
        let given = self.allocate("x")?;
        for address in given.iter().filter(|address| loss.live.contains(*address)) {
            problems.push(format!("{address} is given to another, but its owner is live"));
        }
        if given.iter().collect::<BTreeSet<_>>().len() < given.len() {
            problems.push(format!("an address is given twice: {given:?}"));
        }
        let runtime = |operation: &str, on: &Container| {
            output(self.rscni(Command::new(&self.runtime), operation, on), b"").map(Ended::from)
        };
        for container in &self.containers {
            let ended = runtime("del", container)?;
            if !ended.succeeded() {
                problems.push(format!("DEL of {} fails: {}", container.name(), ended.shown()));
            }
        }
        let ended = runtime("gc", &Container::at("none", "/run/netns/none"))?;
        if !ended.succeeded() {
            problems.push(format!("GC fails: {}", ended.shown()));
        }
        let left = attachment_files()?.into_iter();
        problems.extend(left.map(|file| format!("after GC: {} is left", file.display())));
        let given = self.allocate("y")?;
        if given.len() != ADDRESSES {
            let number = given.len();
            problems.push(format!(
                "after GC {number} of {ADDRESSES} addresses can be given: {given:?}"
            ));
        }
        problems.extend(index::disagreements());
        Ok(problems)
    }

    /// Allocates addresses from host-local until there are no more.
    fn allocate(&self, prefix: &str) -> Result<Vec<String>> {
        let (version, ipam) = (self.version, lists::ipam());
        let config =
            json!({"cniVersion": version, "name": NETWORK, "type": "bridge", "ipam": ipam});
        let plugin = Plugin::at(self.directory.join("host-local"));
        let mut given = Vec::new();
        for number in 0..=ADDRESSES {
            let container = Container::at(&format!("{prefix}{number}"), "/run/netns/none");
            let outcome = plugin.add(&container, "eth0", &config);
            let reply: Value =
                serde_json::from_str(&outcome.stdout()).with_context(|| outcome.to_string())?;
            match address(&reply).filter(|_| outcome.exit_code() == Some(0)) {
                Some(address) => given.push(address),
                None if is_exhausted(&reply) => return Ok(given),
                None => bail!("host-local fails: {outcome}"),
            }
        }
        Ok(given)
    }
}

fn address(result: &Value) -> Option<String> {
    Some(result["ips"][0]["address"].as_str()?.to_owned())
}

/// Whether the range is exhausted: code 11. The Go plugin has no code for it.
fn is_exhausted(reply: &Value) -> bool {
    reply["code"] == 11
        || reply["msg"].as_str().is_some_and(|msg| msg.contains("no IP addresses available"))
}

/// Records the files after each call that has changed them.
struct Recorder {
    /// States, each with the files that were synced by then.
    states: Vec<(Files, BTreeSet<PathBuf>)>,
    synced: BTreeSet<PathBuf>,
}

impl Recorder {
    fn start() -> Result<Self> {
        Ok(Self { states: vec![(files()?, BTreeSet::new())], synced: BTreeSet::new() })
    }

    /// Every state as recorded, and with the unsynced data of each file that this operation wrote
    /// lost.
    fn losses(self, operation: &str, live: &BTreeSet<String>) -> Vec<Loss> {
        let first = self.states[0].0.clone();
        let mut losses = Vec::new();
        for (number, (files, synced)) in self.states.into_iter().enumerate() {
            let name = format!("write {number} of {operation}");
            for (path, content) in &files {
                let is_unsynced = first.get(path) != Some(content) && !synced.contains(path);
                let content = content.as_ref().filter(|it| is_unsynced && !it.is_empty());
                let Some(content) = content else { continue };
                for (how, length) in [("is empty", 0), ("is truncated", content.len() / 2)] {
                    let mut files = files.clone();
                    files.insert(path.clone(), Some(content[..length].to_vec()));
                    let name = format!("{name}, where {} {how}", path.display());
                    losses.push(Loss { name, files, live: live.clone() });
                }
            }
            losses.push(Loss { name, files, live: live.clone() });
        }
        losses
    }
}

impl Watch for Recorder {
    fn exit(&mut self, call: &Call, result: i64) {
        if result < 0 {
            return;
        }
        if matches!(call.number, libc::SYS_fsync | libc::SYS_fdatasync)
            && let Ok(file) =
                fs::read_link(format!("/proc/{}/fd/{}", call.thread, call.arguments[0]))
            && let Ok(below) = file.strip_prefix(STATE)
        {
            self.synced.insert(below.to_owned());
        }
        // An error means that another thread is removing a file, whose exit follows.
        let Ok(now) = files() else { return };
        if self.states.last().is_none_or(|(last, _)| *last != now) {
            self.states.push((now, self.synced.clone()));
        }
    }
}

/// Everything below [`STATE`].
fn files() -> Result<Files> {
    fn list(directory: &Path, found: &mut Files) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let below = path.strip_prefix(STATE)?.to_owned();
            if path.is_dir() {
                found.insert(below, None);
                list(&path, found)?;
            } else {
                found.insert(below, Some(fs::read(&path)?));
            }
        }
        Ok(())
    }
    let mut found = Files::new();
    list(Path::new(STATE), &mut found)?;
    Ok(found)
}

/// Replaces everything below [`STATE`] by these files.
fn restore(files: &Files) -> Result<()> {
    for entry in fs::read_dir(STATE)? {
        fs::remove_dir_all(entry?.path())?;
    }
    for (path, content) in files {
        let path = Path::new(STATE).join(path);
        match content {
            None => fs::create_dir(&path)?,
            Some(content) => fs::write(&path, content)?,
        }
    }
    Ok(())
}

/// The files that belong to an attachment.
fn attachment_files() -> Result<Vec<PathBuf>> {
    let is_of_network = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.starts_with("networks/.index")
            || path.starts_with("locks/networks")
            || path.starts_with("locks/gates")
            || name == "lock"
            || name.starts_with("last_reserved_ip.")
    };
    let mut files = files()?;
    files.retain(|path, content| content.is_some() && !is_of_network(path));
    Ok(files.into_keys().collect())
}
