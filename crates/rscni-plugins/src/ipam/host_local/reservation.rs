//! The file that reserves an address, and its holder.

use std::{fs::File, io, net::IpAddr, os::fd::OwnedFd};

use rustix::{
    fs::{AtFlags, Mode, OFlags, statat, unlinkat},
    io::Errno,
};

use crate::state::state_file;

/// A file that reserves an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) address: IpAddr,
    /// Name of the file, which may be another spelling of the address.
    pub(super) file: String,
}

impl Reservation {
    /// Returns the reservation of an address in its canonical spelling.
    pub(super) fn of(address: IpAddr) -> Self {
        Self { address, file: address.to_string() }
    }
}

/// The holder of a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An interface of a container.
    Attachment { container_id: String, ifname: String },
    /// All interfaces of a container, as old releases wrote it.
    Container(String),
}

impl Holder {
    pub(super) fn attachment(container_id: &str, ifname: &str) -> Self {
        Self::Attachment { container_id: container_id.into(), ifname: ifname.into() }
    }

    pub(super) fn content(&self) -> String {
        match self {
            Self::Attachment { container_id, ifname } => format!("{container_id}\r\n{ifname}"),
            Self::Container(id) => id.clone(),
        }
    }

    /// Parses the content of a file. Returns `None` for an incomplete reservation: empty, cut off
    /// before the interface name, or with bytes that `CNI_CONTAINERID` cannot contain.
    pub(super) fn parse(content: &[u8]) -> Option<Self> {
        let cut_off = content.ends_with(b"\r") || content.ends_with(b"\r\n");
        let text = String::from_utf8_lossy(content);
        let text = text.trim();
        let (id, ifname) =
            text.split_once("\r\n").map_or((text, None), |(id, ifname)| (id, Some(ifname)));
        if id.is_empty() || content.contains(&0) || id.contains(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        match ifname {
            Some(ifname) => Some(Self::attachment(id, ifname)),
            None if cut_off => None,
            None => Some(Self::Container(id.into())),
        }
    }
}

/// The reservations of an attachment.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Reservations that name container and interface.
    pub(crate) own: Vec<Reservation>,
    /// Reservations that name the container only.
    pub(crate) of_container: Vec<Reservation>,
}

/// The state of an address, by its file.
pub(super) enum State {
    Free,
    /// The file holds no address: a call was interrupted while it wrote the file, or it is a
    /// directory or a dangling link.
    Incomplete,
    Held(Holder),
}

/// Reads the state of an address. An unreadable file may be a reservation.
pub(super) fn state(dir: &OwnedFd, file: &str) -> io::Result<State> {
    let is_dangling = || matches!(statat(dir, file, AtFlags::empty()), Err(Errno::NOENT));
    match read(dir, file) {
        Ok(content) => Ok(Holder::parse(&content).map_or(State::Incomplete, State::Held)),
        Err(e) => match Errno::from_io_error(&e) {
            Some(Errno::NOENT) => Ok(State::Free),
            Some(Errno::ISDIR) => Ok(State::Incomplete),
            Some(Errno::LOOP) if is_dangling() => Ok(State::Incomplete),
            _ => Err(e),
        },
    }
}

/// Returns the holder of a reservation, or `None` if it is removed or incomplete.
pub(super) fn holder(dir: &OwnedFd, file: &str) -> io::Result<Option<Holder>> {
    state(dir, file).map(|state| if let State::Held(holder) = state { Some(holder) } else { None })
}

/// Whether a reservation is incomplete, and so its address is free. Only under the lock: without
/// it, another call may be writing the file.
pub(super) fn is_incomplete(dir: &OwnedFd, reservation: &Reservation) -> bool {
    matches!(holder(dir, &reservation.file), Ok(None))
}

pub(super) fn read(dir: &OwnedFd, file: &str) -> io::Result<Vec<u8>> {
    // Opening a pipe must not block.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    state_file::whole(File::from(rustix::fs::openat(dir, file, flags, Mode::empty())?))
}

/// Removes a reservation, complete or not. A missing file is not an error.
pub(super) fn remove(dir: &OwnedFd, file: &str) -> Result<(), Errno> {
    match unlinkat(dir, file, AtFlags::empty()) {
        Err(Errno::ISDIR) => unlinkat(dir, file, AtFlags::REMOVEDIR),
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}
