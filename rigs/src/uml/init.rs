//! The first process inside User-Mode Linux: sets up the system, runs the job, powers off.

use std::{
    net::{Ipv6Addr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use rustix::{
    mount::{UnmountFlags, mount_bind, unmount},
    process::pivot_root,
    system::{RebootCommand, finit_module, reboot, uname},
    termios::{OptionalActions, OutputModes, tcdrain, tcgetattr, tcsetattr},
};
use xtask::program;

use super::{EXIT_CODE, JOB, Job};
use crate::mounts::{mount, mount_overlay};

/// Name of the hidden command.
pub(crate) const INIT: &str = "uml-init";

/// An empty directory beside the job, for the first mount.
pub(super) const SCRATCH: &str = "scratch";

/// Path of the directory with the job in the new root.
const SHARED: &str = "/run/uml";

/// Directory of the modules in Debian's package.
const MODULES: &str = "/usr/lib/uml/modules";

/// Arguments on the kernel's command line.
#[derive(clap::Args)]
pub(crate) struct InitOptions {
    /// The directory with the job.
    shared: PathBuf,
}

/// Runs the job and powers off. Returns only outside User-Mode Linux.
pub(crate) fn run(options: &InitOptions) -> Result<ExitCode> {
    if !rustix::process::getpid().is_init() {
        bail!("{INIT} is the first process of User-Mode Linux and does nothing elsewhere");
    }
    let outcome = read_job(&options.shared)
        .and_then(|job| make_root(&options.shared, &job).and_then(|()| run_job(&job)));
    if let Err(error) = outcome {
        println!("error: inside User-Mode Linux: {error:#}");
    }
    // The console is slow. Output that is not written yet would be lost.
    let _ = tcdrain(std::io::stdout());
    // Silences the kernel's messages about the shutdown.
    let _ = fs::write("/proc/sys/kernel/printk", "0");
    reboot(RebootCommand::PowerOff).context("power off")?;
    bail!("the power stayed on")
}

/// Makes an overlay in memory over the host's files, mounts the usual file systems in it, and makes
/// it the root.
fn make_root(shared: &Path, job: &Job) -> Result<()> {
    let scratch = shared.join(SCRATCH);
    mount("tmpfs", &scratch, "mode=755")?;
    let root = scratch.join("root");
    fs::create_dir(&root)?;
    load_overlay()?;
    mount_overlay("/", &root, &scratch)?;
    let mount_below = |kind: &str, path: &str, options: &str| {
        let target = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(&target)?;
        mount(kind, &target, options)
    };
    mount_below("proc", "proc", "")?;
    mount_below("sysfs", "sys", "")?;
    mount_below("devtmpfs", "dev", "")?;
    mount_below("devpts", "dev/pts", "ptmxmode=666")?;
    mount_below("tmpfs", "dev/shm", "mode=1777")?;
    // State of the host's own programs would mislead.
    for directory in ["run", "var/lib/cni", "etc/cni"] {
        mount_below("tmpfs", directory, "mode=755")?;
    }
    // Changes in these directories reach the host.
    mount_below("hostfs", SHARED, &shared.display().to_string())?;
    if let Some(writable) = job.writable.as_ref().and_then(|path| path.to_str()) {
        mount_below("hostfs", writable, writable)?;
    }
    // modprobe, which the kernel calls, looks here.
    let modules = root.join("lib/modules");
    fs::create_dir_all(&modules)?;
    mount_bind(MODULES, &modules).with_context(|| format!("bind {MODULES} to /lib/modules"))?;

    std::env::set_current_dir(&root).context("enter the new root")?;
    pivot_root(".", ".").context("change the root")?;
    unmount(".", UnmountFlags::DETACH).context("unmount the old root")?;
    std::env::set_current_dir("/").context("enter the new root")
}

/// Loads the module of the overlay. modprobe cannot: /lib/modules exists only in the overlay.
fn load_overlay() -> Result<()> {
    let release = uname();
    let release = release.release().to_string_lossy();
    let path = format!("{MODULES}/{release}/kernel/fs/overlayfs/overlay.ko");
    finit_module(fs::File::open(&path)?, c"", 0).with_context(|| format!("load {path}"))
}

fn read_job(shared: &Path) -> Result<Job> {
    serde_json::from_slice(&fs::read(shared.join(JOB))?).context("read the job")
}

fn run_job(job: &Job) -> Result<()> {
    keep_line_ends()?;
    let (program, arguments) = job.command.split_first().context("the job has no command")?;
    let path = job.environment.get("PATH").map_or("", String::as_str);
    let path = format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin");
    let capture = |words: &str| {
        let mut words = words.split(' ');
        let mut command = Command::new(words.next().unwrap_or_default());
        program::capture(command.args(words).env("PATH", &path))
    };
    pass_tunables_to_modprobe()?;
    // IPv6 is a module that the first socket loads. Its addresses and settings then appear in every
    // existing namespace, which must not happen in the middle of a test.
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).context("load IPv6")?;
    capture("ip link set lo up")?;
    if job.in_use {
        const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
        fs::write(FORWARDING, "1")?;
        capture("ip netns add in-use")?;
        let copied = capture(&format!("unshare --net cat {FORWARDING}"))?;
        ensure!(copied.trim() == "1", "a new network namespace does not copy {FORWARDING}");
    }
    let status = Command::new(program)
        .args(arguments)
        .current_dir(&job.directory)
        .env_clear()
        .envs(&job.environment)
        .env("PATH", &path)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("start {program} in {}", job.directory.display()))?;
    // As in a shell: 128 plus the signal for a process that was killed.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    let code = status.code().or(signal.map(|signal| 128 + signal));
    let code = code.context("the command ended neither by itself nor by a signal")?;
    Ok(fs::write(Path::new(SHARED).join(EXIT_CODE), code.to_string())?)
}

/// Makes the kernel start modprobe with the tunables, where there are any. It does not pass on
/// variables of this process.
fn pass_tunables_to_modprobe() -> Result<()> {
    const SCRIPT: &str = "/run/modprobe-with-tunables";
    let [(name, value), ..] = super::start::tunables() else { return Ok(()) };
    fs::write(SCRIPT, format!("#!/bin/sh\n{name}='{value}' exec modprobe \"$@\"\n"))?;
    fs::set_permissions(SCRIPT, PermissionsExt::from_mode(0o755))?;
    Ok(fs::write("/proc/sys/kernel/modprobe", SCRIPT)?)
}

/// Keeps the console, which is a terminal, from ending lines with a carriage return.
fn keep_line_ends() -> Result<()> {
    let console = std::io::stdout();
    let mut modes = tcgetattr(&console).context("read the console's modes")?;
    modes.output_modes.remove(OutputModes::OPOST);
    tcsetattr(&console, OptionalActions::Now, &modes).context("set the console's modes")
}
