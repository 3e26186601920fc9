//! "Errors" and "Error": how a failure is told.

use crate::{
    verdict::{Checked, is_one_object, json, not_applicable, shown},
    world::World,
};

/// A call that every plugin has to refuse.
fn refused_call(world: &World, version: &str) -> rscni_test::Outcome {
    world.try_call(world.bare("ADD", version).without("CNI_CONTAINERID"))
}

pub(super) fn exit(world: &World, _: &str) -> Checked {
    let outcome = refused_call(world, world.version);
    match outcome.exit_code() {
        Some(0) => shown(
            &outcome,
            "ADD without CNI_CONTAINERID ends with a status other than 0",
            "it ended with 0",
        ),
        _ => Ok(()),
    }
}

pub(super) fn reply(world: &World, _: &str) -> Checked {
    let outcome = refused_call(world, world.version);
    let reply = json(&outcome).unwrap_or_default();
    let found = match () {
        () if !is_one_object(&outcome) => "its stdout is not one JSON object, and nothing else",
        () if reply["code"].as_u64().is_none_or(|code| code == 0) => "there is no code",
        () if reply["msg"].as_str().is_none_or(str::is_empty) => "there is no msg",
        () if !reply["details"].is_null() && !reply["details"].is_string() => "details is no text",
        () => return Ok(()),
    };
    shown(&outcome, "an error reply for ADD without CNI_CONTAINERID", found)
}

pub(super) fn version(world: &World, _: &str) -> Checked {
    for version in &world.supported {
        let outcome = refused_call(world, version);
        let said = json(&outcome).unwrap_or_default()["cniVersion"].clone();
        if said != *version {
            return shown(
                &outcome,
                format!("an error reply in {version}"),
                format!("its cniVersion is {said}"),
            );
        }
    }
    if world.supported.is_empty() {
        not_applicable("its VERSION claims no version")
    } else {
        Ok(())
    }
}
