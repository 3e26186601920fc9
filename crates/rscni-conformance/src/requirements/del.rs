//! "DEL": what it removes, and what it does not mind.

use rscni_test::Container;
use serde_json::Value;

use super::add::is_first;
use crate::{
    verdict::{Checked, not_applicable, not_met, shown, succeeded},
    world::{Attachment, World},
};

/// Everything on the host is as it was.
const CLEAN: &str = "everything is as it was before ADD";

pub(super) fn interface(world: &World, _: &str) -> Checked {
    is_first(world)?;
    let made = world.attach()?;
    world.detach(&made)?;
    match world.first.netlink().find_link(&made.ifname) {
        Ok(Some(_)) => {
            not_met(format!("{} is gone after DEL", made.ifname), "it is still in the container")
        }
        _ => Ok(()),
    }
}

pub(super) fn leaves_nothing(world: &World, _: &str) -> Checked {
    let leaks = &world.facts()?.leaks;
    if leaks.is_empty() { Ok(()) } else { not_met(CLEAN, leaks.join("\n")) }
}

pub(super) fn silent(world: &World, _: &str) -> Checked {
    let made = world.attach()?;
    let outcome = world.call("DEL", &made, made.result.as_ref()).run();
    succeeded(&outcome, "DEL")?;
    if outcome.stdout().is_empty() {
        Ok(())
    } else {
        shown(&outcome, "nothing on stdout", outcome.stdout())
    }
}

pub(super) fn twice(world: &World, _: &str) -> Checked {
    let made = world.attach()?;
    let del = || world.call("DEL", &made, made.result.as_ref()).run();
    succeeded(&del(), "DEL")?;
    succeeded(&del(), "a second DEL")
}

pub(super) fn without_add(world: &World, _: &str) -> Checked {
    let before = world.snapshot()?;
    let made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, world.version)?;
    succeeded(&world.call("DEL", &made, None).run(), "DEL without ADD")?;
    world.forget(&made);
    world.unchanged_since(&before, "nothing is changed by DEL without ADD")
}

pub(super) fn without_netns(world: &World, _: &str) -> Checked {
    let before = world.snapshot()?;
    let made = world.attach()?;
    let call = world.call("DEL", &made, made.result.as_ref()).without("CNI_NETNS");
    succeeded(&call.run(), "DEL without CNI_NETNS")?;
    clean_without_namespace(world, &made)?;
    host_is(world, &before)
}

/// An attachment of a container whose namespace can go, and the snapshot before.
fn attach_mortal(world: &World) -> Checked<(Container, Attachment, rscni_test::Snapshot)> {
    world.facts()?;
    let before = world.snapshot()?;
    let namespace = world.lab.container("mortal");
    let made =
        world.attach_in(world.container(&namespace, "a"), &world.subject.ifname, world.version);
    match made {
        Ok(made) => Ok((namespace, made, before)),
        Err(not) => {
            world.lab.remove_namespace(&namespace);
            Err(not)
        }
    }
}

pub(super) fn netns_gone(world: &World, _: &str) -> Checked {
    let (namespace, made, before) = attach_mortal(world)?;
    world.lab.remove_namespace(&namespace);
    succeeded(
        &world.call("DEL", &made, made.result.as_ref()).run(),
        "DEL after the namespace went",
    )?;
    world.forget(&made);
    world.unchanged_since(&before, CLEAN)
}

pub(super) fn interface_gone(world: &World, _: &str) -> Checked {
    super::add::makes_interface(world)?;
    let (namespace, made, before) = attach_mortal(world)?;
    let mut netlink = namespace.netlink();
    let gone = netlink.link_by_name(&made.ifname).and_then(|link| netlink.del_link(link.index));
    let outcome = world.call("DEL", &made, made.result.as_ref()).run();
    world.forget(&made);
    world.lab.remove_namespace(&namespace);
    if let Err(error) = gone {
        return not_applicable(format!("the interface cannot be removed: {error}"));
    }
    succeeded(&outcome, "DEL after the interface was removed")?;
    world.unchanged_since(&before, CLEAN)
}

pub(super) fn without_result(world: &World, _: &str) -> Checked {
    let before = world.snapshot()?;
    let made = world.attach()?;
    succeeded(&world.call("DEL", &made, None).run(), "DEL without prevResult")?;
    world.forget(&made);
    world.unchanged_since(&before, CLEAN)
}

/// What an ADD that cannot succeed leaves: one that finds its interface there, or has no namespace.
pub(super) fn after_failed_add(world: &World, _: &str) -> Checked {
    let before = world.snapshot()?;
    let nowhere = Container::at(world.container(&world.first, "a").id(), "/run/netns/nowhere");
    let made = world.prepare(nowhere, &world.subject.ifname, world.version)?;
    // An IPAM plugin, which looks into no namespace, succeeds.
    let _ = world.add(&made);
    succeeded(&world.call("DEL", &made, None).run(), "DEL after an ADD that failed")?;
    world.forget(&made);
    world.unchanged_since(&before, CLEAN)
}

pub(super) fn spares_others(world: &World, _: &str) -> Checked {
    world.shareable()?;
    let first = world.attach()?;
    let before = world.snapshot()?;
    let second = world.attach_another()?;
    world.detach(&second)?;
    world.unchanged_since(&before, "the other container's attachment is as it was")?;
    if world.version_since("0.4.0").is_ok_and(|version| version == world.version) {
        let outcome = world.call("CHECK", &first, first.result.as_ref()).run();
        succeeded(&outcome, "CHECK of the container that is still attached")?;
    }
    Ok(())
}

/// Once a DEL without namespace is done, what is in the container goes with that: this removes it there.
fn clean_without_namespace(world: &World, made: &Attachment) -> Checked {
    let mut netlink = made.container.netlink();
    if is_first(world).is_ok()
        && let Ok(Some(link)) = netlink.find_link(&made.ifname)
    {
        let _ = netlink.del_link(link.index);
    }
    // What it changed in the container alone, it may leave as it is; those before it remove their interface.
    if world.subject.is_chained() || world.facts()?.adjusts {
        let _ = world.call("DEL", made, made.result.as_ref().filter(|r| *r != &Value::Null)).run();
    }
    world.forget(made);
    Ok(())
}

fn host_is(world: &World, before: &rscni_test::Snapshot) -> Checked {
    world.unchanged_since(before, "what the host had for the container is released")
}
