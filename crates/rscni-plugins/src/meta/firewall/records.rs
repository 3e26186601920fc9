//! Sets in our table `inet rscni` that record the owner of each accepted address, two for each
//! backend.
//!
//! Rules of the Go plugin's form and sources of firewalld cannot name their owner. Without a
//! `prevResult`, DEL and GC find in the records what to remove. With one, the records keep a late
//! DEL from removing rules of the next owner of an address. For the backend nftables, the rules
//! look up these sets.

use std::net::IpAddr;

use rscni::IpConfig;
use rscni_linux::nft::{Element, Nft, Transaction, Value};

use super::{
    backend::{Backend, table},
    nftables,
};
use crate::{
    netfilter::nftable,
    plugin::Result,
    state::{Owner, Purpose},
};

/// An address that a backend accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) backend: Backend,
    pub(super) address: IpAddr,
}

impl Record {
    pub(super) fn set(self) -> &'static str {
        self.backend.set(self.address.is_ipv4())
    }

    /// Returns the tag of the owner, or `None` if the record does not exist.
    pub(super) fn owner_tag(self, nft: &mut Nft) -> Result<Option<String>> {
        let element = nft.get_element(&table(), self.set(), &Value::from(self.address))?;
        Ok(element.map(|element| element.comment.unwrap_or_default()))
    }
}

/// Describes an element of the sets of firewall for the inventory.
pub(super) fn describe(set: &str, key: &[u8]) -> Option<(String, Purpose)> {
    let purpose = if set.starts_with("firewall-iptables") {
        Purpose::FirewallInIptables
    } else if set.starts_with("firewall") {
        Purpose::Firewall
    } else {
        return None;
    };
    let address = nftable::address(key).filter(|_| set.ends_with(['4', '6']));
    Some((address.map_or_else(|| nftable::text(key), |it| it.to_string()), purpose))
}

/// Returns the addresses of a result, each once.
pub(super) fn addresses<'r>(ips: impl Iterator<Item = &'r IpConfig>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in ips.map(|ip| ip.address.addr()) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Returns the possible records of these addresses with these backends.
pub(super) fn possible(
    backends: impl IntoIterator<Item = Backend>,
    addresses: &[IpAddr],
) -> impl Iterator<Item = Record> {
    let of = |backend| addresses.iter().map(move |address| Record { backend, address: *address });
    backends.into_iter().flat_map(of)
}

/// Returns the records among `records` that exist and are this owner's.
pub(super) fn owned(
    nft: &mut Nft,
    owner: Owner<'_>,
    records: impl Iterator<Item = Record>,
) -> Result<Vec<Record>> {
    let tag = owner.tag();
    let mut found = Vec::new();
    for record in records {
        found.extend(record.owner_tag(nft)?.filter(|other| *other == tag).map(|_| record));
    }
    Ok(found)
}

/// Records that the addresses are this owner's. For nftables, this accepts their packets.
pub(super) fn add(
    nft: &mut Nft,
    backend: Backend,
    owner: Owner<'_>,
    addresses: &[IpAddr],
) -> Result<()> {
    let (table, tag) = (table(), owner.tag());
    let put = |transaction: &mut Transaction<'_>| {
        for address in addresses {
            let element = Element::new(*address).comment(&tag);
            nftable::put(transaction, &table, backend.set(address.is_ipv4()), &element);
        }
    };
    let create_sets = |transaction: &mut Transaction<'_>| {
        for set in backend.sets() {
            transaction.create_set(&table, &set);
        }
    };
    match backend {
        Backend::Nftables => nftables::commit(nft, put),
        Backend::Iptables | Backend::Firewalld => nftable::commit(nft, &table, create_sets, put),
    }
}

/// Removes records. For nftables, this ends accepting packets.
pub(super) fn remove(nft: &mut Nft, records: &[Record]) -> Result<()> {
    let elements: Vec<_> =
        records.iter().map(|record| (record.set(), Value::from(record.address))).collect();
    nftable::remove_elements(nft, &table(), &elements)
}
