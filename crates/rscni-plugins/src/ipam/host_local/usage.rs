//! Reservations and use of the ranges of a network, for the tools of operators. They are read
//! without the lock.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use rscni::{Error, NetConf};
use rustix::fs::{AtFlags, statat};

use super::{
    config,
    directory::{self, failure, list},
    index::Index,
    range::RangeSet,
    reservation::{Reservation, State, is_incomplete, remove, state},
};
use crate::state::{Item, Owned, inventory};

/// Use of a range set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The set, as its ranges from first to last.
    pub range: String,
    /// First and last address of each range.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// Number of addresses for containers.
    pub size: u128,
    /// Number of reserved addresses.
    pub taken: u128,
    /// Gateway of each range.
    pub gateways: Vec<IpAddr>,
}

/// Reservations of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// Use of each range set.
    pub sets: Vec<Usage>,
    /// Reserved addresses that are in no range set and not allowed outside of one.
    pub outside: Vec<IpAddr>,
    /// Whether the index is valid, but misses a reservation of the directory.
    pub index_differs: bool,
    /// File of the index.
    pub index: PathBuf,
    /// Directory of the reservations.
    pub directory: PathBuf,
}

/// Returns the reservations for the configuration of a plugin with `ipam`, in which `name` and
/// `cniVersion` are set.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if the ranges are not valid, [`Error::IOFailure`] if the
/// directory cannot be read.
pub fn usage(conf: &NetConf) -> Result<Reservations, Error> {
    let (sets, data_dir) = (config::sets_of(conf)?, config::data_dir(conf)?);
    let path = directory::path(&data_dir, &conf.name)?;
    let taken: Vec<IpAddr> = if path.is_dir() { reserved(&path)? } else { Vec::new() };
    // A reservation that is added or removed meanwhile differs only once.
    let differs = |taken: &[IpAddr]| differs(&data_dir, &conf.name, &path, taken);
    let index_differs =
        differs(&taken) && (0..2).all(|_| reserved(&path).is_ok_and(|taken| differs(&taken)));
    let of_set = |set: &RangeSet| {
        let gateways = set.gateways().filter(|gateway| set.contains(*gateway)).count() as u128;
        let is_allocated =
            |address: &&IpAddr| set.contains(**address) && !set.is_gateway(**address);
        Usage {
            range: set.to_string(),
            ranges: set.bounds().collect(),
            size: set.size() - gateways,
            taken: taken.iter().filter(is_allocated).count() as u128,
            gateways: set.gateways().collect(),
        }
    };
    let may_be_around = config::allows_outside_range(conf);
    let has = |set: &RangeSet, address| {
        set.contains(address) || may_be_around && set.range_around(address).is_some()
    };
    let is_outside = |address: &IpAddr| !sets.iter().any(|set| has(set, *address));
    Ok(Reservations {
        sets: sets.iter().map(of_set).collect(),
        outside: taken.iter().copied().filter(is_outside).collect(),
        index_differs,
        index: data_dir.join(".index").join(&conf.name),
        directory: path,
    })
}

/// Whether the index is valid and misses an address that is still reserved.
fn differs(data_dir: &Path, network: &str, path: &Path, taken: &[IpAddr]) -> bool {
    let Ok(dir) = directory::open(path) else { return false };
    let exists =
        |address: &IpAddr| statat(&dir, address.to_string(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
    Index::valid(data_dir, network, &dir).is_some_and(|index| {
        taken.iter().any(|address| !index.is_taken(*address) && exists(address))
    })
}

/// Removes the file of a reservation if it is incomplete. Under the lock of its directory no call
/// can be writing it, also none of the Go plugin. Returns whether it was removed.
///
/// # Errors
/// [`Error::IOFailure`].
pub fn release_incomplete(file: &Path) -> Result<bool, Error> {
    let (Some(path), Some(name)) = (file.parent(), file.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(false);
    };
    let (dir, _lock) = directory::open_locked(path)?;
    let incomplete = matches!(state(&dir, name), Ok(State::Incomplete));
    if incomplete {
        remove(&dir, name).map_err(|e| failure("remove", file, &e))?;
    }
    Ok(incomplete)
}

pub(super) fn inventory(data_dir: &Path) -> crate::plugin::Result<Vec<Owned>> {
    let mut all = Vec::new();
    for (_, path) in inventory::entries(data_dir, true)? {
        all.extend(reservations(&path)?);
    }
    Ok(all)
}

/// Lists the reservations in the directory of a network.
fn reservations(path: &Path) -> Result<Vec<Owned>, Error> {
    let dir = directory::open(path).map_err(|e| failure("open", path, &e))?;
    let owned = |(by, Reservation { address, file })| Owned {
        item: Item::Reservation { address, file: path.join(file) },
        by,
    };
    Ok(directory::owned(&dir, path)?.into_iter().map(owned).collect())
}

/// Returns the addresses with a file that is or may be a reservation.
///
/// # Errors
/// [`Error::IOFailure`] if the directory cannot be read.
fn reserved(path: &Path) -> Result<Vec<IpAddr>, Error> {
    let dir = directory::open(path).map_err(|e| failure("open", path, &e))?;
    let mut all = list(&dir).map_err(|e| failure("read", path, &e))?;
    all.retain(|reservation| !is_incomplete(&dir, reservation));
    Ok(all.into_iter().map(|reservation| reservation.address).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::{super::store::Store, *};
    use crate::state::OwnedBy;

    #[test]
    fn concurrent_changes_are_neither_incomplete_nor_missing_in_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = json!([[{ "subnet": "10.1.0.0/24" }]]);
        let ipam = json!({ "type": "host-local", "dataDir": dir.path(), "ranges": ranges });
        let conf = json!({ "cniVersion": "1.1.0", "name": "net", "ipam": ipam });
        let conf: NetConf = serde_json::from_value(conf).unwrap();
        drop(Store::create(dir.path(), "net").unwrap());
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    let take = |n| {
                        let store = Store::create(dir.path(), "net").unwrap();
                        store
                            .reserve(IpAddr::from([10, 1, 0, n]), "id", "eth0", 0)
                            .unwrap()
                            .unwrap()
                    };
                    let all: Vec<_> = (2..20).map(take).collect();
                    for reservation in all {
                        Store::open(dir.path(), "net")
                            .unwrap()
                            .unwrap()
                            .release(&reservation)
                            .unwrap();
                    }
                }
            });
            let found = (0..500).find_map(|_| {
                let all = reservations(&dir.path().join("net")).unwrap();
                let is_incomplete =
                    all.iter().any(|owned| matches!(owned.by, OwnedBy::Interrupted { .. }));
                (is_incomplete || usage(&conf).unwrap().index_differs).then_some(is_incomplete)
            });
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(found, None);
        });
    }
}
