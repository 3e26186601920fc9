//! "CHECK": it says nothing while all is well, and notices what is not.

use rscni_linux::{LinkChange, Netlink, RouteFilter};
use rscni_test::Outcome;

use super::add::{is_first, makes_interface};
use crate::{
    shape::{list, net},
    verdict::{Checked, not_applicable, refused, shown, succeeded},
    world::{Attachment, World},
};

/// An attachment in a version that has CHECK.
fn attached(world: &World) -> Checked<Attachment> {
    world.facts()?;
    let version = world.version_since("0.4.0")?;
    world.attach_in(world.container(&world.first, "a"), &world.subject.ifname, version)
}

fn check(world: &World, made: &Attachment) -> Outcome {
    world.call("CHECK", made, made.result.as_ref()).run()
}

pub(super) fn succeeds(world: &World, _: &str) -> Checked {
    let made = attached(world)?;
    succeeded(&check(world, &made), "CHECK right after ADD")
}

pub(super) fn silent(world: &World, _: &str) -> Checked {
    let made = attached(world)?;
    let outcome = check(world, &made);
    succeeded(&outcome, "CHECK")?;
    if outcome.stdout().is_empty() {
        Ok(())
    } else {
        shown(&outcome, "nothing on stdout", outcome.stdout())
    }
}

pub(super) fn without_result(world: &World, _: &str) -> Checked {
    let made = attached(world)?;
    refused(&world.call("CHECK", &made, None).run(), "CHECK without prevResult")
}

pub(super) fn after_del(world: &World, _: &str) -> Checked {
    world.facts()?;
    let version = world.version_since("0.4.0")?;
    let mut made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, version)?;
    let prepared = world.snapshot()?;
    let outcome = world.add(&made);
    world.note(&mut made, &outcome, "ADD")?;
    if world.has_not_changed_since(&prepared) {
        return not_applicable("its ADD makes nothing that could be missing after DEL");
    }
    succeeded(&world.call("DEL", &made, made.result.as_ref()).run(), "DEL")?;
    refused(&check(world, &made), "CHECK after DEL")
}

/// `what` is the part of the attachment that somebody spoils.
pub(super) fn changed(world: &World, what: &str) -> Checked {
    makes_interface(world)?;
    if world.subject.is_chained() {
        return not_applicable("a plugin before it has made the interface");
    }
    if what == "interface" {
        is_first(world)?;
    }
    let made = attached(world)?;
    succeeded(&check(world, &made), "CHECK before anything is changed")?;
    spoil(&made, what)?;
    let happened = match what {
        "interface" => "the interface was removed",
        "down" => "the interface was set down",
        "address" => "an address was removed",
        _ => "a route was removed",
    };
    refused(&check(world, &made), &format!("CHECK after {happened}"))
}

fn spoil(made: &Attachment, what: &str) -> Checked {
    let mut netlink = made.container.netlink();
    let result = made.result.clone().unwrap_or_default();
    let link = netlink.link_by_name(&made.ifname);
    let Ok(link) = link else {
        return not_applicable(format!("{} is not in the container", made.ifname));
    };
    let spoilt = match what {
        "interface" => netlink.del_link(link.index),
        "down" => {
            netlink.set_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })
        }
        "address" => {
            let mut addresses = list(&result, "ips").iter().filter_map(|ip| net(&ip["address"]));
            let Some(address) = addresses.next() else {
                return not_applicable("it gives no address");
            };
            netlink.del_address(link.index, address)
        }
        _ => return remove_route(&mut netlink, &result),
    };
    spoilt
        .or_else(|error| not_applicable(format!("the kernel does not let that be spoilt: {error}")))
}

fn remove_route(netlink: &mut Netlink, result: &serde_json::Value) -> Checked {
    let Some(dst) = list(result, "routes").iter().find_map(|route| net(&route["dst"])) else {
        return not_applicable("it makes no route");
    };
    let filter = RouteFilter { dst: Some(dst), ..RouteFilter::default() };
    let routes = netlink.routes(filter).unwrap_or_default();
    let Some(route) = routes.first() else {
        return not_applicable(format!("there is no route to {dst}"));
    };
    netlink
        .del_route(route)
        .or_else(|error| not_applicable(format!("the kernel keeps the route: {error}")))
}
