//! `firewall`: lets the packets of a container's addresses through the host's firewall, and, where `ingressPolicy` says
//! so, keeps bridges apart. It stands in a list behind the plugin that made the interface.
//!
//! Letting through is done by one of three backends: rules of our own ([`forward`]), those of the Go plugin
//! ([`iptables`]), or [`firewalld`]. Whichever it is, [`records`] say whose the addresses are.

mod config;
pub(crate) mod dbus;
mod firewalld;
mod forward;
pub(crate) mod forward_policy;
mod iptables;
mod links;
mod ports;
mod records;
pub(crate) mod saved;

use crate::plugin::Call;
use std::net::IpAddr;

use rscni::{CNIResult, Error, IpConfig, NetConf};
use rscni_linux::nft::Nft;

use self::{
    config::{Backend, Config, On, Place, Policy, link, ports as host_ports},
    firewalld::Firewalld,
    iptables::Wanted,
    records::Record,
};
use crate::{
    attach::sandbox::Sandbox,
    plugin::{
        Commands, Plugin,
        error::{BestEffort, Result, differs},
        facts::{Facts, Repair},
    },
    state::{owner::Owner, undo::Undo},
};

/// The firewall plugin.
pub(crate) const FIREWALL: Plugin = Plugin {
    name: "firewall",
    about: "lets the container's packets through the host's firewall",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        repair: Some(Repair { look: look_strictly, restore }),
        owns_on_host: true,
        describe_element: records::describe,
        kernel: |keys| keys.nftables_backend(),
        ..Facts::NONE
    },
};

/// The backend that is used now, with a connection to firewalld if it is that.
struct Chosen {
    backend: Backend,
    firewalld: Option<Firewalld>,
    /// Whether the policies of bridges are rules of iptables.
    policies_by_iptables: bool,
}

/// What the configuration says; else firewalld if it is running, as the Go plugin has it; else iptables if the host
/// has rules of it, since what those drop nothing else can let through; else nftables.
fn choose(config: &Config, nft: &mut Nft) -> Result<Chosen> {
    let mut firewalld = None;
    let backend = match config.backend {
        Some(Backend::Firewalld) => {
            firewalld = Some(Firewalld::required()?);
            Backend::Firewalld
        }
        Some(backend) => backend,
        None => {
            firewalld = Firewalld::if_running();
            if firewalld.is_some() {
                Backend::Firewalld
            } else if config.admin_chain.is_some() || iptables::is_in_use(nft)? {
                Backend::Iptables
            } else {
                Backend::Nftables
            }
        }
    };
    let policies_by_iptables = match backend {
        Backend::Nftables => false,
        Backend::Iptables => true,
        // The Go plugin has them in iptables whatever the backend. Bridges are kept apart only by one and the same.
        Backend::Firewalld => iptables::has_policies(nft)?,
    };
    Ok(Chosen { backend, firewalld, policies_by_iptables })
}

impl Chosen {
    /// What is wanted of iptables.
    fn wanted<'a>(
        &self,
        config: &'a Config,
        addresses: &'a [IpAddr],
        place: Option<&Place<'a>>,
        is_strict: bool,
    ) -> Wanted<'a> {
        let open = (self.backend == Backend::Iptables)
            .then(|| (addresses, config.admin_chain.as_deref().unwrap_or(iptables::ADMIN)));
        let policy =
            place.filter(|_| self.policies_by_iptables).map(|place| (place.policy, place.on));
        Wanted { open, policy, addresses, is_strict }
    }
}

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let result = call.chained_result()?;
    let place = config.policy.map(|policy| Place::new(policy, result)?.seen()).transpose()?;
    // As with the Go plugin, also those of interfaces that other plugins of the list have added.
    let addresses = &addresses(result.ips.iter())[..];
    let owner = call.owner();
    let zone = config.zone.as_str();
    let mut nft = Nft::open()?;
    let mut chosen = choose(&config, &mut nft)?;
    let mut undo = Undo::default();

    // Bridges are kept apart before anything is let through.
    if let Some(place) = &place {
        if let On::Link(link) = place.on {
            undo.push(move || links::remove(&mut Nft::open()?, owner, Some(link)));
        }
        add_policy(&mut nft, owner, place, chosen.policies_by_iptables)?;
        if place.policy == Policy::Isolated {
            ports::add(&mut nft, owner, &place.ports)?;
            undo.push(|| ports::remove(&mut Nft::open()?, owner, Some(&place.ports)));
        }
    }
    if !addresses.is_empty() {
        let backend = chosen.backend;
        records::add(&mut nft, backend, owner, addresses)?;
        undo.push(move || records::remove(&mut Nft::open()?, &all_of(backend, addresses)));
    }
    if chosen.backend == Backend::Iptables {
        // Before the step itself: it is one for each family.
        undo.push(|| iptables::remove(&mut Nft::open()?, addresses));
    }
    chosen.wanted(&config, addresses, place.as_ref(), false).add(&mut nft)?;
    if let Some(firewalld) = &mut chosen.firewalld {
        // Before the step itself: it is one for each address.
        undo.push(|| Firewalld::required()?.remove(zone, addresses));
        firewalld.add(zone, addresses)?;
    }
    undo.commit();
    Ok(result.clone())
}

/// Puts the bridge or the link under its policy, as far as that is no matter of iptables' rules.
fn add_policy(nft: &mut Nft, owner: Owner<'_>, place: &Place<'_>, by_iptables: bool) -> Result<()> {
    match place.on {
        On::Link(link) if by_iptables => links::note(nft, owner, link),
        On::Bridge(_) if by_iptables => Ok(()),
        on => forward::add_policy(nft, owner, place.policy, on),
    }
}

/// The addresses, each once.
fn addresses<'r>(ips: impl Iterator<Item = &'r IpConfig>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in ips.map(|ip| ip.address.addr()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

fn all_of(backend: Backend, addresses: &[IpAddr]) -> Vec<Record> {
    addresses.iter().map(|address| Record { backend, address: *address }).collect()
}

fn del(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let owner = call.owner();
    let previous = conf.prev_result.as_ref();
    let mut nft = Nft::open()?;
    let mut all = BestEffort::default();
    // The policy of a bridge stays: other attachments may be on it.
    all.step(ports::remove(&mut nft, owner, previous.map(host_ports).as_deref()));
    match previous.map(link) {
        Some(None) => {}
        Some(Some(link)) => all.step(links::remove(&mut nft, owner, Some(link))),
        None => all.step(links::remove(&mut nft, owner, None)),
    }
    let config = Config::for_removal(conf);
    let found = to_remove(call, &config, &mut nft, owner);
    all.step(found.and_then(|found| remove(&mut nft, &config.zone, &found)));
    all.finish()
}

/// What DEL is to remove. What no record speaks of may be the Go plugin's.
fn to_remove(
    call: &Call<'_>,
    config: &Config,
    nft: &mut Nft,
    owner: Owner<'_>,
) -> Result<Vec<Record>> {
    let known = if let Some(result) = &call.conf.prev_result {
        addresses(result.ips.iter())
    } else {
        let found = records::of_owner(nft, owner)?;
        if !found.is_empty() {
            return Ok(found);
        }
        inner_addresses(call)?
    };
    let tag = owner.tag();
    let mut records = Vec::new();
    for record in Backend::ALL.into_iter().flat_map(|backend| all_of(backend, &known)) {
        let is_removed = match records::owner_of(nft, record.backend, record.address)? {
            Some(owner) => owner == tag,
            None => {
                record.backend != Backend::Firewalld
                    || matches!(config.backend, None | Some(Backend::Firewalld))
            }
        };
        if is_removed {
            records.push(record);
        }
    }
    Ok(records)
}

/// The addresses of the container's interface, which is still there if the runtime calls in the order of the spec.
fn inner_addresses(call: &Call<'_>) -> Result<Vec<IpAddr>> {
    let Some(mut sandbox) = Sandbox::open_if_there(call)? else { return Ok(Vec::new()) };
    let Some(link) = sandbox.netlink.find_link(&call.args.ifname)? else { return Ok(Vec::new()) };
    let addresses = sandbox
        .netlink
        .addresses(link.index)?
        .into_iter()
        .filter(|address| address.scope == GLOBAL);
    Ok(addresses.map(|address| address.net.addr()).collect())
}

/// The scope of an address that is known beyond its link.
const GLOBAL: u8 = 0;

/// Removes what the records speak of, and those that are done with.
fn remove(nft: &mut Nft, zone: &str, found: &[Record]) -> Result<()> {
    let mut all = BestEffort::default();
    let mut done = Vec::new();
    for backend in Backend::ALL {
        let records: Vec<Record> =
            found.iter().filter(|record| record.backend == backend).copied().collect();
        let addresses: Vec<IpAddr> = records.iter().map(|record| record.address).collect();
        if addresses.is_empty() {
            continue;
        }
        let outcome = match backend {
            Backend::Nftables => Ok(()),
            Backend::Iptables => iptables::remove(nft, &addresses),
            // What is not running has forgotten its sources.
            Backend::Firewalld => {
                Firewalld::if_running().map_or(Ok(()), |mut f| f.remove(zone, &addresses))
            }
        };
        if outcome.is_ok() {
            done.extend(records);
        }
        all.step(outcome);
    }
    all.step(records::remove(nft, &done));
    all.finish()
}

fn check(call: &Call<'_>) -> Result<()> {
    look(call, false)
}

/// CHECK. If `is_strict`, the rules that an earlier release and the Go plugin do not make must be
/// there too.
fn look(call: &Call<'_>, is_strict: bool) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let result = call.checked_result()?;
    let place = config.policy.map(|policy| Place::new(policy, result)).transpose()?;
    let addresses = &addresses(call.own(result).ips())[..];
    let owner = call.owner();
    let mut nft = Nft::open()?;
    let mut chosen = match recorded(&mut nft, &config, owner, addresses)? {
        // Another choice would be made today, but this is what ADD did.
        Some(backend) => of_add(&config, backend, &mut nft)?,
        None => choose(&config, &mut nft)?,
    };
    check_records(&mut nft, chosen.backend, owner, addresses, is_strict)?;
    if chosen.backend == Backend::Nftables
        && config.backend.is_none()
        && iptables::drops(&mut nft, addresses)?
    {
        return Err(differs(
            "the policy of iptables' chain FORWARD has become DROP, and the attachment was made without iptables: \
             DEL and ADD it, and set the backend to iptables if this can happen again",
        ));
    }
    if let (Backend::Firewalld, Some(place)) = (chosen.backend, &place) {
        // ADD may have been before there were policies in iptables.
        chosen.policies_by_iptables &=
            forward::check_policy(&mut nft, place.policy, place.on, is_strict).is_err();
    }
    chosen.wanted(&config, addresses, place.as_ref(), is_strict).check(&mut nft)?;
    if let Some(firewalld) = &mut chosen.firewalld {
        firewalld.check(&config.zone, addresses)?;
    }
    if let Some(place) = &place {
        if !chosen.policies_by_iptables {
            forward::check_policy(&mut nft, place.policy, place.on, is_strict)?;
        }
        if place.policy == Policy::Isolated {
            ports::check(&mut nft, owner, &place.ports)?;
        }
    }
    Ok(())
}

/// The choice of an ADD, by the backend that it took.
fn of_add(config: &Config, backend: Backend, nft: &mut Nft) -> Result<Chosen> {
    choose(&Config { backend: Some(backend), ..config.clone() }, nft)
}

/// What a repair looks for: all that ADD makes now.
pub(crate) fn look_strictly(call: &Call<'_>) -> Result<()> {
    look(call, true)
}

/// Puts back what is missing. Each step changes nothing where nothing is missing.
pub(crate) fn restore(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let result = call.checked_result()?;
    let place = config.policy.map(|policy| Place::new(policy, result)?.seen()).transpose()?;
    let addresses = &addresses(call.own(result).ips())[..];
    let owner = call.owner();
    let mut nft = Nft::open()?;
    refuse_other_owners(&mut nft, owner, addresses)?;
    let mut chosen = match recorded(&mut nft, &config, owner, addresses)? {
        // Only a rule in the chain that drops can let the packets through.
        Some(Backend::Nftables) if iptables::drops(&mut nft, addresses)? => {
            choose(&config, &mut nft)?
        }
        Some(backend) => of_add(&config, backend, &mut nft)?,
        None => choose(&config, &mut nft)?,
    };
    let backend = chosen.backend;

    if let Some(place) = &place {
        add_policy(&mut nft, owner, place, chosen.policies_by_iptables)?;
        if !chosen.policies_by_iptables
            && forward::check_policy(&mut nft, place.policy, place.on, true).is_err()
        {
            forward::restore(&mut nft)?;
        }
        if place.policy == Policy::Isolated && !place.ports.is_empty() {
            ports::add(&mut nft, owner, &place.ports)?;
            ports::restore_rules(&mut nft)?;
        }
    }
    if !addresses.is_empty() {
        records::add(&mut nft, backend, owner, addresses)?;
        if backend == Backend::Nftables && forward::check(&mut nft, true).is_err() {
            forward::restore(&mut nft)?;
        }
    }
    chosen.wanted(&config, addresses, place.as_ref(), true).add(&mut nft)?;
    if let Some(firewalld) = &mut chosen.firewalld {
        firewalld.add(&config.zone, addresses)?;
    }
    // What another backend had is of no use any more.
    let mut others = Vec::new();
    for other in Backend::ALL.into_iter().filter(|other| *other != backend) {
        for record in all_of(other, addresses) {
            let tag = records::owner_of(&mut nft, other, record.address)?;
            others.extend(tag.filter(|tag| *tag == owner.tag()).map(|_| record));
        }
    }
    remove(&mut nft, &config.zone, &others)
}

/// An address that has another owner by now is not taken away from it.
fn refuse_other_owners(nft: &mut Nft, owner: Owner<'_>, addresses: &[IpAddr]) -> Result<()> {
    for record in Backend::ALL.into_iter().flat_map(|backend| all_of(backend, addresses)) {
        let tag = records::owner_of(nft, record.backend, record.address)?;
        if let Some(tag) = tag.filter(|tag| *tag != owner.tag()) {
            let set = records::set(record.backend, record.address.is_ipv4());
            return Err(differs(format!(
                "{} belongs to another attachment in the set inet rscni {set}: {tag}",
                record.address
            )));
        }
    }
    Ok(())
}

/// The backend that ADD chose, if it was left to ADD.
fn recorded(
    nft: &mut Nft,
    config: &Config,
    owner: Owner<'_>,
    addresses: &[IpAddr],
) -> Result<Option<Backend>> {
    let (None, Some(first)) = (config.backend, addresses.first()) else { return Ok(None) };
    for backend in Backend::ALL {
        if records::owner_of(nft, backend, *first)?.is_some_and(|tag| tag == owner.tag()) {
            return Ok(Some(backend));
        }
    }
    Ok(None)
}

/// The addresses are this owner's. There are no records of what the Go plugin added.
fn check_records(
    nft: &mut Nft,
    backend: Backend,
    owner: Owner<'_>,
    addresses: &[IpAddr],
    is_strict: bool,
) -> Result<()> {
    for address in addresses {
        let set = records::set(backend, address.is_ipv4());
        match records::owner_of(nft, backend, *address)? {
            Some(tag) if tag == owner.tag() => {}
            Some(tag) => {
                return Err(differs(format!(
                    "{address} is another's in the set inet rscni {set}: {tag}"
                )));
            }
            None if backend == Backend::Nftables => {
                return Err(differs(format!("{address} is missing in the set inet rscni {set}")));
            }
            None => {}
        }
    }
    if backend == Backend::Nftables && !addresses.is_empty() {
        forward::check(nft, is_strict)
    } else {
        Ok(())
    }
}

fn gc(call: &Call<'_>) -> Result<()> {
    let conf: &NetConf = call.conf;
    let stale = call.stale();
    let mut nft = Nft::open()?;
    let mut all = BestEffort::default();
    all.step(ports::remove_stale(&mut nft, &stale));
    all.step(links::remove_stale(&mut nft, &stale));
    let found = records::of_stale(&mut nft, &stale);
    all.step(found.and_then(|found| remove(&mut nft, &Config::for_removal(conf).zone, &found)));
    all.finish()
}

fn status(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call.conf)?;
    let unavailable = |what: String| Error::PluginNotAvailable(what);
    let mut nft = Nft::open().map_err(|error| unavailable(error.to_string()))?;
    let mut chosen =
        choose(&config, &mut nft).map_err(|failure| unavailable(failure.0.details().to_owned()))?;
    if chosen.firewalld.as_mut().is_some_and(|firewalld| !firewalld.is_running()) {
        return Err(unavailable(
            "firewalld is not running: start it, or set another backend".into(),
        )
        .into());
    }
    let needs_iptables = chosen.backend == Backend::Iptables
        || (config.policy.is_some() && chosen.policies_by_iptables);
    if needs_iptables {
        crate::netfilter::iptables::find().map_err(Error::PluginNotAvailable)?;
    }
    Ok(())
}
