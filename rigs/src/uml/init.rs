//! The first process inside User-Mode Linux: makes a system of the bare kernel, runs the job, powers off.
//!
//! How it gets there and what becomes of the result is left to the module above.

use std::{
    ffi::CStr,
    fs::{self, File},
    net::{Ipv6Addr, UdpSocket},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount},
    process::pivot_root,
    system::{RebootCommand, finit_module, reboot, uname},
    termios::{OptionalActions, OutputModes, tcdrain, tcgetattr, tcsetattr},
};

use super::{EXIT_CODE, JOB, Job};

/// The name of the hidden task.
pub(crate) const INIT: &str = "uml-init";

/// An empty directory beside the job, for this module's first mount.
pub(super) const SCRATCH: &str = "scratch";

/// Where the directory with the job is found once the root has changed.
const SHARED: &str = "/run/uml";

/// Where Debian's package keeps the modules.
const MODULES: &str = "/usr/lib/uml/modules";

/// What the kernel's command line says.
#[derive(clap::Args)]
pub(crate) struct InitOptions {
    /// The directory with the job.
    shared: PathBuf,
}

/// Runs the job and powers off. Returns only if this is not User-Mode Linux at all.
pub(crate) fn run(options: &InitOptions) -> Result<ExitCode> {
    if !rustix::process::getpid().is_init() {
        bail!("{INIT} is the first process of User-Mode Linux and does nothing elsewhere");
    }
    if let Err(error) = read_job(&options.shared)
        .and_then(|job| make_root(&options.shared, &job).and_then(|()| run_job(&job)))
    {
        println!("error: inside User-Mode Linux: {error:#}");
    }
    // The console is slow: what is still on its way when the power goes would be lost.
    let _ = tcdrain(std::io::stdout());
    // Silences the kernel's own last words.
    let _ = fs::write("/proc/sys/kernel/printk", "0");
    reboot(RebootCommand::PowerOff).context("power off")?;
    bail!("the power stayed on")
}

/// Puts an overlay in memory over the host's files and the usual file systems into it, and makes that the root.
fn make_root(shared: &Path, job: &Job) -> Result<()> {
    let scratch = shared.join(SCRATCH);
    mounted("tmpfs", &scratch, "mode=755")?;
    let (upper, work, root) = (scratch.join("upper"), scratch.join("work"), scratch.join("root"));
    for directory in [&upper, &work, &root] {
        fs::create_dir(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    load_overlay()?;
    let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
    mounted("overlay", &root, &layers)?;

    mounted("proc", &root.join("proc"), "")?;
    mounted("sysfs", &root.join("sys"), "")?;
    mounted("devtmpfs", &root.join("dev"), "")?;
    mounted_in_new_directory("devpts", &root.join("dev/pts"), "ptmxmode=666")?;
    mounted_in_new_directory("tmpfs", &root.join("dev/shm"), "mode=1777")?;
    // State of the host's own programs would only mislead.
    mounted_in_new_directory("tmpfs", &root.join("run"), "mode=755")?;
    for directory in ["var/lib/cni", "etc/cni"] {
        mounted_in_new_directory("tmpfs", &root.join(directory), "mode=755")?;
    }
    // The ways back to the host: the directory of the job, and that which the job names, writable.
    let shared_inside = root.join(SHARED.trim_start_matches('/'));
    mounted_in_new_directory("hostfs", &shared_inside, &shared.display().to_string())?;
    if let Some(kept) = &job.kept {
        let inside = root.join(kept.strip_prefix("/").unwrap_or(kept));
        mounted_in_new_directory("hostfs", &inside, &kept.display().to_string())?;
    }
    // The kernel asks modprobe for what it lacks, and modprobe looks here.
    let modules = root.join("lib/modules");
    fs::create_dir_all(&modules).context("make /lib/modules")?;
    mount_bind(MODULES, &modules).with_context(|| format!("bind {MODULES} to /lib/modules"))?;

    std::env::set_current_dir(&root).context("enter the new root")?;
    pivot_root(".", ".").context("change the root")?;
    unmount(".", UnmountFlags::DETACH).context("let go of the old root")?;
    std::env::set_current_dir("/").context("enter the new root")
}

fn mounted(kind: &str, target: &Path, options: &str) -> Result<()> {
    let data = std::ffi::CString::new(options).context("mount options with a NUL")?;
    mount("none", target, kind, MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("mount {kind} at {} ({options})", target.display()))
}

fn mounted_in_new_directory(kind: &str, target: &Path, options: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("make {}", target.display()))?;
    mounted(kind, target, options)
}

/// Before there is an overlay there is no /lib/modules for modprobe, so this one module is loaded by hand.
fn load_overlay() -> Result<()> {
    let release = uname();
    let release = release.release().to_string_lossy();
    let path = format!("{MODULES}/{release}/kernel/fs/overlayfs/overlay.ko");
    let file = File::open(&path).with_context(|| format!("open {path}"))?;
    finit_module(&file, CStr::from_bytes_until_nul(b"\0").unwrap_or_default(), 0)
        .with_context(|| format!("load {path}"))
}

fn read_job(shared: &Path) -> Result<Job> {
    let job = fs::read(shared.join(JOB)).context("read the job")?;
    serde_json::from_slice(&job).context("read the job")
}

fn run_job(job: &Job) -> Result<()> {
    leave_line_ends_alone()?;
    let Some((program, arguments)) = job.command.split_first() else {
        bail!("the job has no command");
    };
    let path = format!(
        "{}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin",
        job.environment.get("PATH").map_or("", String::as_str)
    );
    pass_tunables_to_modprobe()?;
    load_ipv6()?;
    xtask::program::capture(
        Command::new("ip").args(["link", "set", "lo", "up"]).env("PATH", &path),
    )?;
    if job.in_use {
        take_into_use(&path)?;
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
    // As a shell says it: 128 and the signal for a process that was killed.
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    let code = status.code().or(signal.map(|signal| 128 + signal));
    let code = code.context("the command ended neither by itself nor by a signal")?;
    fs::write(Path::new(SHARED).join(EXIT_CODE), code.to_string()).context("write the exit code")
}

/// Turns forwarding on, which new network namespaces copy, and makes a named network namespace.
fn take_into_use(path: &str) -> Result<()> {
    const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
    fs::write(FORWARDING, "1").with_context(|| format!("write {FORWARDING}"))?;
    xtask::program::capture(Command::new("ip").args(["netns", "add", "in-use"]).env("PATH", path))?;
    let copied = xtask::program::capture(
        Command::new("unshare").args(["--net", "cat", FORWARDING]).env("PATH", path),
    )?;
    ensure!(copied.trim() == "1", "a new network namespace does not copy {FORWARDING}");
    Ok(())
}

/// The kernel starts modprobe with variables of its own. It has to have that of this process, where there is one.
fn pass_tunables_to_modprobe() -> Result<()> {
    const SCRIPT: &str = "/run/modprobe-with-tunables";
    let [(name, value), ..] = super::start::tunables() else { return Ok(()) };
    fs::write(SCRIPT, format!("#!/bin/sh\n{name}='{value}' exec modprobe \"$@\"\n"))
        .and_then(|()| fs::set_permissions(SCRIPT, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::write("/proc/sys/kernel/modprobe", SCRIPT))
        .context("have the kernel start modprobe with the variable GLIBC_TUNABLES")
}

/// IPv6 is a module, which the first socket brings in; its addresses and settings then appear in every namespace
/// that there is by then, in the middle of a test.
fn load_ipv6() -> Result<()> {
    UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).context("load IPv6")?;
    Ok(())
}

/// The console is a terminal and would end every line with a carriage return.
fn leave_line_ends_alone() -> Result<()> {
    let console = std::io::stdout();
    let mut modes = tcgetattr(&console).context("read the console's modes")?;
    modes.output_modes.remove(OutputModes::OPOST);
    tcsetattr(&console, OptionalActions::Now, &modes).context("set the console's modes")
}
