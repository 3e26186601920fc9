//! Routes, as `ip route` lists and changes them.

use std::net::IpAddr;

use ipnet::IpNet;
use libc::{
    RT_SCOPE_HOST, RT_SCOPE_LINK, RT_SCOPE_NOWHERE, RT_SCOPE_UNIVERSE, RT_TABLE_MAIN,
    RT_TABLE_UNSPEC, RTA_DST, RTA_GATEWAY, RTA_METRICS, RTA_MULTIPATH, RTA_OIF, RTA_PREFSRC,
    RTA_PRIORITY, RTA_TABLE, RTM_DELROUTE, RTM_F_CLONED, RTM_GETROUTE, RTM_NEWROUTE, RTN_BLACKHOLE,
    RTN_LOCAL, RTN_PROHIBIT, RTN_UNICAST, RTN_UNREACHABLE, RTN_UNSPEC, RTPROT_BOOT, RTPROT_UNSPEC,
};
use rustix::io::Errno;

use super::{
    AttributeBuf, Attributes, Family, Message, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL,
    NLM_F_REPLACE, Netlink, Optional, Request, Value, action::Action, attributes, octets,
};
use crate::{Error, Result};

const HEADER: usize = 12;
/// The length of `struct rtnexthop`: length, flags, weight, interface.
const HOP_HEADER: usize = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
const RTNH_F_ONLINK: u32 = 4;

/// A route. When adding, the kernel chooses unset fields; when deleting, they match everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination; `0.0.0.0/0` or `::/0` for the default route.
    pub dst: IpNet,
    /// Gateway. It may be IPv6 for an IPv4 destination.
    pub gateway: Option<IpAddr>,
    /// Index of the outgoing link.
    pub oif: Option<u32>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Table: 254 is `main`, 255 `local`.
    pub table: Option<u32>,
    /// Scope: 0 universe, 253 link, 254 host. By default it follows from the gateway.
    pub scope: Option<u8>,
    /// Metric; the lowest is preferred.
    pub priority: Option<u32>,
    /// Path MTU.
    pub mtu: Option<u32>,
    /// Advertised maximum segment size of TCP.
    pub advmss: Option<u32>,
    /// Whether the gateway is on the link although no prefix covers it.
    pub onlink: bool,
    /// Origin (`RTPROT_*`): 2 kernel, 3 (default) boot, 4 static.
    pub protocol: Option<u8>,
    /// Type.
    pub kind: RouteType,
}

/// The type of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RouteType {
    /// Forwards packets.
    #[default]
    Unicast,
    /// Delivers packets to this host.
    Local,
    /// Drops packets silently.
    Blackhole,
    /// Drops packets and reports them as unreachable.
    Unreachable,
    /// Drops packets and reports them as prohibited.
    Prohibit,
    /// Any other type (`RTN_*`).
    Other(u8),
}

impl From<RouteType> for u8 {
    fn from(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => RTN_UNICAST,
            RouteType::Local => RTN_LOCAL,
            RouteType::Blackhole => RTN_BLACKHOLE,
            RouteType::Unreachable => RTN_UNREACHABLE,
            RouteType::Prohibit => RTN_PROHIBIT,
            RouteType::Other(other) => other,
        }
    }
}

impl From<u8> for RouteType {
    fn from(number: u8) -> Self {
        match number {
            RTN_UNICAST => Self::Unicast,
            RTN_LOCAL => Self::Local,
            RTN_BLACKHOLE => Self::Blackhole,
            RTN_UNREACHABLE => Self::Unreachable,
            RTN_PROHIBIT => Self::Prohibit,
            other => Self::Other(other),
        }
    }
}

/// A filter of routes; `None` matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteFilter {
    /// Address family.
    pub family: Option<Family>,
    /// Table.
    pub table: Option<u32>,
    /// Index of the outgoing link.
    pub oif: Option<u32>,
    /// Exact destination.
    pub dst: Option<IpNet>,
}

impl Default for Route {
    fn default() -> Self {
        Self::new(Family::V4.everything())
    }
}

impl Route {
    /// Creates a route to `dst` with default fields.
    pub fn new(dst: impl Into<IpNet>) -> Self {
        Self {
            dst: dst.into(),
            gateway: None,
            oif: None,
            src: None,
            table: None,
            scope: None,
            priority: None,
            mtu: None,
            advmss: None,
            onlink: false,
            protocol: None,
            kind: RouteType::Unicast,
        }
    }

    /// Creates a default route of the gateway's family.
    pub fn default_via(gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::new(Family::of(&gateway).everything()) }
    }

    fn message(&self, kind: u16, protocol: u8, scope: u8, route_type: u8) -> Message {
        let table = match self.table {
            None => RT_TABLE_MAIN,
            // Larger numbers do not fit into the header.
            Some(table) => u8::try_from(table).unwrap_or(RT_TABLE_UNSPEC),
        };
        let large_table = self.table.filter(|table| *table > u8::MAX.into());
        let family = Family::of(&self.dst.addr()).number();
        let flags = if self.onlink { RTNH_F_ONLINK } else { 0 };
        let prefix_len = self.dst.prefix_len();
        let header =
            header([family, prefix_len, 0, 0], [table, protocol, scope, route_type], flags);
        let metrics = AttributeBuf::new()
            .with_some(RTAX_MTU, self.mtu.map(u32::to_ne_bytes))
            .with_some(RTAX_ADVMSS, self.advmss.map(u32::to_ne_bytes));
        let attributes = AttributeBuf::new()
            .with_some(RTA_DST, (prefix_len > 0).then(|| octets(self.dst.network())));
        let attributes = match (self.dst, self.gateway) {
            (IpNet::V4(_), Some(IpAddr::V6(gateway))) => {
                let family = u16::from(Family::V6.number()).to_ne_bytes();
                attributes.with(RTA_VIA, [&family[..], &gateway.octets()].concat())
            }
            (_, gateway) => attributes.with_some(RTA_GATEWAY, gateway.map(octets)),
        };
        let attributes = attributes
            .with_some(RTA_OIF, self.oif.map(u32::to_ne_bytes))
            .with_some(RTA_PREFSRC, self.src.map(octets))
            .with_some(RTA_PRIORITY, self.priority.map(u32::to_ne_bytes))
            .with_some(RTA_TABLE, large_table.map(u32::to_ne_bytes))
            .with_some(RTA_METRICS, (!metrics.is_empty()).then_some(metrics));
        Message::new(kind, &header, &attributes)
    }

    fn new_message(&self) -> Message {
        let derived = match (self.kind, self.dst, self.gateway) {
            (RouteType::Local, ..) => RT_SCOPE_HOST,
            (RouteType::Unicast, IpNet::V4(_), None) => RT_SCOPE_LINK,
            _ => RT_SCOPE_UNIVERSE,
        };
        let protocol = self.protocol.unwrap_or(RTPROT_BOOT);
        self.message(RTM_NEWROUTE, protocol, self.scope.unwrap_or(derived), self.kind.into())
    }

    fn describe(&self, verb: &str) -> Action {
        use std::fmt::Write;
        let mut text = if self.dst.prefix_len() == 0 {
            format!("{verb} default route")
        } else {
            format!("{verb} route to {}", self.dst)
        };
        if let Some(gateway) = self.gateway {
            let _ = write!(text, " via {gateway}");
        }
        let mut action = Action::from(text);
        if let Some(oif) = self.oif {
            action = action.text(" dev ").link(oif);
        }
        if let Some(table) = self.table {
            action = action.text(format!(" table {table}"));
        }
        action
    }

    /// Returns one route for each next hop. IPv6 routes to one destination by different links form
    /// one multipath route.
    pub(super) fn parse_all(payload: &[u8]) -> Vec<Self> {
        let Some(route) = Self::parse(payload) else { return Vec::new() };
        let hops = attributes(payload, HEADER).value(RTA_MULTIPATH);
        let Some(Value(mut rest)) = hops else { return vec![route] };
        let mut routes = Vec::new();
        while let Some([l0, l1, _, _, i0, i1, i2, i3]) = rest.first_chunk::<HOP_HEADER>() {
            let length = usize::from(u16::from_ne_bytes([*l0, *l1]));
            let Some(hop) = rest.get(..length).filter(|hop| hop.len() >= HOP_HEADER) else { break };
            let mut route =
                Self { oif: Some(u32::from_ne_bytes([*i0, *i1, *i2, *i3])), ..route.clone() };
            for (kind, value) in attributes(hop, HOP_HEADER) {
                route.parse_gateway(kind, value);
            }
            routes.push(route);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        routes
    }

    fn parse_gateway(&mut self, kind: u16, value: Value<'_>) {
        match kind {
            RTA_GATEWAY => self.gateway = value.ip(),
            // After a family of two bytes.
            RTA_VIA => self.gateway = value.rest(2).ip(),
            _ => {}
        }
    }

    /// Returns `None` for other families than IPv4 and IPv6.
    fn parse(payload: &[u8]) -> Option<Self> {
        let [family, prefix_len, _, _, table, protocol, scope, kind, f0, f1, f2, f3] =
            *payload.first_chunk::<HEADER>()?;
        let everything = Family::from_number(family)?.everything();
        let mut route = Self {
            table: Some(table.into()),
            protocol: Some(protocol),
            scope: Some(scope),
            kind: kind.into(),
            onlink: u32::from_ne_bytes([f0, f1, f2, f3]) & RTNH_F_ONLINK != 0,
            ..Self::new(everything)
        };
        let mut dst = everything.addr();
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                RTA_DST => dst = value.ip()?,
                RTA_OIF => route.oif = Some(value.u32()),
                RTA_GATEWAY | RTA_VIA => route.parse_gateway(kind, value),
                RTA_PRIORITY => route.priority = Some(value.u32()),
                RTA_PREFSRC => route.src = value.ip(),
                RTA_TABLE => route.table = Some(value.u32()),
                RTA_METRICS => route.parse_metrics(value.nested()),
                _ => {}
            }
        }
        route.dst = IpNet::new(dst, prefix_len).ok()?;
        Some(route)
    }

    fn parse_metrics(&mut self, metrics: Attributes<'_>) {
        for (kind, value) in metrics {
            match kind {
                RTAX_MTU => self.mtu = Some(value.u32()),
                RTAX_ADVMSS => self.advmss = Some(value.u32()),
                _ => {}
            }
        }
    }
}

impl Request {
    /// See [`Netlink::add_route`].
    #[must_use]
    pub fn add_route(route: &Route) -> Self {
        Self::new(route.new_message(), NLM_F_CREATE | NLM_F_EXCL, route.describe("add"))
    }

    /// See [`Netlink::append_route`].
    #[must_use]
    pub fn append_route(route: &Route) -> Self {
        Self::new(route.new_message(), NLM_F_CREATE | NLM_F_APPEND, route.describe("append"))
    }

    /// See [`Netlink::replace_route`].
    #[must_use]
    pub fn replace_route(route: &Route) -> Self {
        Self::new(route.new_message(), NLM_F_CREATE | NLM_F_REPLACE, route.describe("replace"))
    }

    /// See [`Netlink::del_route`].
    #[must_use]
    pub fn del_route(route: &Route) -> Self {
        // The defaults match any protocol and scope.
        let (protocol, scope) =
            (route.protocol.unwrap_or(RTPROT_UNSPEC), route.scope.unwrap_or(RT_SCOPE_NOWHERE));
        let kind = match route.kind {
            RouteType::Unicast => RTN_UNSPEC,
            kind => kind.into(),
        };
        let message = route.message(RTM_DELROUTE, protocol, scope, kind);
        Self::new(message, 0, route.describe("remove"))
    }
}

/// Encodes `struct rtmsg`: family and prefix lengths; table, protocol, scope and type; flags.
fn header(destination: [u8; 4], kind: [u8; 4], flags: u32) -> Vec<u8> {
    [destination, kind, flags.to_ne_bytes()].concat()
}

/// Lookups.
impl Netlink {
    /// Lists the routes that match the filter. A multipath route is listed once for each next hop.
    pub fn routes(&mut self, filter: RouteFilter) -> Result<Vec<Route>> {
        let families = match (filter.family, filter.dst) {
            (Some(family), _) => vec![family],
            (None, Some(dst)) => vec![Family::of(&dst.addr())],
            (None, None) => vec![Family::V4, Family::V6],
        };
        let mut routes = Vec::new();
        for family in families {
            routes.extend(self.routes_of(family, filter)?);
        }
        Ok(routes)
    }

    fn routes_of(&mut self, family: Family, filter: RouteFilter) -> Result<Vec<Route>> {
        let attributes = AttributeBuf::new()
            .with_some(RTA_TABLE, filter.table.map(u32::to_ne_bytes))
            .with_some(RTA_OIF, filter.oif.map(u32::to_ne_bytes));
        let header = header([family.number(), 0, 0, 0], [0; 4], 0);
        let message = Message::new(RTM_GETROUTE, &header, &attributes);
        let wanted = |route: &Route| {
            filter.table.is_none_or(|table| route.table == Some(table))
                && filter.oif.is_none_or(|oif| route.oif == Some(oif))
                && filter.dst.is_none_or(|dst| route.dst == dst.trunc())
        };
        let routes = self.socket.dump("list routes", &message, |payload| {
            Ok((!is_cached(payload)).then(|| Route::parse_all(payload)))
        });
        // A missing table or link has no routes.
        Ok(routes.optional()?.unwrap_or_default().into_iter().flatten().filter(wanted).collect())
    }

    /// Returns the route to `address`, as `ip route get`, or `None` if it is unreachable.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Option<Route>> {
        let prefix_len = IpNet::from(address).prefix_len();
        let route = [Family::of(&address).number(), prefix_len, 0, 0];
        let header = header(route, [0; 4], RTM_F_LOOKUP_TABLE);
        let attributes = AttributeBuf::new().with(RTA_DST, octets(address));
        let message = Message::new(RTM_GETROUTE, &header, &attributes);
        let action = format!("look up the route to {address}");
        let route = self.socket.get(&action, &message, |payload| {
            Route::parse(payload).ok_or_else(|| Error::decode(&action, "it contains no route"))
        });
        match route {
            Err(error) if error.has_errno(Errno::NETUNREACH) => Ok(None),
            Err(error) if error.has_errno(Errno::HOSTUNREACH) => Ok(None),
            route => route.map(Some),
        }
    }
}

/// Whether a listed route belongs to the IPv6 routing cache.
fn is_cached(route: &[u8]) -> bool {
    let flags = route.get(8..).and_then(<[u8]>::first_chunk);
    flags.is_some_and(|flags| u32::from_ne_bytes(*flags) & RTM_F_CLONED != 0)
}
