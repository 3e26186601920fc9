//! Settings of tun and tap links. [`Tap`](crate::Tap) creates one; rtnetlink only lists them.

use crate::netlink::Attributes;

const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
/// The type of a tap.
const IFF_TAP: u8 = 2;

/// Settings of a tun or tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TunInfo {
    /// Whether it is a tap, with Ethernet frames.
    pub tap: bool,
    /// The user that may open it.
    pub owner: Option<u32>,
    /// The group whose users may open it.
    pub group: Option<u32>,
    /// Whether it persists while it is not open.
    pub persist: bool,
    /// Whether it can be opened several times.
    pub multi_queue: bool,
}

impl TunInfo {
    pub(in crate::netlink) fn parse(data: Attributes<'_>) -> Self {
        data.read(|info: &mut Self, kind, value| match kind {
            IFLA_TUN_OWNER => info.owner = Some(value.u32()),
            IFLA_TUN_GROUP => info.group = Some(value.u32()),
            IFLA_TUN_TYPE => info.tap = value.u8() == IFF_TAP,
            IFLA_TUN_PERSIST => info.persist = value.bool(),
            IFLA_TUN_MULTI_QUEUE => info.multi_queue = value.bool(),
            _ => {}
        })
    }
}
