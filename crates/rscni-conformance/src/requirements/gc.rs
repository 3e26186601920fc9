//! "GC".

use rscni_test::Outcome;
use serde_json::{Value, json};

use crate::{
    host::{Attachment, PrivateHost},
    verdict::{CheckResult, expect_silence, expect_success},
};

const SINCE: &str = "1.1.0";

/// Calls GC of a network with these valid attachments.
fn gc(host: &PrivateHost, network: Option<&str>, valid: &[&Attachment]) -> CheckResult<Outcome> {
    let mut config = host.config(host.version_since(SINCE)?, None);
    let entry = |of: &&Attachment| json!({ "containerID": of.container.id(), "ifname": of.ifname });
    config["cni.dev/valid-attachments"] = valid.iter().map(entry).collect::<Vec<Value>>().into();
    if let Some(network) = network {
        config["name"] = network.into();
    }
    Ok(host.plugin.gc(&config))
}

pub(super) fn keeps_valid(host: &PrivateHost, _: &str) -> CheckResult {
    let made = host.attach_since(SINCE)?;
    let before = host.snapshot()?;
    expect_success(&gc(host, None, &[&made])?, "GC")?;
    host.expect_unchanged(&before, "the valid attachment is as before GC")?;
    host.expect_check(&made, "CHECK after GC")
}

pub(super) fn removes_stale(host: &PrivateHost, _: &str) -> CheckResult {
    host.facts()?;
    let version = host.version_since(SINCE)?;
    let before = host.snapshot()?;
    let namespace = host.lab.container("mortal");
    let made = host.attach_in(host.container(&namespace, "a"), &host.subject.ifname, version);
    host.lab.remove_namespace(&namespace);
    let made = made?;
    let outcome = gc(host, None, &[])?;
    // GC of this plugin does not remove what the previous plugins made.
    host.detach_previous(&made);
    expect_success(&outcome, "GC")?;
    host.expect_unchanged(&before, "nothing is left of an attachment that is not valid")
}

pub(super) fn spares_networks(host: &PrivateHost, _: &str) -> CheckResult {
    let made = host.attach_since(SINCE)?;
    let before = host.snapshot()?;
    expect_success(&gc(host, Some("another-network"), &[])?, "GC of another network")?;
    host.expect_unchanged(&before, "the attachment is as before GC of another network")?;
    host.expect_check(&made, "CHECK after GC")
}

pub(super) fn twice(host: &PrivateHost, _: &str) -> CheckResult {
    host.facts()?;
    expect_success(&gc(host, None, &[])?, "GC")?;
    let before = host.snapshot()?;
    expect_success(&gc(host, None, &[])?, "a second GC")?;
    host.expect_unchanged(&before, "a second GC changes nothing")
}

pub(super) fn silent(host: &PrivateHost, _: &str) -> CheckResult {
    let outcome = gc(host, None, &[])?;
    expect_success(&outcome, "GC")?;
    expect_silence(&outcome)
}
