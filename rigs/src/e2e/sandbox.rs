//! The private node: namespaces of its own for the network, mounts, processes and IPC, in which containerd, the
//! plugins and their state find their usual places empty.
//!
//! The process namespace is what makes the end clean: when its first process ends, or the task that started it
//! does, by whatever signal, the kernel ends containerd, its shims and the containers with it.
//!
//! # What the mounts are for
//!
//! - `/run`, `/var/lib` and `/opt` are empty: containerd's shims have their sockets under `/run/containerd/s`
//!   whatever its configuration says, and `ctr run --cni` takes its plugins from `/opt/cni/bin` alone.
//! - `/etc` is an overlay, because `ctr run --cni` reads `/etc/cni/net.d` and the rest of it is needed as it is.
//! - `/usr/lib/cni`, if the machine has it, is hidden, so that no plugin is taken from there by accident.
//! - `/sys` is new, because the old one shows the host's interfaces; the control groups are carried over, as runc
//!   needs them, and where a machine has none mounted, version 2 is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, mount, mount_bind, mount_bind_recursive};

use xtask::program;

/// Where `ctr run --cni` looks for its network, and for the plugins.
pub(super) const NETWORKS: &str = "/etc/cni/net.d";
pub(super) const PLUGINS: &str = "/opt/cni/bin";

/// Where the CRI service is told to look for the network of pods.
pub(super) const POD_NETWORKS: &str = "/etc/cni/pods.d";

/// What is in the private node.
pub(super) struct Node {
    /// For whatever the run writes.
    pub(super) directory: PathBuf,
    /// The sets of plugins, where they can be found in here.
    pub(super) plugins: [PathBuf; 2],
    /// `BuildKit`'s programs.
    pub(super) buildkit: PathBuf,
}

/// This program, to be started in namespaces of its own; `directory` is for the run's files.
pub(super) fn command(directory: &Path) -> Result<Command> {
    let this_program = directory.join("rigs");
    program::copy_self(&this_program)?;
    let mut command = Command::new("setpriv");
    command
        // With this task goes `unshare`, and with `unshare` everything in there.
        .args(["--pdeathsig", "KILL"])
        .args(["unshare", "--mount", "--net", "--pid", "--ipc"])
        .args(["--fork", "--kill-child", "--mount-proc"])
        .arg(this_program);
    Ok(command)
}

/// A hang must become a failure; a run takes a small part of this.
const TIME_LIMIT: Duration = Duration::from_secs(900);

/// Furnishes the namespaces.
pub(super) fn enter(directory: &Path, [tested, go, buildkit]: [&PathBuf; 3]) -> Result<Node> {
    if !rustix::process::getpid().is_init() {
        bail!("{} is started by `cargo xtask e2e` and does nothing elsewhere", super::INSIDE);
    }
    std::thread::spawn(|| {
        std::thread::sleep(TIME_LIMIT);
        println!("FAILED  not done after {} seconds", TIME_LIMIT.as_secs());
        // As the first process it takes all the others along.
        std::process::exit(1);
    });
    let sets = [("tested", tested), ("go", go), ("buildkit-programs", buildkit)];
    let [tested, go, buildkit] = sets.map(|(name, set)| {
        // A place of its own for each set, as the mounts below hide some of the places they come from.
        let place = directory.join(name);
        fs::create_dir(&place)
            .and_then(|()| Ok(mount_bind(set, &place)?))
            .with_context(|| format!("bind {} to {}", set.display(), place.display()))?;
        anyhow::Ok(place)
    });
    renew_sys(&directory.join("cgroup"))?;
    for empty in ["/run", "/var/lib", "/opt"] {
        mounted("tmpfs", Path::new(empty), "mode=755")?;
    }
    overlay_etc(&directory.join("etc"))?;
    let usual = Path::new(xtask::packages::GO_PLUGINS_DIR);
    if usual.exists() {
        mounted("tmpfs", usual, "mode=755")?;
    }
    for directory in [NETWORKS, POD_NETWORKS, "/opt/cni"] {
        fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
    }
    program::capture(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    // A runtime's node forwards between its containers; the plugins see to the rest themselves.
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("turn on forwarding")?;
    Ok(Node { directory: directory.to_path_buf(), plugins: [tested?, go?], buildkit: buildkit? })
}

/// Makes a set of plugins the one that `ctr run --cni` finds.
pub(super) fn use_plugins(set: &Path) -> Result<()> {
    if Path::new(PLUGINS).is_symlink() {
        fs::remove_file(PLUGINS).with_context(|| format!("remove {PLUGINS}"))?;
    }
    std::os::unix::fs::symlink(set, PLUGINS)
        .with_context(|| format!("link {PLUGINS} to {}", set.display()))
}

fn renew_sys(kept: &Path) -> Result<()> {
    const CGROUP: &str = "/sys/fs/cgroup";
    let has_groups = fs::read_dir(CGROUP).is_ok_and(|mut entries| entries.next().is_some());
    fs::create_dir(kept).with_context(|| format!("make {}", kept.display()))?;
    if has_groups {
        mount_bind_recursive(CGROUP, kept)
            .with_context(|| format!("bind {CGROUP} to {}", kept.display()))?;
    }
    mounted("sysfs", Path::new("/sys"), "")?;
    if has_groups {
        mount_bind_recursive(kept, CGROUP)
            .with_context(|| format!("bind {} to {CGROUP}", kept.display()))
    } else {
        mounted("cgroup2", Path::new(CGROUP), "")
    }
}

fn overlay_etc(scratch: &Path) -> Result<()> {
    let [upper, work] = ["upper", "work"].map(|name| scratch.join(name));
    fs::create_dir(scratch).with_context(|| format!("make {}", scratch.display()))?;
    // An overlay on an overlay is refused when it would be the upper one, so memory is.
    mounted("tmpfs", scratch, "mode=755")?;
    for directory in [&upper, &work] {
        fs::create_dir(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    let layers = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    mounted("overlay", Path::new("/etc"), &layers)
}

fn mounted(kind: &str, target: &Path, options: &str) -> Result<()> {
    let data = std::ffi::CString::new(options).context("mount options with a NUL")?;
    mount("none", target, kind, MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("mount {kind} at {} ({options})", target.display()))
}
