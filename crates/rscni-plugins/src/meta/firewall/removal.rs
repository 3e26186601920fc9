//! Removal of rules and sources, by the records of their owner.

use std::net::IpAddr;

use rscni_linux::nft::Nft;

use super::{
    backend::{Backend, table},
    config::Config,
    firewalld::Firewalld,
    iptables,
    records::{self, Record},
};
use crate::{
    attach::Sandbox,
    netfilter::{Elements, nftable},
    plugin::{BestEffort, Call, Result},
    state::{OwnedBy, Resources},
};

/// The scope of an address that is valid beyond its link.
const GLOBAL: u8 = 0;

/// Returns the records that DEL removes. Rules without a record may be the Go plugin's.
pub(super) fn of_call(call: &Call<'_>, config: &Config, nft: &mut Nft) -> Result<Vec<Record>> {
    let addresses = if let Some(result) = &call.conf.prev_result {
        records::addresses(result.ips.iter())
    } else {
        let records = &mut Accepted { nft, zone: &config.zone };
        let found = records.find(&|by| by.is_owner(call.owner()))?;
        if !found.is_empty() {
            return Ok(found);
        }
        container_addresses(call)?
    };
    let tag = call.owner().tag();
    let mut records = Vec::new();
    for record in records::possible(Backend::ALL, &addresses) {
        let may_be_go = record.backend != Backend::Firewalld
            || matches!(config.backend, None | Some(Backend::Firewalld));
        if record.owner_tag(nft)?.map_or(may_be_go, |owner| owner == tag) {
            records.push(record);
        }
    }
    Ok(records)
}

/// Returns the addresses of the container interface. It still exists if the runtime calls the
/// plugins in the order of the spec.
fn container_addresses(call: &Call<'_>) -> Result<Vec<IpAddr>> {
    let Some(mut sandbox) = Sandbox::open_if_there(call)? else { return Ok(Vec::new()) };
    let Some(link) = sandbox.netlink.find_link(&call.args.ifname)? else { return Ok(Vec::new()) };
    let mut addresses = sandbox.netlink.addresses(link.index)?;
    addresses.retain(|address| address.scope == GLOBAL);
    Ok(addresses.iter().map(|address| address.net.addr()).collect())
}

/// The records of all owners with any backend.
pub(super) struct Accepted<'a> {
    pub(super) nft: &'a mut Nft,
    pub(super) zone: &'a str,
}

impl Resources for Accepted<'_> {
    type Resource = Record;

    fn list(&mut self) -> Result<Vec<(OwnedBy, Record)>> {
        let mut all = Vec::new();
        for backend in Backend::ALL {
            let sets = [true, false].map(|v4| backend.set(v4));
            let found = Elements { nft: self.nft, table: table(), sets: &sets }.list()?;
            all.extend(found.into_iter().filter_map(|(by, (_, element))| {
                Some((by, Record { backend, address: nftable::address(&element.key)? }))
            }));
        }
        Ok(all)
    }

    /// Removes rules and sources, and the records for which that succeeds.
    fn remove(self, found: Vec<Record>) -> Result<()> {
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
                Backend::Iptables => iptables::remove(self.nft, &addresses),
                // firewalld loses its sources when it stops.
                Backend::Firewalld => {
                    Firewalld::if_running().map_or(Ok(()), |mut f| f.remove(self.zone, &addresses))
                }
            };
            if outcome.is_ok() {
                done.extend(records);
            }
            all.step(outcome);
        }
        all.step(records::remove(self.nft, &done));
        all.finish()
    }
}
