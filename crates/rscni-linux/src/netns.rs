//! Network namespaces: opening, creating and entering them.
//!
//! The calling thread enters a namespace, does its work and returns. Code that only needs a socket
//! there (see [`Netlink::open_in`](crate::Netlink::open_in)) keeps the socket instead. If the
//! thread could not return, a short-lived thread does the work.

use std::{
    fs::OpenOptions,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    panic,
    path::{Path, PathBuf},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, open},
    io::Errno,
    mount::{UnmountFlags, mount_bind, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{Error, Result, kernel_interface};

const OWN: &str = "/proc/thread-self/ns/net";
/// The magic number of the namespace file system (`NSFS_MAGIC` in `linux/magic.h`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// An open network namespace, which stays alive as long as this value.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    path: Option<PathBuf>,
}

impl Netns {
    /// Opens the namespace at `path`, such as `/run/netns/a` or `/proc/1/ns/net`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the path does not exist, [`Error::Invalid`] if it is not a namespace.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // `NONBLOCK`: opening a named pipe would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = open(path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT | Errno::NOTDIR => {
                Error::not_found(format!("network namespace {}", path.display()))
            }
            errno => Error::io(format!("open network namespace {}", path.display()), errno),
        })?;
        let file_system = fstatfs(&fd)
            .map_err(|errno| Error::io(format!("examine {}", path.display()), errno))?
            .f_type;
        // Before Linux 3.19, namespaces were files of procfs.
        let magic = u64::try_from(file_system).unwrap_or_default();
        if magic != NSFS_MAGIC && file_system != PROC_SUPER_MAGIC {
            return Err(Error::invalid(path.display().to_string(), "not a network namespace"));
        }
        Ok(Self { fd, path: Some(path.to_owned()) })
    }

    /// Opens the namespace of the calling thread.
    pub fn current() -> Result<Self> {
        // The path depends on the thread, so it is not kept.
        Ok(Self { path: None, ..Self::open(OWN)? })
    }

    /// Creates a namespace without a name. It lives until this value is dropped and nothing else
    /// uses it.
    pub fn create() -> Result<Self> {
        on_new_thread("create a network namespace", || {
            kernel_interface::unshare_network()
                .map_err(|errno| Error::io("create a network namespace", errno))?;
            Self::current()
        })?
    }

    /// Binds the namespace to a new file at `path`, as `ip netns add` does.
    ///
    /// # Errors
    ///
    /// Fails if the file exists or the mount is refused (it needs `CAP_SYS_ADMIN`). No file is left
    /// then.
    pub fn bind(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |error: std::io::Error| {
            Error::io(format!("bind network namespace to {}", path.display()), error)
        };
        // Read-only, whatever the umask is.
        OpenOptions::new().write(true).create_new(true).mode(0o444).open(path).map_err(failed)?;
        let own = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        mount_bind(own, path).map_err(|errno| {
            // The error of the mount is the one to report.
            let _ = std::fs::remove_file(path);
            failed(errno.into())
        })
    }

    /// Undoes [`Netns::bind`].
    pub fn unbind(path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let failed = |error: std::io::Error| {
            Error::io(format!("unbind network namespace {}", path.display()), error)
        };
        unmount(path, UnmountFlags::DETACH).map_err(|errno| failed(errno.into()))?;
        std::fs::remove_file(path).map_err(failed)
    }

    /// Runs `f` inside the namespace.
    ///
    /// The calling thread enters it and returns afterwards. If it could not return, which takes
    /// `CAP_SYS_ADMIN` over its own namespace too, `f` runs on a temporary thread.
    ///
    /// A panic in `f` propagates to the caller.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let go = || {
            move_into(self).map_err(|errno| {
                Error::io_with(
                    "CAP_SYS_ADMIN",
                    format!("enter network namespace {}", self.path().display()),
                    errno,
                )
            })
        };
        let Some(_guard) = ReturnGuard::probe() else {
            let action = format!("enter network namespace {}", self.path().display());
            return on_new_thread(&action, || go().map(|()| f()))?;
        };
        go()?;
        Ok(f())
    }

    /// Returns a path by which this process, and others with access to it, can open the namespace:
    /// the one it was opened by, or `/proc/<pid>/fd/<n>`.
    pub fn path(&self) -> PathBuf {
        match &self.path {
            Some(path) => path.clone(),
            None => format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into(),
        }
    }

    /// Whether both are the same namespace, whatever their paths.
    pub fn is_same(&self, other: &Self) -> Result<bool> {
        let identity = |netns: &Self| {
            fstat(netns).map(|stat| (stat.st_dev, stat.st_ino)).map_err(|errno| {
                let path = netns.path();
                Error::io(format!("examine network namespace {}", path.display()), errno)
            })
        };
        Ok(identity(self)? == identity(other)?)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn move_into(netns: impl AsFd) -> rustix::io::Result<()> {
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
}

/// The number of attempts to return; the kernel may be short of memory.
const RETURN_ATTEMPTS: usize = 5;

/// Returns the thread to its original namespace when dropped.
struct ReturnGuard(OwnedFd);

impl ReturnGuard {
    /// Returns `None` if the thread could not return; probed by re-entering the current namespace.
    fn probe() -> Option<Self> {
        let own = open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        move_into(&own).ok()?;
        Some(Self(own))
    }
}

impl Drop for ReturnGuard {
    fn drop(&mut self) {
        // Re-entering was allowed before, so a failure may be temporary, such as a lack of memory.
        let again = |_| move_into(&self.0).ok();
        if let Err(errno) = move_into(&self.0)
            && (0..RETURN_ATTEMPTS).find_map(again).is_none()
        {
            // Anything else would run in the wrong namespace.
            eprintln!("return from a network namespace: {errno}");
            std::process::abort();
        }
    }
}

fn on_new_thread<T: Send>(action: &str, f: impl FnOnce() -> T + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)
            .map_err(|error| Error::io(format!("{action}: start a thread"), error))?;
        thread.join().or_else(|panicked| panic::resume_unwind(panicked))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_namespace_is_not_found() {
        let error = Netns::open("/run/netns/no-such-namespace").unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }

    #[test]
    fn regular_file_is_not_a_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Netns::open(file.path()).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }

    #[test]
    fn named_pipe_is_rejected_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        let error = Netns::open(pipe).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }

    #[test]
    fn namespace_is_the_same_by_any_path() {
        let own = Netns::current().unwrap();
        assert!(own.is_same(&Netns::open("/proc/self/ns/net").unwrap()).unwrap());
        assert!(own.is_same(&Netns::open(own.path()).unwrap()).unwrap());
    }
}
