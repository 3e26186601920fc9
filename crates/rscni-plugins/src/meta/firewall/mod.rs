//! `firewall`: accepts packets of a container's addresses in the host's firewall and, with
//! `ingressPolicy`, isolates bridges from each other. It stands in a list after the plugin that
//! creates the interface.
//!
//! Packets are accepted by one of three backends: our own rules ([`nftables`]), those of the Go
//! plugin ([`iptables`]), or [`firewalld`]. With each of them, [`records`] name the owners of the
//! addresses.

mod backend;
mod check;
mod config;
pub(crate) mod dbus;
mod firewalld;
pub(crate) mod forward_policy;
mod ingress;
mod iptables;
mod nftables;
mod ports;
mod records;
mod removal;
mod selection;
mod veths;

use rscni::{CNIResult, Error};
use rscni_linux::nft::Nft;

use self::{
    backend::Backend,
    config::{Config, Policy},
    firewalld::Firewalld,
    ingress::{HostInterface, IngressPolicy},
    removal::Accepted,
    selection::Selection,
};
use crate::{
    plugin::{BestEffort, Call, Commands, Facts, Plugin, Repair, Result},
    state::{OwnedBy, Resources, Undo},
};

pub(crate) const FIREWALL: Plugin = Plugin {
    name: "firewall",
    about: "lets the container's packets through the host's firewall",
    commands: Commands { add, del, check: check::check, gc, status },
    facts: Facts {
        repair: Some(Repair { look: check::look, restore: check::restore }),
        owns_on_host: true,
        describe_element: records::describe,
        kernel: |keys| keys.nftables_backend(),
        ..Facts::NONE
    },
};

fn add(call: &Call<'_>) -> Result<CNIResult> {
    let config = Config::new(call.conf)?;
    let result = call.chained_result()?;
    let ingress = IngressPolicy::detect(config.policy, result)?;
    // As in the Go plugin, this includes the interfaces of other plugins in the list.
    let addresses = &records::addresses(result.ips.iter())[..];
    let owner = call.owner();
    let zone = config.zone.as_str();
    let mut nft = Nft::open()?;
    let mut selection = Selection::new(config.backend, &config, &mut nft)?;
    let backend = selection.backend;
    let mut undo = Undo::default();

    // Isolation comes before packets are accepted.
    if let Some(ingress) = &ingress {
        if let HostInterface::Veth(veth) = ingress.interface {
            undo.push(move || veths::remove(&mut Nft::open()?, owner, Some(veth)));
        }
        selection.add_policy(&mut nft, owner, ingress)?;
        if ingress.policy == Policy::Isolated {
            undo.push(|| ports::remove(&mut Nft::open()?, owner, Some(&ingress.ports)));
            ports::add(&mut nft, owner, &ingress.ports)?;
        }
    }
    if !addresses.is_empty() {
        undo.push(move || {
            let nft = &mut Nft::open()?;
            let own = records::owned(nft, owner, records::possible([backend], addresses))?;
            records::remove(nft, &own)
        });
        records::add(&mut nft, backend, owner, addresses)?;
    }
    if backend == Backend::Iptables {
        undo.push(|| iptables::remove(&mut Nft::open()?, addresses));
    }
    selection.wanted(&config, addresses, ingress.as_ref(), false).add(&mut nft)?;
    if let Some(firewalld) = &mut selection.firewalld {
        undo.push(|| Firewalld::required()?.remove(zone, addresses));
        firewalld.add(zone, addresses)?;
    }
    undo.commit();
    Ok(result.clone())
}

fn del(call: &Call<'_>) -> Result<()> {
    let previous = call.conf.prev_result.as_ref();
    let mut nft = Nft::open()?;
    let mut all = BestEffort::default();
    // The policy of a bridge stays, because other attachments may be on the bridge.
    let ports = previous.map(ingress::ports);
    all.step(ports::remove(&mut nft, call.owner(), ports.as_deref()));
    let veth = previous.map(ingress::veth);
    if veth != Some(None) {
        all.step(veths::remove(&mut nft, call.owner(), veth.flatten()));
    }
    let config = Config::for_removal(call.conf);
    let found = removal::of_call(call, &config, &mut nft);
    let records = Accepted { nft: &mut nft, zone: &config.zone };
    all.step(found.and_then(|found| records.remove(found)));
    all.finish()
}

fn gc(call: &Call<'_>) -> Result<()> {
    let stale = call.stale();
    let zone = Config::for_removal(call.conf).zone;
    let mut nft = Nft::open()?;
    let mut all = BestEffort::default();
    let is_stale = |by: &OwnedBy| stale.has(by);
    all.step(ports::elements(&mut nft).remove_of(&is_stale));
    all.step(veths::Policies(&mut nft).remove_of(&is_stale));
    all.step(Accepted { nft: &mut nft, zone: &zone }.remove_of(&is_stale));
    all.finish()
}

fn status(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call.conf)?;
    let unavailable = |what: String| Error::PluginNotAvailable(what);
    let mut nft = Nft::open().map_err(|error| unavailable(error.to_string()))?;
    let mut selection = Selection::new(config.backend, &config, &mut nft)
        .map_err(|failure| unavailable(failure.0.details().to_owned()))?;
    if selection.firewalld.as_mut().is_some_and(|firewalld| !firewalld.is_running()) {
        let problem = "firewalld is not running: start it, or set another backend";
        return Err(unavailable(problem.into()).into());
    }
    let needs_iptables = selection.backend == Backend::Iptables
        || (config.policy.is_some() && selection.policies_by_iptables);
    if needs_iptables {
        crate::netfilter::iptables::find().map_err(unavailable)?;
    }
    Ok(())
}
