//! The handover: what one set of plugins added, the other checks and deletes, with the same list.
//!
//! This is what a node goes through whose plugins are replaced while containers run. One case is one list in one
//! direction. For links and addresses it has to work both ways; NAT entries of the Go plugins have to go by our DEL,
//! but not the other way round, as those plugins know only the entries they make themselves.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{
    PluginSet,
    cni::{Attachment, addresses},
    leftovers::{self, Host},
    report,
};
use xtask::{program, tally::Tally};

/// All lists in both directions.
pub(super) fn run(go: &PluginSet, tested: &PluginSet, tally: &mut Tally) {
    for (index, list) in lists().iter().enumerate() {
        for (direction, first, second) in [("in", go, tested), ("out", tested, go)] {
            let case = Case {
                list,
                container_id: format!("handover-{index}-{direction}"),
                first,
                second,
                nat_has_to_go: direction == "in",
            };
            let name = format!(
                "{:<16} ADD by {:<5}, CHECK and DEL by {}",
                list["name"].as_str().unwrap_or_default(),
                first.name,
                second.name
            );
            report(tally, &name, case.run());
        }
    }
}

/// Version 1.0.0 is the highest that Debian's Go plugins know.
fn lists() -> Vec<Value> {
    let masquerading = |mut plugin: Value, more: &Value| {
        plugin["ipMasq"] = true.into();
        for (key, value) in more.as_object().into_iter().flatten() {
            plugin[key] = value.clone();
        }
        plugin
    };
    let bridge = |net: u8| {
        json!({"type": "bridge", "bridge": format!("ho{net}"), "isDefaultGateway": true, "hairpinMode": true, "mtu": 1400,
            "ipam": ranges(net)})
    };
    let ptp = |net: u8| json!({"type": "ptp", "mtu": 1400, "ipam": ranges(net)});
    let iptables = json!({"ipMasqBackend": "iptables"});
    [
        ("loopback", json!({"type": "loopback"})),
        ("bridge", bridge(1)),
        ("bridge-masq", masquerading(bridge(2), &Value::Null)),
        ("bridge-iptables", masquerading(bridge(3), &iptables)),
        ("ptp", ptp(4)),
        ("ptp-masq", masquerading(ptp(5), &Value::Null)),
        ("ptp-iptables", masquerading(ptp(6), &iptables)),
    ]
    .into_iter()
    .map(|(name, plugin)| json!({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}))
    .collect()
}

/// An IPv4 and an IPv6 range. The route names its gateway, although it would be the same without: the Go plugins'
/// CHECK looks for a route literally as configured, and refuses what their own ADD has made of one without.
fn ranges(net: u8) -> Value {
    json!({
        "type": "host-local",
        "ranges": [[{"subnet": format!("10.77.{net}.0/24")}], [{"subnet": format!("fd00:77:{net}::/64")}]],
        "routes": [{"dst": "10.200.0.0/16", "gw": format!("10.77.{net}.1")}],
    })
}

struct Case<'a> {
    list: &'a Value,
    container_id: String,
    first: &'a PluginSet,
    second: &'a PluginSet,
    nat_has_to_go: bool,
}

impl Case<'_> {
    fn run(&self) -> Result<()> {
        leftovers::forget()?;
        let container = Container::new(&self.container_id)?;
        let plugin = &self.list["plugins"][0];
        let is_loopback = plugin["type"] == "loopback";
        let attachment = Attachment {
            list: self.list,
            container_id: &self.container_id,
            netns: &container.netns,
            ifname: if is_loopback { "lo" } else { "eth0" },
        };
        let result = attachment.add(self.first)?;
        let network = self.list["name"].as_str().unwrap_or_default();
        let host = Host::new(network, &self.container_id, addresses(&result));
        let handed_over = self.hand_over(&attachment, &result, &host, &container, is_loopback);
        if handed_over.is_err() {
            // So that the next case starts from nothing. It is the failure above that is reported.
            let _ = attachment.del(self.first, &result);
        }
        handed_over
    }

    fn hand_over(
        &self,
        attachment: &Attachment,
        result: &Value,
        host: &Host,
        container: &Container,
        is_loopback: bool,
    ) -> Result<()> {
        let masquerades = self.list["plugins"][0]["ipMasq"] == true;
        let after_add = || format!("after ADD by {}", self.first.name);
        ensure!(
            is_loopback || !host.address_files()?.is_empty(),
            "{}: no address file",
            after_add()
        );
        ensure!(!masquerades || !host.nat_entries()?.is_empty(), "{}: no NAT entry", after_add());

        attachment.check(self.second, result)?;
        self.del(attachment, result)?;
        let gone =
            if self.nat_has_to_go { host.nothing_left() } else { host.nothing_left_but_nat() };
        gone.and_then(|()| container.has_only_a_silent_lo())
            .with_context(|| format!("after DEL by {}", self.second.name))
    }
}

impl Case<'_> {
    /// DEL by the second set.
    ///
    /// The Go plugins know no masquerading but their own: where it is not there, their DEL removes link and address
    /// and then fails. Repeated, as runtimes repeat it, it succeeds. With `ipMasqBackend: iptables` it does at once.
    fn del(&self, attachment: &Attachment, result: &Value) -> Result<()> {
        let plugin = &self.list["plugins"][0];
        let is_unknown_to_go = plugin["ipMasq"] == true && plugin["ipMasqBackend"] != "iptables";
        match attachment.del(self.second, result) {
            Err(error)
                if !self.nat_has_to_go
                    && is_unknown_to_go
                    && error.to_string().contains("CNI-") =>
            {
                attachment.del(self.second, result).context("repeated")
            }
            outcome => outcome,
        }
    }
}

/// A network namespace, deleted at the end.
struct Container {
    name: String,
    netns: PathBuf,
}

impl Container {
    fn new(name: &str) -> Result<Self> {
        program::capture(Command::new("ip").args(["netns", "add", name]))?;
        Ok(Self { name: name.to_owned(), netns: PathBuf::from("/run/netns").join(name) })
    }

    fn has_only_a_silent_lo(&self) -> Result<()> {
        let links =
            program::capture(Command::new("ip").args(["-n", &self.name, "-o", "link", "show"]))?;
        let is_as_new =
            links.lines().count() == 1 && links.contains("LOOPBACK") && !links.contains("UP");
        ensure!(is_as_new, "the container's links are not as in a new namespace:\n{links}");
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The private node ends soon, and the namespace with it at the latest.
        let _ = program::capture(Command::new("ip").args(["netns", "delete", &self.name]));
    }
}
