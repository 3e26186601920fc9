//! Networks that are in each other's way: which give the same addresses, or want other ones for the same bridge.

use std::net::IpAddr;

use rscni::runtime::{NetConfList, PluginConf};
use rscni_plugins::{GatewayBridge, inventory::Reservations};

use super::{Patient, Report, kernel::routes};
use crate::node::plain_kind;

/// A network whose containers the host routes to, and what it has for them.
pub(super) struct Neighbour<'a> {
    list: &'a NetConfList,
    plugin: &'a PluginConf,
    ranges: Vec<(IpAddr, IpAddr)>,
    gateways: Vec<IpAddr>,
}

impl<'a> Neighbour<'a> {
    /// None where the host has no part in it: what a macvlan does is seen by the network that it leads to.
    pub(super) fn of(
        list: &'a NetConfList,
        plugin: &'a PluginConf,
        found: &Reservations,
    ) -> Option<Self> {
        if !routes(plugin) {
            return None;
        }
        let ranges = found.sets.iter().flat_map(|set| set.ranges.clone()).collect();
        let gateways = found.sets.iter().flat_map(|set| set.gateways.clone()).collect();
        Some(Self { list, plugin, ranges, gateways })
    }

    /// The first addresses that both give.
    fn overlap(&self, other: &Self) -> Option<(IpAddr, IpAddr)> {
        let both =
            self.ranges.iter().flat_map(|one| other.ranges.iter().map(move |two| (one, two)));
        // All of IPv4 comes before all of IPv6, so ranges of different families do not meet.
        let mut overlaps = both.map(|(one, two)| (one.0.max(two.0), one.1.min(two.1)));
        overlaps.find(|(first, last)| first <= last)
    }

    /// The bridge that gets the addresses of the gateways.
    fn bridge(&self) -> Option<GatewayBridge<'_>> {
        let plugin = rscni_plugins::find(plain_kind(self.plugin.plugin_type()))?;
        plugin.gateway_bridge(self.plugin.as_map())
    }

    /// The gateways of IPv4 that this network has and another does not: a bridge has those of one network only.
    fn own_gateways(&self, other: &Self) -> Vec<String> {
        let own = self
            .gateways
            .iter()
            .filter(|gateway| gateway.is_ipv4() && !other.gateways.contains(gateway));
        own.map(ToString::to_string).collect()
    }
}

/// Looks at each pair.
pub(super) fn check(patient: &Patient<'_>, all: &[Neighbour<'_>], report: &mut Report) {
    for (at, second) in all.iter().enumerate() {
        for first in all[..at].iter().filter(|first| first.list.name != second.list.name) {
            let names = format!("networks {} and {}", first.list.name, second.list.name);
            let mend = || patient.disabling(second.list);
            if let Some((from, to)) = first.overlap(second) {
                let what = format!("{names} both give the addresses {from} to {to}");
                let why = "two containers may get the same address, of which the host reaches one; give each network \
                           ranges of its own";
                report.warning("range-overlap", what, why, mend());
            }
            let (one, two) = (first.own_gateways(second), second.own_gateways(first));
            let (Some(bridge), Some(other)) = (first.bridge(), second.bridge()) else { continue };
            let replaces = bridge.replaces || other.replaces;
            let bridge = bridge.name;
            if bridge == other.name && !one.is_empty() && !two.is_empty() && !replaces {
                let what = format!(
                    "{names} want other gateways on bridge {bridge}: {} and {}",
                    one.join(", "),
                    two.join(", ")
                );
                let why = "the first ADD settles it, and every ADD to the other network fails; give each a bridge of its own";
                report.error("gateway-conflict", what, why, mend());
            }
        }
    }
}
