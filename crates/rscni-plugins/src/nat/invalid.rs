//! Drops packets that connection tracking calls invalid, such as the answer to a late segment. NAT
//! ignores them, so they would leave the host with the container's own address.
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
//! If iptables masquerades, the sets hold subnets, one set for each prefix length. A rule or
//! element for each address would survive a DEL of the Go plugins, which do not know it. The
//! subnets belong to the network, as the bridge does.

use ipnet::IpNet;
use rscni_linux::nft::{BaseChain, CtState, Element, Hook, Nft, Rule, Set, Transaction, ValueType};

use super::family::{self, table};
use crate::{
    netfilter::{AddressFamily, FAMILIES, nftable},
    plugin::{Result, differs},
};

const CHAIN: &str = "masquerading-invalid";

/// An empty set. Tables of older versions have neither this set nor the rules.
const MARKER: &str = "masquerade-drops-invalid";

const FILTER: i32 = 0;

/// Makes a transaction fail with "not found" if the rules are missing, without another message.
pub(super) fn require(transaction: &mut Transaction<'_>) {
    transaction.flush_set(&table(), MARKER);
}

/// Creates what every container needs.
pub(super) fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction.add_table(&table).create_set(&table, &Set::new(MARKER, [ValueType::Ipv4Addr]));
    transaction.add_chain(&table, CHAIN, Some(&BaseChain::filter(Hook::Forward, FILTER)));
    for family in FAMILIES {
        transaction.add_set(&table, &Set::new(family::set(family), [family.key]));
        transaction.add_rule(&table, CHAIN, &of_addresses(family));
    }
}

fn of_addresses(family: &AddressFamily) -> Rule {
    let rule = Rule::new().ct_state(CtState::INVALID).family_of(family.any);
    rule.in_set(&[family.source], family::set(family)).counter().drop()
}

fn of_subnets(subnet: IpNet) -> Rule {
    let family = family::of(subnet);
    let rule = Rule::new().ct_state(CtState::INVALID).family_of(family.any);
    rule.net_in_set(family.source, subnet, &[], &subnets(subnet)).counter().drop()
}

/// Recreates the rules in one transaction, for the sets that exist, if [`check`] finds one missing.
pub(super) fn restore(nft: &mut Nft) -> Result<()> {
    if check(nft).is_ok() {
        return Ok(());
    }
    let table = table();
    let sets = nft.sets(&table)?;
    let mut transaction = nft.transaction();
    transaction.flush_chain(&table, CHAIN);
    for family in FAMILIES {
        transaction.add_rule(&table, CHAIN, &of_addresses(family));
    }
    for subnet in family::subnets_in(&sets, subnets) {
        transaction.add_rule(&table, CHAIN, &of_subnets(subnet));
    }
    Ok(transaction.commit()?)
}

/// Returns the name of the set of masqueraded subnets with this one's prefix length.
fn subnets(subnet: IpNet) -> String {
    format!("{}-net-{}", family::set(family::of(subnet)), subnet.prefix_len())
}

/// Creates what subnets with this one's prefix length need.
fn skeleton_subnets(transaction: &mut Transaction<'_>, subnet: IpNet) {
    let (table, rule) = (table(), of_subnets(subnet));
    let set = Set::new(subnets(subnet), [family::of(subnet).key]);
    transaction.create_set(&table, &set).add_rule(&table, CHAIN, &rule);
}

/// Drops invalid packets from the subnets of addresses that iptables masquerades.
pub(super) fn add_subnets(nft: &mut Nft, addresses: &[IpNet]) -> Result<()> {
    // Without a prefix, the other addresses of the subnet are unknown.
    let subnets: Vec<IpNet> =
        addresses.iter().filter(|net| net.prefix_len() > 0).map(IpNet::trunc).collect();
    match put_subnets(nft, &subnets) {
        Err(error) if error.is_not_found() => {}
        outcome => return Ok(outcome?),
    }
    nftable::create(nft, skeleton)?;
    for subnet in &subnets {
        nftable::create(nft, |transaction| skeleton_subnets(transaction, *subnet))?;
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

/// CHECK: the rules exist, unless no ADD of this version was called yet.
pub(super) fn check(nft: &mut Nft) -> Result<()> {
    let rules = nft.rules(&table(), CHAIN)?;
    let is_complete =
        FAMILIES.iter().all(|family| rules.iter().any(|r| r.looks_up(family::set(family))));
    if is_complete || nft.chain(&table(), CHAIN)?.is_none() {
        return Ok(());
    }
    Err(differs(format!(
        "masquerading: rules of {} {CHAIN}, which drop invalid packets, are missing",
        table()
    )))
}
