//! The container side of an attachment: its network namespace, and addresses and routes in it.

use std::{net::IpAddr, path::Path, time::Duration};

use ipnet::IpNet;
use rscni::{CNIResult, Error, Interface, IpConfig, SpecVersion};
use rscni_linux::{
    AddressFlags, Announcer, Link, LinkChange, Netlink, Netns, OperState, Route, RouteFilter,
    sysctl,
};

use crate::{
    attach::routing_table::MAIN,
    plugin::{Call, Failure, Result, differs, unless_exists},
    state::AttachmentResult,
};

/// The time to wait for duplicate address detection without a carrier.
const CARRIER_LIMIT: Duration = Duration::from_secs(5);
/// The additional time with a carrier. Two seconds are enough on an idle machine.
const DAD_LIMIT: Duration = Duration::from_secs(25);

/// The path to other addresses of a subnet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Directly, on the same link.
    Link,
    /// Through the gateway.
    Gateway,
}

/// A container's network namespace, with a netlink socket in it.
pub(crate) struct Sandbox {
    pub(crate) netns: Netns,
    pub(crate) netlink: Netlink,
    /// `CNI_NETNS`, as results show it.
    pub(crate) path: String,
}

impl Sandbox {
    /// Opens `CNI_NETNS` for ADD and CHECK, which require it.
    pub(crate) fn open(call: &Call<'_>) -> Result<Self> {
        Ok(Self::open_with(call, || ())?.0)
    }

    /// Opens `CNI_NETNS` and the socket that announces addresses, so that the namespace is entered
    /// once.
    pub(crate) fn open_to_announce(
        call: &Call<'_>,
    ) -> Result<(Self, rscni_linux::Result<Announcer>)> {
        Self::open_with(call, Announcer::open)
    }

    /// Opens `CNI_NETNS`, and runs `other` in it.
    fn open_with<T: Send>(call: &Call<'_>, other: impl FnOnce() -> T + Send) -> Result<(Self, T)> {
        let path = call.args.require_netns()?;
        let invalid =
            |error: rscni_linux::Error| Error::InvalidNetns(format!("CNI_NETNS: {error}"));
        let netns = Netns::open(path).map_err(invalid)?;
        let (netlink, other) = netns.enter(|| (Netlink::open(), other()))?;
        Ok((Self { netns, netlink: netlink?, path: path.display().to_string() }, other))
    }

    /// Opens `CNI_NETNS` for DEL. Returns `None` if it is not set or does not exist.
    pub(crate) fn open_if_there(call: &Call<'_>) -> Result<Option<Self>> {
        match &call.args.netns {
            None => Ok(None),
            Some(path) => match Netns::open(path) {
                // A file that is not a namespace (any more) contains nothing of ours.
                Err(rscni_linux::Error::NotFound { .. } | rscni_linux::Error::Invalid { .. }) => {
                    Ok(None)
                }
                Err(error) => Err(error.into()),
                Ok(_) => Self::open(call).map(Some),
            },
        }
    }

    /// Takes the lock that the Go plugins take in the namespace too, and holds it as long as this
    /// value lives.
    pub(crate) fn lock(&self) -> Result<()> {
        crate::state::state_file::lock(&self.netns)
            .map_err(|errno| Error::IOFailure(format!("lock {}: {errno}", self.path)).into())
    }

    /// Fails if the container already has an interface of that name (spec: "ADD").
    pub(crate) fn refuse_taken(&mut self, ifname: &str) -> Result<()> {
        match self.netlink.find_link(ifname)? {
            None => Ok(()),
            Some(_) => Err(taken(ifname, &self.path)),
        }
    }

    /// Brings up the interface, and adds the addresses and routes of the result.
    ///
    /// `dad` waits for duplicate address detection if there are IPv6 addresses and a carrier.
    pub(crate) fn configure(
        &mut self,
        link: &Link,
        result: &CNIResult,
        reach: Reach,
        dad: bool,
    ) -> Result<()> {
        let has_ipv6 = result.ips.iter().any(|ip| ip.address.addr().is_ipv6());
        if has_ipv6 {
            self.enable_ipv6(&link.name, dad)?;
        }
        let flags = AddressFlags { nodad: !dad, noprefixroute: reach == Reach::Gateway };
        let mut batch = self.netlink.batch();
        batch.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() });
        for ip in &result.ips {
            batch.add_address(link.index, ip.address, flags);
        }
        batch.commit()?;
        // There is no need to wait for the kernel's own link-local address.
        if dad && has_ipv6 {
            self.settle_addresses(link.index)?;
        }
        let mut batch = self.netlink.batch();
        if reach == Reach::Gateway {
            for route in routes_by_gateway(result, link.index) {
                // Another interface of the container may have the same route: both lead to the
                // host.
                batch.append_route(&route);
            }
        }
        for route in kernel_routes(result, link.index) {
            batch.append_route(&route);
        }
        Ok(batch.commit()?)
    }

    /// Waits for duplicate address detection.
    fn settle_addresses(&mut self, index: u32) -> Result<()> {
        match settle_addresses(&mut self.netlink, index) {
            // Another host has the address. The next ADD gets another one.
            Err(duplicate @ rscni_linux::Error::Invalid { .. }) => {
                Err(Error::TryAgainLater(duplicate.to_string()).into())
            }
            settled => Ok(settled?),
        }
    }

    pub(crate) fn enable_ipv6(&self, ifname: &str, dad: bool) -> Result<()> {
        let detection = if dad { "1" } else { "0" };
        let key = |link: &str, key: &str| format!("net/ipv6/conf/{link}/{key}");
        let settings = [
            (key("lo", "disable_ipv6"), "0"),
            (key(ifname, "disable_ipv6"), "0"),
            (key(ifname, "keep_addr_on_down"), "1"),
            (key(ifname, "accept_dad"), detection),
            (key(ifname, "enhanced_dad"), detection),
        ];
        Ok(sysctl::set_all_in(
            &self.netns,
            &settings.each_ref().map(|(key, value)| (key.as_str(), *value)),
        )?)
    }

    /// Returns a container interface for CHECK, which must exist.
    pub(crate) fn require_link(&mut self, ifname: &str) -> Result<Link> {
        let link = self.netlink.find_link(ifname)?;
        link.ok_or_else(|| differs(format!("interface {ifname} is missing in {}", self.path)))
    }

    /// Returns the container interface for CHECK: it exists, is up, and has this kind and the MAC
    /// address of the result.
    pub(crate) fn check_link(
        &mut self,
        ifname: &str,
        kind: &str,
        result: &CNIResult,
    ) -> Result<Link> {
        let link = self.require_link(ifname)?;
        if link.kind.as_deref() != Some(kind) {
            return Err(differs(format!("interface {ifname} in {} is not a {kind}", self.path)));
        }
        if !link.up {
            return Err(differs(format!("interface {ifname} in {} is down", self.path)));
        }
        check_mac(&link, self.interface_in(result, ifname)?.mac.as_deref())?;
        Ok(link)
    }

    /// Returns the container interface in a result, for CHECK.
    pub(crate) fn interface_in<'r>(
        &self,
        result: &'r CNIResult,
        ifname: &str,
    ) -> Result<&'r Interface> {
        let mut interfaces = result.interfaces.iter();
        interfaces
            .find(|i| i.name == ifname && i.sandbox.as_deref() == Some(&self.path))
            .ok_or_else(|| {
                differs(format!("prevResult has no interface {ifname} in {}", self.path))
            })
    }

    /// Fails if an address is missing on the interface.
    pub(crate) fn check_addresses<'r>(
        &mut self,
        link: &Link,
        mut ips: impl Iterator<Item = &'r IpConfig>,
    ) -> Result<()> {
        let present = self.netlink.addresses(link.index)?;
        match ips.find(|ip| !present.iter().any(|there| there.net == ip.address)) {
            None => Ok(()),
            Some(ip) => Err(differs(format!(
                "address {} is missing on {} in {}",
                ip.address, link.name, self.path
            ))),
        }
    }

    /// Compares addresses and routes with those of the result.
    ///
    /// Results show the table of a route from 1.1.0 on; before that the route may be in any table.
    /// A route without a table may have been moved from the main table by a later plugin, as sbr
    /// and vrf do.
    pub(crate) fn check_addresses_and_routes(
        &mut self,
        link: &Link,
        result: &CNIResult,
        version: SpecVersion,
    ) -> Result<()> {
        let path = self.path.clone();
        let own = AttachmentResult::new(result, &link.name, Some(Path::new(&path)));
        self.check_addresses(link, own.ips())?;
        for route in own.routes() {
            if !self.has_route(link, route, version, own.is_merged())? {
                let via = route.gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
                return Err(differs(format!(
                    "route to {}{via} is missing in {}",
                    route.dst, self.path
                )));
            }
        }
        Ok(())
    }

    fn has_route(
        &mut self,
        link: &Link,
        route: &rscni::Route,
        version: SpecVersion,
        is_merged: bool,
    ) -> Result<bool> {
        // A route of another attachment may have been moved as well.
        let table = route.table.filter(|_| !is_merged);
        let filter = RouteFilter { dst: Some(route.dst), table, ..RouteFilter::default() };
        let may_be_in = |r: &Route| {
            is_merged
                || route.table.is_some()
                || version < SpecVersion::V1_1_0
                || r.table == Some(MAIN)
                || r.oif == Some(link.index)
        };
        let found = self.netlink.routes(filter)?;
        Ok(found.iter().any(|r| may_be_in(r) && (route.gw.is_none() || r.gateway == route.gw)))
    }

    /// Adds the missing routes of the result. A route of another interface to the same destination
    /// stays.
    pub(crate) fn restore_routes(
        &mut self,
        link: &Link,
        result: &CNIResult,
        version: SpecVersion,
        reach: Reach,
    ) -> Result<()> {
        let path = self.path.clone();
        let own = AttachmentResult::new(result, &link.name, Some(Path::new(&path)));
        let mut missing = Vec::new();
        for (route, wanted) in result.routes.iter().zip(kernel_routes(result, link.index)) {
            let is_own = own.routes().any(|other| std::ptr::eq(other, route));
            if is_own && !self.has_route(link, route, version, own.is_merged())? {
                missing.push(wanted);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let by_gateway = match reach {
            Reach::Gateway => routes_by_gateway(result, link.index),
            Reach::Link => Vec::new(),
        };
        for route in by_gateway.iter().chain(&missing) {
            unless_exists(self.netlink.add_route(route))?;
        }
        Ok(())
    }
}

/// Waits for duplicate address detection on an interface.
pub(crate) fn settle_addresses(netlink: &mut Netlink, index: u32) -> rscni_linux::Result<()> {
    match netlink.settle_addresses(index, CARRIER_LIMIT) {
        // Without a carrier the kernel postpones it.
        Err(rscni_linux::Error::Timeout { .. })
            if netlink.link_by_index(index)?.operstate != OperState::Up =>
        {
            Ok(())
        }
        Err(rscni_linux::Error::Timeout { .. }) => netlink.settle_addresses(index, DAD_LIMIT),
        settled => settled,
    }
}

/// The scope of destinations on the link, from which on the kernel allows no gateway.
const SCOPE_LINK: u8 = 253;

/// An error for an interface that already exists.
pub(crate) fn taken(ifname: &str, sandbox: &str) -> Failure {
    Failure(Error::InvalidEnvValue(format!(
        "CNI_IFNAME={ifname}: the container ({sandbox}) already has an interface of that name; \
         choose another or DEL it"
    )))
}

pub(crate) fn check_mac(link: &Link, expected: Option<&str>) -> Result<()> {
    let Some(expected) = expected else { return Ok(()) };
    let actual = link.mac.map(|mac| mac.to_string()).unwrap_or_default();
    if actual.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(differs(format!("interface {} has the address {actual}, ADD left {expected}", link.name)))
}

/// Returns, for each address, a route to its gateway and one to its subnet through it.
fn routes_by_gateway(result: &CNIResult, index: u32) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    for ip in &result.ips {
        let Some(gateway) = ip.gateway else { continue };
        let from = |route: Route| Route { oif: Some(index), src: Some(ip.address.addr()), ..route };
        let subnet = Route { gateway: Some(gateway), ..Route::new(ip.address.trunc()) };
        for route in [from(Route::new(IpNet::from(gateway))), from(subnet)] {
            // Addresses of one subnet share both; a subnet of one address needs none.
            if route.dst.addr() != ip.address.addr()
                && !routes.iter().any(|other| other.dst == route.dst)
            {
                routes.push(route);
            }
        }
    }
    routes
}

/// Returns the routes of a result for the kernel. A route without a gateway gets that of the first
/// address of its family, unless its scope excludes a router.
fn kernel_routes(result: &CNIResult, index: u32) -> impl Iterator<Item = Route> {
    result.routes.iter().map(move |route| Route {
        gateway: route.gw.or_else(|| {
            let is_direct = route.scope.is_some_and(|scope| scope >= SCOPE_LINK);
            if is_direct { None } else { first_gateway(result, route.dst.addr().is_ipv4()) }
        }),
        oif: Some(index),
        table: route.table,
        scope: route.scope,
        priority: route.priority,
        mtu: route.mtu,
        advmss: route.advmss,
        ..Route::new(route.dst)
    })
}

fn first_gateway(result: &CNIResult, v4: bool) -> Option<IpAddr> {
    result.ips.iter().filter_map(|ip| ip.gateway).find(|gateway| gateway.is_ipv4() == v4)
}
