//! Settings of bridges and their ports, as `bridge link set` changes them.

use libc::{IFLA_PROTINFO, RTM_SETLINK};

use super::{
    AttributeBuf, Attributes, Message, Request,
    action::Action,
    link::{AF_BRIDGE, header},
};

pub(super) const IFLA_BR_VLAN_FILTERING: u16 = 7;
pub(super) const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;

const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_ISOLATED: u16 = 33;

/// Settings of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BridgeInfo {
    /// Whether it filters by VLAN.
    pub vlan_filtering: bool,
    /// The VLAN of new ports; 0 for none.
    pub vlan_default_pvid: u16,
}

impl BridgeInfo {
    pub(super) fn parse(data: Attributes<'_>) -> Self {
        data.read(|info: &mut Self, kind, value| match kind {
            IFLA_BR_VLAN_FILTERING => info.vlan_filtering = value.bool(),
            IFLA_BR_VLAN_DEFAULT_PVID => info.vlan_default_pvid = value.u16(),
            _ => {}
        })
    }
}

/// Settings of a bridge port.
#[allow(clippy::struct_excessive_bools, reason = "they are the kernel's switches")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BridgePortInfo {
    /// Whether packets may leave through the port they arrived on.
    pub hairpin: bool,
    /// Whether it is isolated from other isolated ports.
    pub isolated: bool,
    /// Whether the bridge learns addresses from it.
    pub learning: bool,
    /// Whether packets to unknown addresses are flooded to it.
    pub flood: bool,
    /// Whether multicast packets without a subscriber are flooded to it.
    pub mcast_flood: bool,
    /// Whether broadcasts are flooded to it.
    pub bcast_flood: bool,
}

impl BridgePortInfo {
    pub(super) fn parse(data: Attributes<'_>) -> Self {
        data.read(|info: &mut Self, kind, value| match kind {
            IFLA_BRPORT_MODE => info.hairpin = value.bool(),
            IFLA_BRPORT_ISOLATED => info.isolated = value.bool(),
            IFLA_BRPORT_LEARNING => info.learning = value.bool(),
            IFLA_BRPORT_UNICAST_FLOOD => info.flood = value.bool(),
            IFLA_BRPORT_MCAST_FLOOD => info.mcast_flood = value.bool(),
            IFLA_BRPORT_BCAST_FLOOD => info.bcast_flood = value.bool(),
            _ => {}
        })
    }

    /// Returns the first setting that differs from `wanted`: its name and what the port has.
    #[must_use]
    pub fn difference(&self, wanted: &BridgePort) -> Option<(&'static str, bool)> {
        let has = [
            self.hairpin,
            self.isolated,
            self.learning,
            self.flood,
            self.mcast_flood,
            self.bcast_flood,
        ];
        has.into_iter()
            .zip(wanted.flags())
            .find(|(has, (_, _, wanted))| wanted.is_some_and(|wanted| wanted != *has))
            .map(|(has, (_, name, _))| (name, has))
    }
}

/// Changes of a bridge port; `None` keeps a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgePort {
    /// Packets may leave through the port they arrived on.
    pub hairpin: Option<bool>,
    /// The port is isolated from other isolated ports.
    pub isolated: Option<bool>,
    /// The bridge learns addresses from the port.
    pub learning: Option<bool>,
    /// Packets to unknown addresses are flooded to the port.
    pub flood: Option<bool>,
    /// Multicast packets without a subscriber are flooded to the port.
    pub mcast_flood: Option<bool>,
    /// Broadcasts are flooded to the port.
    pub bcast_flood: Option<bool>,
}

impl BridgePort {
    /// Returns the attribute, the name and the value of each setting.
    const fn flags(self) -> [(u16, &'static str, Option<bool>); 6] {
        [
            (IFLA_BRPORT_MODE, "hairpin", self.hairpin),
            (IFLA_BRPORT_ISOLATED, "isolated", self.isolated),
            (IFLA_BRPORT_LEARNING, "learning", self.learning),
            (IFLA_BRPORT_UNICAST_FLOOD, "flood", self.flood),
            (IFLA_BRPORT_MCAST_FLOOD, "mcast_flood", self.mcast_flood),
            (IFLA_BRPORT_BCAST_FLOOD, "bcast_flood", self.bcast_flood),
        ]
    }
}

impl Request {
    /// See [`Netlink::set_bridge_port`](super::Netlink::set_bridge_port).
    #[must_use]
    pub fn set_bridge_port(index: u32, port: &BridgePort) -> Self {
        let mut names = Vec::new();
        let mut info = AttributeBuf::new();
        for (kind, name, value) in port.flags() {
            if let Some(on) = value {
                info.push(kind, &[u8::from(on)]);
                names.push(format!("{name} {}", if on { "on" } else { "off" }));
            }
        }
        let attributes = AttributeBuf::new().with_nested(IFLA_PROTINFO, info);
        Self::new(
            Message::new(RTM_SETLINK, &header(AF_BRIDGE, index, 0, 0), &attributes),
            0,
            Action::from("set bridge port ").link(index).text(format!(" {}", names.join(" "))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_differs_in_what_is_wanted_only() {
        let port = BridgePortInfo { learning: true, ..BridgePortInfo::default() };
        let wanted = BridgePort { hairpin: Some(false), ..BridgePort::default() };
        assert_eq!(port.difference(&wanted), None);
        let wanted = BridgePort { learning: Some(false), ..wanted };
        assert_eq!(port.difference(&wanted), Some(("learning", true)));
    }

    #[test]
    fn port_flags_are_nested() {
        let port =
            BridgePort { hairpin: Some(true), isolated: Some(false), ..BridgePort::default() };
        let request = Request::set_bridge_port(5, &port);
        assert_eq!(
            request.action.render_indexes(),
            "set bridge port interface 5 hairpin on isolated off"
        );
        let bytes = request.message.payload;
        assert_eq!(bytes[0], 7, "AF_BRIDGE");
        assert_eq!(
            bytes[16..],
            [
                20, 0, 12, 0x80, // IFLA_PROTINFO, nested
                5, 0, 4, 0, 1, 0, 0, 0, // IFLA_BRPORT_MODE
                5, 0, 33, 0, 0, 0, 0, 0, // IFLA_BRPORT_ISOLATED
            ]
        );
    }
}
