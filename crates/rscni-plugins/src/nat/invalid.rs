//! Drops what connection tracking calls invalid, such as the answer to a late segment: NAT leaves it alone, so it would
//! leave the host with the container's own address.
//!
//! ```text
//! table inet rscni {
//!     set masquerade-drops-invalid { type ipv4_addr; }
//!     set masquerade4-net-16 { type ipv4_addr; elements = { 10.2.0.0 } }
//!     chain masquerading-invalid {
//!         type filter hook forward priority filter;
//!         ct state invalid ip saddr @masquerade4 counter drop
//!         ct state invalid ip6 saddr @masquerade6 counter drop
//!         ct state invalid ip saddr & 255.255.0.0 @masquerade4-net-16 counter drop
//!     }
//! }
//! ```
//!
//! What iptables masquerades is known by subnet, in a set for each prefix length. A rule or element for each address would
//! survive the DEL of the Go plugins, which know nothing of it. The subnets belong to the network, as the bridge does.

use ipnet::IpNet;
use rscni_linux::nft::{BaseChain, CtState, Element, Hook, Nft, Rule, Set, Transaction, ValueType};

use super::elements::{Kind, V4, V6, kind, make, table};
use crate::plugin::error::{Result, differs};

const CHAIN: &str = "masquerading-invalid";

/// An empty set. Tables that an older version made do not have it, nor the rules.
const MARKER: &str = "masquerade-drops-invalid";

/// The priority `filter`.
const FILTER: i32 = 0;

/// Makes a transaction fail with "not found" where the rules are missing, without a message of its own.
pub(super) fn require(transaction: &mut Transaction<'_>) {
    transaction.flush_set(&table(), MARKER);
}

fn invalid() -> Rule {
    Rule::new().ct_state(CtState::INVALID)
}

/// What is always there once the first container needed it.
pub(super) fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction.add_table(&table).create_set(&table, &Set::new(MARKER, [ValueType::Ipv4Addr]));
    transaction.add_chain(&table, CHAIN, Some(&BaseChain::filter(Hook::Forward, FILTER)));
    for kind in [&V4, &V6] {
        let rule = of_addresses(kind);
        transaction.add_set(&table, &Set::new(kind.set, [kind.key])).add_rule(&table, CHAIN, &rule);
    }
}

fn of_addresses(kind: &Kind) -> Rule {
    invalid().family_of(kind.any).in_set(&[kind.source], kind.set).counter().drop()
}

fn of_subnets(subnet: IpNet) -> Rule {
    let (kind, set) = (kind(subnet.addr()), subnets(subnet));
    let rule = invalid().family_of(kind.any).net_in_set(kind.source, subnet, &[], &set);
    rule.counter().drop()
}

/// Puts the rules back in one transaction, for the sets that are there, if [`check`] misses one.
pub(super) fn restore(nft: &mut Nft) -> Result<()> {
    if check(nft).is_ok() {
        return Ok(());
    }
    let table = table();
    let sets = nft.sets(&table)?;
    let mut transaction = nft.transaction();
    transaction.flush_chain(&table, CHAIN);
    for kind in [&V4, &V6] {
        transaction.add_rule(&table, CHAIN, &of_addresses(kind));
        let longest = if kind.any.is_ipv4() { 32 } else { 128 };
        for length in 1..=longest {
            let subnet = IpNet::new_assert(kind.any, length);
            if sets.contains(&subnets(subnet)) {
                transaction.add_rule(&table, CHAIN, &of_subnets(subnet));
            }
        }
    }
    Ok(transaction.commit()?)
}

/// The set of the subnets of this one's length whose addresses iptables masquerades.
fn subnets(subnet: IpNet) -> String {
    format!("{}-net-{}", kind(subnet.addr()).set, subnet.prefix_len())
}

/// What is there once iptables masquerades in a subnet as long as this.
fn skeleton_subnets(transaction: &mut Transaction<'_>, subnet: IpNet) {
    let (table, kind, set) = (table(), kind(subnet.addr()), subnets(subnet));
    let rule = of_subnets(subnet);
    transaction.create_set(&table, &Set::new(set, [kind.key])).add_rule(&table, CHAIN, &rule);
}

/// Has invalid packets from the subnets of these addresses dropped: iptables masquerades the addresses.
pub(super) fn add_subnets(nft: &mut Nft, addresses: &[IpNet]) -> Result<()> {
    // An address without a subnet tells nothing about its neighbours.
    let subnets: Vec<IpNet> =
        addresses.iter().filter(|net| net.prefix_len() > 0).map(IpNet::trunc).collect();
    match put_subnets(nft, &subnets) {
        Err(error) if error.is_not_found() => {}
        outcome => return Ok(outcome?),
    }
    make(nft, skeleton)?;
    for subnet in &subnets {
        make(nft, |transaction| skeleton_subnets(transaction, *subnet))?;
    }
    Ok(put_subnets(nft, &subnets)?)
}

fn put_subnets(nft: &mut Nft, of: &[IpNet]) -> rscni_linux::Result<()> {
    let mut transaction = nft.transaction();
    require(&mut transaction);
    for subnet in of {
        transaction.add_element(&table(), &subnets(*subnet), &Element::new(subnet.network()));
    }
    transaction.commit()
}

/// CHECK: the rules are there, unless no ADD of this version has been called yet.
pub(super) fn check(nft: &mut Nft) -> Result<()> {
    let rules = nft.rules(&table(), CHAIN)?;
    let is_complete = [&V4, &V6].iter().all(|kind| rules.iter().any(|r| r.looks_up(kind.set)));
    if is_complete || nft.chain(&table(), CHAIN)?.is_none() {
        return Ok(());
    }
    Err(differs(format!(
        "masquerading: rules of {} {CHAIN}, which drop invalid packets, are missing",
        table()
    )))
}
