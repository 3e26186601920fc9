//! The socket of the daemon, its own or one from systemd, and its PID file.

use std::{
    io::ErrorKind,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rscni::Error;
use rustix::{
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
    },
    process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open},
};

use crate::state::state_file;

/// The first descriptor of socket activation (`sd_listen_fds(3)`).
const FIRST: i32 = 3;
/// Number of plugins that can wait for a connection.
const BACKLOG: i32 = 4096;

/// The socket that plugins connect to. Dropping it removes its file, if it created the file.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    created: Option<PathBuf>,
}

impl Listener {
    /// Returns the socket of systemd, or creates one at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let listener = match activated()? {
            Some(socket) => Self { socket: socket.into(), created: None },
            None => Self { socket: create(path)?.into(), created: Some(path.to_owned()) },
        };
        listener.socket.set_nonblocking(true)?;
        Ok(listener)
    }

    pub(super) fn accept(&self) -> std::io::Result<Option<UnixStream>> {
        match self.socket.accept() {
            Ok((stream, _)) => stream.set_nonblocking(true).map(|()| Some(stream)),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.created {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn activated() -> Result<Option<OwnedFd>, Error> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") != Some(getpid().as_raw_nonzero().get()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(n) => {
            return Err(Error::InvalidEnvValue(format!("LISTEN_FDS={n}: pass exactly one socket")));
        }
    }
    let no_socket = || {
        Error::InvalidEnvValue("LISTEN_FDS=1: descriptor 3 is not a listening Unix socket".into())
    };
    // The only safe way to own a descriptor that was open at the start of the process.
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(std::io::Error::from)?;
    let socket = pidfd_getfd(own, FIRST, PidfdGetfdFlags::empty()).map_err(|_| no_socket())?;
    let is_listening = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(&socket) == Ok(true);
    is_listening.then_some(Some(socket)).ok_or_else(no_socket)
}

/// Creates a socket that only its owner can access. The caller has the lock of the leases, so an
/// existing socket was left by a killed daemon.
fn create(path: &Path) -> Result<OwnedFd, Error> {
    let failed =
        |error: std::io::Error| Error::IOFailure(format!("listen at {}: {error}", path.display()));
    let is_socket =
        std::fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket());
    if is_socket
        && UnixStream::connect(path)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    {
        std::fs::remove_file(path).map_err(failed)?;
    }
    let create = || -> std::io::Result<OwnedFd> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // No program can connect before the socket listens.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    create().map_err(failed)
}

/// The PID file, removed when this is dropped.
#[derive(Debug)]
pub(super) struct PidFile(PathBuf);

impl PidFile {
    pub(super) fn write(path: &Path) -> Result<Self, Error> {
        let failed = |problem: &dyn std::fmt::Display| {
            Error::IOFailure(format!("write the pid file {}: {problem}", path.display()))
        };
        if !path.is_absolute() {
            return Err(failed(&"the path must be absolute"));
        }
        // Readable by all users, whatever the umask.
        state_file::replace(path, getpid().as_raw_nonzero().to_string().as_bytes())
            .and_then(|file| file.set_permissions(PermissionsExt::from_mode(0o644)))
            .map_err(|error| failed(&error))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
