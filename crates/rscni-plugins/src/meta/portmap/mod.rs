//! `portmap`: ports of the host that lead into the container, as `runtimeConfig.portMappings` lists them.
//!
//! It is chained after the plugin that makes the container's interface. Where there are no mappings it does nothing at
//! all. Ours are elements in the table `inet rscni` ([`elements`]), changed over netlink; with `backend: iptables` the
//! rules are those that the Go plugin makes ([`iptables`]). Removal looks for both, and for what the Go plugin makes
//! with nftables ([`go_nftables`]): an attachment may be older than the node's plugins.

mod check;
mod config;
mod elements;
mod flows;
mod go_nftables;
mod iptables;
mod localnet;
pub(crate) mod names;
mod nft_program;
mod standby;

use crate::plugin::Call;
use std::net::IpAddr;

use ipnet::IpNet;
use rscni::{CNIResult, Error};
use rscni_linux::nft::Nft;

use self::{
    config::{Backend, Config, container_nets},
    elements::Removed,
};
use crate::{
    plugin::{
        Commands, Plugin,
        error::{BestEffort, Result},
        facts::{Facts, Repair},
    },
    state::{owner::Owner, undo::Undo},
};

/// The portmap plugin.
pub(crate) const PORTMAP: Plugin = Plugin {
    name: "portmap",
    about: "maps ports of the host to ports of the container",
    commands: Commands { add, del, check, gc, status },
    facts: Facts {
        repair: Some(Repair { look: check, restore }),
        owns_on_host: true,
        describe_element: names::describe,
        kernel: |keys| keys.nftables_backend(),
        ..Facts::NONE
    },
};

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let _conf = call.conf;
    let config = Config::new(call)?;
    let previous = call.chained_result()?;
    let nets = container_nets(previous, call);
    if config.mappings.is_empty() || nets.is_empty() {
        return Ok(previous.clone());
    }
    let owner = call.owner();
    let mut undo = Undo::default();
    // Before the step itself: with iptables it is one for each family.
    undo.push(move || remove(owner, None).1);
    match config.backend {
        Backend::Nftables => elements::add(&mut Nft::open()?, call, &config, &nets)?,
        Backend::Iptables => iptables::add(owner, &config, &nets)?,
    }
    localnet::enable(&by_localhost(&config, &nets))?;
    flows::forget_stale(&config, nets.iter().map(|net| net.addr().is_ipv4()));
    undo.commit();
    Ok(previous.clone())
}

/// Puts the mappings back: those that are left are replaced.
pub(crate) fn restore(call: &Call<'_>) -> Result<()> {
    let _conf = call.conf;
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
        flows::forget_stale(&config, nets.iter().map(|net| net.addr().is_ipv4()));
    }
    localnet::enable(&by_localhost(&config, &nets))
}

/// The container's addresses that `127.0.0.1` or `::1` of the host is to lead to.
fn by_localhost(config: &Config, nets: &[IpNet]) -> Vec<IpAddr> {
    let is_wanted = |address: &IpAddr| {
        let v4 = address.is_ipv4();
        config.mappings.iter().any(|mapping| config.is_for_localhost(mapping, v4))
    };
    nets.iter().map(IpNet::addr).filter(is_wanted).collect()
}

/// Removes whatever any of the backends has for this attachment, and gives our elements among it. What ADD was told
/// saves a search.
fn remove(owner: Owner<'_>, known: Option<(&Config, &[IpNet])>) -> (Vec<Removed>, Result<()>) {
    let mut nft = match Nft::open() {
        Ok(nft) => nft,
        Err(error) => return (Vec::new(), Err(error.into())),
    };
    let (mut all, mut removed) = (BestEffort::default(), Vec::new());
    all.step(elements::remove(&mut nft, owner, known).map(|elements| removed = elements));
    all.step(go_nftables::remove(&mut nft, owner.container_id));
    all.step(iptables::remove(&mut nft, owner));
    (removed, all.finish())
}

fn del(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    // One that has become invalid does not stop this; it may have asked for anything.
    let config = Config::new(call).ok();
    let previous = conf.prev_result.as_ref();
    if config.as_ref().is_some_and(|config| config.mappings.is_empty()) && previous.is_some() {
        return Ok(());
    }
    let nets = previous.map(|result| container_nets(result, call)).unwrap_or_default();
    let known = config.as_ref().filter(|_| !nets.is_empty()).map(|config| (config, &nets[..]));
    let (removed, outcome) = remove(call.owner(), known);
    let mut ports: Vec<u16> = elements::udp_ports(&removed).collect();
    ports.extend(config.iter().flat_map(flows::udp).map(|mapping| mapping.host_port));
    forget_flows(ports, nets.iter().map(IpNet::addr), &removed);
    outcome
}

/// Forgets the flows of UDP to what is removed, and to these addresses.
fn forget_flows(
    mut ports: Vec<u16>,
    containers: impl Iterator<Item = IpAddr>,
    removed: &[Removed],
) {
    let mut containers: Vec<IpAddr> =
        containers.chain(removed.iter().filter_map(|r| r.container)).collect();
    containers.sort_unstable();
    containers.dedup();
    ports.sort_unstable();
    ports.dedup();
    flows::forget_to(ports.into_iter(), &containers);
}

pub(crate) fn check(call: &Call<'_>) -> Result<()> {
    let _conf = call.conf;
    let config = Config::new(call)?;
    let nets = container_nets(call.checked_result()?, call);
    if config.mappings.is_empty() || nets.is_empty() {
        return Ok(());
    }
    let owner = call.owner();
    let mut nft = Nft::open()?;
    if let Err(differs) = check_backends(&mut nft, call, &config, &nets) {
        // It may have been added by the Go plugin.
        if !go_nftables::is_there(&mut nft, owner.container_id, &config, &nets)? {
            return Err(differs);
        }
    }
    localnet::check(&by_localhost(&config, &nets))
}

/// What ADD made is there, whichever backend it was told to use.
fn check_backends(nft: &mut Nft, call: &Call<'_>, config: &Config, nets: &[IpNet]) -> Result<()> {
    let checks = match config.backend {
        Backend::Nftables => [check::check, iptables::check],
        Backend::Iptables => [iptables::check, check::check],
    };
    let Err(differs) = checks[0](nft, call, config, nets) else { return Ok(()) };
    checks[1](nft, call, config, nets).map_err(|_| differs)
}

fn gc(call: &Call<'_>) -> Result<()> {
    let _conf = call.conf;
    let stale = call.stale();
    let mut nft = Nft::open()?;
    let mut all = BestEffort::default();
    let mut removed = Vec::new();
    all.step(elements::remove_stale(&mut nft, &stale).map(|elements| removed = elements));
    all.step(iptables::remove_stale(&mut nft, &stale));
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
