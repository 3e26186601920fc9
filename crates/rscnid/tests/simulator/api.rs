//! The model of the API server: a history of Nodes, which each watch follows at its own pace.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use rscni_linux::{Family, MacAddr};
use rscnid::podnet::{Both, NodeInfo, Tunnel, own::vtep_mac};

/// The number of further Nodes that come and go.
pub(crate) const SPARE: usize = 4;

/// A generator of pseudo-random numbers (xorshift).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).expect("a small number")
    }

    pub(crate) fn choose<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// A change of a Node: its new content, or its deletion.
#[derive(Clone)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) node: Option<NodeInfo>,
}

#[derive(Default)]
pub(crate) struct Api {
    pub(crate) history: Vec<Event>,
    /// Everything that a Node ever had in `spec.podCIDRs`.
    pub(crate) claimed: BTreeSet<(String, IpNet)>,
}

impl Api {
    pub(crate) fn set(&mut self, node: NodeInfo) {
        let claims = node.pod_cidrs.iter().flatten().map(|net| (node.name.clone(), *net));
        self.claimed.extend(claims);
        self.history.push(Event { name: node.name.clone(), node: Some(node) });
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.history.push(Event { name: name.to_owned(), node: None });
    }

    pub(crate) fn get(&self, name: &str) -> Option<NodeInfo> {
        self.history.iter().rev().find(|event| event.name == name)?.node.clone()
    }

    /// The Nodes at a version.
    pub(crate) fn list(&self, version: usize) -> Vec<NodeInfo> {
        let mut nodes = BTreeMap::new();
        // Real nodes are set again every few hundred steps, so that older events do not matter.
        for event in &self.history[version.saturating_sub(4_000)..version] {
            nodes.insert(&event.name, &event.node);
        }
        nodes.into_values().flatten().cloned().collect()
    }
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a subnet")
}

/// The segment of a node: every third one is behind a router.
pub(crate) fn segment(number: usize) -> usize {
    usize::from(number % 3 == 2)
}

pub(crate) fn address(number: usize, family: Family) -> IpAddr {
    let text = match family {
        Family::V4 => format!("192.168.{}.{}", segment(number), number + 10),
        Family::V6 => format!("fd00:{}::{}", segment(number), number + 10),
    };
    text.parse().expect("an address")
}

pub(crate) fn pod_cidr(number: usize, family: Family) -> IpNet {
    net(&match family {
        Family::V4 => format!("10.244.{number}.0/24"),
        Family::V6 => format!("fd01:0:0:{number:x}::/64"),
    })
}

/// A Node without tunnels.
pub(crate) fn real(number: usize) -> NodeInfo {
    NodeInfo {
        name: format!("n{number}"),
        pod_cidrs: Both::each(|family| Some(pod_cidr(number, family))),
        addresses: Both::each(|family| Some(address(number, family))),
        ..NodeInfo::default()
    }
}

pub(crate) fn tunnel(number: usize, family: Family) -> Tunnel {
    let mac = vtep_mac(&format!("n{number}"), family);
    Tunnel { endpoint: address(number, family), mac }
}

/// Further Nodes: regular ones, some with flannel, and ones with forged content.
pub(crate) fn variants(spare: usize) -> Vec<NodeInfo> {
    let first = super::HOSTS;
    let mut all = Vec::new();
    for number in first..first + spare {
        let node = real(number);
        let flannel = |tunnel_only: bool| NodeInfo {
            tunnels: Both::each(|family| Some(tunnel(number, family))),
            tunnel_only,
            ..node.clone()
        };
        let forged_cidr = |text: &str| NodeInfo {
            pod_cidrs: Both { v4: Some(net(text)), v6: None },
            ..flannel(false)
        };
        let forged_tunnel = |endpoint: IpAddr, mac: MacAddr| NodeInfo {
            tunnels: Both { v4: Some(Tunnel { endpoint, mac }), v6: None },
            tunnel_only: true,
            ..node.clone()
        };
        let other = |family| address(number % first, family);
        all.extend([node.clone(), flannel(true), flannel(false)]);
        all.extend([
            // The podCIDR of a real node, a part of it, and several.
            forged_cidr(&format!("10.244.{}.0/24", number % first)),
            forged_cidr(&format!("10.244.{}.128/25", number % first)),
            forged_cidr("10.244.0.0/21"),
            // Addresses of nodes, everything, and what is no network of pods.
            forged_cidr("192.168.0.0/16"),
            forged_cidr("192.168.1.12/32"),
            forged_cidr("0.0.0.0/0"),
            forged_cidr("128.0.0.0/1"),
            forged_cidr("224.0.0.0/24"),
            forged_cidr("127.0.0.0/8"),
            // The hardware address of a real node, and endpoints that belong to others.
            forged_tunnel(address(number, Family::V4), tunnel(number % first, Family::V4).mac),
            forged_tunnel(other(Family::V4), tunnel(number, Family::V4).mac),
            forged_tunnel([10, 244, 1, 7].into(), tunnel(number, Family::V4).mac),
            NodeInfo { addresses: Both::each(|family| Some(other(family))), ..node.clone() },
            NodeInfo { pod_cidrs: Both::default(), ..node.clone() },
            NodeInfo { addresses: Both::default(), ..node },
        ]);
    }
    all
}
