//! Reads the state of the kernel and carries out changes.
//!
//! Ours are: routes of our protocol or over our VXLAN devices, these devices with their entries,
//! the table `inet rscnid`, and rules in the chains that drop packets of pods. Nothing else is
//! changed.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use rscni_linux::{
    AddressFlags, Family, Link, LinkChange, Monitor, Netlink, Request, Result, Route, RouteFilter,
    RouteType, Vxlan, nft::Nft,
};

use super::{
    Backend, Both, Change, Core, FAMILIES, Key, NodeInfo, Own, State, Value,
    acceptance::{self, Accepted},
    adoption,
    conflist::OVERHEAD,
    masquerade, node,
};

/// The routing protocol that marks our routes (`proto 82`).
pub const PROTOCOL: u8 = 82;
/// The names of the VXLAN devices, those of flannel.
pub const DEVICES: Both<&str> = Both { v4: "flannel.1", v6: "flannel-v6.1" };
/// flannel's UDP port.
pub(super) const PORT: u16 = 8472;
pub(super) const TABLE_MAIN: u32 = 254;
const PROTOCOL_KERNEL: u8 = 2;
/// Requests in one send. The receive buffer has room for this many refusals.
const AT_ONCE: usize = 200;

/// The kernel of this node, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Kernel {
    netlink: Netlink,
    nft: Nft,
    /// Index of the VXLAN devices.
    devices: Both<Option<u32>>,
    /// Routes that are ours in the kernel, so that they may be replaced.
    routes: BTreeSet<Key>,
}

/// The VXLAN devices after they were prepared.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Why some are missing, as messages.
    pub missing: Vec<String>,
    /// Whether any was created or changed, so that it may have lost entries and routes.
    pub changed: bool,
}

impl Kernel {
    /// Opens sockets in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        let (netlink, nft) = (Netlink::open()?, Nft::open()?);
        Ok(Self { netlink, nft, devices: Both::default(), routes: BTreeSet::new() })
    }

    /// Makes monitors skip the changes of these sockets.
    pub fn hide_from(&self, links: &mut Monitor, tables: &mut Monitor) -> Result<()> {
        links.ignore(self.netlink.port()?)?;
        tables.ignore(self.nft.port()?)
    }

    /// Collects the facts about this node. What peers know stays: the hardware addresses of its
    /// VXLAN devices are those from `before`, or else the published ones.
    pub fn own(&mut self, node: &NodeInfo, backend: Backend, before: Option<&Own>) -> Result<Own> {
        let links = self.netlink.links()?;
        let mut own = Own::find(node, backend, before, &links, &self.netlink.all_addresses()?);
        if let Some(bridge) = &mut own.bridge {
            bridge.unfiltered = adoption::unfiltered();
        }
        let mac = |family: Family| {
            if let Some(tunnel) = node.tunnels.of(family) {
                return tunnel.mac;
            }
            let mut devices = links.iter().filter(|link| link.vxlan.is_some());
            let device = devices.find(|link| link.name == *DEVICES.of(family));
            device.and_then(|link| link.mac).unwrap_or(*own.macs.of(family))
        };
        Ok(Own { macs: before.map_or_else(|| Both::each(mac), |own| own.macs), ..own })
    }

    /// Creates the table. Forwarding is turned on by the plugins, when the first pod is attached.
    pub fn prepare(&mut self, core: &Core) -> Result<()> {
        masquerade::prepare(&mut self.nft, core.own())
    }

    /// Creates the VXLAN devices that the core needs.
    pub fn prepare_devices(&mut self, core: &Core) -> Prepared {
        let needs_device = |family: &Family| {
            core.own().pod_cidrs.of(*family).is_some() && core.needs_tunnel(*family)
        };
        let mut prepared = Prepared::default();
        for family in FAMILIES.into_iter().filter(needs_device) {
            match self.prepare_device(core.own(), family) {
                Ok(changed) => prepared.changed |= changed,
                Err(message) => {
                    prepared.missing.push(message);
                    prepared.changed = true;
                }
            }
        }
        prepared
    }

    /// Accepts forwarded packets of pods in the chains that drop them.
    pub(super) fn accept_forwarded(&mut self, own: &Own) -> Result<Accepted> {
        acceptance::accept(&mut self.nft, own)
    }

    /// Returns whether it changed something.
    fn prepare_device(&mut self, own: &Own, family: Family) -> std::result::Result<bool, String> {
        let (Some(uplink), Some(net)) = (own.uplinks.of(family), own.pod_cidrs.of(family)) else {
            return Ok(false);
        };
        let wanted = Vxlan {
            name: (*DEVICES.of(family)).to_owned(),
            vni: node::VNI,
            local: uplink.address,
            lower: uplink.index,
            port: PORT,
            mac: Some(*own.macs.of(family)),
            mtu: Some(uplink.mtu.saturating_sub(*OVERHEAD.of(family))),
        };
        let message = |error: rscni_linux::Error| error.to_string();
        let found = self.netlink.find_link(&wanted.name).map_err(message)?;
        let fits = found.as_ref().is_some_and(|link| fits(link, &wanted));
        let link = match found {
            Some(link) if fits => link,
            Some(other) if other.vxlan.is_none() => {
                return Err(format!("{} is not a VXLAN device; rename or remove it", wanted.name));
            }
            found => {
                if let Some(other) = found {
                    self.netlink.del_link(other.index).map_err(message)?;
                }
                self.netlink.add_link(&wanted).map_err(|error| {
                    let vni = node::VNI;
                    let hint = format!("; remove the other device with VNI {vni} and port {PORT}");
                    format!("{error}{}", if error.is_exists() { &hint } else { "" })
                })?
            }
        };
        let change = LinkChange {
            up: (!link.up).then_some(true),
            mtu: wanted.mtu.filter(|mtu| *mtu != link.mtu),
            mac: wanted.mac.filter(|mac| Some(*mac) != link.mac),
            ..LinkChange::default()
        };
        let differs = change.up.is_some() || change.mtu.is_some() || change.mac.is_some();
        if differs {
            self.netlink.set_link(link.index, &change).map_err(message)?;
        }
        // As flannel: the network address of the podCIDR is the gateway for other nodes.
        let address = net.network().into();
        let flags = AddressFlags { nodad: true, noprefixroute: false };
        match self.netlink.add_address(link.index, address, flags) {
            Err(error) if !error.is_exists() => return Err(error.to_string()),
            _ => *self.devices.of_mut(family) = Some(link.index),
        }
        Ok(!fits || differs)
    }

    /// Reads our objects.
    pub fn read(&mut self, own: &Own) -> Result<State> {
        let mut state = masquerade::read(&mut self.nft)?;
        for family in FAMILIES {
            let device = self.netlink.find_link(DEVICES.of(family))?;
            let device = device.filter(|link| link.vxlan.is_some()).map(|link| link.index);
            *self.devices.of_mut(family) = device;
            let Some(device) = device else { continue };
            for entry in self.netlink.neighbours(device)?.iter().filter(|entry| entry.permanent) {
                let Some(mac) = entry.mac.filter(|_| Family::of(&entry.address) == family) else {
                    continue;
                };
                if !entry.address.is_multicast() {
                    state.insert(Key::Neighbour(entry.address), Value::Mac(mac));
                }
            }
            for entry in self.netlink.forwarding(device)? {
                let key = Key::Forwarding { v6: family == Family::V6, mac: entry.mac };
                state.insert(key, Value::Remote(entry.remote));
            }
        }
        let filter = RouteFilter { table: Some(TABLE_MAIN), ..RouteFilter::default() };
        self.routes.clear();
        for route in self.netlink.routes(filter)? {
            if let Some((key, value)) = self.object(own, &route) {
                state.insert(key, value);
                self.routes.insert(key);
            }
        }
        Ok(state)
    }

    /// Returns a route as an object, or `None` if it is not ours.
    pub fn object(&self, own: &Own, route: &Route) -> Option<(Key, Value)> {
        let family = Family::of(&route.dst.addr());
        let is_tunnelled = route.oif.is_some() && route.oif == *self.devices.of(family);
        let is_ours = route.protocol == Some(PROTOCOL)
            || (is_tunnelled && route.protocol != Some(PROTOCOL_KERNEL));
        if !is_ours || route.table != Some(TABLE_MAIN) || route.kind != RouteType::Unicast {
            return None;
        }
        let uplink = own.uplinks.of(family).as_ref().map(|uplink| uplink.index);
        let value = match route.gateway {
            Some(gateway) if is_tunnelled => Value::Tunnel(gateway),
            Some(gateway) if route.oif == uplink => Value::Direct(gateway),
            // Ours, but over another interface: it differs from all desired ones.
            _ => Value::Direct(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        };
        Some((Key::Route(route.dst), value))
    }

    /// Index of a VXLAN device.
    pub fn device(&self, family: Family) -> Option<u32> {
        *self.devices.of(family)
    }

    /// Carries out changes, and returns what failed.
    pub fn apply(&mut self, own: &Own, changes: &[Change]) -> Vec<(Key, String)> {
        let (elements, others): (Vec<Change>, Vec<Change>) =
            changes.iter().partition(|change| matches!(change.key(), Key::Pods(_) | Key::Node(_)));
        // Packets on new routes must not be masqueraded.
        let mut failures = masquerade::apply(&mut self.nft, &elements);
        for some in others.chunks(AT_ONCE) {
            let request = |change| Some((change, self.request(own, change)?));
            let (sent, requests): (Vec<&Change>, Vec<Request>) =
                some.iter().filter_map(request).unzip();
            // Requests after a refused one were carried out; those that can be are repeated.
            let refused = self.netlink.run_each(&requests);
            let is_refused = |position: usize| match &refused {
                Ok(refused) => refused.iter().any(|(refused, _)| *refused == position),
                Err(_) => true,
            };
            for (position, change) in sent.into_iter().enumerate() {
                if is_refused(position) {
                    let failure = self.apply_one(own, change);
                    failures.extend(failure.map(|failure| (change.key(), failure)));
                } else {
                    self.record(change);
                }
            }
        }
        failures
    }

    fn apply_one(&mut self, own: &Own, change: &Change) -> Option<String> {
        let request = self.request(own, change)?;
        let mut outcome = self.netlink.run(&request);
        // IPv6 refuses to replace a plain route if the new gateway is in it, on another device.
        if let (Err(_), Change::Set(key @ Key::Route(dst), Value::Tunnel(_))) = (&outcome, change)
            && self.routes.remove(key)
        {
            let plain = Route { protocol: Some(PROTOCOL), ..Route::new(*dst) };
            let request = self.request(own, change)?;
            outcome = self.netlink.run(&Request::del_route(&plain));
            outcome = outcome.and_then(|()| self.netlink.run(&request));
        }
        match (change, outcome) {
            (Change::Remove(..), Err(error)) if error.is_not_found() => {}
            (Change::Set(key @ Key::Route(_), value), Err(error)) if error.is_exists() => {
                let Key::Route(dst) = key else { return None };
                let filter = RouteFilter { dst: Some(*dst), ..RouteFilter::default() };
                let found = self.netlink.routes(filter).unwrap_or_default();
                let ours = found.iter().any(|it| self.object(own, it) == Some((*key, *value)));
                if !ours {
                    return Some(format!("{error}; remove that route, it is not from rscnid"));
                }
            }
            (_, Err(error)) => return Some(error.to_string()),
            (_, Ok(())) => {}
        }
        self.record(change);
        None
    }

    fn record(&mut self, change: &Change) {
        match change {
            Change::Set(key @ Key::Route(_), _) => self.routes.insert(*key),
            Change::Remove(key @ Key::Route(_), _) => self.routes.remove(key),
            _ => false,
        };
    }

    /// Forgets that a route is ours, after it was removed or replaced.
    pub fn forget(&mut self, key: &Key) {
        self.routes.remove(key);
    }

    fn request(&self, own: &Own, change: &Change) -> Option<Request> {
        match *change {
            Change::Set(key @ Key::Route(_), value) => {
                let route = self.route(own, &key, &value)?;
                Some(if self.routes.contains(&key) {
                    Request::replace_route(&route)
                } else {
                    Request::add_route(&route)
                })
            }
            Change::Remove(Key::Route(dst), value) => {
                let family = Family::of(&dst.addr());
                // A tunnelled route may have been made by flannel.
                let (protocol, oif) = match value {
                    Value::Tunnel(_) => (None, Some(self.device(family)?)),
                    _ => (Some(PROTOCOL), None),
                };
                Some(Request::del_route(&Route { protocol, oif, ..Route::new(dst) }))
            }
            Change::Set(Key::Neighbour(address), Value::Mac(mac)) => {
                Some(Request::add_neighbour(self.device(Family::of(&address))?, address, mac))
            }
            Change::Remove(Key::Neighbour(address), _) => {
                Some(Request::del_neighbour(self.device(Family::of(&address))?, address))
            }
            Change::Set(Key::Forwarding { v6, mac }, Value::Remote(remote)) => {
                Some(Request::add_forwarding(self.device(family(v6))?, mac, remote))
            }
            Change::Remove(Key::Forwarding { v6, mac }, Value::Remote(remote)) => {
                Some(Request::del_forwarding(self.device(family(v6))?, mac, remote))
            }
            _ => None,
        }
    }

    fn route(&self, own: &Own, key: &Key, value: &Value) -> Option<Route> {
        let Key::Route(dst) = *key else { return None };
        let family = Family::of(&dst.addr());
        let route = Route { protocol: Some(PROTOCOL), scope: scope(dst), ..Route::new(dst) };
        match *value {
            Value::Direct(gateway) => {
                let oif = Some(own.uplinks.of(family).as_ref()?.index);
                Some(Route { gateway: Some(gateway), oif, ..route })
            }
            Value::Tunnel(gateway) => {
                let oif = Some(self.device(family)?);
                Some(Route { gateway: Some(gateway), oif, onlink: true, ..route })
            }
            _ => None,
        }
    }
}

/// Scopes without a meaning for the kernel. The next one, 200, has a name.
const SCOPES: u32 = 200;

/// Returns the scope of a route, one of many. The kernel compares a new route of IPv4 with all
/// others of the same protocol, scope and device, which takes a second with 5,000 tunnels.
fn scope(dst: IpNet) -> Option<u8> {
    let IpNet::V4(net) = dst else { return None };
    let number = u32::from(net.network()) >> (32 - u32::from(net.prefix_len()).max(1));
    u8::try_from(number % SCOPES).ok()
}

fn family(v6: bool) -> Family {
    if v6 { Family::V6 } else { Family::V4 }
}

/// Whether a device can be used as it is, apart from what can be changed.
fn fits(link: &Link, wanted: &Vxlan) -> bool {
    link.vxlan.is_some_and(|info| {
        info.vni == wanted.vni
            && info.port == wanted.port
            && info.local == Some(wanted.local)
            && info.lower == Some(wanted.lower)
            && !info.learning
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_ipv4_have_many_scopes_without_a_meaning() {
        let of = |net: &str| scope(net.parse().unwrap());
        assert_eq!(of("10.244.0.0/24").map(|scope| scope + 1), of("10.244.1.0/24"));
        assert_ne!(of("10.244.0.0/26"), of("10.244.0.64/26"));
        for net in ["255.255.255.255/32", "0.0.0.0/0", "128.0.0.0/1"] {
            assert!(of(net).is_some_and(|scope| u32::from(scope) < SCOPES), "{net}");
        }
        assert_eq!(of("fd00:244::/64"), None);
    }
}
