//! Power loss: the files of host-local and of the runtime, as they are after each write, and less than that.
//!
//! A sequence of operations of the runtime is traced, and the files are taken down whenever a system call has changed
//! them. Each such state is what the disk may hold when the power goes at that moment; so is each in which what the
//! operation under way has written and not synced is missing from its files, or cut off, as a file system leaves it
//! that had the names on the disk and not the data. From each of them the node goes on:
//!
//! - no address is given that an attachment holds whose ADD has reported success;
//! - every attachment can be detached, and GC succeeds;
//! - then all of the range can be given, and no file is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::libc;
use rscni_test::{Container, Lab};
use serde_json::{Value, json};

use super::{
    call::{Ended, unwatched},
    index,
    table::Count,
    worlds::{NETWORK, host_local},
};
use crate::tracer::{self, Call, Watch};

/// Where everything is that outlives a power loss.
const STATE: &str = "/var/lib/cni";
/// The addresses that the range has for containers.
const ADDRESSES: usize = 13;

/// Files by their path below [`STATE`]; a directory has no content.
type Files = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// What the disk may hold, and what is true then.
struct Loss {
    what: String,
    files: Files,
    /// Addresses of those whose ADD has reported success, and whose DEL has not begun.
    live: BTreeSet<String>,
}

/// Tries each state, or each `every`-th. The runtime is the one in `ours`; the Go plugins come with none.
pub(super) fn run(lab: &Lab, directory: &Path, ours: &Path, every: usize) -> Result<Count> {
    // A version that the Go plugins know, if it is about them.
    let version = if directory == ours { "1.1.0" } else { "1.0.0" };
    let list = json!({"cniVersion": version, "name": NETWORK, "plugins": [
        {"type": "bridge", "bridge": "br0", "ipam": host_local()}]});
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
    let losses = node.losses()?;
    let mut count = Count::default();
    for loss in losses.iter().step_by(every.max(1)) {
        let wrong = node.go_on(loss)?;
        count.add(&wrong);
        if wrong.is_empty() {
            continue;
        }
        println!("  FAILED after {}: cargo xtask faults --kind power", loss.what);
        for line in wrong {
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
    /// Runs a sequence of operations, and gives every state that the power may go in.
    fn losses(&self) -> Result<Vec<Loss>> {
        let [a, b, c] = &self.containers;
        let (mut losses, mut live) = (Vec::new(), BTreeMap::new());
        for (operation, on) in
            [("add", a), ("add", b), ("del", a), ("add", c), ("add", a), ("gc", a), ("del", c)]
        {
            if operation == "del" {
                live.remove(on.name());
            } else if operation == "gc" {
                live.retain(|name, _| *name == on.name());
            }
            let mut command = self.rscni(operation, on, true);
            let mut tape = Tape::start()?;
            let traced = tracer::run(&mut command, b"", &mut tape)?;
            let ended = Ended { code: traced.code, stdout: traced.stdout, stderr: traced.stderr };
            ensure!(ended.succeeded(), "{operation} fails by itself: {}", ended.said());
            let at = format!("{operation} of {}", on.name());
            losses.extend(tape.losses(&at, &live.values().cloned().collect()));
            if operation == "add" {
                let result = ended.json().context("the result of ADD")?;
                live.insert(on.name(), address(&result).context("the address of ADD")?);
            }
        }
        Ok(losses)
    }

    /// A command of the runtime, to be traced or not.
    fn rscni(&self, operation: &str, on: &Container, traced: bool) -> Command {
        let program = &self.runtime;
        let mut command = if traced { tracer::command(program) } else { Command::new(program) };
        command.args([operation, NETWORK]);
        match operation {
            "gc" => command.arg("--valid").arg(format!("{}/eth0", on.id())),
            _ => command.arg(on.path()).args(["--container-id", on.id()]),
        };
        command.env("NETCONFPATH", &self.networks).env("CNI_PATH", self.directory);
        command
    }

    /// The node starts again with these files; gives what is wrong then.
    fn go_on(&self, loss: &Loss) -> Result<Vec<String>> {
        restore(&loss.files)?;
        let mut wrong = Vec::new();
        let given = self.give("x")?;
        for address in given.iter().filter(|address| loss.live.contains(*address)) {
            wrong.push(format!("{address} is given to another, and its holder is live"));
        }
        if given.iter().collect::<BTreeSet<_>>().len() < given.len() {
            wrong.push(format!("an address is given twice: {given:?}"));
        }
        for container in &self.containers {
            let ended = self.finish("del", container)?;
            if !ended.succeeded() {
                wrong.push(format!("DEL of {} fails: {}", container.name(), ended.said()));
            }
        }
        let nobody = Container::at("nobody", "/run/netns/nobody");
        let ended = self.finish("gc", &nobody)?;
        if !ended.succeeded() {
            wrong.push(format!("GC fails: {}", ended.said()));
        }
        wrong.extend(
            left()?.into_iter().map(|file| format!("after GC: {} is left", file.display())),
        );
        let given = self.give("y")?;
        if given.len() != ADDRESSES {
            wrong.push(format!(
                "after GC {} of {ADDRESSES} addresses can be given: {given:?}",
                given.len()
            ));
        }
        wrong.extend(index::disagreements());
        Ok(wrong)
    }

    fn finish(&self, operation: &str, on: &Container) -> Result<Ended> {
        Ok(unwatched(self.rscni(operation, on, false), b"")?.into())
    }

    /// Has host-local give addresses until there are no more.
    fn give(&self, prefix: &str) -> Result<Vec<String>> {
        let config = json!({"cniVersion": self.version, "name": NETWORK, "type": "bridge", "ipam": host_local()});
        let mut given = Vec::new();
        for number in 0..=ADDRESSES {
            let mut command = Command::new(self.directory.join("host-local"));
            command.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", format!("{prefix}{number}"));
            command
                .env("CNI_NETNS", "/run/netns/none")
                .env("CNI_IFNAME", "eth0")
                .env("CNI_PATH", self.directory);
            let ended: Ended = unwatched(command, config.to_string().as_bytes())?.into();
            let reply = ended.json().with_context(|| ended.said())?;
            match address(&reply).filter(|_| ended.succeeded()) {
                Some(address) => given.push(address),
                None if is_exhausted(&reply) => return Ok(given),
                None => anyhow::bail!("host-local fails: {}", ended.said()),
            }
        }
        Ok(given)
    }
}

fn address(result: &Value) -> Option<String> {
    Some(result["ips"][0]["address"].as_str()?.to_owned())
}

/// Whether the range has no more addresses: code 11 says so; the Go plugin has no code for it.
fn is_exhausted(reply: &Value) -> bool {
    reply["code"] == 11
        || reply["msg"].as_str().is_some_and(|said| said.contains("no IP addresses available"))
}

/// Takes the files down after each call that has changed them.
struct Tape {
    states: Vec<(Files, BTreeSet<PathBuf>)>,
    /// Files whose content is on the disk.
    synced: BTreeSet<PathBuf>,
}

impl Tape {
    fn start() -> Result<Self> {
        Ok(Self { states: vec![(files()?, BTreeSet::new())], synced: BTreeSet::new() })
    }

    /// Every state as it was, and with what was not synced lost in each file that this operation has written.
    fn losses(self, at: &str, live: &BTreeSet<String>) -> Vec<Loss> {
        let first = self.states[0].0.clone();
        let mut losses = Vec::new();
        for (number, (files, synced)) in self.states.into_iter().enumerate() {
            let what = format!("write {number} of {at}");
            for (path, content) in &files {
                let written = first.get(path) != Some(content) && !synced.contains(path);
                let Some(content) =
                    content.as_ref().filter(|content| written && !content.is_empty())
                else {
                    continue;
                };
                for (how, length) in [("is empty", 0), ("is cut off", content.len() / 2)] {
                    let mut files = files.clone();
                    files.insert(path.clone(), Some(content[..length].to_vec()));
                    let what = format!("{what}, where {} {how}", path.display());
                    losses.push(Loss { what, files, live: live.clone() });
                }
            }
            losses.push(Loss { what, files, live: live.clone() });
        }
        losses
    }
}

impl Watch for Tape {
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
        // Not in the middle of a file that vanishes: its own exit comes next.
        let Ok(now) = files() else { return };
        if self.states.last().is_none_or(|(last, _)| *last != now) {
            self.states.push((now, self.synced.clone()));
        }
    }
}

/// Everything below [`STATE`].
fn files() -> Result<Files> {
    let mut found = Files::new();
    list(Path::new(STATE), &mut found)?;
    Ok(found)
}

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

/// Makes these files of what is below [`STATE`].
fn restore(files: &Files) -> Result<()> {
    for entry in fs::read_dir(STATE)? {
        fs::remove_dir_all(entry?.path())?;
    }
    for (path, content) in files {
        let path = Path::new(STATE).join(path);
        match content {
            None => fs::create_dir(&path),
            Some(content) => fs::write(&path, content),
        }
        .with_context(|| format!("restore {}", path.display()))?;
    }
    Ok(())
}

/// The files that belong to an attachment.
fn left() -> Result<Vec<PathBuf>> {
    let of_network = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.starts_with("networks/.index")
            || path.starts_with("locks/networks")
            || path.starts_with("locks/gates")
            || name == "lock"
            || name.starts_with("last_reserved_ip.")
    };
    let mut files = files()?;
    files.retain(|path, content| content.is_some() && !of_network(path));
    Ok(files.into_keys().collect())
}
