//! The handover: one set of plugins adds, the other checks and deletes, with the same list.
//!
//! A node goes through this when its plugins are replaced while containers run. A case is one list
//! in one direction. Links and addresses are handed over in both directions. Our DEL removes NAT
//! entries of the Go plugins; theirs removes only entries that they make themselves.

use anyhow::{Context, Result, ensure};
use rscni_test::Container;
use serde_json::{Value, json};
use xtask::{program, tally::Tally};

use super::{
    PluginSet,
    cni::{Attachment, addresses},
    leftovers::{self, Host},
    report,
};

/// Runs all lists in both directions.
pub(super) fn run(go: &PluginSet, tested: &PluginSet, tally: &mut Tally) {
    for (index, list) in lists().iter().enumerate() {
        for (first, second, is_del_ours) in [(go, tested, true), (tested, go, false)] {
            let case = Case { list, first, second, is_del_ours };
            let name = list["name"].as_str().unwrap_or_default();
            let (from, to) = (first.name, second.name);
            let outcome = case.run(&format!("handover-{index}-{from}"));
            report(tally, &format!("{name:<16} ADD by {from:<5}, CHECK and DEL by {to}"), outcome);
        }
    }
}

/// Version 1.0.0 is the highest that Debian's Go plugins support.
fn lists() -> Vec<Value> {
    let bridge = |net: u8| {
        json!({"type": "bridge", "bridge": format!("ho{net}"), "isDefaultGateway": true,
            "hairpinMode": true, "mtu": 1400, "ipam": ranges(net)})
    };
    let ptp = |net: u8| json!({"type": "ptp", "mtu": 1400, "ipam": ranges(net)});
    let masq = |mut plugin: Value| {
        plugin["ipMasq"] = true.into();
        plugin
    };
    let iptables = |plugin: Value| {
        let mut plugin = masq(plugin);
        plugin["ipMasqBackend"] = "iptables".into();
        plugin
    };
    [
        ("loopback", json!({"type": "loopback"})),
        ("bridge", bridge(1)),
        ("bridge-masq", masq(bridge(2))),
        ("bridge-iptables", iptables(bridge(3))),
        ("ptp", ptp(4)),
        ("ptp-masq", masq(ptp(5))),
        ("ptp-iptables", iptables(ptp(6))),
    ]
    .into_iter()
    .map(|(name, plugin)| json!({"cniVersion": "1.0.0", "name": name, "plugins": [plugin]}))
    .collect()
}

/// An IPv4 and an IPv6 range. The route names its gateway, which is redundant: CHECK of the Go
/// plugins compares routes literally, and rejects what their own ADD makes of a route without
/// gateway.
fn ranges(net: u8) -> Value {
    let subnets = [format!("10.77.{net}.0/24"), format!("fd00:77:{net}::/64")];
    json!({
        "type": "host-local",
        "ranges": subnets.map(|subnet| json!([{"subnet": subnet}])),
        "routes": [{"dst": "10.200.0.0/16", "gw": format!("10.77.{net}.1")}],
    })
}

struct Case<'a> {
    list: &'a Value,
    first: &'a PluginSet,
    second: &'a PluginSet,
    /// Whether our DEL removes what the Go plugins added, NAT entries included.
    is_del_ours: bool,
}

impl Case<'_> {
    fn run(&self, id: &str) -> Result<()> {
        leftovers::forget()?;
        let netns = NamedNetns::new(id)?;
        let container = Container::at(id, format!("/run/netns/{id}"));
        let is_loopback = self.list["plugins"][0]["type"] == "loopback";
        let ifname = if is_loopback { "lo" } else { "eth0" };
        let attachment = Attachment { list: self.list, container: &container, ifname };
        let result = attachment.add(self.first)?;
        let network = self.list["name"].as_str().unwrap_or_default();
        let host = Host::new(network, id, addresses(&result));
        let handed_over = self.hand_over(&attachment, &result, &host, &netns);
        if handed_over.is_err() {
            // Cleans up for the next case. The failure above is reported.
            let _ = attachment.del(self.first, &result);
        }
        handed_over
    }

    fn hand_over(
        &self,
        attachment: &Attachment,
        result: &Value,
        host: &Host,
        netns: &NamedNetns,
    ) -> Result<()> {
        let first = self.first.name;
        let masquerades = self.list["plugins"][0]["ipMasq"] == true;
        let has_address = attachment.ifname == "lo" || !host.address_files()?.is_empty();
        ensure!(has_address, "after ADD by {first}: no address file");
        let has_nat = !masquerades || !host.nat_entries()?.is_empty();
        ensure!(has_nat, "after ADD by {first}: no NAT entry");

        attachment.check(self.second, result)?;
        self.del(attachment, result)?;
        let gone = if self.is_del_ours { host.nothing_left() } else { host.nothing_left_but_nat() };
        gone.and_then(|()| netns.is_in_initial_state())
            .with_context(|| format!("after DEL by {}", self.second.name))
    }

    /// DEL by the second set.
    ///
    /// DEL of the Go plugins expects their own masquerading. Without it, it removes link and
    /// address and then fails; when repeated, as runtimes do, it succeeds. With `ipMasqBackend:
    /// iptables` it succeeds at once.
    fn del(&self, attachment: &Attachment, result: &Value) -> Result<()> {
        let plugin = &self.list["plugins"][0];
        let is_unknown_to_go = plugin["ipMasq"] == true && plugin["ipMasqBackend"] != "iptables";
        let may_fail = !self.is_del_ours && is_unknown_to_go;
        match attachment.del(self.second, result) {
            Err(error) if may_fail && error.to_string().contains("CNI-") => {
                attachment.del(self.second, result).context("repeated")
            }
            outcome => outcome,
        }
    }
}

/// A network namespace of `ip netns`, deleted when the value is dropped.
struct NamedNetns(String);

impl NamedNetns {
    fn new(name: &str) -> Result<Self> {
        program::output_of(&format!("ip netns add {name}"))?;
        Ok(Self(name.to_owned()))
    }

    fn is_in_initial_state(&self) -> Result<()> {
        let links = program::output_of(&format!("ip -n {} -o link show", self.0))?;
        let is_as_new =
            links.lines().count() == 1 && links.contains("LOOPBACK") && !links.contains("UP");
        ensure!(is_as_new, "the container's links are not as in a new namespace:\n{links}");
        Ok(())
    }
}

impl Drop for NamedNetns {
    fn drop(&mut self) {
        let _ = program::output_of(&format!("ip netns delete {}", self.0));
    }
}
