//! CHECK of sbr: the rules, and the routes that their tables must have according to the result.

use ipnet::IpNet;
use rscni::{IpConfig, SpecVersion};
use rscni_linux::{Netlink, Route, RouteFilter};

use super::{
    config::{Config, Tables},
    tables,
};
use crate::{
    attach::{Sandbox, routing_table::MAIN},
    plugin::{Call, Failure, Result, differs},
    state::AttachmentResult,
};

pub(super) fn check(call: &Call<'_>) -> Result<()> {
    let conf = call.conf;
    let config = Config::new(conf)?;
    let result = call.checked_result()?;
    let mut sandbox = Sandbox::open(call)?;
    let link = sandbox.require_link(&call.args.ifname)?;
    let Sandbox { mut netlink, path, .. } = sandbox;
    let rules = netlink.rules()?;
    let own = call.own(result);
    let ips: Vec<&IpConfig> = own.ips().collect();
    for ip in &ips {
        let source = IpNet::from(ip.address.addr());
        let rule = rules
            .iter()
            .find(|rule| rule.src == source && !rule.has_more && config.may_use(rule.table));
        let rule = rule.ok_or_else(|| {
            let table = if let Config::Table(table) = config {
                format!(" lookup {table}")
            } else {
                String::new()
            };
            differs(format!("rule from {}{table} is missing in {path}", source.addr()))
        })?;
        if let Config::Tables(tables) = &config {
            let routes = tables::routes(&mut netlink, rule.table, link.index)?;
            let main = tables::routes(&mut netlink, MAIN, link.index)?;
            let table = Table {
                number: rule.table,
                ip,
                ips: &ips,
                tables,
                routes,
                link: &call.args.ifname,
                path: &path,
            };
            table.check_default_route(own)?;
            table.check_subnet()?;
            table.check_given(&mut netlink, link.index, own, conf.cni_version)?;
            table.check_main(&main)?;
        }
    }
    Ok(())
}

/// The current table of an address.
struct Table<'a> {
    number: u32,
    ip: &'a IpConfig,
    ips: &'a [&'a IpConfig],
    tables: &'a Tables,
    routes: Vec<Route>,
    link: &'a str,
    path: &'a str,
}

impl Table<'_> {
    fn check_default_route(&self, own: AttachmentResult<'_>) -> Result<()> {
        let Some(gateway) =
            self.tables.gateway(self.ip).filter(|gateway| self.is_of_family(&(*gateway).into()))
        else {
            return Ok(());
        };
        let wanted = Route::default_via(gateway);
        // A route that the interface had overrides one through the gateway of the result.
        let is_given = own.routes().any(|route| route.dst == wanted.dst);
        let may_differ = is_given && self.tables.configured_gateway(self.ip).is_none();
        let found: Vec<&Route> =
            self.routes.iter().filter(|route| route.dst == wanted.dst).collect();
        match found.first() {
            None => Err(self.missing(wanted.dst, self.number)),
            Some(other)
                if !may_differ && !found.iter().any(|route| route.gateway == Some(gateway)) =>
            {
                let by = other
                    .gateway
                    .map_or_else(|| "no router".to_owned(), |gateway| gateway.to_string());
                let place = format!("table {} in {}", self.number, self.path);
                Err(differs(format!("default route in {place} is by {by}, ADD left {gateway}")))
            }
            Some(_) => Ok(()),
        }
    }

    fn check_subnet(&self) -> Result<()> {
        if self.ip.address.prefix_len() == self.ip.address.max_prefix_len() {
            return Ok(());
        }
        let subnet = self.require(self.ip.address.trunc())?;
        // If the subnet is reached through a router, the router needs a route too.
        subnet.gateway.map_or(Ok(()), |router| self.require(router.into()).map(drop))
    }

    /// Checks the routes of the result that belong to this address.
    fn check_given(
        &self,
        netlink: &mut Netlink,
        index: u32,
        own: AttachmentResult<'_>,
        version: SpecVersion,
    ) -> Result<()> {
        for given in own.routes() {
            // Without a gateway it may be a route of another attachment.
            if given.gw.is_none() && own.is_merged() {
                continue;
            }
            let route = Route { gateway: given.gw, ..Route::new(given.dst.trunc()) };
            let is_moved = given.table.is_none_or(|table| table == MAIN)
                && self.is_of_family(&route.dst)
                && tables::is_route_of(&route, self.ip, self.ips)
                && (self.tables.configured_gateway(self.ip).is_none()
                    || route.dst.prefix_len() > 0);
            let is_there = |r: &Route| {
                r.dst == route.dst && (route.gateway.is_none() || r.gateway == route.gateway)
            };
            if !is_moved || self.routes.iter().any(is_there) {
                continue;
            }
            // Up to 1.0.0 results do not show the table of a route.
            let filter =
                RouteFilter { dst: Some(route.dst), oif: Some(index), ..RouteFilter::default() };
            let is_elsewhere = version < SpecVersion::V1_1_0
                && netlink.routes(filter)?.iter().any(|r| is_there(r) && r.table != Some(MAIN));
            if !is_elsewhere {
                return Err(self.missing(route.dst, self.number));
            }
        }
        Ok(())
    }

    /// Checks the routes that the main table keeps.
    fn check_main(&self, main: &[Route]) -> Result<()> {
        for route in main
            .iter()
            .filter(|route| self.is_of_family(&route.dst) && tables::is_link_local(route))
        {
            self.require(route.dst)?;
        }
        let hint = tables::source_hint(self.ip).filter(|_| self.tables.source_hints);
        match hint
            .filter(|hint| !main.iter().any(|route| route.dst == hint.dst && route.src.is_some()))
        {
            Some(hint) => Err(self.missing(hint.dst, MAIN)),
            None => Ok(()),
        }
    }

    fn require(&self, dst: IpNet) -> Result<&Route> {
        self.routes
            .iter()
            .find(|route| route.dst == dst)
            .ok_or_else(|| self.missing(dst, self.number))
    }

    fn is_of_family(&self, net: &IpNet) -> bool {
        net.addr().is_ipv4() == self.ip.address.addr().is_ipv4()
    }

    fn missing(&self, dst: IpNet, table: u32) -> Failure {
        let what = if dst.prefix_len() == 0 {
            "default route".to_owned()
        } else {
            format!("route to {dst}")
        };
        differs(format!("{what} by {} is missing in table {table} in {}", self.link, self.path))
    }
}
