//! What a link of the kind `tun` is set to. A [`Tap`](crate::Tap) makes one; rtnetlink only tells.

use crate::netlink::Attributes;

const IFLA_TUN_OWNER: u16 = 1;
const IFLA_TUN_GROUP: u16 = 2;
const IFLA_TUN_TYPE: u16 = 3;
const IFLA_TUN_PERSIST: u16 = 6;
const IFLA_TUN_MULTI_QUEUE: u16 = 7;
/// A tap, whose packets are Ethernet frames. The other type is called tun, as both together are.
const IFF_TAP: u8 = 2;

/// What a tun or tap is set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TunInfo {
    /// Its packets are Ethernet frames.
    pub tap: bool,
    /// The user who may open it.
    pub owner: Option<u32>,
    /// The group whose users may open it.
    pub group: Option<u32>,
    /// It stays when nobody has it open.
    pub persist: bool,
    /// It can be opened several times.
    pub multi_queue: bool,
}

impl TunInfo {
    pub(in crate::netlink) fn parse(data: Attributes<'_>) -> Self {
        let mut info = Self::default();
        for (kind, value) in data {
            match kind {
                IFLA_TUN_OWNER => info.owner = Some(value.u32()),
                IFLA_TUN_GROUP => info.group = Some(value.u32()),
                IFLA_TUN_TYPE => info.tap = value.u8() == IFF_TAP,
                IFLA_TUN_PERSIST => info.persist = value.bool(),
                IFLA_TUN_MULTI_QUEUE => info.multi_queue = value.bool(),
                _ => {}
            }
        }
        info
    }
}
