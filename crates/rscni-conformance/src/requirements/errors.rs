//! "Errors" and "Error".

use rscni_test::Outcome;

use crate::{
    host::PrivateHost,
    verdict::{CheckResult, fail_with_call, is_one_object, json, not_applicable},
};

/// Makes a call that every plugin must reject.
fn invalid_call(host: &PrivateHost, version: &str) -> Outcome {
    host.try_call(host.valid_call("ADD", version).without("CNI_CONTAINERID"))
}

pub(super) fn exit(host: &PrivateHost, _: &str) -> CheckResult {
    let outcome = invalid_call(host, host.version);
    if outcome.exit_code() != Some(0) {
        return Ok(());
    }
    let expected = "ADD without CNI_CONTAINERID ends with a status other than 0";
    fail_with_call(&outcome, expected, "it ended with 0")
}

pub(super) fn reply(host: &PrivateHost, _: &str) -> CheckResult {
    let outcome = invalid_call(host, host.version);
    let reply = json(&outcome).unwrap_or_default();
    let found = if !is_one_object(&outcome) {
        "its stdout is not exactly one JSON object"
    } else if reply["code"].as_u64().is_none_or(|code| code == 0) {
        "there is no code"
    } else if reply["msg"].as_str().is_none_or(str::is_empty) {
        "there is no msg"
    } else if !reply["details"].is_null() && !reply["details"].is_string() {
        "details is not a string"
    } else {
        return Ok(());
    };
    fail_with_call(&outcome, "an error reply for ADD without CNI_CONTAINERID", found)
}

pub(super) fn version(host: &PrivateHost, _: &str) -> CheckResult {
    for version in &host.supported {
        let outcome = invalid_call(host, version);
        expect_version(&outcome, version, &format!("an error reply in {version}"))?;
    }
    if host.supported.is_empty() {
        return not_applicable("its VERSION lists no version");
    }
    Ok(())
}

/// Fails unless the reply has this `cniVersion`.
pub(super) fn expect_version(outcome: &Outcome, version: &str, expected: &str) -> CheckResult {
    let found = json(outcome).unwrap_or_default()["cniVersion"].clone();
    if found == *version {
        return Ok(());
    }
    fail_with_call(outcome, expected, format!("its cniVersion is {found}"))
}
