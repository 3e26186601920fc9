//! The measured plugins with their configurations and limits.
//!
//! Configurations are those of the catalogue. Both sets get the same one, except for names and
//! subnets, so that neither sees what the other left. It is in the newest version of the
//! specification.

use rscni_catalogue::{Values, row};
use serde_json::{Value, json};

/// The newest version of the specification, which both sets support.
pub(crate) const VERSION: &str = "1.1.0";

/// A contender, with its own names and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Peer,
    Floor,
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Peer => "peer",
            Self::Floor => "floor",
        }
    }

    /// The first two bytes of its addresses, with a dot at the end.
    pub(crate) fn prefix(self) -> String {
        format!("10.{}.", 101 + self as u8)
    }

    /// The bridge of all cases that need one.
    pub(crate) fn bridge(self) -> String {
        format!("br-{}", self.name())
    }

    /// The gateway of its subnet, with the prefix length.
    pub(crate) fn gateway(self) -> String {
        format!("{}0.1/16", self.prefix())
    }

    /// An address that host-local does not allocate.
    pub(crate) fn address(self, number: u16) -> String {
        format!("{}{}.{}/16", self.prefix(), 240 + number / 200, 1 + number % 200)
    }

    /// The plugin that a row of the catalogue is about, with names and addresses of this side.
    fn example(self, plugin: &str) -> Value {
        let subnet = format!("{}0.0/16", self.prefix());
        let values = Values { bridge: self.bridge(), ..Values::with_subnets(&[&subnet]) };
        row(plugin).plugins(&values).pop().unwrap_or_default()
    }

    /// The same without masquerading.
    fn example_without_masquerading(self, plugin: &str) -> Value {
        let mut config = self.example(plugin);
        config["ipMasq"] = false.into();
        config
    }
}

/// A bare netlink program with the same effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Floor {
    Loopback,
    Bridge,
    Ptp,
}

/// A plugin, attached and detached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) plugin: &'static str,
    config: fn(Side, u16) -> Value,
    /// Whether it gets the result of `bridge + host-local`.
    pub(crate) chained: bool,
    pub(crate) floor: Option<Floor>,
    /// Limits of ADD and DEL, relative to the peer.
    pub(crate) limits: [Option<f64>; 2],
    /// Limit of DEL, relative to the floor.
    pub(crate) del_to_floor: Option<f64>,
}

impl Case {
    /// Whether its DEL removes a link.
    pub(crate) fn makes_link(&self) -> bool {
        matches!(self.plugin, "bridge" | "ptp")
    }

    /// The configuration for an attachment, with names and addresses of `side`.
    pub(crate) fn config(&self, side: Side, number: u16) -> Value {
        let mut config = (self.config)(side, number);
        config["cniVersion"] = VERSION.into();
        config["name"] = network(side).into();
        config["type"] = self.plugin.into();
        config
    }
}

/// Name of the network, and of host-local's directory.
pub(crate) fn network(side: Side) -> String {
    format!("bench-{}", side.name())
}

pub(crate) const LOOPBACK: Case = Case {
    floor: Some(Floor::Loopback),
    limits: [Some(0.35), Some(0.35)],
    ..case("loopback", "loopback", |side, _| side.example("loopback"))
};

pub(crate) const HOST_LOCAL: Case = Case {
    limits: [Some(0.3), None],
    ..case(
        "host-local",
        "host-local",
        |side, _| json!({"ipam": side.example("host-local")["ipam"]}),
    )
};

pub(crate) const BRIDGE: Case = Case {
    floor: Some(Floor::Bridge),
    limits: [Some(0.2), Some(0.12)],
    del_to_floor: Some(0.15),
    ..case("bridge + host-local", "bridge", |side, _| side.example_without_masquerading("bridge"))
};

pub(crate) const BRIDGE_MASQUERADE: Case = Case {
    limits: [Some(0.1), Some(0.3)],
    ..case("bridge + host-local, ipMasq", "bridge", |side, _| side.example("bridge"))
};

pub(crate) const PTP: Case = Case {
    floor: Some(Floor::Ptp),
    limits: [Some(0.2), Some(0.12)],
    ..case("ptp + host-local", "ptp", |side, _| side.example_without_masquerading("ptp"))
};

pub(crate) const PORTMAP: Case = Case {
    limits: [Some(0.05), Some(0.03)],
    ..case("portmap, one port", "portmap", |side, number| {
        portmap(side, 20_000 + number, 1, Some(&side.address(number)))
    })
};

/// Cases that are attached one at a time.
pub(crate) const ALL: [Case; 6] = [LOOPBACK, HOST_LOCAL, BRIDGE, BRIDGE_MASQUERADE, PTP, PORTMAP];

/// Other chained plugins, without limits of time.
pub(crate) const CHAINED: [Case; 4] = [
    Case { chained: true, ..case("bandwidth", "bandwidth", |side, _| side.example("bandwidth")) },
    Case { chained: true, ..case("tuning", "tuning", |side, _| tuning(side)) },
    Case { chained: true, ..case("firewall", "firewall", |_, _| json!({"backend": "nftables"})) },
    Case { chained: true, ..case("sbr", "sbr", |side, _| side.example("sbr")) },
];

const fn case(name: &'static str, plugin: &'static str, config: fn(Side, u16) -> Value) -> Case {
    let limits = [None, None];
    Case { name, plugin, config, floor: None, limits, del_to_floor: None, chained: false }
}

/// Only a sysctl, without the keys for the interface.
fn tuning(side: Side) -> Value {
    json!({"type": "tuning", "sysctl": side.example("tuning")["sysctl"]})
}

/// `count` host ports from `first` on, for a container with `address`.
fn portmap(side: Side, first: u16, count: u16, address: Option<&str>) -> Value {
    let mappings: Vec<Value> = (0..count)
        .map(|n| json!({"hostPort": first + n, "containerPort": 80, "protocol": "tcp"}))
        .collect();
    let mut config = side.example("portmap");
    config["runtimeConfig"]["portMappings"] = mappings.into();
    if let Some(address) = address {
        let gateway = side.gateway();
        let ip = json!({"address": address, "gateway": gateway.trim_end_matches("/16"),
            "interface": 0});
        config["prevResult"] = json!({
            "cniVersion": VERSION,
            "interfaces": [{"name": "eth0", "sandbox": "/run/netns/bench"}],
            "ips": [ip],
        });
    }
    config
}

/// The configuration of portmap with `count` host ports from `first` on, for the container of that
/// number.
pub(crate) fn published(side: Side, first: u16, count: u16, number: u16) -> Value {
    let mut config = portmap(side, first, count, Some(&side.address(number)));
    config["cniVersion"] = VERSION.into();
    config["name"] = network(side).into();
    config
}

/// The list for a runtime: an interface with an address, a port, a rate limit and a sysctl.
pub(crate) fn chain(side: Side) -> Value {
    let mut bridge = side.example_without_masquerading("bridge");
    bridge["bridge"] = format!("ch-{}", side.name()).into();
    let portmap = portmap(side, 21_000, 1, None);
    json!({
        "cniVersion": VERSION,
        "name": format!("chain-{}", side.name()),
        "plugins": [bridge, portmap, side.example("bandwidth"), tuning(side)],
    })
}
