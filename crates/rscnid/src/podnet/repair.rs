//! Restores objects that other programs removed or changed, from notifications of the kernel.

use rscni_linux::{Event, Family, Forwarding, Neighbour, Route, nft::Hook};

use super::{
    Both, FAMILIES, Key, Own, State, Value, acceptance, adoption,
    kernel::{DEVICES, Kernel},
};

/// The reaction to a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repair {
    /// Sets one object again.
    One(Key, Value),
    /// Accepts forwarded packets of pods again.
    Acceptance,
    /// Collects the facts about this node again, and compares everything.
    Everything,
}

/// Decides about one notification. Those of our own changes need no reaction.
pub(super) fn repair(
    event: &Event,
    own: &Own,
    desired: &State,
    kernel: &mut Kernel,
) -> Option<Repair> {
    let devices = Both::each(|family| kernel.device(family));
    let is_uplink = |index: u32| own.uplinks.iter().flatten().any(|it| it.index == index);
    let is_device = |index: u32| devices.iter().any(|device| *device == Some(index));
    match event {
        Event::Lost => Some(Repair::Everything),
        // The kernel removes routes without notification if the uplink loses its carrier.
        Event::Link(link) | Event::LinkGone(link) => {
            // One that prevented a device of ours.
            let is_rival = || DEVICES.iter().any(|name| link.name == *name) || link.vxlan.is_some();
            let is_rival_gone = matches!(event, Event::LinkGone(_)) && is_rival();
            let is_relevant = is_uplink(link.index) || is_device(link.index) || is_rival_gone;
            is_relevant.then_some(Repair::Everything)
        }
        Event::Address(address) | Event::AddressGone(address) => {
            let is_wanted = is_uplink(address.index)
                || own.uplinks.iter().any(Option::is_none) && !is_device(address.index)
                || adoption::is_gateway(&own.pod_cidrs, &address.net)
                || (is_device(address.index) && matches!(event, Event::AddressGone(_)));
            is_wanted.then_some(Repair::Everything)
        }
        Event::RouteGone(route) => {
            let key = Key::Route(route.dst);
            let value = desired.get(&key).filter(|_| is_main(route))?;
            kernel.forget(&key);
            Some(Repair::One(key, *value))
        }
        Event::Route(route) => {
            let key = Key::Route(route.dst);
            let value = desired.get(&key).filter(|_| is_main(route))?;
            match kernel.object(own, route) {
                Some((_, actual)) if actual == *value => None,
                Some(_) => Some(Repair::One(key, *value)),
                None => {
                    kernel.forget(&key);
                    Some(Repair::One(key, *value))
                }
            }
        }
        Event::Neighbour(Neighbour { index, address, mac, permanent, .. }) if is_device(*index) => {
            let key = Key::Neighbour(*address);
            let value = desired.get(&key)?;
            let is_as_desired = *permanent && mac.map(Value::Mac) == Some(*value);
            (!is_as_desired).then_some(Repair::One(key, *value))
        }
        Event::NeighbourGone(neighbour) if is_device(neighbour.index) => {
            let key = Key::Neighbour(neighbour.address);
            Some(Repair::One(key, *desired.get(&key)?))
        }
        Event::Forwarding(entry) => {
            let (key, actual) = forwarding(entry, &devices)?;
            let value = desired.get(&key).filter(|value| **value != actual)?;
            Some(Repair::One(key, *value))
        }
        Event::ForwardingGone(entry) => {
            let (key, _) = forwarding(entry, &devices)?;
            Some(Repair::One(key, *desired.get(&key)?))
        }
        Event::Chain(hook) => (*hook == Hook::Forward).then_some(Repair::Acceptance),
        Event::RuleGone(comment) => acceptance::is_ours(comment).then_some(Repair::Acceptance),
        Event::Nftables(table) => (table == super::masquerade::TABLE).then_some(Repair::Everything),
        _ => None,
    }
}

fn is_main(route: &Route) -> bool {
    route.table == Some(super::kernel::TABLE_MAIN)
}

fn forwarding(entry: &Forwarding, devices: &Both<Option<u32>>) -> Option<(Key, Value)> {
    let is_of = |family: &Family| *devices.of(*family) == Some(entry.index);
    let family = FAMILIES.into_iter().find(is_of)?;
    let key = Key::Forwarding { v6: family == Family::V6, mac: entry.mac };
    Some((key, Value::Remote(entry.remote)))
}
