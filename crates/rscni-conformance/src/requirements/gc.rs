//! "GC": what is valid stays, what is not goes.

use rscni_test::Outcome;
use serde_json::{Value, json};

use crate::{
    verdict::{Checked, shown, succeeded},
    world::{Attachment, World},
};

const GC_SINCE: &str = "1.1.0";

/// GC of a network, with these as the valid attachments.
fn gc(world: &World, network: Option<&str>, valid: &[&Attachment]) -> Checked<Outcome> {
    let mut config = world.config(world.version_since(GC_SINCE)?, None);
    let entry = |of: &&Attachment| json!({ "containerID": of.container.id(), "ifname": of.ifname });
    config["cni.dev/valid-attachments"] = valid.iter().map(entry).collect::<Vec<Value>>().into();
    if let Some(network) = network {
        config["name"] = network.into();
    }
    Ok(world.plugin.gc(&config))
}

/// An attachment in a version that has GC.
fn attached(world: &World) -> Checked<Attachment> {
    world.facts()?;
    let version = world.version_since(GC_SINCE)?;
    world.attach_in(world.container(&world.first, "a"), &world.subject.ifname, version)
}

fn check(world: &World, made: &Attachment) -> Checked {
    succeeded(&world.call("CHECK", made, made.result.as_ref()).run(), "CHECK after GC")
}

pub(super) fn keeps_valid(world: &World, _: &str) -> Checked {
    let made = attached(world)?;
    let before = world.snapshot()?;
    succeeded(&gc(world, None, &[&made])?, "GC")?;
    world.unchanged_since(&before, "what is valid is as it was before GC")?;
    check(world, &made)
}

pub(super) fn removes_stale(world: &World, _: &str) -> Checked {
    world.facts()?;
    let version = world.version_since(GC_SINCE)?;
    let before = world.snapshot()?;
    let namespace = world.lab.container("mortal");
    let made = world.attach_in(world.container(&namespace, "a"), &world.subject.ifname, version);
    world.lab.remove_namespace(&namespace);
    let made = made?;
    let outcome = gc(world, None, &[])?;
    // What those before it hold is none of its business.
    world.forget(&made);
    succeeded(&outcome, "GC")?;
    world.unchanged_since(&before, "nothing is left of an attachment that is not valid")
}

pub(super) fn spares_networks(world: &World, _: &str) -> Checked {
    let made = attached(world)?;
    let before = world.snapshot()?;
    succeeded(&gc(world, Some("another-network"), &[])?, "GC of another network")?;
    world.unchanged_since(
        &before,
        "what is attached to one network is as it was before GC of another",
    )?;
    check(world, &made)
}

pub(super) fn twice(world: &World, _: &str) -> Checked {
    world.facts()?;
    succeeded(&gc(world, None, &[])?, "GC")?;
    let before = world.snapshot()?;
    succeeded(&gc(world, None, &[])?, "a second GC")?;
    world.unchanged_since(&before, "a second GC changes nothing")
}

pub(super) fn silent(world: &World, _: &str) -> Checked {
    let outcome = gc(world, None, &[])?;
    succeeded(&outcome, "GC")?;
    if outcome.stdout().is_empty() {
        Ok(())
    } else {
        shown(&outcome, "nothing on stdout", outcome.stdout())
    }
}
