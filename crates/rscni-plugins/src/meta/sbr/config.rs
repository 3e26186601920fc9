//! The keys of sbr, validated.

use std::net::IpAddr;

use rscni::{IpConfig, NetConf, address::parse_address};
use serde::Deserialize;

use crate::{
    attach::routing_table::is_kernels_own,
    plugin::{Result, invalid},
};

/// The first table, as in the Go plugin.
pub(super) const FIRST: u32 = 100;

/// The keys of the Go plugin.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Keys {
    table: Option<i64>,
    gateways: Option<Vec<String>>,
    add_source_hints: Option<bool>,
}

/// The requested routing.
pub(super) enum Config {
    /// Rules to this table, whose routes another program manages.
    Table(u32),
    /// A table for each address, with the routes of the interface.
    Tables(Tables),
}

/// The content of the tables.
pub(super) struct Tables {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
    /// Whether the main table keeps a route to each subnet, with the address as source.
    pub(super) source_hints: bool,
}

impl Config {
    pub(super) fn new(conf: &NetConf) -> Result<Self> {
        let keys: Keys = conf.custom_as()?;
        if let Some(number) = keys.table {
            let table = u32::try_from(number).ok().filter(|table| *table != 0);
            return table.map(Self::Table).ok_or_else(|| {
                invalid(
                    "sbr",
                    format!(
                        "table: {number} is not a routing table: set one from 1 to {}",
                        u32::MAX
                    ),
                )
            });
        }
        let mut tables =
            Tables { v4: None, v6: None, source_hints: keys.add_source_hints.unwrap_or_default() };
        for (i, text) in keys.gateways.iter().flatten().enumerate() {
            let gateway = parse_address(text)
                .map_err(|error| invalid("sbr", format!("gateways[{i}]: {text:?} {error}")))?;
            let gateway = gateway.to_canonical();
            let (place, family) =
                if gateway.is_ipv4() { (&mut tables.v4, "IPv4") } else { (&mut tables.v6, "IPv6") };
            if let Some(other) = place.replace(gateway) {
                return Err(invalid(
                    "sbr",
                    format!(
                        "gateways: there are multiple {family} addresses, {other} and {gateway}; \
                         one of each family can be"
                    ),
                ));
            }
        }
        Ok(Self::Tables(tables))
    }

    /// Whether a rule to `table` can belong to this attachment.
    pub(super) fn may_use(&self, table: u32) -> bool {
        match self {
            Self::Table(configured) => *configured == table,
            Self::Tables(_) => is_ours(table),
        }
    }
}

impl Tables {
    /// Returns the configured gateway for the family of this address.
    pub(super) fn configured_gateway(&self, ip: &IpConfig) -> Option<IpAddr> {
        if ip.address.addr().is_ipv4() { self.v4 } else { self.v6 }
    }

    /// Returns the gateway of this address's default route.
    pub(super) fn gateway(&self, ip: &IpConfig) -> Option<IpAddr> {
        self.configured_gateway(ip).or(ip.gateway)
    }
}

/// Whether an address can get this table.
pub(super) fn is_ours(table: u32) -> bool {
    table >= FIRST && !is_kernels_own(table)
}
