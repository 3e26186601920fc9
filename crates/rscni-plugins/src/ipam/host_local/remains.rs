//! What stands in the place of a reservation: one, or what a call that was cut off has left.

use std::{fs::File, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::reservation::{Holder, Reservation};
use crate::state::state_file;

pub(super) fn read(dir: &OwnedFd, file: &str) -> std::io::Result<Vec<u8>> {
    // Nothing but a regular file is ours; a pipe must not make us wait.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    state_file::whole(File::from(rustix::fs::openat(dir, file, flags, Mode::empty())?))
}

/// What is in the place of a reservation.
pub(super) enum Place {
    Free,
    /// What [`Holder::parse`] says is none, a directory, or a link that leads nowhere.
    Remains,
    Held(Holder),
}

/// Looks at the place of a reservation. Whatever cannot be read may be somebody's.
pub(super) fn look(dir: &OwnedFd, file: &str) -> std::io::Result<Place> {
    let leads_nowhere =
        || matches!(rustix::fs::statat(dir, file, AtFlags::empty()), Err(Errno::NOENT));
    match read(dir, file) {
        Ok(content) => Ok(Holder::parse(&content).map_or(Place::Remains, Place::Held)),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOENT) => Ok(Place::Free),
            Some(Errno::ISDIR) => Ok(Place::Remains),
            Some(Errno::LOOP) if leads_nowhere() => Ok(Place::Remains),
            _ => Err(e),
        },
    }
}

/// Who holds the reservation in a file; none if it is gone, or only the remains of one.
pub(super) fn read_holder(dir: &OwnedFd, file: &str) -> std::io::Result<Option<Holder>> {
    look(dir, file).map(|place| if let Place::Held(holder) = place { Some(holder) } else { None })
}

/// Whether a file is only the remains of a reservation. Its lock has to be held: they look like one that is being
/// written.
pub(super) fn is_remains(dir: &OwnedFd, reservation: &Reservation) -> bool {
    matches!(read_holder(dir, &reservation.file), Ok(None))
}

/// Removes a reservation, or what stands in the place of one; that it is gone already is as good.
pub(super) fn remove(dir: &OwnedFd, file: &str) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, file, AtFlags::empty()) {
        Err(Errno::ISDIR) => rustix::fs::unlinkat(dir, file, AtFlags::REMOVEDIR),
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}
