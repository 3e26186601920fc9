//! The daemon's socket: one that it makes, or one that systemd has handed over; and the file with its number.

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

/// The first descriptor that systemd hands over (`sd_listen_fds(3)`).
const FIRST: i32 = 3;
/// How many plugins may wait to be heard.
const BACKLOG: i32 = 4096;

/// A socket that plugins connect to. Its file goes with it, if it was made here.
#[derive(Debug)]
pub(super) struct Listener {
    socket: UnixListener,
    made: Option<PathBuf>,
}

impl Listener {
    /// The socket that systemd has handed over, or else one at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let listener = match handed_over()? {
            Some(socket) => Self { socket: socket.into(), made: None },
            None => Self { socket: make(path)?.into(), made: Some(path.to_owned()) },
        };
        listener.socket.set_nonblocking(true)?;
        Ok(listener)
    }

    /// The next connection, if there is one.
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
        if let Some(path) = &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn handed_over() -> Result<Option<OwnedFd>, Error> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") != Some(getpid().as_raw_nonzero().get()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(n) => {
            return Err(Error::InvalidEnvValue(format!(
                "LISTEN_FDS={n}: one socket has to be handed over, not more"
            )));
        }
    }
    let no_socket = || {
        Error::InvalidEnvValue("LISTEN_FDS=1: descriptor 3 is no Unix socket that listens".into())
    };
    // A descriptor of one's own that came from outside can be had safely in this way alone.
    let own = pidfd_open(getpid(), PidfdFlags::empty()).map_err(std::io::Error::from)?;
    let socket = pidfd_getfd(own, FIRST, PidfdGetfdFlags::empty()).map_err(|_| no_socket())?;
    let is_listening = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::STREAM)
        && sockopt::socket_acceptconn(&socket) == Ok(true);
    is_listening.then_some(Some(socket)).ok_or_else(no_socket)
}

/// Makes a socket for its owner alone. The caller has made sure that no other daemon is there: a file that is in the
/// way was left by one that was killed.
fn make(path: &Path) -> Result<OwnedFd, Error> {
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
    let make = || -> std::io::Result<OwnedFd> {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Nobody can connect before it listens.
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    make().map_err(failed)
}

/// A file with the number of this process, while it runs.
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
        // Others may read it, whatever the umask is.
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
