//! "Parameters": the variables of the protocol.

use rscni_test::{Call, Container};

use crate::{
    verdict::{Checked, not_applicable, refused, refused_with, succeeded},
    world::World,
};

pub(super) fn unknown_command(world: &World, _: &str) -> Checked {
    refused_with(
        &world.try_call(world.bare("FROBNICATE", world.version)),
        "CNI_COMMAND=FROBNICATE",
        &[4],
        "",
    )
}

/// `about` is a command, and the variable that it is to miss.
pub(super) fn missing(world: &World, about: &str) -> Checked {
    let (command, variable) = about.split_once(' ').unwrap_or_default();
    let since = match command {
        "CHECK" => "0.4.0",
        "GC" => "1.1.0",
        _ => "0.1.0",
    };
    let call = world.bare(command, world.version_since(since)?).without(variable);
    refused_with(&world.try_call(call), &format!("{command} without {variable}"), &[4], variable)
}

/// Values that a variable must not have.
const CONTAINER_IDS: [&str; 7] = ["", "-a", ".a", "_a", "a b", "a/b", "a:b"];
const IFNAMES: [&str; 8] = ["", "sixteen-letters-", ".", "..", "a/b", "a:b", "a b", "a\tb"];

pub(super) fn container_id(world: &World, _: &str) -> Checked {
    each_invalid(world, "CNI_CONTAINERID", &CONTAINER_IDS, "")
}

pub(super) fn ifname(world: &World, _: &str) -> Checked {
    each_invalid(world, "CNI_IFNAME", &IFNAMES, "")
}

pub(super) fn named(world: &World, _: &str) -> Checked {
    each_invalid(world, "CNI_CONTAINERID", &["a/b"], "CNI_CONTAINERID")?;
    each_invalid(world, "CNI_IFNAME", &["a/b"], "CNI_IFNAME")?;
    each_invalid(world, "CNI_COMMAND", &["FROBNICATE"], "CNI_COMMAND")
}

fn each_invalid(world: &World, variable: &str, values: &[&str], name: &str) -> Checked {
    for value in values {
        let outcome = world.try_call(world.bare("ADD", world.version).env(variable, value));
        refused_with(&outcome, &format!("ADD with {variable}={value:?}"), &[4], name)?;
    }
    Ok(())
}

pub(super) fn no_netns(world: &World, _: &str) -> Checked {
    if world.subject.is_ipam() || world.subject.is_chained() {
        return not_applicable("what it does may be on the host alone");
    }
    let before = world.snapshot()?;
    let nowhere = Container::at(world.container(&world.first, "a").id(), "/run/netns/nowhere");
    let call = world.bare("ADD", world.version).attachment(&nowhere, &world.subject.ifname);
    refused(&world.try_call(call), "ADD with a CNI_NETNS that does not exist")?;
    world.unchanged_since(&before, "nothing is changed by ADD with a CNI_NETNS that does not exist")
}

pub(super) fn ignore_unknown(world: &World, _: &str) -> Checked {
    add_and_del(
        world,
        |call| call.env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web"),
        "with IgnoreUnknown=1",
    )
}

#[allow(
    clippy::redundant_closure_for_method_calls,
    reason = "the method is of a call with one certain lifetime"
)]
pub(super) fn alone(world: &World, _: &str) -> Checked {
    add_and_del(world, |call| call.alone(), "in an otherwise empty environment")
}

fn add_and_del(world: &World, change: for<'a> fn(Call<'a>) -> Call<'a>, how: &str) -> Checked {
    world.facts()?;
    let mut made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, world.version)?;
    let outcome = change(world.call("ADD", &made, made.prev_result())).run();
    world.note(&mut made, &outcome, &format!("ADD {how}"))?;
    let outcome = change(world.call("DEL", &made, made.result.as_ref())).run();
    succeeded(&outcome, &format!("DEL {how}"))
}
