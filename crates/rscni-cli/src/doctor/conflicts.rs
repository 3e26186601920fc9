//! Finds networks that conflict: overlapping address ranges, and different gateways on one bridge.

use std::net::IpAddr;

use rscni::runtime::{NetConfList, PluginConf};
use rscni_plugins::{GatewayBridge, inventory::Reservations};

use super::{Context, Report, kernel::routes};
use crate::node::plain_kind;

/// A network whose containers the host routes to.
pub(super) struct RoutedNetwork<'a> {
    list: &'a NetConfList,
    plugin: &'a PluginConf,
    ranges: Vec<(IpAddr, IpAddr)>,
    gateways: Vec<IpAddr>,
}

impl<'a> RoutedNetwork<'a> {
    /// Returns `None` if the host does not route to the containers, as with macvlan.
    pub(super) fn new(
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

    /// Returns the first range of addresses that both networks allocate.
    fn overlap(&self, other: &Self) -> Option<(IpAddr, IpAddr)> {
        let both =
            self.ranges.iter().flat_map(|one| other.ranges.iter().map(move |two| (one, two)));
        // All IPv4 addresses sort before IPv6, so ranges of different families never overlap.
        let mut overlaps = both.map(|(one, two)| (one.0.max(two.0), one.1.min(two.1)));
        overlaps.find(|(first, last)| first <= last)
    }

    /// Returns the bridge that gets the gateway addresses.
    fn bridge(&self) -> Option<GatewayBridge<'_>> {
        let plugin = rscni_plugins::find(plain_kind(self.plugin.plugin_type()))?;
        plugin.gateway_bridge(self.plugin.as_map())
    }

    /// Returns the IPv4 gateways that the other network does not have.
    ///
    /// A bridge has the IPv4 gateways of one network only.
    fn own_gateways(&self, other: &Self) -> Vec<String> {
        let own = self
            .gateways
            .iter()
            .filter(|gateway| gateway.is_ipv4() && !other.gateways.contains(gateway));
        own.map(ToString::to_string).collect()
    }
}

/// Compares each pair of networks.
pub(super) fn check(context: &Context<'_>, all: &[RoutedNetwork<'_>], report: &mut Report) {
    for (at, second) in all.iter().enumerate() {
        for first in all[..at].iter().filter(|first| first.list.name != second.list.name) {
            let names = format!("networks {} and {}", first.list.name, second.list.name);
            let mend = || context.disabling(second.list);
            if let Some((from, to)) = first.overlap(second) {
                let what = format!("{names} both allocate the addresses {from} to {to}");
                let why = "two containers may get the same address, and the host reaches only one \
                           of them; give each network ranges of its own";
                report.warning("range-overlap", what, why, mend());
            }
            let (one, two) = (first.own_gateways(second), second.own_gateways(first));
            let (Some(bridge), Some(other)) = (first.bridge(), second.bridge()) else { continue };
            let replaces = bridge.replaces || other.replaces;
            let bridge = bridge.name;
            if bridge == other.name && !one.is_empty() && !two.is_empty() && !replaces {
                let what = format!(
                    "{names} have different gateways on bridge {bridge}: {} and {}",
                    one.join(", "),
                    two.join(", ")
                );
                let why = "the network of the first ADD sets the gateway, and every ADD to the \
                           other one fails; give each network a bridge of its own";
                report.error("gateway-conflict", what, why, mend());
            }
        }
    }
}
