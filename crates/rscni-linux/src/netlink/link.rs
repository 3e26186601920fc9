//! Links, as `ip link` lists and changes them. Each kind of link is created in
//! [`kind`](super::kind).

use std::os::fd::{AsFd, AsRawFd};

use libc::{
    IFF_ALLMULTI, IFF_LOOPBACK, IFF_PROMISC, IFF_RUNNING, IFF_UP, IFLA_ADDRESS, IFLA_EXT_MASK,
    IFLA_GROUP, IFLA_IFALIAS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND, IFLA_LINK, IFLA_LINK_NETNSID, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU,
    IFLA_NET_NS_FD, IFLA_OPERSTATE, IFLA_PARENT_DEV_BUS_NAME, IFLA_PARENT_DEV_NAME,
    IFLA_PERM_ADDRESS, IFLA_PROMISCUITY, IFLA_TARGET_NETNSID, IFLA_TXQLEN, RTEXT_FILTER_SKIP_STATS,
    RTM_DELLINK, RTM_GETLINK, RTM_SETLINK,
};
use rustix::io::Errno;

use super::{
    AttributeBuf, Attributes, BridgeInfo, BridgePortInfo, IpvlanMode, MacvlanInfo, Message,
    Netlink, Optional, Request, TunInfo, Value, VxlanInfo,
    action::Action,
    attributes,
    kind::{IFLA_VRF_TABLE, parse_vlan_id},
    nul_terminated,
};
use crate::{Error, MacAddr, Netns, Result};

pub(super) const LINK_HEADER: usize = 16;
pub(super) const AF_BRIDGE: u8 = 7;

/// A link as the kernel describes it.
#[allow(clippy::struct_excessive_bools, reason = "they are the kernel's flags")]
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Link {
    /// Interface index, unique within its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address, if it is an Ethernet address.
    pub mac: Option<MacAddr>,
    /// Hardware address of any kind, as bytes.
    pub hardware_address: Vec<u8>,
    /// Permanent hardware address of the device, empty if it has none.
    pub permanent_address: Vec<u8>,
    /// Parent device, as bus and name: `pci/0000:3b:00.1`. Not reported before Linux 5.14.
    pub parent_device: Option<String>,
    /// MTU.
    pub mtu: u32,
    /// Kind, such as `veth` or `bridge`; `None` for a physical device.
    pub kind: Option<String>,
    /// Index of the bridge, bond or VRF that it is a port of.
    pub master: Option<u32>,
    /// Alias (`ip link set ... alias`).
    pub alias: Option<String>,
    /// Whether it is up (`IFF_UP`).
    pub up: bool,
    /// Whether it is up and has a carrier (`IFF_RUNNING`).
    pub running: bool,
    /// Operational state.
    pub operstate: OperState,
    /// Whether it is a loopback interface.
    pub loopback: bool,
    /// Whether promiscuous mode was turned on (`IFF_PROMISC`, `ip link set ... promisc on`).
    pub promisc: bool,
    /// Number of users of promiscuous mode, including bridges and packet captures.
    pub promiscuity: u32,
    /// Whether all-multicast mode is on (`IFF_ALLMULTI`).
    pub allmulticast: bool,
    /// Index of the lower link or, for a veth, of its peer; in the namespace `peer_netnsid`.
    pub peer_index: Option<u32>,
    /// Id of the namespace of that link, if it is a different one.
    pub peer_netnsid: Option<i32>,
    /// Length of the transmit queue, in packets.
    pub txqlen: u32,
    /// Routing table of a VRF.
    pub vrf_table: Option<u32>,
    /// Settings of a bridge.
    pub bridge: Option<BridgeInfo>,
    /// Settings of a bridge port.
    pub bridge_port: Option<BridgePortInfo>,
    /// Settings of a macvlan.
    pub macvlan: Option<MacvlanInfo>,
    /// Mode of an ipvlan.
    pub ipvlan_mode: Option<IpvlanMode>,
    /// VLAN id of an 802.1Q link.
    pub vlan_id: Option<u16>,
    /// Settings of a tun or tap.
    pub tun: Option<TunInfo>,
    /// Settings of a VXLAN link.
    pub vxlan: Option<VxlanInfo>,
}

/// The operational state of a link (`IFLA_OPERSTATE`, RFC 2863).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OperState {
    /// Not reported by the driver, as for a working loopback interface.
    #[default]
    Unknown,
    /// Hardware is missing.
    NotPresent,
    /// Down, or without a carrier.
    Down,
    /// The lower link is down.
    LowerLayerDown,
    /// Under test.
    Testing,
    /// Waiting for an external event.
    Dormant,
    /// Operational.
    Up,
}

impl From<u8> for OperState {
    fn from(state: u8) -> Self {
        match state {
            1 => Self::NotPresent,
            2 => Self::Down,
            3 => Self::LowerLayerDown,
            4 => Self::Testing,
            5 => Self::Dormant,
            6 => Self::Up,
            _ => Self::Unknown,
        }
    }
}

impl Link {
    pub(super) fn parse(payload: &[u8]) -> Result<Self> {
        let header: &[u8; LINK_HEADER] = payload
            .first_chunk()
            .ok_or_else(|| Error::decode("parse a link", "truncated header"))?;
        let [.., i0, i1, i2, i3, f0, f1, f2, f3, _, _, _, _] = *header;
        let has = |flag: i32| i32::from_ne_bytes([f0, f1, f2, f3]) & flag != 0;
        let mut link = Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            up: has(IFF_UP),
            running: has(IFF_RUNNING),
            loopback: has(IFF_LOOPBACK),
            promisc: has(IFF_PROMISC),
            allmulticast: has(IFF_ALLMULTI),
            ..Self::default()
        };
        let [mut bus, mut device] = [None, None];
        for (kind, value) in attributes(payload, LINK_HEADER) {
            match kind {
                IFLA_PERM_ADDRESS => link.permanent_address = value.0.to_vec(),
                IFLA_PARENT_DEV_NAME => device = Some(value.string()),
                IFLA_PARENT_DEV_BUS_NAME => bus = Some(value.string()),
                IFLA_ADDRESS => {
                    link.mac = MacAddr::from_bytes(value.0);
                    link.hardware_address = value.0.to_vec();
                }
                IFLA_IFNAME => link.name = value.string(),
                IFLA_MTU => link.mtu = value.u32(),
                IFLA_LINK => link.peer_index = Some(value.u32()).filter(|index| *index != 0),
                IFLA_MASTER => link.master = Some(value.u32()).filter(|index| *index != 0),
                IFLA_TXQLEN => link.txqlen = value.u32(),
                IFLA_OPERSTATE => link.operstate = value.u8().into(),
                IFLA_IFALIAS => link.alias = Some(value.string()),
                IFLA_PROMISCUITY => link.promiscuity = value.u32(),
                IFLA_LINK_NETNSID => link.peer_netnsid = Some(value.i32()),
                IFLA_LINKINFO => link.parse_info(value.nested()),
                _ => {}
            }
        }
        link.parent_device = bus.zip(device).map(|(bus, device)| format!("{bus}/{device}"));
        Ok(link)
    }

    fn parse_info(&mut self, info: Attributes<'_>) {
        let mut slave_kind = None;
        for (kind, value) in info {
            match kind {
                IFLA_INFO_KIND => self.kind = Some(value.string()),
                IFLA_INFO_DATA => self.parse_data(value.nested()),
                IFLA_INFO_SLAVE_KIND => slave_kind = Some(value.string()),
                IFLA_INFO_SLAVE_DATA if slave_kind.as_deref() == Some("bridge") => {
                    self.bridge_port = Some(BridgePortInfo::parse(value.nested()));
                }
                _ => {}
            }
        }
    }

    /// Parses `IFLA_INFO_DATA`, which the kernel sends after the kind.
    fn parse_data(&mut self, data: Attributes<'_>) {
        match self.kind.as_deref() {
            Some("bridge") => self.bridge = Some(BridgeInfo::parse(data)),
            Some("macvlan") => self.macvlan = Some(MacvlanInfo::parse(data)),
            Some("ipvlan") => self.ipvlan_mode = IpvlanMode::parse(data),
            Some("tun") => self.tun = Some(TunInfo::parse(data)),
            Some("vlan") => self.vlan_id = parse_vlan_id(data),
            Some("vxlan") => self.vxlan = Some(VxlanInfo::parse(data)),
            Some("vrf") => self.vrf_table = data.value(IFLA_VRF_TABLE).map(Value::u32),
            _ => {}
        }
    }
}

/// Changes of a link; `None` keeps a setting.
#[derive(Debug, Clone, Default)]
pub struct LinkChange<'a> {
    /// Bring it up or set it down.
    pub up: Option<bool>,
    /// Set the MTU.
    pub mtu: Option<u32>,
    /// Set the hardware address.
    pub mac: Option<MacAddr>,
    /// Make it a port of the bridge, bond or VRF with this index; 0 detaches it.
    pub master: Option<u32>,
    /// Set the alias; the empty text removes it.
    pub alias: Option<String>,
    /// Rename it.
    pub name: Option<String>,
    /// Turn promiscuous mode on or off.
    pub promisc: Option<bool>,
    /// Turn all-multicast mode on or off.
    pub allmulticast: Option<bool>,
    /// Set the length of the transmit queue.
    pub txqlen: Option<u32>,
    /// Move it to this namespace, under the `name` given here.
    pub netns: Option<&'a Netns>,
}

impl LinkChange<'_> {
    fn message(&self, index: u32) -> Message {
        let switches =
            [(self.up, IFF_UP), (self.promisc, IFF_PROMISC), (self.allmulticast, IFF_ALLMULTI)];
        let (mut flags, mut mask) = (0, 0);
        for (wanted, flag) in switches {
            if let Some(on) = wanted {
                mask |= flag.cast_unsigned();
                flags |= if on { flag.cast_unsigned() } else { 0 };
            }
        }
        let attributes = AttributeBuf::new()
            .with_some(IFLA_NET_NS_FD, self.netns.map(descriptor))
            .with_some(IFLA_IFNAME, self.name.as_deref().map(nul_terminated))
            .with_some(IFLA_ADDRESS, self.mac.map(|mac| mac.0))
            .with_some(IFLA_MTU, self.mtu.map(u32::to_ne_bytes))
            .with_some(IFLA_MASTER, self.master.map(u32::to_ne_bytes))
            .with_some(IFLA_IFALIAS, self.alias.as_deref().map(nul_terminated))
            .with_some(IFLA_TXQLEN, self.txqlen.map(u32::to_ne_bytes));
        Message::new(RTM_SETLINK, &header(0, index, flags, mask), &attributes)
    }

    /// Describes the change of a link.
    fn describe(&self, index: u32) -> Action {
        let about = |text: &str| Action::from(text).link(index);
        let switch = |what: &str, on: bool| {
            about(&format!("turn {what} of ")).text(format!(" {}", on_off(on)))
        };
        let steps = [
            self.netns.map(|netns| about("move ").text(format!(" to {}", netns.path().display()))),
            self.name.as_ref().map(|name| about("rename ").text(format!(" to {name}"))),
            self.mac.map(|mac| about("set the address of ").text(format!(" to {mac}"))),
            self.mtu.map(|mtu| about("set the MTU of ").text(format!(" to {mtu}"))),
            self.master.map(|master| match master {
                0 => about("detach "),
                _ => about("attach ").text(" to ").link(master),
            }),
            self.alias.as_ref().map(|_| about("set the alias of ")),
            self.txqlen
                .map(|length| about("set the queue length of ").text(format!(" to {length}"))),
            self.promisc.map(|on| switch("promiscuous mode", on)),
            self.allmulticast.map(|on| switch("all-multicast mode", on)),
            self.up.map(|up| about("set ").text(if up { " up" } else { " down" })),
        ];
        steps.into_iter().flatten().fold(Action::default(), Action::and)
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Encodes `struct ifinfomsg`: `mask` selects the flags to change.
pub(super) fn header(family: u8, index: u32, flags: u32, mask: u32) -> Vec<u8> {
    [u32::from_ne_bytes([family, 0, 0, 0]), index, flags, mask].map(u32::to_ne_bytes).concat()
}

/// Returns the value of `IFLA_NET_NS_FD`.
pub(super) fn descriptor(netns: &Netns) -> [u8; 4] {
    netns.as_fd().as_raw_fd().to_ne_bytes()
}

impl Request {
    /// See [`Netlink::set_link`].
    #[must_use]
    pub fn set_link(index: u32, change: &LinkChange<'_>) -> Self {
        Self::new(change.message(index), 0, change.describe(index))
    }

    /// See [`Netlink::del_link`].
    #[must_use]
    pub fn del_link(index: u32) -> Self {
        let message = Message::new(RTM_DELLINK, &header(0, index, 0, 0), &AttributeBuf::new());
        Self::new(message, 0, Action::from("delete ").link(index))
    }

    /// Puts a link into a group, as `ip link set group`.
    pub(super) fn set_group(index: u32, group: u32) -> Self {
        let attributes = AttributeBuf::new().with(IFLA_GROUP, group.to_ne_bytes());
        let message = Message::new(RTM_SETLINK, &header(0, index, 0, 0), &attributes);
        Self::new(message, 0, Action::from("set the group of ").link(index))
    }

    /// Deletes all links of a group at once, as `ip link del group`.
    pub(super) fn del_group(group: u32) -> Self {
        let attributes = AttributeBuf::new().with(IFLA_GROUP, group.to_ne_bytes());
        let message = Message::new(RTM_DELLINK, &header(0, 0, 0, 0), &attributes);
        Self::new(message, 0, format!("delete the links of group {group}"))
    }
}

/// Creates a lookup without the counters, which are not read here.
fn get(attributes: AttributeBuf, index: u32) -> Message {
    let attributes = attributes.with(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    Message::new(RTM_GETLINK, &header(0, index, 0, 0), &attributes)
}

/// The maximum length of a name (`IFNAMSIZ` without the NUL).
const MAX_NAME_LENGTH: usize = 15;

/// Lookups.
impl Netlink {
    /// Looks up a link by its name.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it does not exist.
    pub fn link_by_name(&mut self, name: &str) -> Result<Link> {
        self.find_link(name)?.ok_or_else(|| Error::not_found(format!("interface {name}")))
    }

    /// Looks up a link by its index.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if it does not exist.
    pub fn link_by_index(&mut self, index: u32) -> Result<Link> {
        let action = format!("look up interface {index}");
        self.socket
            .get(&action, &get(AttributeBuf::new(), index), Link::parse)
            .optional()?
            .ok_or_else(|| Error::not_found(format!("interface {index}")))
    }

    /// Looks up a link in the namespace that this namespace knows by `nsid`.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if the link or the namespace does not exist.
    pub fn link_in(&mut self, nsid: i32, index: u32) -> Result<Link> {
        let what = format!("interface {index} of namespace {nsid}");
        let target = AttributeBuf::new().with(IFLA_TARGET_NETNSID, nsid.to_ne_bytes());
        match self.socket.get(&format!("look up {what}"), &get(target, index), Link::parse) {
            // The kernel's answer to an unknown id.
            Err(error) if error.has_errno(Errno::INVAL) => Err(Error::not_found(what)),
            found => found,
        }
    }

    /// Looks up a link by its name, or returns `None`. The kernel would truncate a name that is too
    /// long.
    pub fn find_link(&mut self, name: &str) -> Result<Option<Link>> {
        if name.contains('\0') || name.len() > MAX_NAME_LENGTH {
            return Ok(None);
        }
        let action = format!("look up interface {name}");
        self.socket.get(&action, &get_by_name(name), Link::parse).optional()
    }

    /// Changes a link and returns its new state, in one exchange.
    pub fn change_link(&mut self, index: u32, change: &LinkChange<'_>) -> Result<Link> {
        self.run_and_get(&Request::set_link(index, change), &get(AttributeBuf::new(), index))
    }

    /// Sends a request and a lookup of its link, in one exchange.
    pub(super) fn run_and_get(&mut self, request: &Request, lookup: &Message) -> Result<Link> {
        let first = self.socket.queue(request.flags, &request.message);
        let last = self.socket.queue(0, lookup);
        let action = request.action.render_indexes();
        self.socket.send().map_err(|error| Error::io(&action, error))?;
        let link = self.socket.answer(&action, first, last, Link::parse);
        link.map_err(|error| self.with_link_names(error, &request.action))
    }

    /// Lists all links of the namespace. The cost grows with the number of links.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let message = get(AttributeBuf::new(), 0);
        self.socket.dump("list interfaces", &message, |payload| Link::parse(payload).map(Some))
    }

    /// Lists all links with this alias. Reads every link, see [`Netlink::links`].
    pub fn links_by_alias(&mut self, alias: &str) -> Result<Vec<Link>> {
        let mut links = self.links()?;
        links.retain(|link| link.alias.as_deref() == Some(alias));
        Ok(links)
    }
}

pub(super) fn get_by_name(name: &str) -> Message {
    get(AttributeBuf::new().with_text(IFLA_IFNAME, name), 0)
}
