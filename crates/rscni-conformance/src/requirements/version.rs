//! "Version considerations" and "VERSION Success".

use rscni_test::result_faults;
use serde_json::{Value, json};

use super::errors::expect_version;
use crate::{
    host::PrivateHost,
    shape::{age, is_since},
    verdict::{
        CheckResult, expect_error_code, expect_success, fail_with_call, is_one_object, json,
        not_applicable,
    },
};

pub(super) fn reply(host: &PrivateHost, _: &str) -> CheckResult {
    let stdin = json!({ "cniVersion": host.version });
    let outcome = host.plugin.call("VERSION").without("CNI_PATH").config(&stdin).run();
    expect_success(&outcome, "VERSION")?;
    let reply = json(&outcome).unwrap_or_default();
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    let is_version = |text: &str| text.split('.').count() == 3 && text.split('.').all(is_number);
    let is_valid = reply["supportedVersions"].as_array().is_some_and(|all| {
        !all.is_empty() && all.iter().all(|version| version.as_str().is_some_and(is_version))
    });
    if is_valid && reply["cniVersion"].as_str().is_some_and(is_version) && is_one_object(&outcome) {
        return Ok(());
    }
    let expected = "one object with cniVersion and a list of versions as supportedVersions";
    fail_with_call(&outcome, expected, reply.to_string())
}

pub(super) fn echo(host: &PrivateHost, _: &str) -> CheckResult {
    let versions: Vec<_> =
        host.supported.iter().filter(|version| is_since(version, "1.0.0")).collect();
    for version in &versions {
        let outcome = host.plugin.call("VERSION").config(&json!({ "cniVersion": version })).run();
        expect_version(&outcome, version, &format!("a reply in {version}, as in the input"))?;
    }
    if versions.is_empty() {
        return not_applicable("it supports no version from 1.0.0 on, which requires this");
    }
    Ok(())
}

pub(super) fn unsupported(host: &PrivateHost, _: &str) -> CheckResult {
    let mut config = host.valid_config(host.version);
    config["cniVersion"] = "99.0.0".into();
    let outcome = host.try_call(host.valid_call("ADD", host.version).config(&config));
    expect_error_code(&outcome, "ADD with cniVersion 99.0.0", &[1], "")
}

pub(super) fn add_in(host: &PrivateHost, version: &'static str) -> CheckResult {
    if !host.supported.contains(&version) {
        return not_applicable(format!("its VERSION does not list {version}"));
    }
    if host.subject.is_chained() && !is_since(version, "0.3.0") {
        return not_applicable("plugins are chained from 0.3.0 on");
    }
    let (made, outcome) = host.add_first(version, &format!("ADD in {version}"))?;
    let faults = result_faults(version, made.result.as_ref().unwrap_or(&Value::Null));
    if faults.is_empty() {
        return Ok(());
    }
    fail_with_call(&outcome, format!("a result of {version}"), faults.join("\n"))
}

pub(super) fn del_in_each(host: &PrivateHost, _: &str) -> CheckResult {
    for version in &host.supported {
        let outcome = host.try_call(host.valid_call("DEL", version));
        expect_success(&outcome, &format!("DEL in {version}"))?;
    }
    Ok(())
}

/// `parameter` is a command and its first version.
pub(super) fn not_before(host: &PrivateHost, parameter: &str) -> CheckResult {
    let (command, since) = parameter.split_once(' ').unwrap_or_default();
    let Some(version) = host.supported.iter().rfind(|version| age(version) < age(since)) else {
        return not_applicable(format!("it supports no version before {since}"));
    };
    let outcome = host.try_call(host.valid_call(command, version));
    // Error 4 from a plugin that does not know the command.
    expect_error_code(&outcome, &format!("{command} in {version}"), &[1, 4], "")
}
