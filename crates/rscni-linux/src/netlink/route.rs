//! Routes, as `ip route` shows and changes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteVia},
};

use super::{Attributes, Family, Netlink, OrAbsent, Request, Value, action::Action, attributes};
use crate::{Error, Result};

const HEADER: usize = 12;
/// What stands before the attributes of a hop of several: length, flags, weight, interface.
const HOP_HEADER: usize = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;

const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RT_SCOPE_HOST: u8 = 254;
const RT_SCOPE_NOWHERE: u8 = 255;
const RT_TABLE_UNSPEC: u8 = 0;
/// Who added a route that nobody else claims (`RTPROT_BOOT`, what `ip` uses).
const RTPROT_BOOT: u8 = 3;

/// A route. What is `None` (or its default) is left to the kernel when adding, and matches all when deleting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads; the default route is `0.0.0.0/0` or `::/0`.
    pub dst: IpNet,
    /// The router to send to. It may be IPv6 for an IPv4 destination.
    pub gateway: Option<IpAddr>,
    /// The index of the link to send by.
    pub oif: Option<u32>,
    /// The source address that packets get.
    pub src: Option<IpAddr>,
    /// Its table: 254 is `main`, 255 `local`.
    pub table: Option<u32>,
    /// How far it leads: 0 anywhere, 253 to hosts on the link, 254 to this host.
    /// By default that follows from whether there is a gateway.
    pub scope: Option<u8>,
    /// Its metric: the lowest wins.
    pub priority: Option<u32>,
    /// The path's MTU.
    pub mtu: Option<u32>,
    /// The largest TCP segment to announce.
    pub advmss: Option<u32>,
    /// The gateway is on the link even though no prefix says so.
    pub onlink: bool,
    /// Who added it (`RTPROT_*`): 2 the kernel, 3 (by default) a tool, 4 an administrator.
    pub protocol: Option<u8>,
    /// What it does with packets.
    pub kind: RouteType,
}

/// What a route does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RouteType {
    /// Sends them on.
    #[default]
    Unicast,
    /// Takes them in.
    Local,
    /// Drops them.
    Blackhole,
    /// Drops them and says so.
    Unreachable,
    /// Drops them and says that it is not allowed.
    Prohibit,
    /// Another one, by its number (`RTN_*`).
    Other(u8),
}

impl From<RouteType> for u8 {
    fn from(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => 1,
            RouteType::Local => 2,
            RouteType::Blackhole => 6,
            RouteType::Unreachable => 7,
            RouteType::Prohibit => 8,
            RouteType::Other(other) => other,
        }
    }
}

impl From<u8> for RouteType {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Unicast,
            2 => Self::Local,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            other => Self::Other(other),
        }
    }
}

/// Which routes to list; what is `None` matches all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouteFilter {
    /// Those of one family.
    pub family: Option<Family>,
    /// Those of one table.
    pub table: Option<u32>,
    /// Those that send by one link.
    pub oif: Option<u32>,
    /// Those to exactly this destination.
    pub dst: Option<IpNet>,
}

impl Default for Route {
    fn default() -> Self {
        Self::new(Family::V4.everything())
    }
}

impl Route {
    /// A route to `dst`, with everything else to be filled in.
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

    /// The default route of the gateway's family.
    pub fn default_via(gateway: IpAddr) -> Self {
        Self { gateway: Some(gateway), ..Self::new(Family::of(&gateway).everything()) }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = Family::of(&self.dst.addr()).kernel();
        message.header.destination_prefix_length = self.dst.prefix_len();
        if self.onlink {
            message.header.flags = RouteFlags::Onlink;
        }
        let table = match self.table.map(u8::try_from) {
            None => Some(254),
            Some(small) => small.ok(),
        };
        message.header.table = table.unwrap_or(RT_TABLE_UNSPEC);
        let metrics: Vec<RouteMetric> =
            [self.mtu.map(RouteMetric::Mtu), self.advmss.map(RouteMetric::Advmss)]
                .into_iter()
                .flatten()
                .collect();
        let attributes = [
            (self.dst.prefix_len() > 0)
                .then(|| RouteAttribute::Destination(self.dst.network().into())),
            self.gateway.map(|gateway| self.gateway_attribute(gateway)),
            self.oif.map(RouteAttribute::Oif),
            self.src.map(|src| RouteAttribute::PrefSource(src.into())),
            self.priority.map(RouteAttribute::Priority),
            self.table.filter(|_| table.is_none()).map(RouteAttribute::Table),
            (!metrics.is_empty()).then_some(RouteAttribute::Metrics(metrics)),
        ];
        message.attributes = attributes.into_iter().flatten().collect();
        message
    }

    fn gateway_attribute(&self, gateway: IpAddr) -> RouteAttribute {
        match (self.dst, gateway) {
            (IpNet::V4(_), IpAddr::V6(gateway)) => RouteAttribute::Via(RouteVia::Inet6(gateway)),
            (_, gateway) => RouteAttribute::Gateway(RouteAddress::from(gateway)),
        }
    }

    fn new_message(&self) -> RouteNetlinkMessage {
        let mut message = self.message();
        message.header.protocol = self.protocol.unwrap_or(RTPROT_BOOT).into();
        message.header.kind = u8::from(self.kind).into();
        let derived = match (self.kind, self.dst, self.gateway) {
            (RouteType::Local, ..) => RT_SCOPE_HOST,
            (RouteType::Unicast, IpNet::V4(_), None) => RT_SCOPE_LINK,
            _ => RT_SCOPE_UNIVERSE,
        };
        message.header.scope = self.scope.unwrap_or(derived).into();
        RouteNetlinkMessage::NewRoute(message)
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

    /// One route for each hop, of which there are several if IPv6 routes by different links lead to one destination.
    pub(super) fn parse_all(payload: &[u8]) -> Vec<Self> {
        let Some(route) = Self::parse(payload) else { return Vec::new() };
        let hops = attributes(payload, HEADER).find(|(kind, _)| *kind == RTA_MULTIPATH);
        let Some((_, Value(mut rest))) = hops else { return vec![route] };
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
            // The family comes first, in two bytes.
            RTA_VIA => self.gateway = value.rest(2).ip(),
            _ => {}
        }
    }

    /// `None` for what is neither IPv4 nor IPv6, and for the kernel's cache.
    fn parse(payload: &[u8]) -> Option<Self> {
        let [family, prefix_len, _, _, table, protocol, scope, kind, f0, f1, f2, f3] =
            *payload.first_chunk::<HEADER>()?;
        let flags = RouteFlags::from_bits_retain(u32::from_ne_bytes([f0, f1, f2, f3]));
        let everything: IpAddr = match AddressFamily::from(family) {
            AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
            AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return None,
        };
        let mut route = Self {
            table: Some(table.into()),
            protocol: Some(protocol),
            scope: Some(scope),
            kind: kind.into(),
            onlink: flags.contains(RouteFlags::Onlink),
            ..Self::new(IpNet::new(everything, 0).ok()?)
        };
        let mut dst = everything;
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
        let mut message = route.message();
        // To the kernel these mean: any.
        message.header.scope = route.scope.unwrap_or(RT_SCOPE_NOWHERE).into();
        message.header.protocol = route.protocol.unwrap_or(0).into();
        if route.kind != RouteType::Unicast {
            message.header.kind = u8::from(route.kind).into();
        }
        let message = RouteNetlinkMessage::DelRoute(message);
        Self::new(message, 0, route.describe("remove"))
    }
}

/// Looking routes up.
impl Netlink {
    /// The routes that match the filter. One that goes several ways is listed once for each.
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
        let mut message = RouteMessage::default();
        message.header.address_family = family.kernel();
        message.attributes =
            [filter.table.map(RouteAttribute::Table), filter.oif.map(RouteAttribute::Oif)]
                .into_iter()
                .flatten()
                .collect();
        let message = RouteNetlinkMessage::GetRoute(message);
        let wanted = |route: &Route| {
            filter.table.is_none_or(|table| route.table == Some(table))
                && filter.oif.is_none_or(|oif| route.oif == Some(oif))
                && filter.dst.is_none_or(|dst| route.dst == dst.trunc())
        };
        let routes = self.socket.dump("list routes", NLM_F_DUMP, &message, |_, payload| {
            Ok((!is_cached(payload)).then(|| Route::parse_all(payload)))
        });
        // A table without routes, or a link that is gone, has none.
        Ok(routes.or_absent()?.unwrap_or_default().into_iter().flatten().filter(wanted).collect())
    }

    /// The route by which a packet to `address` would leave, as `ip route get`; `None` if there is none.
    pub fn route_to(&mut self, address: IpAddr) -> Result<Option<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = Family::of(&address).kernel();
        message.header.destination_prefix_length = if address.is_ipv4() { 32 } else { 128 };
        message.header.flags = RouteFlags::LookupTable;
        message.attributes = vec![RouteAttribute::Destination(address.into())];
        let message = RouteNetlinkMessage::GetRoute(message);
        let action = format!("look up the route to {address}");
        let route = self.socket.get(&action, &message, |_, payload| {
            Route::parse(payload).ok_or_else(|| Error::decode(&action, "no route in it"))
        });
        match route {
            Err(error) if error.errno() == Some(nix::errno::Errno::ENETUNREACH as i32) => Ok(None),
            Err(error) if error.errno() == Some(nix::errno::Errno::EHOSTUNREACH as i32) => Ok(None),
            route => route.map(Some),
        }
    }
}

/// IPv6 lists what it has learnt about paths among the routes.
fn is_cached(route: &[u8]) -> bool {
    route.get(8..).and_then(|flags| flags.first_chunk()).is_some_and(|flags| {
        RouteFlags::from_bits_retain(u32::from_ne_bytes(*flags)).contains(RouteFlags::Cloned)
    })
}
