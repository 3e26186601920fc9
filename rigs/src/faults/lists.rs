//! The lists that are tried: the rows of the catalogue, each alone, and the chain of a node.

use std::process::Command;

use anyhow::{Result, bail};
use rscni_catalogue::{Row, Values, row, rows};
use rscni_linux::{LinkChange, Veth};
use rscni_test::Lab;
use serde_json::{Value, json};
use xtask::program;

use super::dhcp;

/// A plugin of a list.
pub(super) struct Step {
    pub(super) config: Value,
    /// Whether faults hit it. Other plugins are there because this one needs them.
    pub(super) hit: bool,
}

impl Step {
    pub(super) fn plugin(&self) -> &str {
        self.config["type"].as_str().unwrap_or_default()
    }
}

/// A network list.
pub(super) struct List {
    pub(super) name: String,
    pub(super) steps: Vec<Step>,
    pub(super) ifname: String,
    /// Whether the container's namespace may vanish. With a device of the host in it, the kernel
    /// destroys that too.
    pub(super) may_vanish: bool,
    /// Whether the running kernel may lack its link kind.
    pub(super) needs_uml: bool,
    /// Shell commands that prepare the host.
    setup: Vec<String>,
    needs_device: bool,
}

/// The row of bridge without masquerading is a list of its own.
const MASQUERADE: &str = "bridge-masquerade";
/// bridge, portmap, bandwidth, firewall and tuning, all of which are hit.
const CHAIN: &str = "chain";

/// Lists for churn.
pub(super) const CHURNED: [&str; 2] = ["dhcp", CHAIN];

/// Name of every network.
pub(super) const NETWORK: &str = "net";

/// The version that most runtimes use, and the newest of Debian's Go plugins.
const VERSION: &str = "1.0.0";

/// A range so small that leaked addresses soon exhaust it, and one for more than two hundred
/// containers.
const SMALL: &str = "10.7.0.0/28";
const LARGE: &str = "10.7.0.0/24";

/// Names of the lists.
pub(super) fn names() -> Vec<String> {
    let rows = rows().into_iter().map(|row| row.plugin);
    rows.chain([MASQUERADE, CHAIN].map(str::to_owned)).collect()
}

/// The `ipam` of host-local with the small range.
pub(super) fn ipam() -> Value {
    last(&row("host-local"), SMALL)["ipam"].clone()
}

fn values(subnet: &str) -> Values {
    Values { interface: "ptp", ..Values::with_subnets(&[subnet]) }
}

/// The plugin that a row is about.
fn last(row: &Row, subnet: &str) -> Value {
    row.plugins(&values(subnet)).pop().unwrap_or_default()
}

impl List {
    /// The list of this name.
    pub(super) fn named(name: &str) -> Result<Self> {
        Self::with_subnet(name, SMALL)
    }

    /// The list of this name for more than two hundred containers.
    pub(super) fn for_many(name: &str) -> Result<Self> {
        Self::with_subnet(name, LARGE)
    }

    fn with_subnet(name: &str, subnet: &str) -> Result<Self> {
        if !names().iter().any(|known| known == name) {
            bail!("there is no list `{name}`");
        }
        let plugin = if [MASQUERADE, CHAIN].contains(&name) { "bridge" } else { name };
        let row = row(plugin);
        let mut configs = row.plugins(&values(subnet));
        let mut hit = 1;
        match name {
            "bridge" => configs[0]["ipMasq"] = false.into(),
            // Its daemon and its server are those of a service, which can be restarted.
            "dhcp" => {
                let bridge = json!({"type": "bridge", "bridge": dhcp::LAN});
                configs = vec![bridge];
                configs[0]["ipam"] = json!({"type": "dhcp"});
            }
            // An IPAM plugin is called alone.
            "host-local" | "static" => {
                configs = vec![json!({"type": name, "ipam": configs[0]["ipam"]})];
            }
            CHAIN => {
                let chained = ["portmap", "bandwidth", "firewall", "tuning"];
                let rows = chained.map(rscni_catalogue::row);
                configs.extend(rows.iter().map(|row| last(row, subnet)));
                hit = configs.len();
            }
            _ => {}
        }
        let first_hit = configs.len() - hit;
        let steps = configs.into_iter().enumerate().map(|(index, mut config)| {
            config["cniVersion"] = VERSION.into();
            config["name"] = NETWORK.into();
            Step { config, hit: index >= first_hit }
        });
        let setup = row.setup(&values(subnet), "/nowhere".as_ref());
        Ok(Self {
            name: name.to_owned(),
            steps: steps.collect(),
            ifname: row.ifname().to_owned(),
            may_vanish: name != "host-device",
            needs_uml: row.needs_uml(),
            setup: if name == "dhcp" { Vec::new() } else { setup },
            needs_device: row.needs_device(),
        })
    }

    /// Prepares the host for the plugins, once.
    pub(super) fn set_up(&self, lab: &Lab) -> Result<()> {
        for command in &self.setup {
            program::capture(Command::new("sh").args(["-c", command]))?;
        }
        self.restore_device(lab)
    }

    /// Creates the host interface that the list names, unless it exists.
    pub(super) fn restore_device(&self, lab: &Lab) -> Result<()> {
        let device = values(SMALL).device;
        let mut host = lab.host().netlink();
        if self.needs_device && host.find_link(&device)?.is_none() {
            let link = host.add_veth(&Veth::new(&device, "far0"))?;
            let far = host.link_by_name("far0")?.index;
            for index in [link.index, far] {
                host.set_link(index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
            }
        }
        Ok(())
    }
}
