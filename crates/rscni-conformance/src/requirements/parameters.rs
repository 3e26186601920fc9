//! "Parameters".

use rscni_test::{Call, Container};

use crate::{
    host::PrivateHost,
    verdict::{CheckResult, expect_error, expect_error_code, expect_success, not_applicable},
};

pub(super) fn unknown_command(host: &PrivateHost, _: &str) -> CheckResult {
    let outcome = host.try_call(host.valid_call("FROBNICATE", host.version));
    expect_error_code(&outcome, "CNI_COMMAND=FROBNICATE", &[4], "")
}

/// `parameter` is a command and the missing variable.
pub(super) fn missing(host: &PrivateHost, parameter: &str) -> CheckResult {
    let (command, variable) = parameter.split_once(' ').unwrap_or_default();
    let since = match command {
        "CHECK" => "0.4.0",
        "GC" => "1.1.0",
        _ => "0.1.0",
    };
    let outcome =
        host.try_call(host.valid_call(command, host.version_since(since)?).without(variable));
    expect_error_code(&outcome, &format!("{command} without {variable}"), &[4], variable)
}

const INVALID_CONTAINER_IDS: [&str; 7] = ["", "-a", ".a", "_a", "a b", "a/b", "a:b"];
const INVALID_IFNAMES: [&str; 8] = ["", "sixteen-letters-", ".", "..", "a/b", "a:b", "a b", "a\tb"];

pub(super) fn container_id(host: &PrivateHost, _: &str) -> CheckResult {
    each_invalid(host, "CNI_CONTAINERID", &INVALID_CONTAINER_IDS, "")
}

pub(super) fn ifname(host: &PrivateHost, _: &str) -> CheckResult {
    each_invalid(host, "CNI_IFNAME", &INVALID_IFNAMES, "")
}

pub(super) fn named(host: &PrivateHost, _: &str) -> CheckResult {
    each_invalid(host, "CNI_CONTAINERID", &["a/b"], "CNI_CONTAINERID")?;
    each_invalid(host, "CNI_IFNAME", &["a/b"], "CNI_IFNAME")?;
    each_invalid(host, "CNI_COMMAND", &["FROBNICATE"], "CNI_COMMAND")
}

fn each_invalid(host: &PrivateHost, variable: &str, values: &[&str], name: &str) -> CheckResult {
    for value in values {
        let outcome = host.try_call(host.valid_call("ADD", host.version).env(variable, value));
        expect_error_code(&outcome, &format!("ADD with {variable}={value:?}"), &[4], name)?;
    }
    Ok(())
}

pub(super) fn no_netns(host: &PrivateHost, _: &str) -> CheckResult {
    if host.subject.is_ipam() || host.subject.is_chained() {
        return not_applicable("it may only change the host");
    }
    let before = host.snapshot()?;
    let nowhere = Container::at(host.container(&host.first, "a").id(), "/run/netns/nowhere");
    let call = host.valid_call("ADD", host.version).attachment(&nowhere, &host.subject.ifname);
    expect_error(&host.try_call(call), "ADD with a CNI_NETNS that does not exist")?;
    host.expect_unchanged(&before, "ADD with a CNI_NETNS that does not exist changes nothing")
}

pub(super) fn ignore_unknown(host: &PrivateHost, _: &str) -> CheckResult {
    const ARGS: &str = "IgnoreUnknown=1;K8S_POD_NAME=web";
    add_and_del(host, |call| call.env("CNI_ARGS", ARGS), "with IgnoreUnknown=1")
}

#[allow(clippy::redundant_closure_for_method_calls, reason = "the method has a fixed lifetime")]
pub(super) fn alone(host: &PrivateHost, _: &str) -> CheckResult {
    add_and_del(host, |call| call.alone(), "in an otherwise empty environment")
}

fn add_and_del(
    host: &PrivateHost,
    change: for<'a> fn(Call<'a>) -> Call<'a>,
    how: &str,
) -> CheckResult {
    host.facts()?;
    let mut made = host.prepare_first(host.version)?;
    let outcome = change(host.call("ADD", &made, made.prev_result())).run();
    host.record_result(&mut made, &outcome, &format!("ADD {how}"))?;
    let outcome = change(host.call("DEL", &made, made.result.as_ref())).run();
    expect_success(&outcome, &format!("DEL {how}"))
}
