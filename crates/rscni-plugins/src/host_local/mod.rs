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
//! | `resolv_conf` | DNS settings from a file |

mod config;
mod range;
mod resolv_conf;
mod store;

use std::collections::HashSet;
use std::net::IpAddr;

use rscni::{Args, Attachment, CNIResult, Cni, Error, IpConfig};
use serde_json::{Map, Value};

use config::{Config, Requested};
use range::RangeSet;
use store::{Holder, Reservation, Store};

/// The plugin.
pub(crate) struct HostLocal;

impl Cni for HostLocal {
    fn add(&self, args: Args) -> Result<CNIResult, Error> {
        add(&args).map_err(named)
    }

    fn check(&self, args: Args) -> Result<(), Error> {
        check(&args).map_err(named)
    }

    fn del(&self, args: Args) -> Result<(), Error> {
        del(&args).map_err(named)
    }

    fn gc(&self, args: Args) -> Result<(), Error> {
        gc(&args).map_err(named)
    }

    fn status(&self, args: Args) -> Result<(), Error> {
        status(&args).map_err(named)
    }
}

/// Says whose error it is, since the caller is often told it by the plugin that asked for addresses.
fn named(error: Error) -> Error {
    error.context("host-local")
}

fn add(args: &Args) -> Result<CNIResult, Error> {
    let config = Config::read(args)?;
    let dns = config.resolv_conf.as_deref().map(resolv_conf::read).transpose()?;
    let requests = assign(&config)?;

    let store = Store::create(&config.data_dir, &args.conf()?.name)?;
    let reservations = store.reservations()?;
    refuse_second(args, &config, &store, &reservations)?;
    let taken: HashSet<_> = reservations.iter().map(|reservation| reservation.address).collect();

    let mut undo = Undo { store: &store, reserved: Vec::new() };
    let mut ips = Vec::new();
    for (index, (set, request)) in config.sets.iter().zip(requests).enumerate() {
        let turn = Turn { args, store: &store, taken: &taken, index, set };
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
    store: &'a Store,
    reserved: Vec<Reservation>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for reservation in &self.reserved {
            // The ADD fails already, with the error that matters; DEL and GC find what is left.
            let _ = self.store.release(reservation);
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
    match open.first() {
        None => Ok(assigned),
        Some(request) if config.sets.iter().any(|set| set.contains(request.address)) => {
            Err(request.refuse("is a second request for one range set, of which an attachment gets one address"))
        }
        Some(request) => Err(request.refuse("is in no range set: request one that ipam.ranges has")),
    }
}

/// Refuses an attachment that holds an address of these sets already.
fn refuse_second(args: &Args, config: &Config, store: &Store, reservations: &[Reservation]) -> Result<(), Error> {
    let of_sets = reservations.iter().filter(|r| config.sets.iter().any(|set| set.contains(r.address)));
    let held = store.held_by(&args.container_id, &args.ifname, of_sets);
    match held.own.iter().chain(&held.of_container).next() {
        None => Ok(()),
        Some(reservation) => Err(Error::InvalidEnvValue(format!(
            "{} has been allocated to {} {} before, duplicate allocation is not allowed: DEL it first",
            reservation.address, args.container_id, args.ifname
        ))),
    }
}

/// One range set's turn in an ADD.
struct Turn<'a> {
    args: &'a Args,
    store: &'a Store,
    taken: &'a HashSet<IpAddr>,
    index: usize,
    set: &'a RangeSet,
}

impl Turn<'_> {
    fn take_requested(&self, request: &Requested) -> Result<(Reservation, IpConfig), Error> {
        let address = request.address;
        if self.set.is_gateway(address) {
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
        let free = self.set.candidates(self.store.last_reserved(self.index));
        for (address, _) in free.filter(|(address, _)| !self.taken.contains(address)) {
            if let Some(taken) = self.take(address)? {
                return Ok(taken);
            }
        }
        Err(Error::TryAgainLater(exhausted(self.index, self.set)))
    }

    /// Reserves an address of the set; none if another has it.
    fn take(&self, address: IpAddr) -> Result<Option<(Reservation, IpConfig)>, Error> {
        let Some(range) = self.set.range_of(address) else { return Ok(None) };
        let reservation = self.store.reserve(address, &self.args.container_id, &self.args.ifname, self.index)?;
        let ip = IpConfig { gateway: Some(range.gateway()), ..IpConfig::new(range.with_prefix(address)) };
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
fn check(args: &Args) -> Result<(), Error> {
    let config = Config::read(args)?;
    let conf = args.conf()?;
    let held: HashSet<_> = match Store::open(&config.data_dir, &conf.name)? {
        None => HashSet::new(),
        Some(store) => {
            let held = store.held_by(&args.container_id, &args.ifname, &store.reservations()?);
            held.own.into_iter().chain(held.of_container).map(|reservation| reservation.address).collect()
        }
    };
    let of_result = conf.prev_result.iter().flat_map(|prev| prev.container_ips(&args.ifname));
    let mut of_sets =
        of_result.map(|ip| ip.address.addr()).filter(|ip| config.sets.iter().any(|set| set.contains(*ip)));
    let missing = match of_sets.find(|address| !held.contains(address)) {
        Some(address) => address.to_string(),
        None if held.is_empty() => "an address".to_owned(),
        None => return Ok(()),
    };
    // Not code 3, which would tell the runtime that there is nothing to DEL.
    Err(Error::Custom(
        100,
        "the attachment is not as ADD left it".into(),
        format!("{missing} is not reserved for {} {}: DEL it and add it again", args.container_id, args.ifname),
    ))
}

fn del(args: &Args) -> Result<(), Error> {
    let conf = args.conf()?;
    let Some(store) = Store::open(&config::data_dir(conf)?, &conf.name)? else { return Ok(()) };
    let held = store.held_by(&args.container_id, &args.ifname, &store.reservations()?);
    // What stands in the container's name alone may be another interface's, as long as this one has its own.
    let held = if held.own.is_empty() { held.of_container } else { held.own };
    all(held.iter().map(|reservation| store.release(reservation)))
}

/// Releases every reservation of the network that no valid attachment holds; those that a process left without a
/// holder, too.
fn gc(args: &Args) -> Result<(), Error> {
    let conf = args.conf()?;
    let valid = valid_attachments(args)?;
    let attachments: HashSet<_> = valid.iter().map(|a| (a.container_id.as_str(), a.ifname.as_str())).collect();
    let containers: HashSet<_> = attachments.iter().map(|(id, _)| *id).collect();
    let Some(store) = Store::open(&config::data_dir(conf)?, &conf.name)? else { return Ok(()) };
    let is_valid = |holder: &Holder| match holder {
        Holder::Attachment { container_id, ifname } => attachments.contains(&(container_id.as_str(), ifname.as_str())),
        Holder::Container(id) => containers.contains(id.as_str()),
    };
    all(store.reservations()?.iter().map(|reservation| match store.holder(reservation)? {
        Some(holder) if !is_valid(&holder) => store.release(reservation),
        _ => Ok(()),
    }))
}

/// The attachments that are to stay. Their absence is not taken to mean that there are none.
fn valid_attachments(args: &Args) -> Result<&[Attachment], Error> {
    const KEY: &str = "cni.dev/valid-attachments";
    // libcni writes an empty list as null.
    let is_null = || serde_json::from_slice::<Map<String, Value>>(&args.stdin).is_ok_and(|map| map.contains_key(KEY));
    match &args.conf()?.valid_attachments {
        Some(valid) => Ok(valid),
        None if is_null() => Ok(&[]),
        None => Err(Error::InvalidNetworkConfig(format!(
            "GC needs {KEY}: without the attachments that are to stay, nothing is released"
        ))),
    }
}

fn status(args: &Args) -> Result<(), Error> {
    let config = Config::read(args)?;
    let taken: HashSet<_> = store::peek(&config.data_dir, &args.conf()?.name)
        .map_err(|error| Error::PluginNotAvailable(format!("dataDir cannot be used: {}", error.details())))?
        .into_iter()
        .collect();
    let is_full = |set: &RangeSet| set.candidates(None).all(|(address, _)| taken.contains(&address));
    match config.sets.iter().enumerate().find(|(_, set)| is_full(set)) {
        None => Ok(()),
        Some((index, set)) => Err(Error::PluginNotAvailable(exhausted(index, set))),
    }
}

/// Goes through all of them, whatever fails, and tells every failure.
fn all(outcomes: impl Iterator<Item = Result<(), Error>>) -> Result<(), Error> {
    let failures: Vec<_> = outcomes.filter_map(Result::err).collect();
    match failures.as_slice() {
        [] => Ok(()),
        failures => {
            let texts: Vec<_> = failures.iter().map(Error::details).collect();
            Err(Error::IOFailure(texts.join("; ")))
        }
    }
}
