//! The lists that are tried: one for each plugin, with its requirements, and the chain of a node.

use anyhow::{Context, Result};
use rscni_linux::{LinkChange, Veth};
use rscni_test::Lab;
use serde_json::{Value, json};

use super::dhcp;

/// A plugin of a list.
pub(super) struct Step {
    pub(super) plugin: &'static str,
    pub(super) config: Value,
    /// Whether faults hit it. Other plugins are there because this one needs them.
    pub(super) hit: bool,
}

/// A network list.
pub(super) struct List {
    pub(super) name: &'static str,
    pub(super) steps: Vec<Step>,
    /// Whether the container's namespace may vanish. With a device of the host in it, the kernel
    /// destroys that too.
    pub(super) may_vanish: bool,
}

/// Names of the lists.
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

/// Lists with link kinds that many kernels lack. They are tried in User-Mode Linux.
const IN_UML: [&str; 4] = ["ipvlan", "vlan", "dummy", "vrf"];

/// Lists for churn.
pub(super) const CHURNED: [&str; 2] = ["dhcp", "chain"];

/// Name of every network.
pub(super) const NETWORK: &str = "net";

/// The version that most runtimes use, and the newest of Debian's Go plugins.
const VERSION: &str = "1.0.0";

impl List {
    /// The list of this name.
    pub(super) fn named(name: &str) -> Result<Self> {
        let name = *NAMES
            .iter()
            .find(|known| **known == name)
            .with_context(|| format!("there is no list `{name}`"))?;
        let alone = |plugin, keys| vec![step(plugin, keys)];
        let chained = |plugin, keys| {
            let ptp = step("ptp", json!({"ipam": host_local()}));
            vec![Step { hit: false, ..ptp }, step(plugin, keys)]
        };
        let steps = match name {
            "loopback" => alone("loopback", json!({})),
            "host-local" => alone("host-local", json!({"ipam": host_local()})),
            "static" => {
                let addresses = json!([{"address": "10.7.0.2/24", "gateway": "10.7.0.1"}]);
                alone("static", json!({"ipam": {"type": "static", "addresses": addresses}}))
            }
            "ptp" => alone("ptp", json!({"ipMasq": true, "ipam": host_local()})),
            "bridge" => {
                alone("bridge", json!({"bridge": "br0", "isGateway": true, "ipam": host_local()}))
            }
            "bridge-masquerade" => alone("bridge", bridge()),
            "macvlan" => alone("macvlan", json!({"master": "up0", "ipam": host_local()})),
            "ipvlan" => alone("ipvlan", json!({"master": "up0", "ipam": host_local()})),
            "vlan" => alone("vlan", json!({"master": "up0", "vlanId": 5, "ipam": host_local()})),
            "dummy" => alone("dummy", json!({"ipam": host_local()})),
            "host-device" => alone("host-device", json!({"device": "hd0", "ipam": host_local()})),
            "portmap" => chained("portmap", portmap()),
            "bandwidth" => chained("bandwidth", bandwidth()),
            "firewall" => chained("firewall", json!({})),
            "tuning" => chained("tuning", tuning()),
            "sbr" => chained("sbr", json!({})),
            "flannel" => alone("flannel", json!({"delegate": {"type": "bridge", "bridge": "br0"}})),
            "tap" => alone("tap", json!({"ipam": host_local()})),
            "vrf" => chained("vrf", json!({"vrfname": "blue"})),
            "dhcp" => alone("bridge", json!({"bridge": dhcp::LAN, "ipam": {"type": "dhcp"}})),
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

    /// Creates on the host what the plugins require, unless it exists.
    pub(super) fn set_up(&self, lab: &Lab) -> Result<()> {
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
            let far = host.link_by_name("far0")?.index;
            for index in [link.index, far] {
                host.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
            }
        }
        Ok(())
    }

    /// The same list with a range for more than two hundred containers.
    pub(super) fn for_many(mut self) -> Self {
        for step in self.steps.iter_mut().filter(|step| step.plugin == "bridge") {
            step.config["ipam"]["ranges"] = json!([[{"subnet": "10.7.0.0/24"}]]);
        }
        self
    }

    /// Whether the running kernel may lack its link kinds.
    pub(super) fn needs_uml(&self) -> bool {
        IN_UML.contains(&self.name)
    }
}

fn step(plugin: &'static str, keys: Value) -> Step {
    let mut config = keys;
    config["cniVersion"] = VERSION.into();
    config["name"] = NETWORK.into();
    config["type"] = plugin.into();
    Step { plugin, config, hit: true }
}

/// A range so small that leaked addresses soon exhaust it.
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
