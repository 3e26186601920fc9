//! What is reserved, and how the ranges of a network are used, for operators' tools: without the lock, as nothing is
//! changed.

use crate::state::{
    inventory,
    inventory::{Item, Owned, OwnedBy},
};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use rscni::{Error, NetConf};
use rustix::fs::{AtFlags, statat};

use super::{
    config, directory,
    directory::{failure, list},
    index::Index,
    range::number,
    remains::{Place, is_remains, look},
    reservation::{Holder, Reservation},
};

/// How full a range set is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The set, as its ranges from first to last.
    pub range: String,
    /// The first and the last address of each of them.
    pub ranges: Vec<(IpAddr, IpAddr)>,
    /// How many addresses it has for containers.
    pub size: u128,
    /// How many of them are reserved.
    pub taken: u128,
    /// The gateway of each range.
    pub gateways: Vec<IpAddr>,
}

/// What host-local keeps for a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// Each range set.
    pub sets: Vec<Usage>,
    /// The addresses that are reserved, and in no set, nor allowed outside of one.
    pub outside: Vec<IpAddr>,
    /// Whether the index says something else than the directory, and would be believed.
    pub index_differs: bool,
    /// The file of the index.
    pub index: PathBuf,
    /// The directory of the reservations.
    pub directory: PathBuf,
}

/// Looks at the reservations for a plugin's configuration with `ipam`, in which `name` and `cniVersion` are set.
///
/// # Errors
/// [`Error::InvalidNetworkConfig`] if the ranges are not valid, [`Error::IOFailure`] if the directory cannot be read.
pub fn usage(conf: &NetConf) -> Result<Reservations, Error> {
    let (sets, data_dir) = (config::sets_of(conf)?, config::data_dir(conf)?);
    let path = directory::path(&data_dir, &conf.name)?;
    let taken: Vec<IpAddr> = if path.is_dir() { reserved(&path)? } else { Vec::new() };
    // What comes and goes meanwhile may be in the one and not yet, or no more, in the other.
    let differs = |taken: &[IpAddr]| differs(&data_dir, &conf.name, &path, taken);
    let index_differs =
        differs(&taken) && (0..2).all(|_| reserved(&path).is_ok_and(|taken| differs(&taken)));
    let of_set = |set: &super::range::RangeSet| {
        let gateways = set.gateways().filter(|gateway| set.contains(*gateway)).count() as u128;
        let taken = taken
            .iter()
            .filter(|address| set.contains(**address) && !set.is_gateway(**address))
            .count();
        Usage {
            range: set.to_string(),
            ranges: set.bounds().collect(),
            size: set.size() - gateways,
            taken: taken as u128,
            gateways: set.gateways().collect(),
        }
    };
    let may_be_around = config::allows_outside_range(conf);
    let has = |set: &super::range::RangeSet, address| {
        set.contains(address) || may_be_around && set.range_around(address).is_some()
    };
    Ok(Reservations {
        sets: sets.iter().map(of_set).collect(),
        outside: taken
            .iter()
            .filter(|address| !sets.iter().any(|set| has(set, **address)))
            .copied()
            .collect(),
        index_differs,
        index: data_dir.join(".index").join(&conf.name),
        directory: path,
    })
}

/// Whether the index would be believed, and misses what the directory has had and has.
fn differs(data_dir: &Path, network: &str, path: &Path, taken: &[IpAddr]) -> bool {
    let Ok(dir) = directory::open(path) else { return false };
    let misses = |index: &Index, address: &IpAddr| {
        let number = number(*address);
        let is_there = || statat(&dir, address.to_string(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        !matches!(index.first_free(address.is_ipv4(), number, number), Ok(None)) && is_there()
    };
    Index::believed(data_dir, network, &dir)
        .is_some_and(|index| taken.iter().any(|at| misses(&index, at)))
}

/// Lists the reservations of all networks for the inventory: without the lock, as nothing is
/// changed.
pub(super) fn inventory(data_dir: &Path) -> crate::plugin::error::Result<Vec<Owned>> {
    let mut all = Vec::new();
    for (network, _) in inventory::entries(data_dir, true)? {
        all.extend(reservations(data_dir, &network)?);
    }
    Ok(all)
}

fn reservations(data_dir: &Path, network: &str) -> Result<Vec<Owned>, Error> {
    let path = data_dir.join(network);
    let dir = directory::open(&path).map_err(|e| failure("open", &path, &e))?;
    let mut all = Vec::new();
    for Reservation { file, address, .. } in list(&dir).map_err(|e| failure("read", &path, &e))? {
        let network = network.to_owned();
        let by = match look(&dir, &file) {
            // Removed since the directory was read.
            Ok(Place::Free) => continue,
            Ok(Place::Held(Holder::Attachment { container_id, ifname })) => {
                OwnedBy::Attachment { network, container_id, ifname }
            }
            Ok(Place::Held(Holder::Container(container_id))) => {
                OwnedBy::Container { network, container_id }
            }
            Ok(Place::Remains) => OwnedBy::Interrupted { network: Some(network) },
            Err(error) => OwnedBy::Unreadable { network: Some(network), why: error.to_string() },
        };
        all.push(Owned { item: Item::Reservation { address, file: path.join(file) }, by });
    }
    Ok(all)
}

/// The addresses with a file that is a reservation, or may be one: without the lock.
///
/// # Errors
/// [`Error::IOFailure`] if the directory cannot be read.
fn reserved(path: &Path) -> Result<Vec<IpAddr>, Error> {
    let dir = directory::open(path).map_err(|e| failure("open", path, &e))?;
    let mut all = list(&dir).map_err(|e| failure("read", path, &e))?;
    all.retain(|reservation| !is_remains(&dir, reservation));
    Ok(all.into_iter().map(|reservation| reservation.address).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::{super::store::Store, *};

    #[test]
    fn what_comes_and_goes_while_it_is_looked_at_is_neither_remains_nor_missed_by_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let ipam = json!({ "type": "host-local", "dataDir": dir.path(), "ranges": [[{ "subnet": "10.1.0.0/24" }]] });
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
                            .release(&reservation, None)
                            .unwrap();
                    }
                }
            });
            let found = (0..500).find_map(|_| {
                let all = reservations(dir.path(), "net").unwrap();
                let is_remains =
                    all.iter().any(|owned| matches!(owned.by, OwnedBy::Interrupted { .. }));
                (is_remains || usage(&conf).unwrap().index_differs).then_some(is_remains)
            });
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(found, None);
        });
    }
}
