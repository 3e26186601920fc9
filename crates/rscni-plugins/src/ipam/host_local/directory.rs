//! The directory with the reservations of a network: its path, lock and file names.

use std::{
    fmt::Display,
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rscni::{Error, name::check_network_name};
use rustix::{
    fs::{Access, AtFlags, CWD, Dir, Mode, OFlags},
    io::Errno,
};

use super::reservation::{Holder, Reservation, State, is_incomplete, state};
use crate::state::OwnedBy;

const LOCK: &str = "lock";

/// Returns the reserved addresses without the lock and without changing anything. Reads file names
/// only, unless incomplete reservations are left out.
///
/// # Errors
/// [`Error::IOFailure`] if the directory, or the one in which it would be created, is not usable.
pub(crate) fn peek(
    data_dir: &Path,
    network: &str,
    with_incomplete: bool,
) -> Result<Vec<IpAddr>, Error> {
    let path = self::path(data_dir, network)?;
    let exists = |path: &&Path| path.as_os_str().is_empty() || path.symlink_metadata().is_ok();
    let nearest = path.ancestors().find(exists).unwrap_or(&path);
    let nearest = if nearest.as_os_str().is_empty() { Path::new(".") } else { nearest };
    let is_there = nearest == path;
    // Only the network's own directory must not be a link.
    let flags = if is_there { OFlags::NOFOLLOW } else { OFlags::empty() };
    let dir = open_with(nearest, flags).map_err(|e| failure("open", nearest, &e))?;
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(CWD, nearest, access, AtFlags::EACCESS)
        .map_err(|e| failure("write into", nearest, &e))?;
    if !is_there {
        return Ok(Vec::new());
    }
    let mut reservations = list(&dir).map_err(|e| failure("read", &path, &e))?;
    reservations.retain(|reservation| with_incomplete || !is_incomplete(&dir, reservation));
    Ok(reservations.into_iter().map(|reservation| reservation.address).collect())
}

pub(super) fn open_locked(path: &Path) -> Result<(OwnedFd, OwnedFd), Error> {
    let dir = open(path).map_err(|e| failure("open", path, &e))?;
    let lock = lock(&dir, path)?;
    Ok((dir, lock))
}

pub(super) fn lock(dir: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    // The flags of the Go plugin; flock needs no write access. Opening a pipe must not block.
    let flags =
        OFlags::CREATE | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let lock = rustix::fs::openat(dir, LOCK, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| failure("open", &path.join(LOCK), &e))?;
    crate::state::state_file::lock(&lock).map_err(|e| failure("lock", &path.join(LOCK), &e))?;
    Ok(lock)
}

/// Returns the directory of `network`.
///
/// # Errors
/// If the name could lead to another directory.
pub(super) fn path(data_dir: &Path, network: &str) -> Result<PathBuf, Error> {
    check_network_name(network)?;
    Ok(data_dir.join(network))
}

/// Opens the directory of a network. It must not be a link, which a user with write access to
/// `dataDir` could point elsewhere. `dataDir` itself may be one.
pub(super) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    open_with(path, OFlags::NOFOLLOW)
}

fn open_with(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Lists all files whose name is an address.
pub(super) fn list(dir: &OwnedFd) -> Result<Vec<Reservation>, Errno> {
    let mut reservations = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && let Ok(address) = name.parse::<IpAddr>()
        {
            reservations.push(Reservation { address: address.to_canonical(), file: name.into() });
        }
    }
    Ok(reservations)
}

/// Lists the reservations of a network with their owners. `path` is its directory.
pub(super) fn owned(dir: &OwnedFd, path: &Path) -> Result<Vec<(OwnedBy, Reservation)>, Error> {
    let network = path.file_name().unwrap_or_default().to_string_lossy();
    let mut all = Vec::new();
    for reservation in list(dir).map_err(|e| failure("read", path, &e))? {
        let network = network.to_string();
        let by = match state(dir, &reservation.file) {
            // Removed since the directory was read.
            Ok(State::Free) => continue,
            Ok(State::Held(Holder::Attachment { container_id, ifname })) => {
                OwnedBy::Attachment { network, container_id, ifname }
            }
            Ok(State::Held(Holder::Container(container_id))) => {
                OwnedBy::Container { network, container_id }
            }
            Ok(State::Incomplete) => OwnedBy::Interrupted { network: Some(network) },
            Err(error) => OwnedBy::Unreadable { network: Some(network), why: error.to_string() },
        };
        all.push((by, reservation));
    }
    Ok(all)
}

pub(super) fn failure(verb: &str, path: &Path, error: &dyn Display) -> Error {
    Error::IOFailure(format!("{verb} {}: {error}", path.display()))
}
