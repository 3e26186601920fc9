//! Creating links: [`NewLink`] has the common part, a file per kind the rest.

mod bridge;
mod ipvlan;
mod macvlan;
mod plain;
mod tun;
mod veth;
mod vlan;
mod vrf;
mod vxlan;

use libc::{
    IFF_UP, IFLA_ADDRESS, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINK, IFLA_LINKINFO,
    IFLA_MASTER, IFLA_MTU, IFLA_NET_NS_FD, IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES, RTM_NEWLINK,
};

pub use self::{
    bridge::Bridge,
    ipvlan::{Ipvlan, IpvlanMode},
    macvlan::{Macvlan, MacvlanInfo, MacvlanMode},
    plain::{Dummy, Ifb},
    tun::TunInfo,
    veth::Veth,
    vlan::VlanLink,
    vrf::Vrf,
    vxlan::{Vxlan, VxlanInfo},
};
pub(super) use self::{vlan::parse_id as parse_vlan_id, vrf::IFLA_VRF_TABLE};
use super::{
    AttributeBuf, Link, LinkChange, Message, NLM_F_CREATE, NLM_F_EXCL, Netlink, Request,
    action::Action,
    link::{descriptor, get_by_name, header},
};
use crate::{MacAddr, Netns, Result};

/// A link of any kind to be created, converted from a [`Veth`], a [`Bridge`], a [`Macvlan`] and so
/// on.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    pub(super) name: String,
    pub(super) alias: Option<String>,
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<MacAddr>,
    pub(super) master: Option<u32>,
    /// Index of the lower link.
    pub(super) lower: Option<u32>,
    /// Namespace to create it in, if not that of the socket.
    pub(super) netns: Option<&'a Netns>,
    pub(super) up: bool,
    /// Whether it is brought up after it was created.
    pub(super) up_after_creation: bool,
    /// Number of queues in each direction; chosen by the kernel by default.
    pub(super) queues: Option<u32>,
    pub(super) kind: &'static str,
    pub(super) data: AttributeBuf,
    pub(super) action: Action,
}

impl NewLink<'_> {
    pub(super) fn new(kind: &'static str, name: &str, action: impl Into<Action>) -> Self {
        Self {
            name: name.to_owned(),
            alias: None,
            mtu: None,
            mac: None,
            master: None,
            lower: None,
            netns: None,
            up: false,
            up_after_creation: false,
            queues: None,
            kind,
            data: AttributeBuf::new(),
            action: action.into(),
        }
    }

    /// Creates a link on a lower one, whose name ends the action.
    fn on(lower: u32, kind: &'static str, name: &str, mtu: Option<u32>, action: String) -> Self {
        let action = Action::from(action).link(lower);
        Self { lower: Some(lower), mtu, ..Self::new(kind, name, action) }
    }

    fn request(&self) -> Request {
        Request::new(self.message(), NLM_F_CREATE | NLM_F_EXCL, self.action.clone())
    }

    fn message(&self) -> Message {
        let data = (!self.data.is_empty()).then_some(&self.data);
        let info = AttributeBuf::new()
            .with_text(IFLA_INFO_KIND, self.kind)
            .with_some(IFLA_INFO_DATA, data);
        let attributes = end(&self.name, self.mac, self.mtu, self.netns)
            .with_some(IFLA_MASTER, self.master.map(u32::to_ne_bytes))
            .with_some(IFLA_NUM_TX_QUEUES, self.queues.map(u32::to_ne_bytes))
            .with_some(IFLA_NUM_RX_QUEUES, self.queues.map(u32::to_ne_bytes))
            .with_some(IFLA_LINK, self.lower.map(u32::to_ne_bytes))
            .with(IFLA_LINKINFO, info);
        let flags = if self.up { IFF_UP.cast_unsigned() } else { 0 };
        Message::new(RTM_NEWLINK, &header(0, 0, flags, flags), &attributes)
    }
}

/// Returns a random name.
fn temporary_name() -> Result<String> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| crate::Error::io("choose a random name", errno))?;
    Ok(format!("tmp{:08x}", u32::from_ne_bytes(bytes)))
}

/// Attributes common to both ends of a veth and all other links.
fn end(name: &str, mac: Option<MacAddr>, mtu: Option<u32>, netns: Option<&Netns>) -> AttributeBuf {
    AttributeBuf::new()
        .with_text(IFLA_IFNAME, name)
        .with_some(IFLA_ADDRESS, mac.map(|mac| mac.0))
        .with_some(IFLA_MTU, mtu.map(u32::to_ne_bytes))
        .with_some(IFLA_NET_NS_FD, netns.map(descriptor))
}

/// Creating links.
impl Netlink {
    /// Creates a link and returns it as the kernel describes it, in one exchange.
    ///
    /// The kernel ignores the alias of a new link, so an alias costs a second exchange.
    ///
    /// # Errors
    ///
    /// [`Error::is_exists`](crate::Error::is_exists) if a link has the name, which is left alone.
    /// If setting the alias fails, the new link is deleted.
    pub fn add_link<'a>(&mut self, link: impl Into<NewLink<'a>>) -> Result<Link> {
        let new = link.into();
        let link = self.run_and_get(&new.request(), &get_by_name(&new.name))?;
        self.finish(link, new.alias, new.up_after_creation)
    }

    /// Creates a link in another namespace on a lower link of this one: `ip link add link LOWER
    /// name NAME netns NETNS type ...`. Returns it as seen by `inside`, a socket in `netns`.
    ///
    /// Linux 6.1 and older refuse a name that exists in this namespace too; there the link is
    /// created under a temporary name and then renamed.
    ///
    /// # Errors
    ///
    /// As [`Netlink::add_link`].
    pub fn add_link_in<'a>(
        &mut self,
        netns: &'a Netns,
        inside: &mut Netlink,
        link: impl Into<NewLink<'a>>,
    ) -> Result<Link> {
        let mut new = NewLink { netns: Some(netns), ..link.into() };
        let made = match self.run(&new.request()) {
            Err(error) if error.is_exists() && self.find_link(&new.name)?.is_some() => {
                if inside.find_link(&new.name)?.is_some() {
                    return Err(error);
                }
                let name = std::mem::replace(&mut new.name, temporary_name()?);
                self.run(&new.request())?;
                let made = inside.link_by_name(&new.name)?;
                let renamed = inside.set_link(
                    made.index,
                    &LinkChange { name: Some(name), ..LinkChange::default() },
                );
                renamed.and_then(|()| inside.link_by_index(made.index)).inspect_err(|_| {
                    // Only the first error is reported.
                    let _ = inside.del_link(made.index);
                })
            }
            // The link exists, so a failed lookup is retried.
            made => made.and_then(|()| {
                inside.link_by_name(&new.name).or_else(|_| inside.link_by_name(&new.name))
            }),
        };
        inside.finish(made?, new.alias, new.up_after_creation)
    }

    /// Sets what cannot be set at creation; deletes the link if that fails.
    fn finish(&mut self, mut link: Link, alias: Option<String>, up: bool) -> Result<Link> {
        if alias.is_some() || up {
            let change = LinkChange { alias, up: up.then_some(true), ..LinkChange::default() };
            if let Err(error) = self.set_link(link.index, &change) {
                // Only the first error is reported.
                let _ = self.del_link(link.index);
                return Err(error);
            }
            link.up |= up;
            link.alias = change.alias;
        }
        Ok(link)
    }

    /// Creates a veth pair under its final names, with the peer in its namespace. Returns the near
    /// end.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<Link> {
        self.add_link(veth)
    }

    /// Creates a bridge.
    pub fn add_bridge(&mut self, bridge: &Bridge) -> Result<Link> {
        self.add_link(bridge)
    }

    /// Creates a dummy link.
    pub fn add_dummy(&mut self, name: &str) -> Result<Link> {
        self.add_link(&Dummy::new(name))
    }
}
