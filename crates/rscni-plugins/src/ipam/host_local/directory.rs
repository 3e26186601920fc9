//! The directory that has a network's reservations: where it is, its lock, and the names in it.

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rscni::{Error, name::check_network_name};
use rustix::{
    fs::{Access, AtFlags, Dir, Mode, OFlags},
    io::Errno,
};

use super::{remains::is_remains, reservation::Reservation};

const LOCK: &str = "lock";

/// The addresses that are reserved, where nothing is to be changed or made: without the lock. Reads names only, unless
/// the remains of reservations are to be left out.
///
/// # Errors
/// [`Error::IOFailure`] if the directory, or the one that it would be made in, cannot be used.
pub(crate) fn peek(
    data_dir: &Path,
    network: &str,
    with_remains: bool,
) -> Result<Vec<IpAddr>, Error> {
    let path = self::path(data_dir, network)?;
    let exists = |path: &&Path| path.as_os_str().is_empty() || path.symlink_metadata().is_ok();
    let nearest = path.ancestors().find(exists).unwrap_or(&path);
    let nearest = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
    let opened = if nearest == path {
        open(nearest)
    } else {
        rustix::fs::open(
            nearest,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let dir = opened.map_err(|e| failure("open", nearest, &e))?;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, nearest, access, AtFlags::EACCESS)
        .map_err(|e| failure("write into", nearest, &e))?;
    if nearest != path {
        return Ok(Vec::new());
    }
    let mut reservations = list(&dir).map_err(|e| failure("read", &path, &e))?;
    reservations.retain(|reservation| with_remains || !is_remains(&dir, reservation));
    Ok(reservations.into_iter().map(|reservation| reservation.address).collect())
}

/// The directory, and its lock, which is waited for.
pub(super) fn open_locked(path: &Path) -> Result<(OwnedFd, OwnedFd), Error> {
    let dir = open(path).map_err(|e| failure("open", path, &e))?;
    let lock = lock(&dir, path)?;
    Ok((dir, lock))
}

pub(super) fn lock(dir: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    // Go's flags, read-only, since flock wants no more; and a mode that no umask changes. A pipe keeps nobody waiting.
    let flags =
        OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let lock = rustix::fs::openat(dir, LOCK, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| failure("open", &path.join(LOCK), &e))?;
    crate::state::state_file::lock(&lock).map_err(|e| failure("lock", &path.join(LOCK), &e))?;
    Ok(lock)
}

/// The directory of `network`. No path is made from a name that may lead elsewhere.
pub(super) fn path(data_dir: &Path, network: &str) -> Result<PathBuf, Error> {
    check_network_name(network)?;
    Ok(data_dir.join(network))
}

/// Opens the directory of a network. It is none if a link stands in its place: who may write into `dataDir` could have
/// that lead elsewhere. `dataDir` itself may be one.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )
}

pub(super) fn list(dir: &OwnedFd) -> Result<Vec<Reservation>, Errno> {
    let mut reservations = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let address = entry
            .file_name()
            .to_str()
            .ok()
            .and_then(|name| Some((name, name.parse::<IpAddr>().ok()?)));
        if let Some((name, address)) = address {
            reservations.push(Reservation { address: address.to_canonical(), file: name.into() });
        }
    }
    Ok(reservations)
}

pub(super) fn failure(verb: &str, path: &Path, error: &dyn std::fmt::Display) -> Error {
    Error::IOFailure(format!("{verb} {}: {error}", path.display()))
}
