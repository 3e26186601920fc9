//! "Configuration format".

use rscni_test::Outcome;
use serde_json::{Value, json};

use crate::{
    host::PrivateHost,
    verdict::{CheckResult, error, expect_error_code, expect_success},
};

pub(super) fn not_json(host: &PrivateHost, _: &str) -> CheckResult {
    add_with_stdin(host, "{", &[6])
}

pub(super) fn no_object(host: &PrivateHost, _: &str) -> CheckResult {
    add_with_stdin(host, "[1]", &[6, 7])
}

pub(super) fn empty(host: &PrivateHost, _: &str) -> CheckResult {
    add_with_stdin(host, "", &[5, 6, 7])
}

fn add_with_stdin(host: &PrivateHost, stdin: &str, codes: &[u64]) -> CheckResult {
    let outcome = host.try_call(host.valid_call("ADD", host.version).stdin(stdin));
    expect_error_code(&outcome, &format!("ADD with {stdin:?} on stdin"), codes, "")
}

pub(super) fn without_name(host: &PrivateHost, _: &str) -> CheckResult {
    let mut config = host.valid_config(host.version);
    if let Some(config) = config.as_object_mut() {
        config.shift_remove("name");
    }
    add_with_config(host, &config, "a configuration without name", &[7])
}

pub(super) fn invalid_name(host: &PrivateHost, _: &str) -> CheckResult {
    for name in ["a/b", "-a", ".a", "a b", "a:b"] {
        let mut config = host.valid_config(host.version);
        config["name"] = name.into();
        add_with_config(host, &config, &format!("ADD with the network name {name:?}"), &[7])?;
    }
    Ok(())
}

pub(super) fn invalid_version(host: &PrivateHost, _: &str) -> CheckResult {
    for version in [json!("x"), json!("1"), json!(1)] {
        let mut config = host.valid_config(host.version);
        config["cniVersion"] = version.clone();
        add_with_config(host, &config, &format!("ADD with cniVersion {version}"), &[1, 6, 7])?;
    }
    Ok(())
}

fn add_with_config(host: &PrivateHost, config: &Value, what: &str, codes: &[u64]) -> CheckResult {
    let outcome = host.try_call(host.valid_call("ADD", host.version).config(config));
    expect_error_code(&outcome, what, codes, "")
}

pub(super) fn unknown_key(host: &PrivateHost, _: &str) -> CheckResult {
    let key = "rscniConformanceUnknownKey";
    let outcome = add_with_keys(host, &json!({ key: [{ "a": 1 }] }))?;
    match error(&outcome) {
        None => Ok(()),
        Some(_) => expect_error_code(&outcome, "an unknown key, unless ignored,", &[2], key),
    }
}

pub(super) fn reserved_keys(host: &PrivateHost, _: &str) -> CheckResult {
    let mut runtime_config =
        host.subject.config.get("runtimeConfig").cloned().unwrap_or_else(|| json!({}));
    runtime_config["org.example.unknown"] = json!([1]);
    let keys = json!({
        "args": { "cni": {}, "org.example": { "a": 1 } },
        "runtimeConfig": runtime_config,
        "cni.dev/conformance": { "a": 1 },
    });
    let outcome = add_with_keys(host, &keys)?;
    expect_success(&outcome, "ADD with args, runtimeConfig and cni.dev/conformance")
}

/// Calls ADD with additional keys in the configuration.
fn add_with_keys(host: &PrivateHost, keys: &Value) -> CheckResult<Outcome> {
    host.facts()?;
    let made = host.prepare_first(host.version)?;
    let mut config = host.config(host.version, made.prev_result());
    for (key, value) in keys.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    Ok(host.call("ADD", &made, None).config(&config).run())
}
