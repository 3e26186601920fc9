//! The table `inet rscnid`: packets of this node's pods are masqueraded, unless they go to pods or
//! nodes of the cluster.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni_linux::{
    Family, Result,
    nft::{
        self, BaseChain, Element, ElementInfo, Field, NatFlags, Nft, Rule, Set, Table, ValueType,
    },
};

use super::{Both, Change, FAMILIES, Key, Own, State, Value};

/// The name of the table.
pub(super) const TABLE: &str = "rscnid";
const CHAIN: &str = "from_pods";
pub(super) const PODS: Both<&str> = Both { v4: "pods4", v6: "pods6" };
const NODES: Both<&str> = Both { v4: "nodes4", v6: "nodes6" };
pub(super) const SOURCE: Both<Field> = Both { v4: Field::IpSaddr, v6: Field::Ip6Saddr };
pub(super) const DESTINATION: Both<Field> = Both { v4: Field::IpDaddr, v6: Field::Ip6Daddr };
/// Elements in one transaction; the kernel limits its length.
const AT_ONCE: usize = 500;

pub(super) fn table() -> Table {
    Table::new(nft::Family::Inet, TABLE)
}

/// Creates the sets, unless they exist, and replaces the rules.
pub(super) fn prepare(nft: &mut Nft, own: &Own) -> Result<()> {
    let table = table();
    let mut transaction = nft.transaction();
    transaction.add_table(&table);
    for family in FAMILIES {
        let key = match family {
            Family::V4 => ValueType::Ipv4Addr,
            Family::V6 => ValueType::Ipv6Addr,
        };
        transaction.add_set(&table, &Set::new(*PODS.of(family), [key]).with_intervals());
        transaction.add_set(&table, &Set::new(*NODES.of(family), [key]));
    }
    transaction.destroy_chain(&table, CHAIN).add_chain(&table, CHAIN, Some(&BaseChain::srcnat()));
    for family in FAMILIES {
        let (Some(net), destination) = (*own.pod_cidrs.of(family), *DESTINATION.of(family)) else {
            continue;
        };
        let from_pods = || Rule::new().family_of(net.addr()).in_net(*SOURCE.of(family), net);
        let rules = [
            from_pods().in_set(&[destination], PODS.of(family)).return_(),
            from_pods().in_set(&[destination], NODES.of(family)).return_(),
            from_pods().not_in_net(destination, multicast(family)).masquerade(NatFlags::default()),
        ];
        for rule in &rules {
            transaction.add_rule(&table, CHAIN, rule);
        }
    }
    transaction.commit()
}

fn multicast(family: Family) -> IpNet {
    let (address, length): (IpAddr, u8) = match family {
        Family::V4 => ([224, 0, 0, 0].into(), 4),
        Family::V6 => ([0xff00, 0, 0, 0, 0, 0, 0, 0].into(), 8),
    };
    IpNet::new_assert(address, length)
}

/// Reads the elements.
pub(super) fn read(nft: &mut Nft) -> Result<State> {
    let mut state = State::new();
    for family in FAMILIES {
        let nets = subnets(nft.elements(&table(), PODS.of(family))?);
        state.extend(nets.into_iter().map(|net| (Key::Pods(net), Value::Member)));
        let nodes = nft.elements(&table(), NODES.of(family))?;
        let nodes = nodes.iter().filter_map(|element| address(&element.key));
        state.extend(nodes.map(|node| (Key::Node(node), Value::Member)));
    }
    Ok(state)
}

/// Returns the subnets of an interval set. The kernel lists both ends of an interval as elements.
fn subnets(mut elements: Vec<ElementInfo>) -> Vec<IpNet> {
    // The end of one interval may be the start of the next one.
    elements.sort_by(|a, b| (&a.key, !a.interval_end).cmp(&(&b.key, !b.interval_end)));
    let mut nets = Vec::new();
    let mut first = None;
    for element in &elements {
        match (first.take(), address(&element.key)) {
            (Some(first), Some(after)) if element.interval_end => nets.extend(subnet(first, after)),
            (None, Some(start)) if !element.interval_end => first = Some(start),
            _ => {}
        }
    }
    nets
}

/// Returns the subnet that begins with `first` and ends before `after`.
fn subnet(first: IpAddr, after: IpAddr) -> Option<IpNet> {
    let (size, bits) = match (first, after) {
        (IpAddr::V4(first), IpAddr::V4(after)) => {
            (u32::from(after).checked_sub(first.into())?.into(), 32)
        }
        (IpAddr::V6(first), IpAddr::V6(after)) => {
            (u128::from(after).checked_sub(first.into())?, 128)
        }
        _ => return None,
    };
    let length = size.is_power_of_two().then(|| bits - size.trailing_zeros())?;
    IpNet::new(first, u8::try_from(length).ok()?).ok()
}

fn address(key: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(key).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(key).ok().map(IpAddr::from))
}

/// Adds and removes elements, and returns what failed.
pub(super) fn apply(nft: &mut Nft, changes: &[Change]) -> Vec<(Key, String)> {
    let table = table();
    let mut failures = Vec::new();
    for some in changes.chunks(AT_ONCE) {
        let mut transaction = nft.transaction();
        for change in some {
            let (set, element) = match change.key() {
                Key::Pods(net) => (PODS.of(Family::of(&net.addr())), Element::net(net)),
                Key::Node(address) => (NODES.of(Family::of(&address)), Element::new(address)),
                _ => continue,
            };
            match change {
                Change::Set(..) => transaction.add_element(&table, set, &element),
                Change::Remove(..) => transaction.destroy_element(&table, set, &element),
            };
        }
        if let Err(error) = transaction.commit() {
            failures.extend(some.iter().map(|change| (change.key(), error.to_string())));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnet_is_read_from_its_ends() {
        for (first, after, net) in [
            ("10.1.0.0", "10.1.1.0", Some("10.1.0.0/24")),
            ("10.1.0.0", "10.1.0.1", Some("10.1.0.0/32")),
            ("fd00:1::", "fd00:1:0:1::", Some("fd00:1::/64")),
            ("10.1.0.0", "10.1.3.0", None),
            ("10.1.1.0", "10.1.0.0", None),
            ("10.1.0.0", "fd00::", None),
        ] {
            let net = net.map(|net| net.parse().unwrap());
            assert_eq!(subnet(first.parse().unwrap(), after.parse().unwrap()), net, "{first}");
        }
    }
}
