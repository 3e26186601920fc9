//! "DEL".

use rscni_test::{Container, Snapshot};
use serde_json::Value;

use super::add::{require_first_plugin, require_interface_plugin};
use crate::{
    host::{Attachment, PrivateHost},
    verdict::{CheckResult, expect_silence, expect_success, fail, not_applicable},
};

const CLEAN: &str = "everything is as before ADD";

pub(super) fn interface(host: &PrivateHost, _: &str) -> CheckResult {
    require_first_plugin(host)?;
    let made = host.attach()?;
    host.detach(&made)?;
    match host.first.netlink().find_link(&made.ifname) {
        Ok(Some(_)) => {
            fail(format!("{} is gone after DEL", made.ifname), "it is still in the container")
        }
        _ => Ok(()),
    }
}

pub(super) fn leaves_nothing(host: &PrivateHost, _: &str) -> CheckResult {
    let leaks = &host.facts()?.leaks;
    if leaks.is_empty() { Ok(()) } else { fail(CLEAN, leaks.join("\n")) }
}

pub(super) fn silent(host: &PrivateHost, _: &str) -> CheckResult {
    let made = host.attach()?;
    let outcome = host.call("DEL", &made, made.result.as_ref()).run();
    expect_success(&outcome, "DEL")?;
    expect_silence(&outcome)
}

pub(super) fn twice(host: &PrivateHost, _: &str) -> CheckResult {
    let made = host.attach()?;
    let del = || host.call("DEL", &made, made.result.as_ref()).run();
    expect_success(&del(), "DEL")?;
    expect_success(&del(), "a second DEL")
}

pub(super) fn without_add(host: &PrivateHost, _: &str) -> CheckResult {
    let before = host.snapshot()?;
    let made = host.prepare_first(host.version)?;
    expect_success(&host.call("DEL", &made, None).run(), "DEL without ADD")?;
    host.detach_previous(&made);
    host.expect_unchanged(&before, "DEL without ADD changes nothing")
}

pub(super) fn without_netns(host: &PrivateHost, _: &str) -> CheckResult {
    let before = host.snapshot()?;
    let made = host.attach()?;
    let call = host.call("DEL", &made, made.result.as_ref()).without("CNI_NETNS");
    expect_success(&call.run(), "DEL without CNI_NETNS")?;
    clean_container(host, &made)?;
    host.expect_unchanged(&before, "everything on the host is released")
}

/// Attaches a container with its own namespace; also returns the snapshot before.
fn attach_with_namespace(host: &PrivateHost) -> CheckResult<(Container, Attachment, Snapshot)> {
    host.facts()?;
    let before = host.snapshot()?;
    let namespace = host.lab.container("mortal");
    let container = host.container(&namespace, "a");
    let made = host.attach_in(container, &host.subject.ifname, host.version);
    if made.is_err() {
        host.lab.remove_namespace(&namespace);
    }
    Ok((namespace, made?, before))
}

pub(super) fn netns_gone(host: &PrivateHost, _: &str) -> CheckResult {
    let (namespace, made, before) = attach_with_namespace(host)?;
    host.lab.remove_namespace(&namespace);
    let outcome = host.call("DEL", &made, made.result.as_ref()).run();
    expect_success(&outcome, "DEL after the namespace was removed")?;
    host.detach_previous(&made);
    host.expect_unchanged(&before, CLEAN)
}

pub(super) fn interface_gone(host: &PrivateHost, _: &str) -> CheckResult {
    require_interface_plugin(host)?;
    let (namespace, made, before) = attach_with_namespace(host)?;
    let mut netlink = namespace.netlink();
    let removed = netlink.link_by_name(&made.ifname).and_then(|link| netlink.del_link(link.index));
    let outcome = host.call("DEL", &made, made.result.as_ref()).run();
    host.detach_previous(&made);
    host.lab.remove_namespace(&namespace);
    if let Err(error) = removed {
        return not_applicable(format!("the interface cannot be removed: {error}"));
    }
    expect_success(&outcome, "DEL after the interface was removed")?;
    host.expect_unchanged(&before, CLEAN)
}

pub(super) fn without_result(host: &PrivateHost, _: &str) -> CheckResult {
    let before = host.snapshot()?;
    let made = host.attach()?;
    expect_success(&host.call("DEL", &made, None).run(), "DEL without prevResult")?;
    host.detach_previous(&made);
    host.expect_unchanged(&before, CLEAN)
}

/// The ADD fails because its namespace does not exist.
pub(super) fn after_failed_add(host: &PrivateHost, _: &str) -> CheckResult {
    let before = host.snapshot()?;
    let nowhere = Container::at(host.container(&host.first, "a").id(), "/run/netns/nowhere");
    let made = host.prepare(nowhere, &host.subject.ifname, host.version)?;
    // ADD of an IPAM plugin succeeds, since it does not enter the namespace.
    let _ = host.add(&made);
    expect_success(&host.call("DEL", &made, None).run(), "DEL after a failed ADD")?;
    host.detach_previous(&made);
    host.expect_unchanged(&before, CLEAN)
}

pub(super) fn spares_others(host: &PrivateHost, _: &str) -> CheckResult {
    host.require_two_attachments()?;
    let first = host.attach()?;
    let before = host.snapshot()?;
    let container = host.container(&host.second, "b");
    let second = host.attach_in(container, &host.subject.ifname, host.version)?;
    host.detach(&second)?;
    host.expect_unchanged(&before, "the attachment of the other container is unchanged")?;
    host.expect_check(&first, "CHECK of the container that is still attached")
}

/// Removes what a DEL without a namespace may leave in the container.
fn clean_container(host: &PrivateHost, made: &Attachment) -> CheckResult {
    let mut netlink = made.container.netlink();
    if require_first_plugin(host).is_ok()
        && let Ok(Some(link)) = netlink.find_link(&made.ifname)
    {
        let _ = netlink.del_link(link.index);
    }
    // The interface stays if another plugin or the container itself made it.
    if host.subject.is_chained() || host.facts()?.modifies_existing {
        let _ = host.call("DEL", made, made.result.as_ref().filter(|r| *r != &Value::Null)).run();
    }
    host.detach_previous(made);
    Ok(())
}
