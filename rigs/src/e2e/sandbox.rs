//! The private node: network, mount, process and IPC namespaces in which containerd and the plugins
//! find their usual directories empty.
//!
//! When the first process of the process namespace ends, or the task that started it, the kernel
//! kills containerd, its shims and the containers.
//!
//! # Mounts
//!
//! - `/run`, `/var/lib` and `/opt` are empty. containerd's shims have their sockets in
//!   `/run/containerd/s` regardless of its configuration, and `ctr run --cni` takes plugins from
//!   `/opt/cni/bin` only.
//! - `/etc` is an overlay: `ctr run --cni` reads `/etc/cni/net.d`, and the rest is needed
//!   unchanged.
//! - `/usr/lib/cni` is hidden, so that no plugin is taken from it.
//! - `/sys` is new, since the old one shows the host's interfaces. The control groups, which runc
//!   needs, are bound from the old one; a machine without them gets version 2.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use rustix::mount::{mount_bind, mount_bind_recursive};
use xtask::{packages::GO_PLUGINS_DIR, program};

use crate::mounts::{mount, mount_overlay};

/// Directories in which `ctr run --cni` looks for networks and plugins.
pub(super) const NETWORKS: &str = "/etc/cni/net.d";
pub(super) const PLUGINS: &str = "/opt/cni/bin";

/// Directory of the CRI service's network.
pub(super) const POD_NETWORKS: &str = "/etc/cni/pods.d";

/// Time limit for a run that hangs.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// A command that starts this program in new namespaces.
pub(super) fn command(directory: &Path) -> Result<Command> {
    let this_program = directory.join("rigs");
    program::copy_self(&this_program)?;
    let mut command = Command::new("setpriv");
    command
        // Ends `unshare` and everything in the namespaces if this task ends.
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--ipc"])
        .args(["--fork", "--kill-child", "--mount-proc"])
        .arg(this_program);
    Ok(command)
}

/// Sets up the namespaces. Returns the paths inside of the plugins under test, the Go plugins and
/// `BuildKit`.
pub(super) fn enter(directory: &Path, sets: [&PathBuf; 3]) -> Result<[PathBuf; 3]> {
    if !rustix::process::getpid().is_init() {
        bail!("{} is started by `cargo xtask e2e` and does nothing elsewhere", super::INSIDE);
    }
    std::thread::spawn(|| {
        std::thread::sleep(TIME_LIMIT);
        println!("FAILED  not done after {} seconds", TIME_LIMIT.as_secs());
        // The end of the first process ends all others.
        std::process::exit(1);
    });
    let inside = ["tested", "go", "buildkit-programs"].map(|name| directory.join(name));
    // Bound to new directories, since the mounts below hide some of the old ones.
    for (set, inside) in sets.iter().zip(&inside) {
        fs::create_dir(inside)?;
        mount_bind(*set, inside)
            .with_context(|| format!("bind {} to {}", set.display(), inside.display()))?;
    }
    renew_sys(&directory.join("cgroup"))?;
    let empty = ["/run", "/var/lib", "/opt", GO_PLUGINS_DIR];
    for empty in empty.iter().map(Path::new).filter(|path| path.exists()) {
        mount("tmpfs", empty, "mode=755")?;
    }
    let etc = directory.join("etc");
    fs::create_dir(&etc)?;
    // The upper directory is in memory, since it may not be on another overlay.
    mount("tmpfs", &etc, "mode=755")?;
    mount_overlay("/etc", Path::new("/etc"), &etc)?;
    for directory in [NETWORKS, POD_NETWORKS, "/opt/cni"] {
        fs::create_dir_all(directory)?;
    }
    program::output_of("ip link set lo up")?;
    // The node forwards between containers, as runtimes expect.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    Ok(inside)
}

/// Makes `ctr run --cni` use a set of plugins.
pub(super) fn use_plugins(set: &Path) -> Result<()> {
    if Path::new(PLUGINS).is_symlink() {
        fs::remove_file(PLUGINS)?;
    }
    Ok(fs::os::unix::fs::symlink(set, PLUGINS)?)
}

/// Mounts a new `/sys` for the network namespace. It keeps the control groups through a bind mount
/// at `saved`, which is created.
pub(super) fn renew_sys(saved: &Path) -> Result<()> {
    const CGROUP: &str = "/sys/fs/cgroup";
    let has_groups = fs::read_dir(CGROUP).is_ok_and(|mut entries| entries.next().is_some());
    fs::create_dir(saved)?;
    if has_groups {
        mount_bind_recursive(CGROUP, saved).context("bind the control groups")?;
    }
    mount("sysfs", Path::new("/sys"), "")?;
    if has_groups {
        mount_bind_recursive(saved, CGROUP).context("bind the control groups")
    } else {
        mount("cgroup2", Path::new(CGROUP), "")
    }
}
