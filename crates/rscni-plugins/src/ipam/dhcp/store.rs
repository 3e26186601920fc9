//! Leases on disk, a file for each, for the next daemon.
//!
//! The directory is beside the socket, and locked by one process at a time. Leases of an earlier
//! boot are useless: times count from boot, and namespaces do not survive it.

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
    client::{Binding, Client, Identity, Timeouts},
    interface::ContainerInterface,
    options::ClientOptions,
    request::Key,
    system::{now, random},
};
use crate::state::{Owned, inventory, state_file};

/// A lease on disk, with everything that renewing it needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SavedLease {
    boot_id: String,
    pub(super) key: Key,
    #[serde(rename = "place")]
    pub(super) interface: ContainerInterface,
    mac: [u8; 6],
    largest: u16,
    #[serde(rename = "wishes")]
    client_options: ClientOptions,
    #[serde(rename = "held")]
    binding: Binding,
}

impl SavedLease {
    /// Parses a file. Returns `None` for an invalid lease.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|saved| saved.binding.has_valid_times())
    }

    pub(super) fn new(
        key: &Key,
        interface: &ContainerInterface,
        client: &Client,
        binding: &Binding,
    ) -> Result<Self, Error> {
        let identity = client.identity();
        Ok(Self {
            boot_id: boot_id()?,
            key: key.clone(),
            interface: interface.clone(),
            mac: identity.mac.0,
            largest: identity.largest,
            client_options: identity.client_options.clone(),
            binding: binding.clone(),
        })
    }

    /// Creates a client that continues the lease.
    pub(super) fn resume(&self, timeouts: Timeouts, broadcast: bool) -> Client {
        let identity = Identity {
            mac: MacAddr(self.mac),
            largest: self.largest,
            client_id: self.key.client_id(),
            client_options: self.client_options.clone(),
            broadcast,
        };
        Client::resume(identity, timeouts, random, now(), self.binding.clone())
    }
}

/// The directory of leases, locked until this is dropped.
pub(super) struct Store {
    dir: PathBuf,
    _lock: File,
}

/// How long the daemon waits for a plugin that holds the lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);

impl Store {
    /// Opens the directory of a socket for its daemon, and creates it if it is missing.
    ///
    /// # Errors
    /// [`Error::TryAgainLater`] if another daemon uses it.
    pub(super) fn create(socket: &Path) -> Result<Self, Error> {
        let dir = directory(socket);
        rscni_linux::make_directory(&dir, 0o700).map_err(state_file::failed("create", &dir))?;
        let mut left = LOCK_TIMEOUT;
        loop {
            match Self::open(socket) {
                Err(Error::TryAgainLater(_)) if !left.is_zero() => {
                    std::thread::sleep(PAUSE);
                    left = left.saturating_sub(PAUSE);
                }
                Ok(None) => return Err(Error::IOFailure(format!("{} is gone", dir.display()))),
                Ok(Some(store)) => return Ok(store),
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens the directory of a socket, if a daemon has created it.
    ///
    /// # Errors
    /// [`Error::TryAgainLater`] while a daemon uses it.
    pub(super) fn open(socket: &Path) -> Result<Option<Self>, Error> {
        let dir = directory(socket);
        let lock = match File::open(&dir) {
            Ok(lock) => lock,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(state_file::failed("open", &dir)(error)),
        };
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            Error::TryAgainLater(format!("another DHCP daemon uses {}: {errno}", dir.display()))
        })?;
        Ok(Some(Self { dir, _lock: lock }))
    }

    /// Writes a lease atomically.
    pub(super) fn save(&self, saved: &SavedLease) -> Result<(), Error> {
        let path = self.dir.join(saved.key.file_name());
        state_file::replace(&path, &serde_json::to_vec(saved)?)
            .map(drop)
            .map_err(state_file::failed("write", &path))
    }

    /// Removes a lease. A missing one is not an error.
    pub(super) fn remove_file(&self, key: &Key) -> Result<(), Error> {
        state_file::remove(&self.dir.join(key.file_name()))
    }

    /// Returns the leases of this boot, and removes all other files.
    pub(super) fn all(&self) -> Result<Vec<SavedLease>, Error> {
        let boot_id = boot_id()?;
        let mut all = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(state_file::failed("list", &self.dir))? {
            let path = entry?.path();
            let saved = state_file::read(&path).ok().and_then(|bytes| SavedLease::read(&bytes));
            let is_own = |saved: &SavedLease| {
                saved.boot_id == boot_id
                    && path.file_name().is_some_and(|name| *name == *saved.key.file_name())
            };
            match saved.filter(is_own) {
                Some(saved) => all.push(saved),
                None => {
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Ok(all)
    }
}

/// Returns the directory with the leases of the daemon at `socket`.
pub(crate) fn directory(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".leases");
    name.into()
}

pub(super) fn inventory(socket: &Path) -> crate::plugin::Result<Vec<Owned>> {
    inventory::json_files(&directory(socket), inventory::is_json, |_, json| {
        Some(Key::deserialize(json.get("key")?).ok()?.into())
    })
}

fn boot_id() -> Result<String, Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(std::fs::read_to_string(path)
        .map_err(state_file::failed("read", Path::new(path)))?
        .trim_end()
        .to_owned())
}
