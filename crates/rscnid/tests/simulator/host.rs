//! The model of a node: its watch, its core and its kernel.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use rscni_linux::Family;
use rscnid::podnet::{
    Both, Change, Core, FAMILIES, Key, NodeInfo, Own, Reason, State, Uplink, Value, difference,
    own::vtep_mac,
};

use super::api::{Api, Event, Random, address, net, pod_cidr, segment, tunnel};

/// More changes than an event of one Node can cause: five objects for each family, removed and
/// added, and as many for each Node that waits for them.
const MAX_CHANGES: usize = 20 * (1 + super::api::SPARE);

pub(crate) struct Host {
    pub(crate) number: usize,
    pub(crate) partitioned: bool,
    core: Core,
    /// Our objects in the kernel.
    pub(crate) kernel: State,
    /// Objects that another program removed, and whose notification is still in the queue.
    lost: Vec<Key>,
    /// The version that the watch has reached.
    version: usize,
}

fn own(number: usize, variant: usize) -> Own {
    let uplink = |family: Family| {
        let segments = match family {
            Family::V4 => vec![net(&format!("192.168.{}.0/24", segment(number)))],
            Family::V6 => vec![net(&format!("fd00:{}::/64", segment(number)))],
        };
        Uplink { index: 2, address: address(number, family), segments, mtu: 1500 }
    };
    let name = format!("n{number}");
    Own {
        pod_cidrs: Both::each(|family| Some(pod_cidr(number, family))),
        macs: Both::each(|family| vtep_mac(&name, family)),
        // The interface may lose its address for a while.
        uplinks: Both {
            v4: (variant != 1).then(|| uplink(Family::V4)),
            v6: (variant != 2).then(|| uplink(Family::V6)),
        },
        name,
        ..Own::default()
    }
}

impl Host {
    pub(crate) fn boot(number: usize, api: &Api) -> Self {
        let core = Core::new(own(number, 0));
        let (kernel, lost) = (State::new(), Vec::new());
        let mut host = Self { number, partitioned: false, core, kernel, lost, version: 0 };
        host.start(api, api.history.len());
        host
    }

    /// Lists Nodes and brings the kernel into the desired state.
    fn start(&mut self, api: &Api, version: usize) {
        self.core = Core::new(own(self.number, 0));
        self.core.replace(api.list(version), &self.kernel);
        self.apply(&difference(&self.kernel, self.core.desired()));
        self.lost.clear();
        self.version = version;
    }

    /// Restarts the daemon; its first list may come from a stale cache.
    pub(crate) fn restart(&mut self, api: &Api, stale: usize) {
        if !self.partitioned {
            self.start(api, api.history.len().saturating_sub(stale));
        }
    }

    pub(crate) fn reboot(&mut self, api: &Api) {
        if !self.partitioned {
            self.kernel.clear();
            self.start(api, api.history.len());
        }
    }

    /// Lists Nodes again because the watch expired.
    pub(crate) fn list(&mut self, api: &Api, stale: usize) {
        if self.partitioned {
            return;
        }
        self.version = api.history.len().saturating_sub(stale);
        let changes = self.core.replace(api.list(self.version), &self.kernel);
        self.apply(&changes);
    }

    /// Delivers the next event of the watch, and returns whether there was one.
    pub(crate) fn deliver(&mut self, api: &Api) -> bool {
        let Some(event) = api.history.get(self.version).filter(|_| !self.partitioned) else {
            return false;
        };
        self.version += 1;
        self.handle(event);
        true
    }

    /// Delivers the last event once more.
    pub(crate) fn deliver_again(&mut self, api: &Api) {
        if let Some(event) = self.version.checked_sub(1).and_then(|last| api.history.get(last)) {
            self.handle(event);
        }
    }

    fn handle(&mut self, event: &Event) {
        let owners: BTreeMap<Key, String> = self.owners();
        let waited: Vec<String> = self.core.problems().map(|problem| problem.node).collect();
        let changes = match &event.node {
            Some(node) => self.core.set(node.clone()),
            None => self.core.remove(&event.name),
        };
        assert!(changes.len() <= MAX_CHANGES, "{} changes for one Node", changes.len());
        for change in &changes {
            let owner = owners.get(&change.key());
            assert!(
                owner.is_none_or(|owner| *owner == event.name || waited.contains(owner)),
                "an event of {} changes {}, which belongs to {owner:?}",
                event.name,
                change.key()
            );
        }
        self.apply(&changes);
    }

    fn owners(&self) -> BTreeMap<Key, String> {
        let keys = self.core.desired().keys();
        keys.filter_map(|key| Some((*key, self.core.owner(key)?.to_owned()))).collect()
    }

    /// Another address of the uplink, or none.
    pub(crate) fn change_uplink(&mut self, variant: usize) {
        let changes = self.core.set_own(own(self.number, variant));
        self.apply(&changes);
    }

    pub(crate) fn lose_object(&mut self, random: &mut Random) {
        let keys: Vec<Key> = self.kernel.keys().copied().collect();
        if !keys.is_empty() {
            let key = random.choose(&keys);
            self.kernel.remove(&key);
            self.lost.push(key);
        }
    }

    pub(crate) fn notice_lost_objects(&mut self) {
        for key in std::mem::take(&mut self.lost) {
            if let Some(value) = self.core.desired().get(&key) {
                self.kernel.insert(key, *value);
            }
        }
    }

    /// Publishes the tunnels that the core asks for.
    pub(crate) fn publish(&self, api: &mut Api) {
        let Some(mut node) = api.get(&self.core.own().name).filter(|_| !self.partitioned) else {
            return;
        };
        let before = node.clone();
        for family in FAMILIES {
            if self.core.needs_tunnel(family) {
                *node.tunnels.of_mut(family) = Some(tunnel(self.number, family));
            }
        }
        if node != before {
            api.set(node);
        }
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Set(key, value) => {
                    self.check_order(key, value);
                    self.kernel.insert(key, value);
                    self.lost.retain(|lost| *lost != key);
                }
                Change::Remove(key, _) => {
                    self.kernel.remove(&key);
                    self.lost.retain(|lost| *lost != key);
                }
            }
        }
    }

    /// A route over a tunnel has its neighbour before.
    fn check_order(&self, key: Key, value: Value) {
        if let (Key::Route(net), Value::Tunnel(gateway)) = (key, value) {
            let neighbour = Key::Neighbour(gateway);
            let known = self.kernel.contains_key(&neighbour) || self.lost.contains(&neighbour);
            assert!(known, "route to {net} without its neighbour");
        }
    }

    pub(crate) fn check(&self, api: &Api) {
        let desired = self.core.desired();
        let has_lost = |key: &Key| self.lost.contains(key);
        for (key, value) in desired {
            let actual = self.kernel.get(key);
            assert!(actual == Some(value) || has_lost(key), "{key}: {actual:?}, not {value:?}");
        }
        for key in self.kernel.keys() {
            assert!(desired.contains_key(key), "{key} is left");
        }
        let nets: Vec<IpNet> = desired
            .keys()
            .filter_map(|key| if let Key::Pods(net) = key { Some(*net) } else { None })
            .collect();
        for (position, net) in nets.iter().enumerate() {
            for other in &nets[position + 1..] {
                assert!(!net.contains(other) && !other.contains(net), "{net} overlaps {other}");
            }
        }
        for (key, value) in desired {
            self.check_object(api, key, value);
        }
    }

    fn check_object(&self, api: &Api, key: &Key, value: &Value) {
        let own = self.core.own();
        let owner = self.core.owner(key).expect("an owner");
        let uplinks = || own.uplinks.iter().flatten();
        match (key, value) {
            (Key::Pods(net) | Key::Route(net), _) => {
                assert!(api.claimed.contains(&(owner.to_owned(), *net)), "{owner} has no {net}");
                let own_address = |address: IpAddr| net.contains(&address);
                assert!(!uplinks().any(|uplink| own_address(uplink.address)), "{net}");
            }
            (Key::Neighbour(gateway), Value::Mac(mac)) => {
                let v6 = gateway.is_ipv6();
                let forwarding = Key::Forwarding { v6, mac: *mac };
                assert_eq!(self.core.owner(&forwarding), Some(owner), "{key}");
            }
            _ => {}
        }
        if let Value::Direct(gateway) = value {
            let mut segments = uplinks().flat_map(|uplink| &uplink.segments);
            assert!(segments.any(|segment| segment.contains(gateway)), "{key} via {gateway}");
            assert!(uplinks().all(|uplink| uplink.address != *gateway), "{key} via {gateway}");
        }
    }

    /// Asserts that there is a route to the pods of the Node, in the right way.
    pub(crate) fn assert_reaches(&self, peer: &NodeInfo) {
        for net in peer.pod_cidrs.iter().flatten() {
            let route = self.core.desired().get(&Key::Route(*net));
            let problems: &[Reason] = self.core.problems_of(&peer.name);
            assert!(route.is_some(), "n{} has no route to {net}: {problems:?}", self.number);
        }
    }
}
