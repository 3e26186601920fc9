//! Creates the private network: namespaces, and the file system inside.
//!
//! Changes do not reach outside, because the mount namespace is private. `/run`, `/var/run` and
//! `/var/lib/cni` are empty and in memory, and so are `/etc/cni` and `/opt/cni` where they exist.
//! `/sys` shows this network. Everything else is as outside. [`crate::run()`] brings a test here.
//!
//! Sysctls and umask do not depend on the machine: [`settings`] sets them.

use std::{
    fmt::Write,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::sched::CloneFlags;
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change},
};

use crate::{Lab, settings};

/// An error of creating the private network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// The process has more than one thread, and the kernel moves only whole processes into a user
    /// namespace.
    #[error(
        "enter a private network: this process has {0} threads; call this first, while there is one"
    )]
    Threads(usize),
    /// The kernel refused the namespaces.
    #[error("enter a private network: {what}: {source}\n{advice}")]
    Refused {
        /// Action that failed.
        what: &'static str,
        /// Error of the kernel.
        source: io::Error,
        /// Settings that may have to change on this system.
        advice: String,
    },
    /// A mount, or a file in one.
    #[error("prepare the private network: {what} {}: {source}", path.display())]
    Files {
        /// Action that failed.
        what: &'static str,
        /// File or directory.
        path: PathBuf,
        /// Error of the kernel.
        source: io::Error,
    },
    /// The settings of the new network namespace.
    #[error("prepare the private network: set sysctl {source}")]
    Settings {
        /// Setting, and the error of the kernel.
        source: io::Error,
    },
    /// The network inside.
    #[error("prepare the private network: {what}: {source}")]
    Network {
        /// Action that failed.
        what: &'static str,
        /// Error of the kernel.
        source: rscni_linux::Error,
    },
}

/// Moves this process into user, network and mount namespaces of its own, in which it is root, and
/// returns the [`Lab`]. It cannot return. This is for programs other than tests.
///
/// ```
/// let lab = rscni_test::enter_private_network()?;
/// let a = lab.container("a");
/// lab.host().ping("127.0.0.1");
/// println!("{}", lab.snapshot());
/// # Ok::<(), rscni_test::EnterError>(())
/// ```
///
/// # Errors
///
/// [`EnterError::Threads`] if the process has started a thread, [`EnterError::Refused`] with advice
/// if the system allows no user namespaces, and the others if setting one up fails.
pub fn enter_private_network() -> Result<Lab, EnterError> {
    let threads = threads();
    if threads != 1 {
        return Err(EnterError::Threads(threads));
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    nix::sched::unshare(
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS,
    )
    .map_err(|errno| refused("make user, network and mount namespaces", errno.into()))?;
    // Without privileges, the kernel permits a group mapping only after setgroups is denied.
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {} 1", user.as_raw())),
        ("/proc/self/gid_map", format!("0 {} 1", group.as_raw())),
    ] {
        std::fs::write(file, text)
            .map_err(|source| refused("become root in the user namespace", source))?;
    }
    prepare()
}

/// Number of threads of this process.
pub(crate) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn refused(what: &'static str, source: io::Error) -> EnterError {
    EnterError::Refused { what, source, advice: what_to_enable() }
}

/// Describes the settings of this system that may prevent user namespaces.
pub(crate) fn what_to_enable() -> String {
    let setting = |name: &str| {
        std::fs::read_to_string(Path::new("/proc/sys").join(name))
            .map(|text| text.trim().to_owned())
            .ok()
    };
    let mut advice = String::new();
    for (name, bad, good) in [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "15000"),
        ("user/max_net_namespaces", "0", "15000"),
        ("user/max_mnt_namespaces", "0", "15000"),
    ] {
        if setting(name).as_deref() == Some(bad) {
            let name = name.replace('/', ".");
            let _ = writeln!(advice, "{name} is {bad}; allow it: sysctl -w {name}={good}");
        }
    }
    if advice.is_empty() {
        advice.push_str(
            "Tests need user, network and mount namespaces (`unshare -Urnm true` must work). If this is a \
             container, its seccomp or AppArmor profile forbids them; \
             `--security-opt seccomp=unconfined --security-opt apparmor=unconfined` allows them.\n",
        );
    }
    advice
}

/// Sets up the namespaces that this process has just entered.
pub(crate) fn prepare() -> Result<Lab, EnterError> {
    settings::reset_umask();
    let root = Path::new("/");
    mount_change(root, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| refused("keep mounts private", errno.into()))?;
    fresh(Path::new("/run"))?;
    if !same_directory("/run", "/var/run") {
        fresh(Path::new("/var/run"))?;
    }
    fresh(Path::new("/var/lib/cni"))?;
    for path in ["/etc/cni", "/opt/cni"].map(Path::new) {
        if path.is_dir() {
            fresh(path)?;
        }
    }
    settings::reset_sysctls().map_err(|source| EnterError::Settings { source })?;
    // In most containers /sys is masked, and the kernel refuses a new mount. Few plugins read /sys.
    let _ = mount(
        "sysfs",
        "/sys",
        "sysfs",
        MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
        None,
    );
    Lab::new()
}

fn same_directory(a: &str, b: &str) -> bool {
    matches!((std::fs::canonicalize(a), std::fs::canonicalize(b)), (Ok(a), Ok(b)) if a == b)
}

/// Makes `path` an empty directory in memory. If it does not exist, it is created even if its
/// parent has another owner.
fn fresh(path: &Path) -> Result<(), EnterError> {
    if !path.is_dir() {
        let mut parent = path;
        while !parent.is_dir() {
            parent = parent.parent().unwrap_or(Path::new("/"));
        }
        make_writable(parent)?;
        std::fs::create_dir_all(path).map_err(files("make", path))?;
    }
    // Symbolic links in /run are kept, because programs may be found through them (NixOS).
    let links = entries(path)?.into_iter().filter(|entry| entry.kind == Kind::Link);
    let links: Vec<_> = links
        .map(|entry| std::fs::read_link(path.join(&entry.name)).map(|to| (entry.name, to)))
        .collect::<Result<_, _>>()
        .map_err(files("read", path))?;
    in_memory(path)?;
    for (name, to) in links {
        std::os::unix::fs::symlink(to, path.join(name)).map_err(files("link in", path))?;
    }
    Ok(())
}

fn in_memory(path: &Path) -> Result<(), EnterError> {
    mount("rscni-test", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))
        .map_err(|errno| files("mount a tmpfs on", path)(errno.into()))
}

/// Covers a directory with one in memory that has the same entries, mounted from beneath it. Unlike
/// an overlay, this works on all file systems.
fn make_writable(path: &Path) -> Result<(), EnterError> {
    let below =
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| files("open", path)(errno.into()))?;
    let under = PathBuf::from(format!("/proc/self/fd/{}", below.as_raw_fd()));
    let held = entries(path)?;
    in_memory(path)?;
    for Entry { name, kind } in held {
        let (from, to) = (under.join(&name), path.join(&name));
        match kind {
            Kind::Link => {
                std::fs::read_link(&from).and_then(|target| std::os::unix::fs::symlink(target, &to))
            }
            Kind::Directory => {
                std::fs::create_dir(&to).and_then(|()| Ok(mount_bind_recursive(&from, &to)?))
            }
            Kind::File => {
                std::fs::write(&to, "").and_then(|()| Ok(mount_bind_recursive(&from, &to)?))
            }
        }
        .map_err(files("keep in sight", &to))?;
    }
    Ok(())
}

struct Entry {
    name: std::ffi::OsString,
    kind: Kind,
}

#[derive(PartialEq)]
enum Kind {
    Directory,
    Link,
    File,
}

fn entries(path: &Path) -> Result<Vec<Entry>, EnterError> {
    let read = || -> io::Result<Vec<Entry>> {
        std::fs::read_dir(path)?
            .map(|entry| {
                let entry = entry?;
                let kind = entry.file_type()?;
                let kind = match () {
                    () if kind.is_symlink() => Kind::Link,
                    () if kind.is_dir() => Kind::Directory,
                    () => Kind::File,
                };
                Ok(Entry { name: entry.file_name(), kind })
            })
            .collect()
    };
    read().map_err(files("list", path))
}

/// Returns a function for `map_err` that makes the error of a file.
pub(crate) fn files(what: &'static str, path: &Path) -> impl Fn(io::Error) -> EnterError {
    move |source| EnterError::Files { what, path: path.to_owned(), source }
}
