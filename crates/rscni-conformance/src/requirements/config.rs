//! "Configuration format": what may be on stdin.

use serde_json::{Value, json};

use crate::{
    verdict::{Checked, error, refused_with, succeeded},
    world::World,
};

pub(super) fn not_json(world: &World, _: &str) -> Checked {
    raw(world, "{", &[6])
}

pub(super) fn no_object(world: &World, _: &str) -> Checked {
    raw(world, "[1]", &[6, 7])
}

pub(super) fn empty(world: &World, _: &str) -> Checked {
    raw(world, "", &[5, 6, 7])
}

fn raw(world: &World, stdin: &str, codes: &[u64]) -> Checked {
    let outcome = world.try_call(world.bare("ADD", world.version).stdin(stdin));
    refused_with(&outcome, &format!("ADD with {stdin:?} on stdin"), codes, "")
}

pub(super) fn without_name(world: &World, _: &str) -> Checked {
    let mut config = world.bare_config(world.version);
    if let Some(config) = config.as_object_mut() {
        config.shift_remove("name");
    }
    changed(world, &config, "a configuration without name", &[7])
}

pub(super) fn invalid_name(world: &World, _: &str) -> Checked {
    for name in ["a/b", "-a", ".a", "a b", "a:b"] {
        let mut config = world.bare_config(world.version);
        config["name"] = name.into();
        changed(world, &config, &format!("ADD with the network name {name:?}"), &[7])?;
    }
    Ok(())
}

pub(super) fn invalid_version(world: &World, _: &str) -> Checked {
    for version in [json!("x"), json!("1"), json!(1)] {
        let mut config = world.bare_config(world.version);
        config["cniVersion"] = version.clone();
        changed(world, &config, &format!("ADD with cniVersion {version}"), &[1, 6, 7])?;
    }
    Ok(())
}

fn changed(world: &World, config: &Value, what: &str, codes: &[u64]) -> Checked {
    refused_with(&world.try_call(world.bare("ADD", world.version).config(config)), what, codes, "")
}

pub(super) fn unknown_key(world: &World, _: &str) -> Checked {
    let key = "rscniConformanceUnknownKey";
    let outcome = with_keys(world, &json!({ key: [{ "a": 1 }] }))?;
    match error(&outcome) {
        None => Ok(()),
        Some(_) => refused_with(&outcome, "an unknown key, if anything,", &[2], key),
    }
}

pub(super) fn reserved_keys(world: &World, _: &str) -> Checked {
    let mut runtime_config =
        world.subject.config.get("runtimeConfig").cloned().unwrap_or_else(|| json!({}));
    runtime_config["org.example.unknown"] = json!([1]);
    let keys = json!({
        "args": { "cni": {}, "org.example": { "a": 1 } },
        "runtimeConfig": runtime_config,
        "cni.dev/conformance": { "a": 1 },
    });
    succeeded(&with_keys(world, &keys)?, "ADD with args, runtimeConfig and cni.dev/conformance")
}

/// ADD with more keys in the configuration.
fn with_keys(world: &World, keys: &Value) -> Checked<rscni_test::Outcome> {
    world.facts()?;
    let made =
        world.prepare(world.container(&world.first, "a"), &world.subject.ifname, world.version)?;
    let mut config = world.config(world.version, made.prev_result());
    for (key, value) in keys.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Ok(world.call("ADD", &made, None).config(&config).run())
}
