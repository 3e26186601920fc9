//! VLANs of bridges and their ports, as `bridge vlan` manages them.

use std::ops::RangeInclusive;

use libc::{
    IFLA_AF_SPEC, IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED, RTM_DELLINK, RTM_GETLINK,
    RTM_SETLINK,
};

use super::{
    AttributeBuf, Message, Netlink, Request,
    action::Action,
    attributes,
    link::{AF_BRIDGE, LINK_HEADER, header},
};
use crate::Result;

const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_FLAGS_SELF: u16 = 2;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;
const BRIDGE_VLAN_INFO_RANGE_BEGIN: u16 = 1 << 3;
const BRIDGE_VLAN_INFO_RANGE_END: u16 = 1 << 4;

/// A VLAN of a port, or a range of equal ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// VLAN ids, from 1 to 4094.
    pub ids: RangeInclusive<u16>,
    /// Whether untagged packets that arrive are assigned to it. Only for a single VLAN.
    pub pvid: bool,
    /// Whether its packets leave untagged.
    pub untagged: bool,
}

impl Vlan {
    /// Creates a tagged VLAN.
    pub fn tagged(id: u16) -> Self {
        Self::trunk(id..=id)
    }

    /// Creates a range of tagged VLANs.
    pub fn trunk(ids: RangeInclusive<u16>) -> Self {
        Self { ids, pvid: false, untagged: false }
    }

    /// Creates the VLAN of an access port.
    pub fn access(id: u16) -> Self {
        Self { ids: id..=id, pvid: true, untagged: true }
    }
}

/// The owner of VLANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VlanOwner {
    /// A port (`bridge vlan ... master`, the default of `bridge`).
    Port,
    /// The bridge itself (`bridge vlan ... self`).
    Bridge,
}

impl Request {
    /// See [`Netlink::add_vlans`].
    #[must_use]
    pub fn add_vlans(index: u32, vlans: &[Vlan], owner: VlanOwner) -> Self {
        Self::new(
            message(RTM_SETLINK, index, vlans, owner),
            0,
            Action::from(format!("add VLAN {} to ", list(vlans))).link(index),
        )
    }

    /// See [`Netlink::del_vlans`].
    #[must_use]
    pub fn del_vlans(index: u32, vlans: &[Vlan], owner: VlanOwner) -> Self {
        Self::new(
            message(RTM_DELLINK, index, vlans, owner),
            0,
            Action::from(format!("remove VLAN {} from ", list(vlans))).link(index),
        )
    }
}

fn list(vlans: &[Vlan]) -> String {
    let ranges: Vec<String> = vlans
        .iter()
        .map(|vlan| match (vlan.ids.start(), vlan.ids.end()) {
            (start, end) if start == end => start.to_string(),
            (start, end) => format!("{start}-{end}"),
        })
        .collect();
    ranges.join(",")
}

fn message(kind: u16, index: u32, vlans: &[Vlan], owner: VlanOwner) -> Message {
    let own = (owner == VlanOwner::Bridge).then_some(BRIDGE_FLAGS_SELF.to_ne_bytes());
    let mut spec = AttributeBuf::new().with_some(IFLA_BRIDGE_FLAGS, own);
    for vlan in vlans {
        let pvid = if vlan.pvid { BRIDGE_VLAN_INFO_PVID } else { 0 };
        let untagged = if vlan.untagged { BRIDGE_VLAN_INFO_UNTAGGED } else { 0 };
        let mut push = |id: u16, range: u16| {
            let flags = pvid | untagged | range;
            spec.push(IFLA_BRIDGE_VLAN_INFO, &[flags.to_ne_bytes(), id.to_ne_bytes()].concat());
        };
        let (start, end) = (*vlan.ids.start(), *vlan.ids.end());
        if start == end {
            push(start, 0);
        } else {
            push(start, BRIDGE_VLAN_INFO_RANGE_BEGIN);
            push(end, BRIDGE_VLAN_INFO_RANGE_END);
        }
    }
    let attributes = AttributeBuf::new().with(IFLA_AF_SPEC, spec);
    Message::new(kind, &header(AF_BRIDGE, index, 0, 0), &attributes)
}

impl Netlink {
    /// Lists the VLANs of a port or of the bridge itself, as `bridge vlan show dev`.
    ///
    /// The kernel lists all ports; the answer is filtered here.
    pub fn vlans(&mut self, index: u32) -> Result<Vec<Vlan>> {
        let wanted = RTEXT_FILTER_BRVLAN_COMPRESSED.to_ne_bytes();
        let attributes = AttributeBuf::new().with(IFLA_EXT_MASK, wanted);
        let message = Message::new(RTM_GETLINK, &header(AF_BRIDGE, 0, 0, 0), &attributes);
        let vlans =
            self.socket.dump("list VLANs", &message, |payload| Ok(parse(payload, index)))?;
        Ok(vlans.into_iter().flatten().collect())
    }
}

pub(super) fn parse(payload: &[u8], wanted: u32) -> Option<Vec<Vlan>> {
    let index = u32::from_ne_bytes(*payload.get(4..)?.first_chunk()?);
    if index != wanted {
        return None;
    }
    let mut vlans = Vec::new();
    let mut begin = None;
    let spec = attributes(payload, LINK_HEADER).filter(|(kind, _)| *kind == IFLA_AF_SPEC);
    for (kind, value) in spec.flat_map(|(_, value)| value.nested()) {
        let (IFLA_BRIDGE_VLAN_INFO, [f0, f1, v0, v1]) = (kind, value.0) else {
            continue;
        };
        let flags = u16::from_ne_bytes([*f0, *f1]);
        let vid = u16::from_ne_bytes([*v0, *v1]);
        if flags & BRIDGE_VLAN_INFO_RANGE_BEGIN != 0 {
            begin = Some(vid);
            continue;
        }
        vlans.push(Vlan {
            ids: begin.take().unwrap_or(vid)..=vid,
            pvid: flags & BRIDGE_VLAN_INFO_PVID != 0,
            untagged: flags & BRIDGE_VLAN_INFO_UNTAGGED != 0,
        });
    }
    Some(vlans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_encoded_like_those_of_bridge() {
        let vlans = [Vlan::access(100), Vlan::trunk(200..=299)];
        let request = Request::add_vlans(5, &vlans, VlanOwner::Port);
        assert_eq!(request.action.render_indexes(), "add VLAN 100,200-299 to interface 5");
        let bytes = request.message.payload;
        assert_eq!(bytes[0], 7, "AF_BRIDGE");
        assert_eq!(bytes[4..8], 5_u32.to_ne_bytes());
        let attributes: Vec<(u16, &[u8])> = attributes(&bytes, LINK_HEADER)
            .flat_map(|(kind, value)| {
                assert_eq!(kind, IFLA_AF_SPEC);
                value.nested()
            })
            .map(|(kind, value)| (kind, value.0))
            .collect();
        assert_eq!(
            attributes,
            [
                (2, &[0b0110, 0, 100, 0][..]),
                (2, &[0b1000, 0, 200, 0][..]),
                (2, &[0b1_0000, 0, 43, 1][..]),
            ]
        );
    }

    #[test]
    fn vlans_of_the_bridge_itself_set_the_self_flag() {
        let request = Request::del_vlans(5, &[Vlan::tagged(1)], VlanOwner::Bridge);
        let bytes = request.message.payload;
        let flags = attributes(&bytes, LINK_HEADER)
            .flat_map(|(_, value)| value.nested())
            .find(|(kind, _)| *kind == 0)
            .map(|(_, value)| value.u16());
        assert_eq!(flags, Some(2));
    }

    #[test]
    fn vlans_round_trip() {
        let vlans = vec![Vlan::access(100), Vlan::trunk(200..=299), Vlan::tagged(7)];
        let bytes = Request::add_vlans(5, &vlans, VlanOwner::Port).message.payload;
        assert_eq!(parse(&bytes, 5), Some(vlans));
        assert_eq!(parse(&bytes, 6), None);
    }
}
