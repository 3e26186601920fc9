//! The directory, the processes and the control groups of a cluster, seen from the machine.
//!
//! Everything of a cluster runs in one process namespace, whose first process is this program. If
//! that process ends, the kernel ends all others, and with them their mounts and network
//! namespaces. Only the directory and the control groups remain; [`remove`] removes them.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, kill_process};

use crate::daemon::until_ok;

/// Parent and prefix of the directories. The parent is on a disk and survives a reboot.
const PARENT: &str = "/var/tmp";
const PREFIX: &str = "rscni-kubernetes-";

const CGROUPS: &str = "/sys/fs/cgroup";

/// Files in the directory: process id and start time of the first process, and the mark of a
/// cluster that stays.
const PROCESS: &str = "process";
const KEPT: &str = "kept";
/// File that ends the wait for a kept cluster. It says whether the scenarios passed.
const FINISHED: &str = "finished";

/// Timeout of the end of all processes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A cluster that is removed when the value is dropped, unless it is kept.
pub(super) struct Site {
    directory: PathBuf,
    keep: bool,
}

impl Site {
    pub(super) fn new(keep: bool) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(PARENT);
        let directory = directory.with_context(|| format!("make a directory in {PARENT}"))?.keep();
        Ok(Self { directory, keep })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts a program in new namespaces and waits for its end or, if the cluster is kept, for
    /// [`finish`]. Returns whether the scenarios passed. A signal that ends this program ends
    /// everything in the namespaces first.
    pub(super) fn run(&self, program: &Path, arguments: &[&str]) -> Result<bool> {
        let signals = ending_signals();
        signals.thread_block().context("block signals")?;
        let mut command = self.command(program);
        if self.keep {
            // Programs that read this output must see its end, although the cluster stays.
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
        }
        let mut child = command.args(arguments).spawn().context("start unshare")?;
        if let (Some(mut output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) {
            std::thread::spawn(move || io::copy(&mut output, &mut io::stdout()));
            std::thread::spawn(move || io::copy(&mut errors, &mut io::stderr()));
        }
        fs::write(self.directory.join(PROCESS), Process::of(child.id())?.to_string())?;
        let process = Pid::from_child(&child);
        let is_interrupted = Arc::new(AtomicBool::new(false));
        let for_thread = Arc::clone(&is_interrupted);
        std::thread::spawn(move || {
            if signals.wait().is_ok() {
                for_thread.store(true, Ordering::Relaxed);
                // It may have ended.
                let _ = kill_process(process, rustix::process::Signal::KILL);
            }
        });
        let passed = self.wait(&mut child)?;
        ensure!(!is_interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(passed)
    }

    fn command(&self, program: &Path) -> Command {
        // A kept cluster survives this program and its terminal.
        let (first, options): (_, &[&str]) =
            if self.keep { ("setsid", &[]) } else { ("setpriv", &["--pdeathsig", "KILL"]) };
        let mut command = Command::new(first);
        command.args(options).args(["unshare", "--mount", "--net", "--pid", "--ipc"]);
        command.args(["--fork", "--kill-child", "--mount-proc"]).arg(program);
        command
    }

    fn wait(&self, child: &mut Child) -> Result<bool> {
        if !self.keep {
            return Ok(child.wait().context("wait for the cluster")?.success());
        }
        loop {
            if let Ok(passed) = fs::read_to_string(self.directory.join(FINISHED)) {
                fs::write(self.directory.join(KEPT), "")?;
                return Ok(passed == PASSED);
            }
            if let Some(status) = child.try_wait()? {
                bail!("the cluster ended early ({status})");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Writes the programs `kubectl` and `node` into the directory, which enter a kept cluster.
    pub(super) fn write_entrances(&self) -> Result<()> {
        let process = Process::read(&self.directory)?.id;
        let enter = format!(
            "exec nsenter --target {process} --mount --net --ipc \
             --pid=/proc/{process}/ns/pid_for_children"
        );
        for (name, script) in [
            ("kubectl", format!("{enter} {} \"$@\"", super::kubectl::WITH_CONFIG)),
            ("node", format!("name=$1; shift\n{enter} sh /mnt/cluster/$name/enter \"$@\"")),
        ] {
            let path = self.directory.join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        }
        Ok(())
    }
}

const PASSED: &str = "passed";

/// Ends the wait for a kept cluster.
pub(super) fn finish(directory: &Path, passed: bool) -> Result<()> {
    let new = directory.join("finished.new");
    fs::write(&new, if passed { PASSED } else { "failed" })?;
    Ok(fs::rename(new, directory.join(FINISHED))?)
}

impl Drop for Site {
    fn drop(&mut self) {
        if self.directory.join(KEPT).exists() {
            return;
        }
        if let Err(error) = remove(&self.directory) {
            eprintln!("error: remove {}: {error:#}", self.directory.display());
        }
    }
}

/// The signals that end this program by default.
fn ending_signals() -> SigSet {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals
}

/// Accepts the signals that [`Site::run`] has blocked for the programs that it starts.
pub(super) fn accept_signals() -> Result<()> {
    ending_signals().thread_unblock().context("unblock signals")
}

/// Removes clusters that are kept, and what is left of others whose processes have ended.
pub(super) fn remove_all() -> Result<()> {
    let mut is_running = false;
    for entry in fs::read_dir(PARENT)? {
        let directory = entry?.path();
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with(PREFIX) {
            continue;
        }
        let is_alive = Process::read(&directory).is_ok_and(|process| process.is_alive());
        if is_alive && !directory.join(KEPT).exists() {
            println!("{}: left alone, its scenarios are running", directory.display());
            is_running = true;
            continue;
        }
        remove(&directory).with_context(|| format!("remove {}", directory.display()))?;
        println!("{}: removed", directory.display());
    }
    if is_running {
        bail!("a cluster is in use; stop `cargo xtask e2e kubernetes`, which also removes it");
    }
    Ok(())
}

/// Ends the processes of a cluster, and removes its control groups and its directory.
fn remove(directory: &Path) -> Result<()> {
    if let Ok(process) = Process::read(directory)
        && process.is_alive()
    {
        let id = Pid::from_raw(process.id.cast_signed()).context("a process id is positive")?;
        kill_process(id, rustix::process::Signal::KILL).context("end its processes")?;
    }
    let name = directory.file_name().context("a directory has a name")?;
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        // It is busy until the kernel has ended the last process in it.
        until_ok(TIMEOUT, || remove_cgroup(&group))?;
    }
    Ok(fs::remove_dir_all(directory)?)
}

/// The hierarchies of control groups: directories of version 1, or the one of version 2.
pub(super) fn hierarchies() -> Result<Vec<PathBuf>> {
    if Path::new(CGROUPS).join("cgroup.procs").exists() {
        return Ok(vec![CGROUPS.into()]);
    }
    let mut hierarchies = Vec::new();
    for entry in fs::read_dir(CGROUPS)? {
        let path = entry?.path();
        // The others are links.
        if path.join("cgroup.procs").exists() && !path.is_symlink() {
            hierarchies.push(path);
        }
    }
    Ok(hierarchies)
}

/// Removes a control group and those in it. It is not an error if the group does not exist.
pub(super) fn remove_cgroup(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(group)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_cgroup(&path)?;
        }
    }
    Ok(fs::remove_dir(group)?)
}

/// A process, identified by its start time too, since ids are reused.
#[derive(PartialEq, Eq, Debug)]
struct Process {
    id: u32,
    start: u64,
}

impl Process {
    fn of(id: u32) -> Result<Self> {
        let line = fs::read_to_string(format!("/proc/{id}/stat"))?;
        // The name in brackets may contain spaces.
        let fields = line.rsplit_once(')').context("a process has a name")?.1;
        let start = fields.split_whitespace().nth(19).context("a process has a start time")?;
        Ok(Self { id, start: start.parse()? })
    }

    fn read(directory: &Path) -> Result<Self> {
        let text = fs::read_to_string(directory.join(PROCESS))?;
        let (id, start) = text.split_once(' ').context("a process id and a start time")?;
        Ok(Self { id: id.parse()?, start: start.parse()? })
    }

    fn is_alive(&self) -> bool {
        Self::of(self.id).is_ok_and(|now| now == *self)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_the_id_of_an_earlier_one_is_not_taken_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let this = Process::of(std::process::id()).unwrap();
        fs::write(directory.path().join(PROCESS), this.to_string()).unwrap();
        let read = Process::read(directory.path()).unwrap();
        assert!(read == this && read.is_alive());
        assert!(!Process { start: this.start + 1, ..this }.is_alive());
    }

    #[test]
    fn groups_are_removed_with_those_inside() {
        let directory = tempfile::tempdir().unwrap();
        let group = directory.path().join("group");
        fs::create_dir_all(group.join("a/b")).unwrap();
        remove_cgroup(&group).unwrap();
        assert!(!group.exists());
        remove_cgroup(&group).unwrap();
    }
}
