//! host-local: allocates addresses from ranges local to this host, and stores reservations on disk.
//!
//! An attachment gets one address of every range set. Allocation is round-robin, so a released
//! address is reused as late as possible. The calling plugin configures the interface.
//!
//! | module | content |
//! |---|---|
//! | `config` | keys of the configuration, validated |
//! | `range` | ranges of addresses and the order in which they are tried |
//! | `store` | reservations on disk, shared with the Go plugin |
//! | `directory` | directory of a network: path, lock, file names |
//! | `reservation` | the file that reserves an address, and its holder |
//! | `index` | index of the store, so that no call reads the whole directory |
//! | `reboot` | release of reservations of an earlier boot |
//! | `usage` | reservations and use of ranges, for operators |
//! | `resolv_conf` | DNS settings from a file |

mod config;
mod directory;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod index;
mod range;
mod reboot;
mod reservation;
pub(crate) mod resolv_conf;
mod store;
mod usage;

use std::{collections::HashSet, net::IpAddr, path::Path};

use rscni::{Args, CNIResult, Error, IpConfig, NetConf};

pub use self::usage::{Reservations, Usage, release_incomplete, usage};
use self::{
    config::{Config, DATA_DIR, Requested},
    range::RangeSet,
    store::Store,
};
use crate::{
    plugin::{Call, Commands, Facts, IpamOrder, Plugin, Result, StateFiles, best_effort, differs},
    state::{Resources, Undo},
};

pub(crate) const HOST_LOCAL: Plugin = Plugin {
    name: "host-local",
    about: "allocates addresses from ranges local to this host",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        ipam: Some(IpamOrder::AfterLink),
        owns_on_host: true,
        files: Some(StateFiles { key: Some("dataDir"), default: DATA_DIR, list: usage::inventory }),
        ..Facts::NONE
    },
};

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let config = Config::read(call)?;
    let dns = config.resolv_conf.as_deref().map(resolv_conf::read).transpose()?;
    let requests = assign(&config)?;

    reboot::reclaim(call.conf, &config.data_dir)?;
    let store = Store::create(&config.data_dir, &call.conf.name)?;
    let args = call.args;
    if let Some(address) = held(&store, args)?.into_iter().find(|address| config.has(*address)) {
        return Err(Error::TryAgainLater(format!(
            "{address} has been allocated to {} {} before, duplicate allocation is not allowed: \
             DEL it first",
            args.container_id, args.ifname
        ))
        .into());
    }

    let mut undo = Undo::default();
    // Before this ADD the attachment had no address of these ranges.
    undo.push(|| release(&store, args, |address| config.has(address)));
    let mut ips = Vec::new();
    for (index, (set, request)) in config.sets.iter().zip(requests).enumerate() {
        let allocator = Allocator { args, config: &config, store: &store, index, set };
        ips.push(match request {
            Some(request) => allocator.allocate_requested(request)?,
            None => allocator.allocate_next()?,
        });
    }
    undo.commit();
    Ok(CNIResult { ips, routes: config.routes, dns, ..CNIResult::default() })
}

/// Returns the requested address of each range set, if there is one.
fn assign(config: &Config) -> Result<Vec<Option<&Requested>>> {
    let mut open: Vec<_> = config.requested.iter().collect();
    let mut assigned = Vec::new();
    for set in &config.sets {
        let found = open.iter().position(|request| set.contains(request.address));
        assigned.push(found.map(|at| open.remove(at)));
    }
    if config.allow_outside_range {
        // An address in the range of another set is not outside.
        let is_outside = |address| !config.sets.iter().any(|set| set.contains(address));
        for (set, assigned) in config.sets.iter().zip(&mut assigned) {
            let found = open.iter().position(|request| {
                is_outside(request.address) && set.range_around(request.address).is_some()
            });
            if assigned.is_none() {
                *assigned = found.map(|at| open.remove(at));
            }
        }
    }
    let Some(request) = open.first() else { return Ok(assigned) };
    let is_around = config.sets.iter().any(|set| set.range_around(request.address).is_some());
    let problem = if config.has(request.address) {
        "is a second request for one range set, of which an attachment gets one address"
    } else if is_around {
        "is in no range set: request one that ipam.ranges has, or set ipam.allowOutsideRange"
    } else {
        "is in no range set: request one that ipam.ranges has"
    };
    Err(request.refuse(problem).into())
}

/// Allocates an address of one range set.
struct Allocator<'a> {
    args: &'a Args,
    config: &'a Config,
    store: &'a Store,
    index: usize,
    set: &'a RangeSet,
}

impl Allocator<'_> {
    fn allocate_requested(&self, request: &Requested) -> Result<IpConfig> {
        let address = request.address;
        if self.config.sets.iter().any(|set| set.is_gateway(address)) {
            return Err(request.refuse("is the gateway: request another address").into());
        }
        self.reserve(address)?.ok_or_else(|| {
            Error::TryAgainLater(format!(
                "requested address {address} of range set {} ({}) is taken: release it or request \
                 another",
                self.index, self.set
            ))
            .into()
        })
    }

    fn allocate_next(&self) -> Result<IpConfig> {
        loop {
            for mut interval in self.set.intervals(self.store.last_reserved(self.index)) {
                while let Some(free) = self.store.first_free(interval) {
                    let address = interval.address(free);
                    if !self.set.is_gateway(address)
                        && let Some(ip) = self.reserve(address)?
                    {
                        return Ok(ip);
                    }
                    if free == interval.last {
                        break;
                    }
                    interval.first = free + 1;
                }
            }
            if !self.store.distrust_index()? {
                return Err(Error::TryAgainLater(exhausted(self.index, self.set)).into());
            }
        }
    }

    /// Reserves an address. Returns `None` if it is taken.
    fn reserve(&self, address: IpAddr) -> Result<Option<IpConfig>> {
        let Some(range) = self.config.range_in(self.set, address) else { return Ok(None) };
        // An address outside of the ranges does not move the round-robin position.
        let set = self.set.contains(address).then_some(self.index);
        let Args { container_id, ifname, .. } = self.args;
        let reserved = self.store.reserve(address, container_id, ifname, set)?;
        Ok(reserved.map(|_| IpConfig {
            gateway: Some(range.gateway()),
            ..IpConfig::new(range.with_prefix(address))
        }))
    }
}

fn exhausted(index: usize, set: &RangeSet) -> String {
    format!(
        "no IP addresses available in range set {index} ({set}): remove containers, run GC, or \
         give the network a larger range"
    )
}

/// Returns the addresses that an attachment holds, in its own name or in that of its container.
fn held(store: &Store, args: &Args) -> Result<Vec<IpAddr>> {
    let held = store.held_by(&args.container_id, &args.ifname)?;
    Ok(held.own.into_iter().chain(held.of_container).map(|held| held.address).collect())
}

/// Releases the addresses of an attachment that `is_released` selects.
fn release(store: &Store, args: &Args, is_released: impl Fn(IpAddr) -> bool) -> Result<()> {
    let held = store.held_by(&args.container_id, &args.ifname)?;
    // A reservation without an interface name may belong to another interface of the container.
    let mut held = if held.own.is_empty() { held.of_container } else { held.own };
    held.retain(|reservation| is_released(reservation.address));
    best_effort(held.iter().map(|reservation| store.release(reservation)))
}

/// Checks that the attachment holds an address, and every address of these ranges in its result.
fn check(call: &Call<'_>) -> Result<()> {
    let config = Config::read(call)?;
    let result = call.checked_result()?;
    reboot::reclaim(call.conf, &config.data_dir)?;
    let held = match Store::open(&config.data_dir, &call.conf.name)? {
        None => Vec::new(),
        Some(store) => held(&store, call.args)?,
    };
    let own = call.own(result);
    let mut addresses = own.ips().map(|ip| ip.address.addr()).filter(|ip| config.has(*ip));
    let missing = match addresses.find(|address| !held.contains(address)) {
        Some(address) => address.to_string(),
        None if held.is_empty() => "an address".to_owned(),
        None => return Ok(()),
    };
    let Args { container_id, ifname, .. } = call.args;
    Err(differs(format!(
        "{missing} is not reserved for {container_id} {ifname}: DEL it and add it again"
    )))
}

/// Opens the store of calls that only release, if it exists.
fn open(conf: &NetConf, data_dir: &Path) -> Result<Option<Store>> {
    reboot::reclaim(conf, data_dir)?;
    Ok(Store::open(data_dir, &conf.name)?)
}

fn del(call: &Call<'_>) -> Result<()> {
    match open(call.conf, &config::data_dir_of_del(call.conf)?)? {
        Some(store) => release(&store, call.args, |_| true),
        None => Ok(()),
    }
}

/// Releases all reservations of the network that belong to no valid attachment, and incomplete
/// ones.
fn gc(call: &Call<'_>) -> Result<()> {
    let stale = call.stale();
    match open(call.conf, &config::data_dir(call.conf)?)? {
        Some(store) => store.remove_of(&|by| stale.has(by)),
        None => Ok(()),
    }
}

fn status(call: &Call<'_>) -> Result<()> {
    let config = Config::read(call)?;
    let taken = |with_incomplete| -> Result<HashSet<_>> {
        let taken = directory::peek(&config.data_dir, &call.conf.name, with_incomplete);
        let unusable = |error: Error| {
            Error::PluginNotAvailable(format!("dataDir cannot be used: {}", error.details()))
        };
        Ok(taken.map_err(unusable)?.into_iter().collect())
    };
    let is_full = |set: &RangeSet, taken: &HashSet<_>| {
        set.candidates(None).all(|address| taken.contains(&address))
    };
    let mut all = taken(true)?;
    if config.sets.iter().any(|set| is_full(set, &all)) {
        // An ADD would release some of these addresses.
        all = taken(false)?;
        for address in reboot::would_reclaim(call.conf, &config.data_dir)? {
            all.remove(&address);
        }
    }
    match config.sets.iter().enumerate().find(|(_, set)| is_full(set, &all)) {
        None => Ok(()),
        Some((index, set)) => Err(Error::PluginNotAvailable(exhausted(index, set)).into()),
    }
}
