//! `useInterfaceNetwork`: the addresses, routes and rules of the host interface, which move into
//! the container with it.

use std::net::IpAddr;

use ipnet::IpNet;
use rscni::{CNIResult, IpConfig};
use rscni_linux::{
    Address, AddressFlags, Link, Netlink, NewAddress, Request, Route, RouteFilter, RouteType, Rule,
};
use serde::{Deserialize, Serialize};

use crate::{
    attach::{Sandbox, routing_table::LOCAL},
    plugin::{Result, best_effort, differs, unless_absent, unless_exists},
};

/// `RTPROT_KERNEL` and `RTPROT_RA`: the kernel adds these routes itself.
const BY_THE_KERNEL: [u8; 2] = [2, 9];

/// The network settings of the interface on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Network {
    pub(super) addresses: Vec<SavedAddress>,
    routes: Vec<SavedRoute>,
    /// The rules that the container did not have before.
    rules: Vec<SavedRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedRoute {
    dst: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    src: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    #[serde(default)]
    onlink: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    protocol: Option<u8>,
    kind: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedAddress {
    pub(super) net: IpNet,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    scope: u8,
    #[serde(default)]
    nodad: bool,
    #[serde(default)]
    noprefixroute: bool,
}

impl SavedAddress {
    pub(super) fn as_new(&self) -> NewAddress {
        NewAddress {
            net: self.net,
            peer: self.peer,
            scope: Some(self.scope),
            flags: AddressFlags { nodad: self.nodad, noprefixroute: self.noprefixroute },
        }
    }
}

impl From<&Address> for SavedAddress {
    fn from(address: &Address) -> Self {
        Self {
            net: address.net,
            peer: address.peer,
            scope: address.scope,
            nodad: address.nodad,
            noprefixroute: address.noprefixroute,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedRule {
    src: IpNet,
    table: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
}

impl Network {
    /// Reads the settings on the host. A rule that the container already has is left out.
    pub(super) fn of(host: &mut Netlink, device: &Link, container: &mut Netlink) -> Result<Self> {
        let mut addresses = host.addresses(device.index)?;
        addresses.retain(is_copied);
        let filter = RouteFilter { oif: Some(device.index), ..RouteFilter::default() };
        let mut routes = host.routes(filter)?;
        routes.retain(|route| {
            let is_kernels = route.protocol.is_some_and(|it| BY_THE_KERNEL.contains(&it));
            let is_link_local = matches!(route.dst, IpNet::V6(dst)
                if dst.prefix_len() > 0 && dst.addr().is_unicast_link_local());
            route.table != Some(LOCAL) && !is_kernels && !is_link_local
        });
        // Routes on the link come before routes through a router on it.
        routes.sort_by_key(|route| (std::cmp::Reverse(route.scope), route.gateway.is_some()));
        let mut rules = host.rules()?;
        rules.retain(|rule| {
            let is_about_it = rule.src.prefix_len() > 0
                && addresses.iter().any(|address| rule.src.contains(&address.net.addr()))
                && routes.iter().any(|route| route.table == Some(rule.table));
            if is_about_it && rule.has_more {
                eprintln!(
                    "host-device: the rule from {} lookup {} of {} selects by more than the \
                     source: the container does not get it",
                    rule.src, rule.table, device.name
                );
            }
            is_about_it && !rule.has_more
        });
        if !rules.is_empty() {
            let present = container.rules()?;
            rules.retain(|rule| !present.contains(rule));
        }
        Ok(Self {
            addresses: addresses.iter().map(SavedAddress::from).collect(),
            routes: routes.iter().map(SavedRoute::from).collect(),
            rules: rules.iter().map(SavedRule::from).collect(),
        })
    }

    /// Applies the settings to the device in the container.
    pub(super) fn apply(&self, sandbox: &mut Sandbox, inner: &Link) -> Result<()> {
        if self.addresses.iter().any(|address| address.net.addr().is_ipv6()) {
            sandbox.enable_ipv6(&inner.name, false)?;
        }
        for address in &self.addresses {
            // The device has used the addresses until now, so no other host has them.
            let flags = AddressFlags { nodad: true, ..address.as_new().flags };
            let address = NewAddress { flags, ..address.as_new() };
            unless_exists(sandbox.netlink.add_new_address(inner.index, &address))?;
        }
        for request in self.add_routes(inner.index) {
            unless_exists(sandbox.netlink.run(&request))?;
        }
        for rule in &self.rules {
            unless_exists(sandbox.netlink.add_rule(&rule.into()))?;
        }
        Ok(())
    }

    /// Adds the settings to the result, after those of the IPAM plugin.
    pub(super) fn show(&self, result: &mut CNIResult, interface: u32) {
        result.ips.extend(
            self.addresses.iter().map(|address| IpConfig {
                interface: Some(interface),
                ..IpConfig::new(address.net)
            }),
        );
        result.routes.extend(self.routes.iter().map(|route| rscni::Route {
            priority: route.priority,
            table: route.table,
            scope: route.scope.filter(|scope| *scope != 0),
            mtu: route.mtu,
            advmss: route.advmss,
            ..rscni::Route::new(route.dst, route.gateway)
        }));
    }

    /// Removes the rules from the container. Addresses and routes go with the device.
    pub(super) fn remove_rules(&self, container: &mut Netlink) -> Result<()> {
        best_effort(self.rules.iter().map(|rule| unless_absent(container.del_rule(&rule.into()))))
    }

    pub(super) fn add_routes(&self, index: u32) -> impl Iterator<Item = Request> {
        self.routes.iter().map(move |route| Request::append_route(&route.by(index)))
    }

    /// Fails CHECK if a rule is missing in the container. Addresses and routes are in the result.
    pub(super) fn check(&self, sandbox: &mut Sandbox) -> Result<()> {
        if self.rules.is_empty() {
            return Ok(());
        }
        let present = sandbox.netlink.rules()?;
        match self.rules.iter().map(Rule::from).find(|rule| !present.contains(rule)) {
            None => Ok(()),
            Some(rule) => Err(differs(format!(
                "the rule from {} lookup {} is missing in {}",
                rule.src, rule.table, sandbox.path
            ))),
        }
    }
}

/// Whether the container gets an address, as with the Go plugin. A router or a server can renew an
/// IPv6 address that expires.
fn is_copied(address: &Address) -> bool {
    const GLOBAL: u8 = 0;
    address.scope == GLOBAL && (address.net.addr().is_ipv4() || address.permanent)
}

impl SavedRoute {
    fn by(&self, index: u32) -> Route {
        Route {
            gateway: self.gateway,
            oif: Some(index),
            src: self.src,
            table: self.table,
            scope: self.scope,
            priority: self.priority,
            mtu: self.mtu,
            advmss: self.advmss,
            onlink: self.onlink,
            protocol: self.protocol,
            kind: RouteType::from(self.kind),
            ..Route::new(self.dst)
        }
    }
}

impl From<&Route> for SavedRoute {
    fn from(route: &Route) -> Self {
        Self {
            dst: route.dst,
            gateway: route.gateway,
            src: route.src,
            table: route.table,
            scope: route.scope,
            priority: route.priority,
            mtu: route.mtu,
            advmss: route.advmss,
            onlink: route.onlink,
            protocol: route.protocol,
            kind: route.kind.into(),
        }
    }
}

impl From<&Rule> for SavedRule {
    fn from(rule: &Rule) -> Self {
        Self { src: rule.src, table: rule.table, priority: rule.priority }
    }
}

impl From<&SavedRule> for Rule {
    fn from(rule: &SavedRule) -> Self {
        Self { priority: rule.priority, ..Self::new(rule.src, rule.table) }
    }
}
