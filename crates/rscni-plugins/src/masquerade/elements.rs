//! Masquerading as elements: a map per family from a container's address to the chain of its subnet.
//!
//! ```text
//! table inet rscni {
//!     map masquerade4 { type ipv4_addr : verdict; elements = { 10.1.0.5 comment "net id eth0" : jump masquerade-10.1.0.0/16 } }
//!     chain postrouting {
//!         type nat hook postrouting priority srcnat;
//!         ip saddr vmap @masquerade4
//!         ip6 saddr vmap @masquerade6
//!     }
//!     chain masquerade-10.1.0.0/16 { ip daddr 10.1.0.0/16 return; ip daddr 224.0.0.0/4 return; masquerade }
//! }
//! ```
//!
//! The chain of a subnet comes with its first container and goes with its last.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rscni::CNIResult;
use rscni_linux::nft::{
    BaseChain, Data, DataType, Element, ElementInfo, Family, Field, NatFlags, Nft, Rule, Set, Table, Transaction,
    Value, ValueType, Verdict,
};

use crate::failure::Result;
use crate::nftable;
use crate::owner::{Owner, Stale};

const POSTROUTING: &str = "postrouting";

/// What differs between the families.
struct Kind {
    /// An address of the family: it is what rules for one family ask for in a table of both.
    any: IpAddr,
    map: &'static str,
    key: ValueType,
    source: Field,
    destination: Field,
    multicast: &'static str,
}

const V4: Kind = Kind {
    any: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    map: "masquerade4",
    key: ValueType::Ipv4Addr,
    source: Field::IpSaddr,
    destination: Field::IpDaddr,
    multicast: "224.0.0.0/4",
};

const V6: Kind = Kind {
    any: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    map: "masquerade6",
    key: ValueType::Ipv6Addr,
    source: Field::Ip6Saddr,
    destination: Field::Ip6Daddr,
    multicast: "ff00::/8",
};

fn kind(address: IpAddr) -> &'static Kind {
    if address.is_ipv4() { &V4 } else { &V6 }
}

fn table() -> Table {
    nftable::table(Family::Inet)
}

/// The chain of a subnet; nftables has no colons in names.
fn chain(subnet: IpNet) -> String {
    format!("masquerade-{subnet}").replace(':', "_")
}

fn skeleton(transaction: &mut Transaction<'_>) {
    let table = table();
    transaction.create_chain(&table, POSTROUTING, Some(&BaseChain::srcnat()));
    for kind in [&V4, &V6] {
        transaction.add_set(&table, &Set::map(kind.map, [kind.key], DataType::Verdict));
        transaction.add_rule(
            &table,
            POSTROUTING,
            &Rule::new().family_of(kind.any).verdict_map(&[kind.source], kind.map),
        );
    }
}

/// The rules of a subnet's chain: for what stays inside, for multicast, and for the rest.
const CHAIN_RULES: u32 = 3;

/// The last container of a subnet may take the chain along while another one comes.
const ROUNDS: u32 = 4;

/// Adds the addresses of the result, in one transaction.
///
/// A chain that is complete is left as it is: what a transaction replaces has to be freed, and whoever changes
/// something next may have to wait for that.
pub(super) fn add(nft: &mut Nft, owner: Owner<'_>, result: &CNIResult) -> Result<()> {
    let table = table();
    let tag = owner.tag();
    let mut rounds = 0;
    loop {
        let mut missing = BTreeSet::new();
        for subnet in result.ips.iter().map(|ip| ip.address.trunc()) {
            if !has_all_rules(nft, subnet)? {
                missing.insert(subnet);
            }
        }
        let outcome = nftable::commit(nft, &table, skeleton, |transaction| {
            for subnet in &missing {
                add_chain(transaction, *subnet);
            }
            for ip in &result.ips {
                let (kind, chain) = (kind(ip.address.addr()), chain(ip.address.trunc()));
                let element = Element::new(ip.address.addr()).data(Verdict::Jump(chain)).comment(&tag);
                nftable::put(transaction, &table, kind.map, &element);
            }
        });
        rounds += 1;
        match outcome {
            Err(error) if error.is_not_found() && rounds < ROUNDS => {}
            outcome => return Ok(outcome?),
        }
    }
}

fn has_all_rules(nft: &mut Nft, subnet: IpNet) -> Result<bool> {
    Ok(nft.rules(&table(), &chain(subnet))?.len() == CHAIN_RULES as usize)
}

fn add_chain(transaction: &mut Transaction<'_>, subnet: IpNet) {
    let (table, chain, kind) = (table(), chain(subnet), kind(subnet.addr()));
    let multicast = kind.multicast.parse().expect("a constant");
    let leaves_alone = |net| Rule::new().family_of(kind.any).in_net(kind.destination, net).return_();
    transaction
        .add_chain(&table, &chain, None)
        .flush_chain(&table, &chain)
        .add_rule(&table, &chain, &leaves_alone(subnet))
        .add_rule(&table, &chain, &leaves_alone(multicast))
        .add_rule(&table, &chain, &Rule::new().masquerade(NatFlags::default()));
}

/// Removes the attachment's elements, and the chains of subnets that have no others.
pub(super) fn remove(nft: &mut Nft, owner: Owner<'_>, previous: Option<&CNIResult>) -> Result<()> {
    let tag = owner.tag();
    let nets: Vec<IpNet> = previous.into_iter().flat_map(|p| p.ips.iter().map(|ip| ip.address)).collect();
    let addresses: Vec<IpAddr> = nets.iter().map(IpNet::addr).collect();
    // The element may have been removed by hand; then it does not lead to its chain.
    let mut chains = BTreeSet::new();
    for name in nets.iter().map(|net| chain(net.trunc())) {
        if nft.chain(&table(), &name)?.is_some() {
            chains.insert(name);
        }
    }
    remove_found(nft, chains, |nft, kind| {
        let of_kind = addresses.iter().filter(|address| address.is_ipv4() == (kind.key == ValueType::Ipv4Addr));
        let keys: Vec<Value> = of_kind.map(|address| Value::from(*address)).collect();
        if keys.is_empty() && !addresses.is_empty() {
            return Ok(Vec::new());
        }
        nftable::find(nft, &table(), kind.map, &tag, &keys)
    })
}

/// GC.
pub(super) fn remove_stale(nft: &mut Nft, stale: &Stale<'_>) -> Result<()> {
    remove_found(nft, BTreeSet::new(), |nft, kind| nftable::find_stale(nft, &table(), kind.map, stale))
}

/// Removes the elements that `find` gives for each family, then those of their chains and of `chains` that nothing
/// uses any more.
fn remove_found(
    nft: &mut Nft,
    mut chains: BTreeSet<String>,
    find: impl Fn(&mut Nft, &Kind) -> Result<Vec<ElementInfo>>,
) -> Result<()> {
    let table = table();
    let mut found = Vec::new();
    for kind in [&V4, &V6] {
        for element in find(nft, kind)? {
            if let Some(Data::Verdict(Verdict::Jump(chain))) = &element.data {
                chains.insert(chain.clone());
            }
            found.push((kind.map, element));
        }
    }
    // The kernel counts a chain's rules and what leads to it. Asking is quicker than to be refused: that waits.
    let mut unused = Vec::new();
    for chain in chains {
        let leads_to =
            |element: &ElementInfo| matches!(&element.data, Some(Data::Verdict(Verdict::Jump(to))) if *to == chain);
        let own = found.iter().filter(|(_, element)| leads_to(element)).count();
        let rules = nft.rules(&table, &chain)?.len();
        let uses = nft.chain(&table, &chain)?.map_or(u32::MAX, |chain| chain.uses);
        if usize::try_from(uses).is_ok_and(|uses| uses <= own + rules) {
            unused.push(chain);
        }
    }
    match remove_together(nft, &found, &unused) {
        // A container of the subnet has just come, or another call has removed the chain.
        Err(error) if error.is_busy() || error.is_not_found() => {}
        outcome => return Ok(outcome?),
    }
    remove_together(nft, &found, &[])?;
    for chain in unused {
        match remove_together(nft, &[], &[chain]) {
            Err(error) if !error.is_busy() && !error.is_not_found() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn remove_together(nft: &mut Nft, elements: &[(&str, ElementInfo)], chains: &[String]) -> rscni_linux::Result<()> {
    let table = table();
    let mut transaction = nft.transaction();
    for (map, element) in elements {
        transaction.destroy_element(&table, map, &Element::new(Value::bytes(element.key.clone())));
    }
    for chain in chains {
        transaction.flush_chain(&table, chain).del_chain(&table, chain);
    }
    transaction.commit()
}

/// The first address of the result that is not masqueraded for this owner.
pub(super) fn missing(nft: &mut Nft, owner: Owner<'_>, result: &CNIResult) -> Result<Option<IpAddr>> {
    let (table, tag) = (table(), owner.tag());
    for ip in &result.ips {
        let address = ip.address.addr();
        let element = nft.get_element(&table, kind(address).map, &Value::from(address))?;
        let is_ours = element.is_some_and(|element| element.comment.as_deref() == Some(&tag));
        // The element leads to the chain; the chain has its rules, and the base chain its two.
        if !is_ours || !has_all_rules(nft, ip.address.trunc())? || nft.rules(&table, POSTROUTING)?.len() != 2 {
            return Ok(Some(address));
        }
    }
    Ok(None)
}
