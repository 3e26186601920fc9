//! Whose address was let through by whom: sets in our table `inet rscni`, a pair for each backend.
//!
//! The elements carry their owner. Neither rules that are to be those of the Go plugin nor the sources of firewalld can
//! say whose they are, so without a `prevResult` this is how DEL and GC find what to remove, and with one it is how a
//! late DEL spares the next owner of an address. For the backend nftables the sets are what the rules look at.

use std::net::IpAddr;

use rscni_linux::nft::{
    Element, ElementInfo, Family, Nft, Set, Table, Transaction, Value, ValueType,
};

use super::{config::Backend, forward};
use crate::{
    netfilter::nftable,
    plugin::error::Result,
    state::{
        inventory::Purpose,
        owner::{Owner, Stale},
    },
};

/// An address that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) backend: Backend,
    pub(super) address: IpAddr,
}

/// The set of a backend for IPv4 or IPv6.
pub(super) fn set(backend: Backend, v4: bool) -> &'static str {
    match (backend, v4) {
        (Backend::Nftables, true) => "firewall4",
        (Backend::Nftables, false) => "firewall6",
        (Backend::Iptables, true) => "firewall-iptables4",
        (Backend::Iptables, false) => "firewall-iptables6",
        (Backend::Firewalld, true) => "firewall-firewalld4",
        (Backend::Firewalld, false) => "firewall-firewalld6",
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

/// Every set, with its backend.
fn sets() -> impl Iterator<Item = (Backend, &'static str)> {
    Backend::ALL.into_iter().flat_map(|backend| [true, false].map(|v4| (backend, set(backend, v4))))
}

fn table() -> Table {
    nftable::table(Family::Inet)
}

/// The two sets of a backend, as they are made.
fn definitions(backend: Backend) -> [Set; 2] {
    [(true, ValueType::Ipv4Addr), (false, ValueType::Ipv6Addr)]
        .map(|(v4, key)| Set::new(set(backend, v4), [key]))
}

/// Makes the two sets of a backend where they are missing.
pub(super) fn add_sets(transaction: &mut Transaction<'_>, backend: Backend) {
    for set in definitions(backend) {
        transaction.add_set(&table(), &set);
    }
}

/// Notes that the addresses are this owner's. For nftables this is what lets them through.
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
            nftable::put(transaction, &table, set(backend, address.is_ipv4()), &element);
        }
    };
    let create_sets = |transaction: &mut Transaction<'_>| {
        for set in definitions(backend) {
            transaction.create_set(&table, &set);
        }
    };
    match backend {
        Backend::Nftables => forward::commit(nft, put),
        Backend::Iptables | Backend::Firewalld => nftable::commit(nft, &table, create_sets, put),
    }
}

/// Who has the address, with this backend.
pub(super) fn owner_of(nft: &mut Nft, backend: Backend, address: IpAddr) -> Result<Option<String>> {
    let element =
        nft.get_element(&table(), set(backend, address.is_ipv4()), &Value::from(address))?;
    Ok(element.map(|element| element.comment.unwrap_or_default()))
}

/// What is this owner's, with any backend. It looks at everything.
pub(super) fn of_owner(nft: &mut Nft, owner: Owner<'_>) -> Result<Vec<Record>> {
    let tag = owner.tag();
    all(nft, |nft, set| nftable::find(nft, &table(), set, &tag, &[]))
}

/// What GC may remove.
pub(super) fn of_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<Vec<Record>> {
    all(nft, |nft, set| nftable::find_stale(nft, &table(), set, stale))
}

fn all(
    nft: &mut Nft,
    find: impl Fn(&mut Nft, &str) -> Result<Vec<ElementInfo>>,
) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for (backend, set) in sets() {
        let addresses =
            find(nft, set)?.into_iter().filter_map(|element| nftable::address(&element.key));
        records.extend(addresses.map(|address| Record { backend, address }));
    }
    Ok(records)
}

/// Forgets addresses. For nftables this is what ends letting them through.
pub(super) fn remove(nft: &mut Nft, records: &[Record]) -> Result<()> {
    let table = table();
    let mut transaction = nft.transaction();
    for Record { backend, address } in records {
        transaction.destroy_element(
            &table,
            set(*backend, address.is_ipv4()),
            &Element::new(*address),
        );
    }
    Ok(transaction.commit()?)
}
