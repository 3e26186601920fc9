//! CHECK, and repair of what it finds missing.

use std::net::IpAddr;

use rscni_linux::nft::Nft;

use super::{
    backend::Backend,
    config::{Config, Policy},
    ingress::IngressPolicy,
    iptables, nftables, ports,
    records::{self, Record},
    removal::Accepted,
    selection::Selection,
};
use crate::{
    plugin::{Call, Result, differs},
    state::{Owner, Resources},
};

/// CHECK. Rules of earlier releases and of the Go plugin are enough.
pub(super) fn check(call: &Call<'_>) -> Result<()> {
    check_all(call, false)
}

/// Checks for all that ADD adds now.
pub(super) fn look(call: &Call<'_>) -> Result<()> {
    check_all(call, true)
}

fn check_all(call: &Call<'_>, is_strict: bool) -> Result<()> {
    let config = Config::new(call.conf)?;
    let result = call.checked_result()?;
    let ingress = config.policy.map(|policy| IngressPolicy::new(policy, result)).transpose()?;
    let addresses = &records::addresses(call.own(result).ips())[..];
    let owner = call.owner();
    let mut nft = Nft::open()?;
    // ADD might select another backend now.
    let backend = recorded(&mut nft, &config, owner, addresses)?;
    let mut selection = Selection::new(backend, &config, &mut nft)?;
    check_records(&mut nft, selection.backend, owner, addresses, is_strict)?;
    if selection.backend == Backend::Nftables
        && config.backend.is_none()
        && iptables::drops(&mut nft, addresses)?
    {
        return Err(differs(
            "the policy of iptables' chain FORWARD has become DROP, and the attachment was made \
             without iptables: DEL and ADD it, and set the backend to iptables if this can happen \
             again",
        ));
    }
    if let (Backend::Firewalld, Some(ingress)) = (selection.backend, &ingress) {
        // ADD may have been called before iptables had policies.
        selection.policies_by_iptables &=
            nftables::check_policy(&mut nft, ingress, is_strict).is_err();
    }
    selection.wanted(&config, addresses, ingress.as_ref(), is_strict).check(&mut nft)?;
    if let Some(firewalld) = &mut selection.firewalld {
        firewalld.check(&config.zone, addresses)?;
    }
    if let Some(ingress) = &ingress {
        if !selection.policies_by_iptables {
            nftables::check_policy(&mut nft, ingress, is_strict)?;
        }
        if ingress.policy == Policy::Isolated {
            ports::check(&mut nft, owner, &ingress.ports)?;
        }
    }
    Ok(())
}

/// Restores what is missing. Steps change nothing if nothing is missing.
pub(super) fn restore(call: &Call<'_>) -> Result<()> {
    let config = Config::new(call.conf)?;
    let result = call.checked_result()?;
    let ingress = IngressPolicy::detect(config.policy, result)?;
    let addresses = &records::addresses(call.own(result).ips())[..];
    let owner = call.owner();
    let mut nft = Nft::open()?;
    for record in records::possible(Backend::ALL, addresses) {
        check_owner(&mut nft, owner, record)?;
    }
    let mut backend = recorded(&mut nft, &config, owner, addresses)?;
    if config.backend.is_none()
        && backend == Some(Backend::Nftables)
        && iptables::drops(&mut nft, addresses)?
    {
        // Only a rule in the chain that drops packets can accept them.
        backend = None;
    }
    let mut selection = Selection::new(backend, &config, &mut nft)?;
    let backend = selection.backend;

    if let Some(ingress) = &ingress {
        selection.add_policy(&mut nft, owner, ingress)?;
        if !selection.policies_by_iptables
            && nftables::check_policy(&mut nft, ingress, true).is_err()
        {
            nftables::restore(&mut nft)?;
        }
        if ingress.policy == Policy::Isolated && !ingress.ports.is_empty() {
            ports::add(&mut nft, owner, &ingress.ports)?;
            ports::restore_rules(&mut nft)?;
        }
    }
    if !addresses.is_empty() {
        records::add(&mut nft, backend, owner, addresses)?;
        if backend == Backend::Nftables && nftables::check(&mut nft, true).is_err() {
            nftables::restore(&mut nft)?;
        }
    }
    selection.wanted(&config, addresses, ingress.as_ref(), true).add(&mut nft)?;
    if let Some(firewalld) = &mut selection.firewalld {
        firewalld.add(&config.zone, addresses)?;
    }
    // The rules of another backend are of no use any more.
    let others = Backend::ALL.into_iter().filter(|other| *other != backend);
    let others = records::owned(&mut nft, owner, records::possible(others, addresses))?;
    Accepted { nft: &mut nft, zone: &config.zone }.remove(others)
}

/// Returns the configured backend, or else the one that ADD selected.
fn recorded(
    nft: &mut Nft,
    config: &Config,
    owner: Owner<'_>,
    addresses: &[IpAddr],
) -> Result<Option<Backend>> {
    if config.backend.is_some() {
        return Ok(config.backend);
    }
    for record in records::possible(Backend::ALL, addresses.get(..1).unwrap_or_default()) {
        if record.owner_tag(nft)?.is_some_and(|tag| tag == owner.tag()) {
            return Ok(Some(record.backend));
        }
    }
    Ok(None)
}

/// Fails if the record exists and has another owner. Returns whether it exists.
fn check_owner(nft: &mut Nft, owner: Owner<'_>, record: Record) -> Result<bool> {
    match record.owner_tag(nft)? {
        Some(tag) if tag != owner.tag() => Err(differs(format!(
            "{} belongs to another attachment in the set inet rscni {}: {tag}",
            record.address,
            record.set()
        ))),
        found => Ok(found.is_some()),
    }
}

/// Checks that the addresses are this owner's. The Go plugin adds no records.
fn check_records(
    nft: &mut Nft,
    backend: Backend,
    owner: Owner<'_>,
    addresses: &[IpAddr],
    is_strict: bool,
) -> Result<()> {
    for record in records::possible([backend], addresses) {
        if !check_owner(nft, owner, record)? && backend == Backend::Nftables {
            let (address, set) = (record.address, record.set());
            return Err(differs(format!("{address} is missing in the set inet rscni {set}")));
        }
    }
    if backend == Backend::Nftables && !addresses.is_empty() {
        nftables::check(nft, is_strict)?;
    }
    Ok(())
}
