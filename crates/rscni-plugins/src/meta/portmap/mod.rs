//! `portmap`: forwards ports of the host into the container, as listed in
//! `runtimeConfig.portMappings`.
//!
//! It stands in a list after the plugin that creates the container's interface, and does nothing
//! without mappings. By default, it adds elements to the table `inet rscni` over netlink
//! ([`elements`]). With `backend: iptables`, it adds the rules of the Go plugin ([`iptables`]).
//! Removal covers both, and the nftables rules of the Go plugin ([`go_nftables`]), because an
//! attachment may be older than the node's plugins.

mod check;
mod config;
mod elements;
mod entry;
mod flows;
mod go_nftables;
mod iptables;
mod localnet;
pub(crate) mod names;
mod nft_program;
mod skeleton;
mod standby;

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use rscni::{CNIResult, Error};
use rscni_linux::nft::Nft;

use self::{
    config::{Backend, Config, container_nets},
    elements::Removed,
};
use crate::{
    plugin::{BestEffort, Call, Commands, Facts, Plugin, Repair, Result},
    state::{Owner, Undo},
};

pub(crate) const PORTMAP: Plugin = Plugin {
    name: "portmap",
    about: "maps ports of the host to ports of the container",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        repair: Some(Repair { look: check, restore }),
        owns_on_host: true,
        describe_element: names::describe,
        chains: Some(&iptables::CONTAINERS),
        kernel: |keys| keys.nftables_backend(),
        ..Facts::NONE
    },
};

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let config = Config::new(call)?;
    let previous = call.chained_result()?;
    let nets = container_nets(previous, call);
    if config.mappings.is_empty() || nets.is_empty() {
        return Ok(previous.clone());
    }
    let owner = call.owner();
    let mut undo = Undo::default();
    undo.push(move || remove(&mut Nft::open()?, owner, None).1);
    match config.backend {
        Backend::Nftables => elements::add(&mut Nft::open()?, call, &config, &nets)?,
        Backend::Iptables => iptables::add(owner, &config, &nets)?,
    }
    localnet::enable(&reached_from_localhost(&config, &nets))?;
    flows::forget_stale(&config, &nets);
    undo.commit();
    Ok(previous.clone())
}

/// Restores the mappings. Replaces the remaining ones.
fn restore(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call)?;
    let nets = container_nets(call.checked_result()?, call);
    let owner = call.owner();
    let mut nft = Nft::open()?;
    if check_backends(&mut nft, call, &config, &nets).is_err() {
        match config.backend {
            Backend::Nftables => {
                elements::add(&mut nft, call, &config, &nets)?;
                elements::restore_rules(&mut nft, owner, &config, &nets)?;
            }
            Backend::Iptables => iptables::add(owner, &config, &nets)?,
        }
        flows::forget_stale(&config, &nets);
    }
    localnet::enable(&reached_from_localhost(&config, &nets))
}

/// Returns the container's addresses with mappings from `127.0.0.1` or `::1` of the host.
fn reached_from_localhost(config: &Config, nets: &[IpNet]) -> Vec<IpAddr> {
    let is_wanted = |address: &IpAddr| {
        let v4 = address.is_ipv4();
        config.mappings.iter().any(|mapping| config.is_for_localhost(mapping, v4))
    };
    nets.iter().map(IpNet::addr).filter(is_wanted).collect()
}

/// Removes what any backend added for this attachment, and returns the elements. The configuration
/// and addresses of ADD, if known, save a search.
fn remove(
    nft: &mut Nft,
    owner: Owner<'_>,
    known: Option<(&Config, &[IpNet])>,
) -> (Vec<Removed>, Result<()>) {
    let (mut all, mut removed) = (BestEffort::default(), Vec::new());
    let known = known.map(|(config, nets)| (owner, config, nets));
    let elements = elements::remove(nft, &|by| by.is_owner(owner), known);
    all.step(elements.map(|elements| removed = elements));
    all.step(go_nftables::remove(nft, owner.container_id));
    all.step(iptables::remove(nft, owner));
    (removed, all.finish())
}

fn del(call: &Call<'_>) -> Result<()> {
    // An invalid configuration may have been valid at ADD.
    let config = Config::new(call).ok();
    let previous = call.conf.prev_result.as_ref();
    if config.as_ref().is_some_and(|config| config.mappings.is_empty()) && previous.is_some() {
        return Ok(());
    }
    let nets = previous.map(|result| container_nets(result, call)).unwrap_or_default();
    let known = config.as_ref().filter(|_| !nets.is_empty()).map(|config| (config, &nets[..]));
    let (removed, outcome) = remove(&mut Nft::open()?, call.owner(), known);
    let mut ports: Vec<u16> = elements::udp_ports(&removed).collect();
    ports.extend(config.iter().flat_map(flows::udp).map(|mapping| mapping.host_port));
    forget_flows(ports, nets.iter().map(IpNet::addr), &removed);
    outcome
}

/// Deletes the UDP flows from `ports` to these addresses and those of the removed mappings.
fn forget_flows(ports: Vec<u16>, containers: impl Iterator<Item = IpAddr>, removed: &[Removed]) {
    let containers = containers.chain(removed.iter().filter_map(|r| r.container)).collect();
    flows::forget_to(&BTreeSet::from_iter(ports), &containers);
}

fn check(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call)?;
    let nets = container_nets(call.checked_result()?, call);
    if config.mappings.is_empty() || nets.is_empty() {
        return Ok(());
    }
    let owner = call.owner();
    let mut nft = Nft::open()?;
    if let Err(differs) = check_backends(&mut nft, call, &config, &nets) {
        // The Go plugin may have added the mappings.
        if !go_nftables::exist(&mut nft, owner.container_id, &config, &nets)? {
            return Err(differs);
        }
    }
    localnet::check(&reached_from_localhost(&config, &nets))
}

/// Checks the mappings in both backends, the configured one first.
fn check_backends(nft: &mut Nft, call: &Call<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let checks = match config.backend {
        Backend::Nftables => [check::check, iptables::check],
        Backend::Iptables => [iptables::check, check::check],
    };
    let Err(differs) = checks[0](nft, call, config, nets) else { return Ok(()) };
    checks[1](nft, call, config, nets).map_err(|_| differs)
}

fn gc(call: &Call<'_>) -> Result<()> {
    let stale = call.stale();
    let mut nft = Nft::open()?;
    let mut all = BestEffort::default();
    let mut removed = Vec::new();
    let elements = elements::remove(&mut nft, &|by| stale.has(by), None);
    all.step(elements.map(|elements| removed = elements));
    all.step(iptables::CONTAINERS.remove_stale(&mut nft, &stale));
    forget_flows(elements::udp_ports(&removed).collect(), std::iter::empty(), &removed);
    all.finish()
}

fn status(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call)?;
    let unavailable = |what: String| Error::PluginNotAvailable(format!("portmap: {what}"));
    match config.backend {
        Backend::Nftables => {
            Nft::open().and_then(|mut nft| nft.tables()).map_err(|error| {
                unavailable(format!("{error}; load nf_tables, or set the backend to iptables"))
            })?;
        }
        Backend::Iptables => crate::netfilter::iptables::find().map_err(unavailable)?,
    }
    Ok(())
}
