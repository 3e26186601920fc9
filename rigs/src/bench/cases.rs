//! What is measured: plugins with their configurations, and how much of the peer's time each may take.
//!
//! Both sets get the same configuration, but for names and subnets, so that neither sees what the other left. It is in
//! the newest version of the specification.

use serde_json::{Value, json};

/// The newest version of the specification, which both sets speak.
pub(crate) const VERSION: &str = "1.1.0";

/// Whose names and addresses a configuration has.
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

    /// The second byte of its addresses.
    fn net(self) -> u8 {
        match self {
            Self::Ours => 101,
            Self::Peer => 102,
            Self::Floor => 103,
        }
    }

    /// The bridge of all cases that need one.
    pub(crate) fn bridge(self) -> String {
        format!("br-{}", self.name())
    }

    /// How its addresses begin.
    pub(crate) fn prefix(self) -> String {
        format!("10.{}.", self.net())
    }

    /// The gateway of its subnet, with the prefix.
    pub(crate) fn gateway(self) -> String {
        format!("10.{}.0.1/16", self.net())
    }

    /// An address that no reservation has.
    pub(crate) fn address(self, number: u16) -> String {
        format!("10.{}.{}.{}/16", self.net(), 240 + number / 200, 1 + number % 200)
    }

    fn ipam(self) -> Value {
        json!({"type": "host-local", "subnet": format!("10.{}.0.0/16", self.net()), "routes": [{"dst": "0.0.0.0/0"}]})
    }
}

/// What a bare netlink program does for the same effect.
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
    /// Whether it takes the result of `bridge + host-local`.
    pub(crate) chained: bool,
    pub(crate) floor: Option<Floor>,
    /// How much of the peer's time ADD and DEL may take.
    pub(crate) limits: [Option<f64>; 2],
    /// How much of the floor's time DEL may take.
    pub(crate) del_to_floor: Option<f64>,
}

impl Case {
    /// Whether its DEL removes a link.
    pub(crate) fn makes_link(&self) -> bool {
        matches!(self.plugin, "bridge" | "ptp")
    }

    /// The configuration for a call, with names and addresses of `side`, for the attachment of that number.
    pub(crate) fn config(&self, side: Side, number: u16) -> Value {
        let mut config = (self.config)(side, number);
        config["cniVersion"] = VERSION.into();
        config["name"] = network(side).into();
        config["type"] = self.plugin.into();
        config
    }
}

/// The name of the network, and with it of the directory of reservations.
pub(crate) fn network(side: Side) -> String {
    format!("bench-{}", side.name())
}

pub(crate) const LOOPBACK: Case = Case {
    name: "loopback",
    plugin: "loopback",
    config: |_, _| json!({}),
    floor: Some(Floor::Loopback),
    limits: [Some(0.35), Some(0.35)],
    del_to_floor: None,
    chained: false,
};

pub(crate) const HOST_LOCAL: Case = Case {
    name: "host-local",
    plugin: "host-local",
    config: |side, _| json!({"ipam": side.ipam()}),
    floor: None,
    limits: [Some(0.3), None],
    del_to_floor: None,
    chained: false,
};

pub(crate) const BRIDGE: Case = Case {
    name: "bridge + host-local",
    plugin: "bridge",
    config: |side, _| json!({"type": "bridge", "bridge": side.bridge(), "isGateway": true, "ipam": side.ipam()}),
    floor: Some(Floor::Bridge),
    limits: [Some(0.2), Some(0.85)],
    del_to_floor: Some(1.15),
    chained: false,
};

pub(crate) const BRIDGE_MASQUERADE: Case = Case {
    name: "bridge + host-local, ipMasq",
    plugin: "bridge",
    config: |side, number| {
        let mut config = (BRIDGE.config)(side, number);
        config["ipMasq"] = true.into();
        config
    },
    floor: None,
    limits: [Some(0.1), Some(0.3)],
    del_to_floor: None,
    chained: false,
};

pub(crate) const PTP: Case = Case {
    name: "ptp + host-local",
    plugin: "ptp",
    config: |side, _| json!({"ipam": side.ipam()}),
    floor: Some(Floor::Ptp),
    limits: [Some(0.2), None],
    del_to_floor: None,
    chained: false,
};

pub(crate) const PORTMAP: Case = Case {
    name: "portmap, one port",
    plugin: "portmap",
    config: |side, number| portmap(side, 20_000 + number, 1, &side.address(number)),
    floor: None,
    limits: [Some(0.05), Some(0.03)],
    del_to_floor: None,
    chained: false,
};

/// All that are attached one at a time.
pub(crate) const ALL: [Case; 6] = [LOOPBACK, HOST_LOCAL, BRIDGE, BRIDGE_MASQUERADE, PTP, PORTMAP];

/// What stands in a list after a plugin that makes an interface. Beside portmap, nothing is promised of their time.
pub(crate) const CHAINED: [Case; 4] = [
    Case {
        name: "bandwidth",
        plugin: "bandwidth",
        config: |_, _| bandwidth(),
        ..CHAINED_ON_BRIDGE
    },
    Case { name: "tuning", plugin: "tuning", config: |_, _| tuning(), ..CHAINED_ON_BRIDGE },
    Case {
        name: "firewall",
        plugin: "firewall",
        config: |_, _| json!({"backend": "nftables"}),
        ..CHAINED_ON_BRIDGE
    },
    Case { name: "sbr", plugin: "sbr", config: |_, _| json!({}), ..CHAINED_ON_BRIDGE },
];

const CHAINED_ON_BRIDGE: Case =
    Case { floor: None, limits: [None, None], del_to_floor: None, chained: true, ..LOOPBACK };

fn bandwidth() -> Value {
    json!({"type": "bandwidth", "ingressRate": 80_000_000, "ingressBurst": 8_000_000,
        "egressRate": 80_000_000, "egressBurst": 8_000_000})
}

fn tuning() -> Value {
    json!({"type": "tuning", "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}})
}

/// `count` ports of the host from `first` on, which lead to a container with `address`.
pub(crate) fn portmap(side: Side, first: u16, count: u16, address: &str) -> Value {
    let mappings: Vec<Value> = (0..count)
        .map(|n| json!({"hostPort": first + n, "containerPort": 80, "protocol": "tcp"}))
        .collect();
    json!({
        "type": "portmap",
        "capabilities": {"portMappings": true},
        "runtimeConfig": {"portMappings": mappings},
        "prevResult": {
            "cniVersion": VERSION,
            "interfaces": [{"name": "eth0", "sandbox": "/run/netns/bench"}],
            "ips": [{"address": address, "gateway": side.gateway().split('/').next(), "interface": 0}],
        },
    })
}

/// What portmap is called with for `count` ports from `first` on, for the holder of that number.
pub(crate) fn published(side: Side, first: u16, count: u16, number: u16) -> Value {
    let mut config = portmap(side, first, count, &side.address(number));
    config["cniVersion"] = VERSION.into();
    config["name"] = network(side).into();
    config
}

/// The list that a runtime is given: an interface with an address, a port, a limit and a sysctl.
pub(crate) fn chain(side: Side) -> Value {
    let mut bridge = (BRIDGE.config)(side, 0);
    bridge["bridge"] = format!("ch-{}", side.name()).into();
    let mut portmap = portmap(side, 21_000, 1, "");
    portmap.as_object_mut().expect("it is an object").remove("prevResult");
    json!({
        "cniVersion": VERSION,
        "name": format!("chain-{}", side.name()),
        "plugins": [bridge, portmap, bandwidth(), tuning()],
    })
}
