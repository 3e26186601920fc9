//! "ADD".

use std::fmt::Debug;

use rscni_linux::Veth;
use rscni_test::Outcome;
use serde_json::{Map, Value};

use crate::{
    host::PrivateHost,
    shape::{addresses, list},
    verdict::{CheckResult, expect_error, fail, fail_with_call, is_one_object, not_applicable},
};

pub(super) fn stdout(host: &PrivateHost, _: &str) -> CheckResult {
    host.facts()?;
    let (_, outcome) = host.add_first(host.version, "ADD")?;
    if is_one_object(&outcome) {
        return Ok(());
    }
    fail_with_call(&outcome, "one JSON object on stdout", "there is more")
}

pub(super) fn interface(host: &PrivateHost, _: &str) -> CheckResult {
    require_interface_plugin(host)?;
    let sample = host.sample()?;
    let ifname = &host.subject.ifname;
    match sample.container.link(ifname) {
        Some(_) => Ok(()),
        None => fail(format!("the container has {ifname} after ADD"), "it does not"),
    }
}

/// Not applicable to IPAM plugins.
pub(super) fn require_interface_plugin(host: &PrivateHost) -> CheckResult {
    if host.subject.is_ipam() {
        return not_applicable("an IPAM plugin makes no interface");
    }
    Ok(())
}

/// Not applicable unless the plugin creates the interface.
pub(super) fn require_first_plugin(host: &PrivateHost) -> CheckResult {
    require_interface_plugin(host)?;
    if host.subject.is_chained() {
        return not_applicable("a previous plugin makes the interface");
    }
    if host.facts()?.modifies_existing {
        let ifname = &host.subject.ifname;
        return not_applicable(format!("it changes {ifname}, which already exists"));
    }
    Ok(())
}

pub(super) fn existing(host: &PrivateHost, _: &str) -> CheckResult {
    require_first_plugin(host)?;
    let ifname = &host.subject.ifname;
    let mut netlink = host.first.netlink();
    let Ok(link) = netlink.add_veth(&Veth::new(ifname, "other")) else {
        return not_applicable(format!("{ifname} cannot be created in the container"));
    };
    let before = host.snapshot()?;
    let made = host.prepare_first(host.version)?;
    let result = expect_error(&host.add(&made), "ADD of an existing interface name")
        .and_then(|()| host.expect_unchanged(&before, "the failed ADD changes nothing"));
    // The following DEL may also remove it.
    let _ = netlink.del_link(link.index);
    result
}

pub(super) fn second(host: &PrivateHost, _: &str) -> CheckResult {
    if host.subject.ifname == "lo" {
        return not_applicable("a container has only one lo");
    }
    host.require_two_attachments()?;
    if host.subject.prev_result.is_some() {
        return not_applicable("the prevResult of the configuration is of one interface");
    }
    let first = host.attach()?;
    let before = host.snapshot()?;
    let second = host.attach_in(host.container(&host.first, "a"), "cnf1", host.version)?;
    if !host.subject.is_ipam()
        && host.first.netlink().find_link("cnf1").is_ok_and(|link| link.is_none())
    {
        return fail("the container has cnf1 after its second ADD", "it does not");
    }
    let [one, other] = [&first, &second].map(|made| made.result.as_ref().map(addresses));
    if !host.facts()?.has_fixed_addresses && one == other && one.is_some_and(|all| !all.is_empty())
    {
        return fail("different addresses for the second interface", "they are the same");
    }
    host.detach(&second)?;
    let expected = "the first attachment is unchanged, and nothing is left of the second";
    host.expect_unchanged(&before, expected)?;
    host.expect_check(&first, "CHECK of the first attachment")
}

pub(super) fn prev_result(host: &PrivateHost, _: &str) -> CheckResult {
    if !host.subject.is_chained() {
        return not_applicable("it is the first plugin of its list");
    }
    host.facts()?;
    let (made, outcome) = host.add_first(host.version, "ADD")?;
    let (Some(prev_result), Some(result)) = (made.prev_result(), made.result.as_ref()) else {
        return not_applicable("the previous plugins return no result");
    };
    let names =
        |result| list(result, "interfaces").iter().map(|i| i["name"].clone()).collect::<Vec<_>>();
    expect_all(&outcome, "interfaces", &names(prev_result), &names(result))?;
    expect_all(&outcome, "addresses", &addresses(prev_result), &addresses(result))?;
    let dns = &prev_result["dns"];
    if dns.as_object().is_none_or(Map::is_empty) || *dns == result["dns"] {
        return Ok(());
    }
    let found: &Value = &result["dns"];
    fail_with_call(&outcome, format!("dns is {dns}, as in prevResult"), found.to_string())
}

/// Fails unless all objects of `prevResult` are in the result.
fn expect_all<T: PartialEq + Debug>(
    outcome: &Outcome,
    what: &str,
    prev_result: &[T],
    result: &[T],
) -> CheckResult {
    let missing: Vec<_> = prev_result.iter().filter(|object| !result.contains(object)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let expected = format!("all {what} of prevResult are in the result");
    fail_with_call(outcome, expected, format!("{missing:?} are missing"))
}
