//! host-local: gives addresses from ranges of this host's own, and remembers on disk who has which.
//!
//! An attachment gets one address of every range set, going round so that an address that was given up is given again
//! as late as possible. What this leaves to others: the addresses' way onto an interface, to the plugin that asks.
//!
//! | module | has |
//! |---|---|
//! | `config` | the keys of the configuration, validated |
//! | `range` | which addresses there are, and in what order they are tried |
//! | `store` | which are taken, and by whom: the directory that the Go plugin shares |
//! | `directory` | where that is, its lock, and the names in it |
//! | `reservation` | the file that reserves an address, and who holds it |
//! | `index` | the same as `store`, in a form in which nothing has to be walked |
//! | `remains` | what stands in the place of a reservation and is none |
//! | `reboot` | which reservations are of an earlier boot |
//! | `usage` | what is reserved and how full ranges are, for operators |
//! | `resolv_conf` | DNS settings from a file |

mod config;
mod directory;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod index;
mod range;
mod reboot;
mod remains;
mod reservation;
pub(crate) mod resolv_conf;
mod store;
mod usage;

use crate::plugin::{Call, facts::StateFiles};
use std::{collections::HashSet, net::IpAddr, path::Path};

use rscni::{CNIResult, Error, IpConfig, NetConf};

use self::{
    config::{Config, Requested},
    range::{RangeSet, Stretch},
    reservation::{Holder, Reservation},
    store::Store,
};
use crate::plugin::{
    Commands, Plugin,
    call::IpamOrder,
    error::{BestEffort, differs},
    facts::Facts,
};

use self::config::DATA_DIR;
pub use self::usage::{Reservations, Usage, usage};

/// The plugin.
pub(crate) const HOST_LOCAL: Plugin = Plugin {
    name: "host-local",
    about: "allocates addresses from ranges local to this host",
    commands: Commands {
        add: |call| Ok(add(call)?),
        del: |call| Ok(del(call)?),
        check: |call| Ok(check(call)?),
        gc: |call| Ok(gc(call)?),
        status: |call| Ok(status(call)?),
    },
    facts: Facts {
        ipam: Some(IpamOrder::AfterLink),
        owns_on_host: true,
        files: Some(StateFiles { key: Some("dataDir"), default: DATA_DIR, list: usage::inventory }),
        ..Facts::NONE
    },
};

fn add(call: &Call<'_>) -> Result<CNIResult, Error> {
    let config = Config::read(call)?;
    let dns = config.resolv_conf.as_deref().map(resolv_conf::read).transpose()?;
    let requests = assign(&config)?;

    let conf = call.conf;
    reboot::reclaim(conf, &config.data_dir)?;
    let store = Store::create(&config.data_dir, &conf.name)?;
    refuse_second(call, &config, &store)?;

    let mut undo = Undo { call: *call, store: &store, reserved: Vec::new() };
    let mut ips = Vec::new();
    for (index, (set, request)) in config.sets.iter().zip(requests).enumerate() {
        let turn = Turn { call: *call, config: &config, store: &store, index, set };
        let (reservation, ip) = match request {
            Some(request) => turn.take_requested(request)?,
            None => turn.take_next()?,
        };
        undo.reserved.push(reservation);
        ips.push(ip);
    }
    undo.reserved.clear();
    Ok(CNIResult { ips, routes: config.routes, dns, ..CNIResult::default() })
}

/// Releases what a failed ADD has reserved, and nothing else that the attachment may hold.
struct Undo<'a> {
    call: Call<'a>,
    store: &'a Store,
    reserved: Vec<Reservation>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let (container_id, ifname) =
            (self.call.args.container_id.clone(), self.call.args.ifname.clone());
        let holder = Holder::Attachment { container_id, ifname };
        for reservation in &self.reserved {
            // The ADD fails already, with the error that matters; DEL and GC find what is left.
            let _ = self.store.release(reservation, Some(&holder));
        }
    }
}

/// The requested address for each set, if one is requested.
fn assign(config: &Config) -> Result<Vec<Option<&Requested>>, Error> {
    let mut open: Vec<_> = config.requested.iter().collect();
    let mut assigned = Vec::new();
    for set in &config.sets {
        let found = open.iter().position(|request| set.contains(request.address));
        assigned.push(found.map(|at| open.remove(at)));
    }
    if config.allow_outside_range {
        // An address that another set has in its ranges is not outside.
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
    Err(request.refuse(if config.has(request.address) {
        "is a second request for one range set, of which an attachment gets one address"
    } else if is_around {
        "is in no range set: request one that ipam.ranges has, or set ipam.allowOutsideRange"
    } else {
        "is in no range set: request one that ipam.ranges has"
    }))
}

/// Refuses an attachment that holds an address of these sets already.
fn refuse_second(call: &Call<'_>, config: &Config, store: &Store) -> Result<(), Error> {
    let held = store.held_by(&call.args.container_id, &call.args.ifname)?;
    let mut of_sets = held.own.iter().chain(&held.of_container).filter(|r| config.has(r.address));
    match of_sets.next() {
        None => Ok(()),
        Some(reservation) => Err(Error::TryAgainLater(format!(
            "{} has been allocated to {} {} before, duplicate allocation is not allowed: DEL it first",
            reservation.address, call.args.container_id, call.args.ifname
        ))),
    }
}

/// One range set's turn in an ADD.
struct Turn<'a> {
    call: Call<'a>,
    config: &'a Config,
    store: &'a Store,
    index: usize,
    set: &'a RangeSet,
}

impl Turn<'_> {
    fn take_requested(&self, request: &Requested) -> Result<(Reservation, IpConfig), Error> {
        let address = request.address;
        if self.config.sets.iter().any(|set| set.is_gateway(address)) {
            return Err(request.refuse("is the gateway: request another address"));
        }
        self.take(address)?.ok_or_else(|| {
            Error::TryAgainLater(format!(
                "requested address {address} of range set {} ({}) is taken: release it or request another",
                self.index, self.set
            ))
        })
    }

    fn take_next(&self) -> Result<(Reservation, IpConfig), Error> {
        loop {
            for stretch in self.set.stretches(self.store.last_reserved(self.index)) {
                let mut rest = Some(stretch);
                while let Some(stretch) = rest {
                    let Some(free) = self.store.first_free(stretch)? else { break };
                    let address = stretch.address(free);
                    if !self.set.is_gateway(address)
                        && let Some(taken) = self.take(address)?
                    {
                        return Ok(taken);
                    }
                    rest = (free < stretch.last).then(|| Stretch { first: free + 1, ..stretch });
                }
            }
            if !self.store.doubt()? {
                break;
            }
        }
        Err(Error::TryAgainLater(exhausted(self.index, self.set)))
    }

    /// Reserves an address of the set; none if another has it.
    fn take(&self, address: IpAddr) -> Result<Option<(Reservation, IpConfig)>, Error> {
        let Some(range) = self.config.range_in(self.set, address) else { return Ok(None) };
        // The next address follows the last one that its turn came to.
        let set = self.set.contains(address).then_some(self.index);
        let reservation = self.store.reserve(
            address,
            &self.call.args.container_id,
            &self.call.args.ifname,
            set,
        )?;
        let ip = IpConfig {
            gateway: Some(range.gateway()),
            ..IpConfig::new(range.with_prefix(address))
        };
        Ok(reservation.map(|reservation| (reservation, ip)))
    }
}

fn exhausted(index: usize, set: &RangeSet) -> String {
    format!(
        "no IP addresses available in range set {index} ({set}): remove containers, run GC, or give the network a \
         larger range"
    )
}

/// Finds that the attachment holds an address, and every one that its result has from these ranges.
fn check(call: &Call<'_>) -> Result<(), Error> {
    let config = Config::read(call)?;
    let conf = call.conf;
    let result = call.checked_result()?;
    reboot::reclaim(conf, &config.data_dir)?;
    let held: HashSet<_> = match Store::open(&config.data_dir, &conf.name)? {
        None => HashSet::new(),
        Some(store) => {
            let held = store.held_by(&call.args.container_id, &call.args.ifname)?;
            held.own
                .into_iter()
                .chain(held.of_container)
                .map(|reservation| reservation.address)
                .collect()
        }
    };
    let mut of_sets =
        call.own(result).ips().map(|ip| ip.address.addr()).filter(|ip| config.has(*ip));
    let missing = match of_sets.find(|address| !held.contains(address)) {
        Some(address) => address.to_string(),
        None if held.is_empty() => "an address".to_owned(),
        None => return Ok(()),
    };
    let (id, ifname) = (&call.args.container_id, &call.args.ifname);
    Err(differs(format!("{missing} is not reserved for {id} {ifname}: DEL it and add it again"))
        .into())
}

/// The store for calls that only release, if there is one.
fn open(conf: &NetConf, data_dir: &Path) -> Result<Option<Store>, Error> {
    reboot::reclaim(conf, data_dir)?;
    Store::open(data_dir, &conf.name)
}

fn del(call: &Call<'_>) -> Result<(), Error> {
    let conf = call.conf;
    let Some(store) = open(conf, &config::data_dir_of_del(conf)?)? else { return Ok(()) };
    let held = store.held_by(&call.args.container_id, &call.args.ifname)?;
    // What stands in the container's name alone may be another interface's, as long as this one has its own.
    let id = call.args.container_id.clone();
    let (held, holder) = if held.own.is_empty() {
        (held.of_container, Holder::Container(id))
    } else {
        (held.own, Holder::Attachment { container_id: id, ifname: call.args.ifname.clone() })
    };
    let mut all = BestEffort::default();
    for reservation in &held {
        all.step(store.release(reservation, Some(&holder)));
    }
    Ok(all.finish()?)
}

/// Releases every reservation of the network that no valid attachment holds, and the remains of such.
fn gc(call: &Call<'_>) -> Result<(), Error> {
    let conf = call.conf;
    let valid = call.valid_attachments();
    let attachments: HashSet<_> =
        valid.iter().map(|a| (a.container_id.as_str(), a.ifname.as_str())).collect();
    let containers: HashSet<_> = attachments.iter().map(|(id, _)| *id).collect();
    let Some(store) = open(conf, &config::data_dir(conf)?)? else { return Ok(()) };
    let is_valid = |holder: &Holder| match holder {
        Holder::Attachment { container_id, ifname } => {
            attachments.contains(&(container_id.as_str(), ifname.as_str()))
        }
        Holder::Container(id) => containers.contains(id.as_str()),
    };
    let mut all = BestEffort::default();
    for reservation in store.reservations()? {
        all.step(match store.holder(&reservation) {
            Ok(Some(holder)) if is_valid(&holder) => Ok(()),
            Ok(holder) => store.release(&reservation, holder.as_ref()),
            Err(error) => Err(error),
        });
    }
    Ok(all.finish()?)
}

fn status(call: &Call<'_>) -> Result<(), Error> {
    let config = Config::read(call)?;
    let conf = call.conf;
    let taken = |with_remains| -> Result<HashSet<_>, Error> {
        let taken = directory::peek(&config.data_dir, &conf.name, with_remains);
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
        // Not all of it would be in the way of an ADD.
        all = taken(false)?;
        for address in reboot::would_reclaim(conf, &config.data_dir)? {
            all.remove(&address);
        }
    }
    match config.sets.iter().enumerate().find(|(_, set)| is_full(set, &all)) {
        None => Ok(()),
        Some((index, set)) => Err(Error::PluginNotAvailable(exhausted(index, set))),
    }
}
