//! UDP flows that are older than a mapping or outlive it. Connection tracking keeps the decision
//! made for their first packet, so they would miss the new container, or continue to the removed
//! one.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use rscni_linux::{Conntrack, Family, conntrack::Flow};

use super::config::{Config, Mapping, Protocol};

/// After ADD: deletes all flows to the host ports of the mappings, in the families of `nets`.
///
/// Keeps flows that are only masqueraded on their way to another host, such as a container's DNS
/// queries.
pub(super) fn forget_stale(config: &Config, nets: &[IpNet]) {
    for v4 in nets.iter().map(|net| net.addr().is_ipv4()) {
        for mapping in udp(config).filter(|mapping| mapping.is_for(v4)) {
            let is_to =
                |flow: &Flow| mapping.address().is_none_or(|address| address == flow.original.dst);
            forget(v4, mapping.host_port, |flow| is_to(flow) && (flow.dnat || !flow.snat));
        }
    }
}

/// After DEL: deletes the flows from these ports to removed containers.
pub(super) fn forget_to(ports: &BTreeSet<u16>, containers: &BTreeSet<IpAddr>) {
    for port in ports {
        for v4 in [true, false] {
            if containers.iter().any(|ip| ip.is_ipv4() == v4) {
                forget(v4, *port, |flow| flow.dnat && containers.contains(&flow.reply.src));
            }
        }
    }
}

pub(super) fn udp(config: &Config) -> impl Iterator<Item = &Mapping> {
    config.mappings.iter().filter(|mapping| mapping.protocol == Protocol::Udp)
}

/// Deletes flows. Only warns about errors, because idle flows time out by themselves.
fn forget(v4: bool, port: u16, is_wanted: impl Fn(&Flow) -> bool) {
    let family = if v4 { Family::V4 } else { Family::V6 };
    let outcome = Conntrack::open().and_then(|mut conntrack| {
        let flows = conntrack.flows_to(family, Protocol::Udp.number(), port)?;
        flows.iter().filter(|flow| is_wanted(flow)).try_for_each(|flow| conntrack.delete(flow))
    });
    if let Err(error) = outcome {
        eprintln!("portmap: earlier UDP flows may not reach the container yet: {error}");
    }
}
