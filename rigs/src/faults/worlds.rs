//! The lists that are tried: one for each plugin, with what it needs, and the chain of a node.

use anyhow::{Context, Result};
use rscni_linux::{LinkChange, Veth};
use rscni_test::Lab;
use serde_json::{Value, json};

use super::dhcp;

/// A plugin of a list.
pub(super) struct Step {
    pub(super) plugin: &'static str,
    pub(super) config: Value,
    /// Whether it is hit. Others are there because this one needs them.
    pub(super) hit: bool,
}

/// A list, and what has to be on the host.
pub(super) struct World {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Step>,
    /// Whether the container's network namespace may vanish: not where it has something of the host's in it, which
    /// the kernel then destroys.
    pub(super) may_vanish: bool,
}

/// The plugins that are tried, and the chain.
pub(super) const NAMES: [&str; 21] = [
    "loopback",
    "host-local",
    "static",
    "ptp",
    "bridge",
    "bridge-masquerade",
    "macvlan",
    "ipvlan",
    "vlan",
    "dummy",
    "host-device",
    "portmap",
    "bandwidth",
    "firewall",
    "tuning",
    "sbr",
    "flannel",
    "tap",
    "vrf",
    "dhcp",
    "chain",
];

/// Those of kinds of links that common kernels lack: they are tried in User-Mode Linux.
const IN_UML: [&str; 4] = ["ipvlan", "vlan", "dummy", "vrf"];

/// Those of which many are attached at once.
pub(super) const CHURNED: [&str; 2] = ["dhcp", "chain"];

/// The name of every network.
pub(super) const NETWORK: &str = "net";

/// The version that most runtimes ask for. Debian's Go plugins know no newer one.
const VERSION: &str = "1.0.0";

impl World {
    /// The one of this name, of [`NAMES`].
    pub(super) fn named(name: &str) -> Result<Self> {
        let name = *NAMES
            .iter()
            .find(|known| **known == name)
            .with_context(|| format!("there is no world `{name}`"))?;
        let with = |base: Vec<Step>, plugin: &'static str, keys: Value| {
            base.into_iter()
                .map(|step| Step { hit: false, ..step })
                .chain([step(plugin, keys)])
                .collect()
        };
        let ptp = || vec![step("ptp", json!({"ipam": host_local()}))];
        let steps = match name {
            "loopback" => vec![step("loopback", json!({}))],
            "host-local" => vec![step("host-local", json!({"ipam": host_local()}))],
            "static" => {
                let addresses = json!([{"address": "10.7.0.2/24", "gateway": "10.7.0.1"}]);
                vec![step("static", json!({"ipam": {"type": "static", "addresses": addresses}}))]
            }
            "ptp" => vec![step("ptp", json!({"ipMasq": true, "ipam": host_local()}))],
            "bridge" => vec![step(
                "bridge",
                json!({"bridge": "br0", "isGateway": true, "ipam": host_local()}),
            )],
            "bridge-masquerade" => vec![step("bridge", bridge())],
            "macvlan" => vec![step("macvlan", json!({"master": "up0", "ipam": host_local()}))],
            "ipvlan" => vec![step("ipvlan", json!({"master": "up0", "ipam": host_local()}))],
            "vlan" => {
                vec![step("vlan", json!({"master": "up0", "vlanId": 5, "ipam": host_local()}))]
            }
            "dummy" => vec![step("dummy", json!({"ipam": host_local()}))],
            "host-device" => {
                vec![step("host-device", json!({"device": "hd0", "ipam": host_local()}))]
            }
            "portmap" => with(ptp(), "portmap", portmap()),
            "bandwidth" => with(ptp(), "bandwidth", bandwidth()),
            "firewall" => with(ptp(), "firewall", json!({})),
            "tuning" => with(ptp(), "tuning", tuning()),
            "sbr" => with(ptp(), "sbr", json!({})),
            "flannel" => {
                vec![step("flannel", json!({"delegate": {"type": "bridge", "bridge": "br0"}}))]
            }
            "tap" => vec![step("tap", json!({"ipam": host_local()}))],
            "vrf" => with(ptp(), "vrf", json!({"vrfname": "blue"})),
            "dhcp" => vec![step("bridge", json!({"bridge": dhcp::LAN, "ipam": {"type": "dhcp"}}))],
            _ => vec![
                step("bridge", bridge()),
                step("portmap", portmap()),
                step("bandwidth", bandwidth()),
                step("firewall", json!({})),
                step("tuning", tuning()),
            ],
        };
        Ok(Self { name, steps, may_vanish: name != "host-device" })
    }

    /// Puts onto the host what the plugins want to find there, unless it is there.
    pub(super) fn furnish(&self, lab: &Lab) -> Result<()> {
        let device = match self.name {
            "macvlan" | "ipvlan" | "vlan" => "up0",
            "host-device" => "hd0",
            "flannel" => {
                std::fs::create_dir_all("/run/flannel")?;
                let subnet = "FLANNEL_NETWORK=10.8.0.0/16\nFLANNEL_SUBNET=10.8.1.1/24\nFLANNEL_MTU=1450\n\
                              FLANNEL_IPMASQ=true\n";
                return Ok(std::fs::write("/run/flannel/subnet.env", subnet)?);
            }
            _ => return Ok(()),
        };
        let mut host = lab.host().netlink();
        if host.find_link(device)?.is_none() {
            let link = host.add_veth(&Veth::new(device, "far0"))?;
            host.set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
            let far = host.link_by_name("far0")?.index;
            host.set_link(far, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        }
        Ok(())
    }

    /// The same with a range that has room for more than two hundred.
    pub(super) fn for_many(mut self) -> Self {
        for step in &mut self.steps {
            if step.plugin == "bridge" {
                step.config["ipam"]["ranges"] = json!([[{"subnet": "10.7.0.0/24"}]]);
            }
        }
        self
    }

    /// Whether the running kernel may lack what it needs.
    pub(super) fn needs_uml(&self) -> bool {
        IN_UML.contains(&self.name)
    }

    /// The plugins of the list, in order.
    pub(super) fn plugins(&self) -> impl Iterator<Item = &'static str> {
        self.steps.iter().map(|step| step.plugin)
    }
}

fn step(plugin: &'static str, keys: Value) -> Step {
    let mut config = keys;
    config["cniVersion"] = VERSION.into();
    config["name"] = NETWORK.into();
    config["type"] = plugin.into();
    Step { plugin, config, hit: true }
}

/// A range so small that addresses that are lost would soon be missed.
pub(super) fn host_local() -> Value {
    json!({"type": "host-local", "ranges": [[{"subnet": "10.7.0.0/28"}]], "routes": [{"dst": "0.0.0.0/0"}]})
}

fn bridge() -> Value {
    json!({"bridge": "br0", "isGateway": true, "ipMasq": true, "ipam": host_local()})
}

fn portmap() -> Value {
    let mappings = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]);
    json!({"capabilities": {"portMappings": true}, "snat": true, "runtimeConfig": {"portMappings": mappings}})
}

fn bandwidth() -> Value {
    json!({"ingressRate": 80_000_000, "ingressBurst": 8_000_000, "egressRate": 80_000_000, "egressBurst": 8_000_000})
}

fn tuning() -> Value {
    json!({"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, "mtu": 1400,
           "mac": "c2:11:22:33:44:55"})
}
