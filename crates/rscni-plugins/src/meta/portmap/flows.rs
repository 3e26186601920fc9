//! UDP flows that were begun before a mapping came or went: they hold on to what was decided for their first packet,
//! so they would pass the new container by, or go on to the one that is gone.

use std::net::IpAddr;

use rscni_linux::{Conntrack, Family, conntrack::Flow};

use super::config::{Config, Mapping, Protocol};

/// After ADD: has all flows to the mappings' host ports begin anew.
///
/// One that is only masqueraded on its way to another host, a DNS query of a container for instance, is none of them.
pub(super) fn forget_stale(config: &Config, families: impl Iterator<Item = bool>) {
    for v4 in families {
        for mapping in udp(config).filter(|mapping| mapping.is_for(v4)) {
            let is_to =
                |flow: &Flow| mapping.address().is_none_or(|address| address == flow.original.dst);
            forget(v4, mapping.host_port, |flow| is_to(flow) && (flow.dnat || !flow.snat));
        }
    }
}

/// After DEL: forgets the flows that lead to a container which is gone.
pub(super) fn forget_to(ports: impl Iterator<Item = u16>, containers: &[IpAddr]) {
    for port in ports {
        for v4 in
            [true, false].into_iter().filter(|v4| containers.iter().any(|ip| ip.is_ipv4() == *v4))
        {
            forget(v4, port, |flow| flow.dnat && containers.contains(&flow.reply.src));
        }
    }
}

/// The mappings of UDP.
pub(super) fn udp(config: &Config) -> impl Iterator<Item = &Mapping> {
    config.mappings.iter().filter(|mapping| mapping.protocol == Protocol::Udp)
}

/// What fails here is told and does no harm: the flows end by themselves when they are silent for a while.
fn forget(v4: bool, port: u16, is_wanted: impl Fn(&Flow) -> bool) {
    let family = if v4 { Family::V4 } else { Family::V6 };
    let outcome = Conntrack::open().and_then(|mut conntrack| {
        for flow in conntrack
            .flows_to(family, Protocol::Udp.number(), port)?
            .iter()
            .filter(|flow| is_wanted(flow))
        {
            conntrack.delete(flow)?;
        }
        Ok(())
    });
    if let Err(error) = outcome {
        eprintln!(
            "portmap: UDP flows that were begun before may not reach the container yet: {error}"
        );
    }
}
