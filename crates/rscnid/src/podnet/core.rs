//! The decisions of the pod network.
//!
//! Each object belongs to at most one Node. A Node that claims an object of another Node, or a
//! podCIDR that overlaps another, gets none of that family, until the other Node releases it. So a
//! new Node cannot take traffic of an existing one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use rscni_linux::Family;

use super::{
    Both, Change, FAMILIES, Key, NodeInfo, Own, Problem, Reason, State, Tunnel, Value, overlap,
    plan::{Hop, check_cidr, hop},
    state::order,
};

/// The pod network as this node sees it.
#[derive(Debug)]
pub struct Core {
    own: Own,
    nodes: BTreeMap<String, Entry>,
    desired: State,
    /// The Node that each desired object belongs to.
    owners: BTreeMap<Key, String>,
    /// Nodes that claim an object of another Node.
    waiting: BTreeSet<String>,
    /// Nodes with problems.
    troubled: BTreeSet<String>,
    /// Nodes whose problems may have changed since they were taken.
    changed: BTreeSet<String>,
    /// The number of Nodes that this node reaches through its tunnels.
    tunnelled: Both<usize>,
    /// The previous values of objects that were changed since the last changes were returned.
    touched: BTreeMap<Key, Option<Value>>,
}

#[derive(Debug)]
struct Entry {
    info: NodeInfo,
    keys: Vec<Key>,
    problems: Vec<Reason>,
    tunnelled: Both<bool>,
}

/// The objects that one family of a Node needs, all or none.
type Claim = Vec<(Key, Value)>;

impl Core {
    /// Starts without other nodes.
    pub fn new(own: Own) -> Self {
        let mut core = Self {
            own: Own::default(),
            nodes: BTreeMap::new(),
            desired: State::new(),
            owners: BTreeMap::new(),
            waiting: BTreeSet::new(),
            troubled: BTreeSet::new(),
            changed: BTreeSet::new(),
            tunnelled: Both::default(),
            touched: BTreeMap::new(),
        };
        core.claim_own(own);
        core.touched.clear();
        core
    }

    /// The facts about this node.
    pub fn own(&self) -> &Own {
        &self.own
    }

    /// The state that the kernel should have.
    pub fn desired(&self) -> &State {
        &self.desired
    }

    /// The Node that an object belongs to.
    pub fn owner(&self, key: &Key) -> Option<&str> {
        self.owners.get(key).map(String::as_str)
    }

    /// The number of known Nodes, without this one.
    pub fn peers(&self) -> usize {
        self.nodes.len()
    }

    /// The problems of other Nodes.
    pub fn problems(&self) -> impl Iterator<Item = Problem> {
        self.troubled.iter().flat_map(|name| {
            let problem = |reason: &Reason| Problem { node: name.clone(), reason: reason.clone() };
            self.problems_of(name).iter().map(problem)
        })
    }

    /// The problems of one Node.
    pub fn problems_of(&self, name: &str) -> &[Reason] {
        self.nodes.get(name).map(|entry| &*entry.problems).unwrap_or_default()
    }

    /// The gateways of the tunnels that lead to a Node, each with its tunnel if the Node answers
    /// probes. flanneld does not.
    pub fn tunnels(&self, name: &str) -> impl Iterator<Item = (IpAddr, Option<Tunnel>)> {
        self.nodes.get(name).into_iter().flat_map(|entry| {
            entry.keys.iter().filter_map(|key| {
                let Key::Neighbour(gateway) = *key else { return None };
                let tunnel = *entry.info.tunnels.of(Family::of(&gateway));
                Some((gateway, tunnel.filter(|_| !entry.info.tunnel_only)))
            })
        })
    }

    /// Takes the names of Nodes whose problems may have changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.changed)
    }

    /// Whether this node needs a tunnel, and has to publish it.
    pub fn needs_tunnel(&self, family: Family) -> bool {
        *self.tunnelled.of(family) > 0
            || (self.own.backend == super::Backend::Vxlan
                && self.own.pod_cidrs.of(family).is_some()
                && self.own.uplinks.of(family).is_some())
    }

    /// Adds or changes a Node, and returns the changes. Their number does not depend on the number
    /// of Nodes.
    pub fn set(&mut self, info: NodeInfo) -> Vec<Change> {
        if info.name == self.own.name
            || self.nodes.get(&info.name).is_some_and(|entry| entry.info == info)
        {
            return Vec::new();
        }
        self.release(&info.name);
        self.admit(info);
        self.admit_waiting();
        self.changes()
    }

    /// Removes a Node, and returns the changes.
    pub fn remove(&mut self, name: &str) -> Vec<Change> {
        self.release(name);
        self.admit_waiting();
        self.changes()
    }

    /// Replaces all Nodes after a list, and returns the changes.
    ///
    /// If Nodes conflict, one that is known keeps its objects. Otherwise one whose objects exist in
    /// `kernel` does, which was admitted before a restart.
    pub fn replace(&mut self, mut nodes: Vec<NodeInfo>, kernel: &State) -> Vec<Change> {
        let listed: BTreeSet<&str> = nodes.iter().map(|node| &*node.name).collect();
        let gone: Vec<String> =
            self.nodes.keys().filter(|name| !listed.contains(&***name)).cloned().collect();
        for name in &gone {
            self.release(name);
        }
        nodes.retain(|node| {
            node.name != self.own.name
                && self.nodes.get(&node.name).is_none_or(|entry| entry.info != *node)
        });
        let exists = |node: &NodeInfo| {
            let claims = FAMILIES.iter().map(|family| self.plan(node, *family).0);
            let mut objects = claims.flatten().peekable();
            objects.peek().is_some() && objects.all(|(key, value)| kernel.get(&key) == Some(&value))
        };
        nodes.sort_by_cached_key(|node| (!exists(node), node.name.clone()));
        // All are released first: what one has now may belong to another one from now on.
        for node in &nodes {
            self.release(&node.name);
        }
        for node in nodes {
            self.admit(node);
        }
        self.admit_waiting();
        self.changes()
    }

    /// Changes the facts about this node, and returns the changes. All Nodes are decided again.
    pub fn set_own(&mut self, own: Own) -> Vec<Change> {
        if own == self.own {
            return Vec::new();
        }
        let nodes = std::mem::take(&mut self.nodes);
        for key in self.owners.keys().copied().collect::<Vec<_>>() {
            self.unset(key);
        }
        self.waiting.clear();
        self.changed.append(&mut self.troubled);
        self.tunnelled = Both::default();
        self.claim_own(own);
        // Nodes with objects keep them if others claim the same.
        let (having, others): (Vec<_>, Vec<_>) =
            nodes.into_values().partition(|entry| !entry.keys.is_empty());
        for entry in having.into_iter().chain(others) {
            self.admit(entry.info);
        }
        self.changes()
    }

    /// Claims the objects of this node, which no other Node can have.
    fn claim_own(&mut self, own: Own) {
        let pods = own.pod_cidrs.iter().flatten().map(|net| Key::Pods(*net));
        let addresses = own.uplinks.iter().flatten().map(|uplink| Key::Node(uplink.address));
        for key in pods.chain(addresses) {
            self.give(key, Value::Member, &own.name);
        }
        self.own = own;
    }

    fn give(&mut self, key: Key, value: Value, owner: &str) {
        let previous = self.desired.insert(key, value);
        self.touched.entry(key).or_insert(previous);
        self.owners.insert(key, owner.to_owned());
    }

    fn unset(&mut self, key: Key) {
        let previous = self.desired.remove(&key);
        self.touched.entry(key).or_insert(previous);
        self.owners.remove(&key);
    }

    /// Releases the objects of a Node.
    fn release(&mut self, name: &str) {
        let Some(entry) = self.nodes.remove(name) else { return };
        for key in entry.keys {
            self.unset(key);
        }
        self.waiting.remove(name);
        self.changed.extend(self.troubled.take(name));
        for family in FAMILIES {
            *self.tunnelled.of_mut(family) -= usize::from(*entry.tunnelled.of(family));
        }
    }

    /// Gives a Node the objects that it may have.
    fn admit(&mut self, info: NodeInfo) {
        let mut entry = Entry {
            keys: Vec::new(),
            problems: info.faults.iter().cloned().map(Reason::Fault).collect(),
            tunnelled: Both::default(),
            info,
        };
        for family in FAMILIES {
            let (claim, tunnelled, problem) = self.plan(&entry.info, family);
            entry.problems.extend(problem);
            *entry.tunnelled.of_mut(family) = tunnelled;
            self.take(claim, &mut entry);
            if let Some(address) = *entry.info.addresses.of(family) {
                self.take(vec![(Key::Node(address), Value::Member)], &mut entry);
            }
        }
        let conflicts = |reason: &Reason| matches!(reason, Reason::Conflict(..));
        if entry.problems.iter().any(conflicts) {
            self.waiting.insert(entry.info.name.clone());
        }
        if !entry.problems.is_empty() {
            self.troubled.insert(entry.info.name.clone());
            self.changed.insert(entry.info.name.clone());
        }
        for family in FAMILIES {
            *self.tunnelled.of_mut(family) += usize::from(*entry.tunnelled.of(family));
        }
        self.nodes.insert(entry.info.name.clone(), entry);
    }

    /// Claims all objects or none.
    fn take(&mut self, claim: Claim, entry: &mut Entry) {
        let conflict = claim.iter().find_map(|(key, _)| self.conflict(key));
        if let Some(conflict) = conflict {
            return entry.problems.push(conflict);
        }
        for (key, value) in claim {
            self.give(key, value, &entry.info.name);
            entry.keys.push(key);
        }
    }

    /// Returns why an object cannot be claimed.
    fn conflict(&self, key: &Key) -> Option<Reason> {
        let conflict = |(key, owner): (&Key, &String)| Reason::Conflict(*key, owner.clone());
        if let Key::Pods(net) = key {
            return self.overlapping(net).map(conflict);
        }
        self.owners.get_key_value(key).map(conflict)
    }

    /// Returns the podCIDR that overlaps this one. They do not overlap each other, so only the
    /// next one on each side can.
    fn overlapping(&self, net: &IpNet) -> Option<(&Key, &String)> {
        let overlaps =
            |(key, _): &(&Key, &String)| matches!(key, Key::Pods(other) if overlap(other, net));
        let at = Key::Pods(*net);
        let before = self.owners.range(..=at).next_back().filter(overlaps);
        before.or_else(|| self.owners.range(at..).next().filter(overlaps))
    }

    /// Returns the claim of one family, whether it needs a tunnel, and a problem. A Node that
    /// cannot be reached yet claims its podCIDR.
    fn plan(&self, node: &NodeInfo, family: Family) -> (Claim, bool, Option<Reason>) {
        let Some(net) = *node.pod_cidrs.of(family) else { return (Vec::new(), false, None) };
        if let Err(reason) = check_cidr(&self.own, net) {
            return (Vec::new(), false, Some(reason));
        }
        let mut claim = vec![(Key::Pods(net), Value::Member)];
        let (hop, tunnelled) = hop(&self.own, node, family);
        let gateway = net.network();
        match hop {
            Ok(Hop::Direct(via)) => claim.push((Key::Route(net), Value::Direct(via))),
            Ok(Hop::Tunnel(tunnel)) if self.is_of_pods(tunnel.endpoint) => {
                return (claim, tunnelled, Some(Reason::WrongEndpoint(tunnel.endpoint)));
            }
            Ok(Hop::Tunnel(tunnel)) => {
                let v6 = family == Family::V6;
                if tunnel.mac == *self.own.macs.of(family) {
                    let key = Key::Forwarding { v6, mac: tunnel.mac };
                    let reason = Reason::Conflict(key, self.own.name.clone());
                    return (claim, tunnelled, Some(reason));
                }
                let forwarding = Key::Forwarding { v6, mac: tunnel.mac };
                claim.push((forwarding, Value::Remote(tunnel.endpoint)));
                claim.push((Key::Neighbour(gateway), Value::Mac(tunnel.mac)));
                claim.push((Key::Route(net), Value::Tunnel(gateway)));
            }
            Err(reason) => return (claim, tunnelled, Some(reason)),
        }
        (claim, tunnelled, None)
    }

    /// Whether the address is in a podCIDR.
    fn is_of_pods(&self, address: IpAddr) -> bool {
        self.overlapping(&IpNet::from(address)).is_some()
    }

    /// Decides again about Nodes that wait for objects of others.
    fn admit_waiting(&mut self) {
        if self.touched.values().all(Option::is_none) {
            return;
        }
        for name in self.waiting.clone() {
            let Some(entry) = self.nodes.get(&name) else { continue };
            let info = entry.info.clone();
            self.release(&name);
            self.admit(info);
        }
    }

    /// Returns the changes since the last call.
    fn changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched).into_iter();
        let mut changes: Vec<Change> = touched
            .filter_map(|(key, before)| match (before, self.desired.get(&key)) {
                (before, Some(now)) => (before != Some(*now)).then_some(Change::Set(key, *now)),
                (Some(before), None) => Some(Change::Remove(key, before)),
                (None, None) => None,
            })
            .collect();
        order(&mut changes);
        changes
    }
}
