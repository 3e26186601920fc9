//! Leases on disk: a file for each, so that the next daemon goes on where the last one ended.
//!
//! They lie beside the socket, in a directory that one program at a time may use. Times count from the boot of the
//! machine, and namespaces do not outlive it: what was written before is of no use.

use crate::state::{
    inventory,
    inventory::{Owned, OwnedBy},
};
use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use rscni::Error;
use rscni_linux::MacAddr;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{
    client::{Client, Held, Identity, Patience},
    options::Wishes,
    place::Place,
    request::Key,
};
use crate::state::state_file;

/// A lease with all that is needed to keep it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kept {
    boot_id: String,
    pub(super) key: Key,
    pub(super) place: Place,
    mac: [u8; 6],
    largest: u16,
    wishes: Wishes,
    held: Held,
}

impl Kept {
    /// Reads a file; none if it is no lease, or has times that no lease has.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|kept| kept.held.has_end_in_sight())
    }

    pub(super) fn new(
        key: &Key,
        place: &Place,
        client: &Client,
        held: &Held,
    ) -> Result<Self, Error> {
        let identity = client.identity();
        Ok(Self {
            boot_id: boot_id()?,
            key: key.clone(),
            place: place.clone(),
            mac: identity.mac.0,
            largest: identity.largest,
            wishes: identity.wishes.clone(),
            held: held.clone(),
        })
    }

    /// The client that goes on with it.
    pub(super) fn resume(&self, patience: Patience, broadcast: bool) -> Client {
        let identity = Identity {
            mac: MacAddr(self.mac),
            largest: self.largest,
            client_id: self.key.client_id(),
            wishes: self.wishes.clone(),
            broadcast,
        };
        Client::resume(identity, patience, super::random, super::now(), self.held.clone())
    }
}

/// The directory, which nobody else uses as long as this is there.
pub(super) struct Store {
    dir: PathBuf,
    _lock: File,
}

/// How long a plugin that gives a lease back may hold the directory.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

impl Store {
    /// The directory that belongs to a socket, for its daemon; it is made if it is not there.
    ///
    /// # Errors
    /// If another daemon uses it.
    pub(super) fn create(socket: &Path) -> Result<Self, Error> {
        let dir = directory(socket);
        let failed = failed("make", &dir);
        rscni_linux::make_directory(&dir, 0o700).map_err(failed)?;
        let mut patience = PATIENCE;
        loop {
            match Self::open_if_there(socket) {
                Err(Error::TryAgainLater(_)) if !patience.is_zero() => {
                    std::thread::sleep(PAUSE);
                    patience = patience.saturating_sub(PAUSE);
                }
                Ok(None) => return Err(Error::IOFailure(format!("{} is gone", dir.display()))),
                Ok(Some(store)) => return Ok(store),
                Err(error) => return Err(error),
            }
        }
    }

    /// The directory, if any daemon has made it.
    ///
    /// # Errors
    /// [`Error::TryAgainLater`] while a daemon uses it.
    pub(super) fn open_if_there(socket: &Path) -> Result<Option<Self>, Error> {
        let dir = directory(socket);
        let lock = match File::open(&dir) {
            Ok(lock) => lock,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("open", &dir)(error)),
        };
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            Error::TryAgainLater(format!("another DHCP daemon uses {}: {errno}", dir.display()))
        })?;
        Ok(Some(Self { dir, _lock: lock }))
    }

    /// Writes a lease; its file is always a whole one.
    pub(super) fn save(&self, kept: &Kept) -> Result<(), Error> {
        let path = self.dir.join(kept.key.file_name());
        state_file::replace(&path, &serde_json::to_vec(kept)?)
            .map(drop)
            .map_err(failed("write", &path))
    }

    /// Removes a lease, which may be gone already.
    pub(super) fn remove(&self, key: &Key) -> Result<(), Error> {
        let path = self.dir.join(key.file_name());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Every lease since the machine was booted. Files of earlier ones, and such that cannot be read, are removed.
    pub(super) fn all(&self) -> Result<Vec<Kept>, Error> {
        let boot_id = boot_id()?;
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let path = entry?.path();
            let kept = state_file::read(&path).ok().and_then(|bytes| Kept::read(&bytes));
            let is_own = |kept: &Kept| {
                kept.boot_id == boot_id
                    && path.file_name().is_some_and(|name| *name == *kept.key.file_name())
            };
            match kept.filter(is_own) {
                Some(kept) => all.push(kept),
                None => {
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Ok(all)
    }
}

/// Where the leases of the daemon at a socket are.
pub(crate) fn directory(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".leases");
    name.into()
}

/// Lists the leases beside a socket for the inventory.
pub(super) fn inventory(socket: &Path) -> crate::plugin::error::Result<Vec<Owned>> {
    inventory::json_files(&directory(socket), inventory::is_json, |_, json| {
        let text = |key: &str| json.get("key")?.get(key)?.as_str().map(ToOwned::to_owned);
        let (network, container_id) = (text("network")?, text("container_id")?);
        Some(OwnedBy::Attachment { network, container_id, ifname: text("ifname")? })
    })
}

fn failed<'a>(what: &'a str, path: &'a Path) -> impl Fn(std::io::Error) -> Error + 'a {
    move |error| Error::IOFailure(format!("{what} {}: {error}", path.display()))
}

fn boot_id() -> Result<String, Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path)
        .map_err(failed("read", Path::new(path)))?
        .trim_end()
        .to_owned())
}
