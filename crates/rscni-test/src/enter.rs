//! Makes the private network: namespaces, and what the file system looks like from inside.
//!
//! Nothing here reaches outside: the mount namespace is private, `/run`, `/var/run` and `/var/lib/cni` are empty and
//! in memory, `/etc/cni` and `/opt/cni` too where they exist, and `/sys` shows this network. Everything else, the
//! executables and the home directories among them, stays where it is. How a test gets here is up to [`crate::run()`].
//!
//! Nothing from outside changes what a test sees: sysctls and umask are those of [`settings`].

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

/// Why there is no private network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// The process has more than one thread, and the kernel moves only whole processes into a user namespace.
    #[error(
        "enter a private network: this process has {0} threads; call this first, while there is one"
    )]
    Threads(usize),
    /// The kernel refused the namespaces.
    #[error("enter a private network: {what}: {source}\n{advice}")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
        /// What may have to be enabled on this system.
        advice: String,
    },
    /// A mount, or a file in one.
    #[error("prepare the private network: {what} {}: {source}", path.display())]
    Files {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The settings of the new network namespace.
    #[error("prepare the private network: set sysctl {source}")]
    Settings {
        /// Which setting, and what the kernel said.
        source: io::Error,
    },
    /// The network inside.
    #[error("prepare the private network: {what}: {source}")]
    Network {
        /// What was being done.
        what: &'static str,
        /// What the kernel said.
        source: rscni_linux::Error,
    },
}

/// Moves this process into user, network and mount namespaces of its own, in which it is root, and gives the
/// [`Lab`] there. There is no way back. For programs that want a private network and are no tests.
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
/// [`EnterError::Threads`] if the process has started a thread, [`EnterError::Refused`] with advice if the system
/// allows no user namespaces, and the others if one cannot be furnished.
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
    // The kernel lets a group be mapped without privilege only after setgroups is given up.
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

/// How many threads this process has.
pub(crate) fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

fn refused(what: &'static str, source: io::Error) -> EnterError {
    EnterError::Refused { what, source, advice: what_to_enable() }
}

/// Which settings of this system may be in the way of a user namespace, and what to do about them.
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

/// Furnishes the namespaces that this process has just entered.
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
    // Where the outer mount of /sys is masked, in most containers, the kernel refuses a new one. What little of a
    // plugin reads /sys does without.
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

/// Makes `path` an empty directory in memory. One that does not exist comes into being, though its parent
/// belongs to somebody else.
fn fresh(path: &Path) -> Result<(), EnterError> {
    if !path.is_dir() {
        let mut parent = path;
        while !parent.is_dir() {
            parent = parent.parent().unwrap_or(Path::new("/"));
        }
        make_writable(parent)?;
        std::fs::create_dir_all(path).map_err(files("make", path))?;
    }
    // The links that a distribution keeps in /run (NixOS its whole system) are part of how programs are found.
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

/// Covers a directory with one in memory that holds the same things, mounted from beneath it. An overlay would do the
/// same where the file system below allows one; this works on all of them.
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

/// The error for a file, for `map_err`.
pub(crate) fn files(what: &'static str, path: &Path) -> impl Fn(io::Error) -> EnterError {
    move |source| EnterError::Files { what, path: path.to_owned(), source }
}
