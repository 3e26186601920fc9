//! "CHECK".

use rscni_linux::{LinkChange, Netlink, RouteFilter};
use rscni_test::Outcome;
use serde_json::Value;

use super::add::{require_first_plugin, require_interface_plugin};
use crate::{
    host::{Attachment, PrivateHost},
    shape::{list, net},
    verdict::{CheckResult, expect_error, expect_silence, expect_success, not_applicable},
};

const SINCE: &str = "0.4.0";

fn check(host: &PrivateHost, made: &Attachment) -> Outcome {
    host.call("CHECK", made, made.result.as_ref()).run()
}

pub(super) fn succeeds(host: &PrivateHost, _: &str) -> CheckResult {
    let made = host.attach_since(SINCE)?;
    expect_success(&check(host, &made), "CHECK right after ADD")
}

pub(super) fn silent(host: &PrivateHost, _: &str) -> CheckResult {
    let made = host.attach_since(SINCE)?;
    let outcome = check(host, &made);
    expect_success(&outcome, "CHECK")?;
    expect_silence(&outcome)
}

pub(super) fn without_result(host: &PrivateHost, _: &str) -> CheckResult {
    let made = host.attach_since(SINCE)?;
    expect_error(&host.call("CHECK", &made, None).run(), "CHECK without prevResult")
}

pub(super) fn after_del(host: &PrivateHost, _: &str) -> CheckResult {
    host.facts()?;
    let mut made = host.prepare_first(host.version_since(SINCE)?)?;
    let prepared = host.snapshot()?;
    let outcome = host.add(&made);
    host.record_result(&mut made, &outcome, "ADD")?;
    if host.changes_since(&prepared).is_empty() {
        return not_applicable("its ADD makes nothing that could be missing after DEL");
    }
    expect_success(&host.call("DEL", &made, made.result.as_ref()).run(), "DEL")?;
    expect_error(&check(host, &made), "CHECK after DEL")
}

/// `part` is the part of the attachment to damage.
pub(super) fn damaged(host: &PrivateHost, part: &str) -> CheckResult {
    require_interface_plugin(host)?;
    if host.subject.is_chained() {
        return not_applicable("a previous plugin has made the interface");
    }
    if part == "interface" {
        require_first_plugin(host)?;
    }
    let made = host.attach_since(SINCE)?;
    expect_success(&check(host, &made), "CHECK before the change")?;
    damage(&made, part)?;
    let change = match part {
        "interface" => "the interface was removed",
        "down" => "the interface was set down",
        "address" => "an address was removed",
        _ => "a route was removed",
    };
    expect_error(&check(host, &made), &format!("CHECK after {change}"))
}

fn damage(made: &Attachment, part: &str) -> CheckResult {
    let mut netlink = made.container.netlink();
    let result = made.result.clone().unwrap_or_default();
    let Ok(link) = netlink.link_by_name(&made.ifname) else {
        return not_applicable(format!("{} is not in the container", made.ifname));
    };
    let damaged = match part {
        "interface" => netlink.del_link(link.index),
        "down" => {
            netlink.set_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })
        }
        "address" => {
            let mut addresses = list(&result, "ips").iter().filter_map(|ip| net(&ip["address"]));
            let Some(address) = addresses.next() else {
                return not_applicable("it assigns no address");
            };
            netlink.del_address(link.index, address)
        }
        _ => return remove_route(&mut netlink, &result),
    };
    damaged.or_else(|error| not_applicable(format!("the kernel rejects the change: {error}")))
}

fn remove_route(netlink: &mut Netlink, result: &Value) -> CheckResult {
    let Some(dst) = list(result, "routes").iter().find_map(|route| net(&route["dst"])) else {
        return not_applicable("it makes no route");
    };
    let filter = RouteFilter { dst: Some(dst), ..RouteFilter::default() };
    let routes = netlink.routes(filter).unwrap_or_default();
    let Some(route) = routes.first() else {
        return not_applicable(format!("there is no route to {dst}"));
    };
    netlink
        .del_route(route)
        .or_else(|error| not_applicable(format!("the kernel keeps the route: {error}")))
}
