//! Versions: those that VERSION tells, and what is in which.

use serde_json::json;

use crate::{
    shape::{age, complaints, is_since},
    verdict::{Checked, json, not_applicable, refused_with, shown, succeeded},
    world::World,
};

pub(super) fn reply(world: &World, _: &str) -> Checked {
    let stdin = json!({ "cniVersion": world.version });
    let outcome = world.plugin.call("VERSION").without("CNI_PATH").config(&stdin).run();
    succeeded(&outcome, "VERSION")?;
    let reply = json(&outcome).unwrap_or_default();
    let is_version = |text: &str| {
        text.split('.').count() == 3 && text.split('.').all(|n| n.parse::<u32>().is_ok())
    };
    let versions = reply["supportedVersions"].as_array();
    let good = versions.is_some_and(|all| {
        !all.is_empty() && all.iter().all(|version| version.as_str().is_some_and(is_version))
    });
    if good
        && reply["cniVersion"].as_str().is_some_and(is_version)
        && crate::verdict::is_one_object(&outcome)
    {
        return Ok(());
    }
    shown(
        &outcome,
        "one object with cniVersion and a list of versions as supportedVersions",
        reply.to_string(),
    )
}

pub(super) fn echo(world: &World, _: &str) -> Checked {
    let versions = world.supported.iter().filter(|version| is_since(version, "1.0.0"));
    let mut asked = false;
    for version in versions {
        asked = true;
        let outcome = world.plugin.call("VERSION").config(&json!({ "cniVersion": version })).run();
        let said = json(&outcome).unwrap_or_default()["cniVersion"].clone();
        if said != *version {
            return shown(
                &outcome,
                format!("a reply in {version}, as in the input"),
                format!("cniVersion {said}"),
            );
        }
    }
    if asked {
        Ok(())
    } else {
        not_applicable(
            "it claims no version from 1.0.0 on; before, the version of the reply was free",
        )
    }
}

pub(super) fn unsupported(world: &World, _: &str) -> Checked {
    let mut config = world.bare_config(world.version);
    config["cniVersion"] = "99.0.0".into();
    let outcome = world.try_call(world.bare("ADD", world.version).config(&config));
    refused_with(&outcome, "ADD with cniVersion 99.0.0", &[1], "")
}

pub(super) fn add_in(world: &World, version: &'static str) -> Checked {
    if !world.supported.contains(&version) {
        return not_applicable(format!("its VERSION does not claim {version}"));
    }
    if world.subject.is_chained() && !is_since(version, "0.3.0") {
        return not_applicable("plugins are chained from 0.3.0 on");
    }
    let mut made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, version)?;
    let outcome = world.add(&made);
    world.note(&mut made, &outcome, &format!("ADD in {version}"))?;
    let wrong = complaints(version, made.result.as_ref().unwrap_or(&serde_json::Value::Null));
    if wrong.is_empty() {
        Ok(())
    } else {
        shown(&outcome, format!("a result of {version}"), wrong.join("\n"))
    }
}

pub(super) fn del_in_each(world: &World, _: &str) -> Checked {
    for version in &world.supported {
        succeeded(&world.try_call(world.bare("DEL", version)), &format!("DEL in {version}"))?;
    }
    Ok(())
}

/// `about` is a command, and the version that it comes with.
pub(super) fn not_before(world: &World, about: &str) -> Checked {
    let (command, since) = about.split_once(' ').unwrap_or_default();
    let Some(version) = world.supported.iter().rfind(|version| age(version) < age(since)) else {
        return not_applicable(format!("it claims no version before {since}"));
    };
    let outcome = world.try_call(world.bare(command, version));
    // One that is older than the command does not know it at all.
    refused_with(&outcome, &format!("{command} in {version}"), &[1, 4], "")
}
