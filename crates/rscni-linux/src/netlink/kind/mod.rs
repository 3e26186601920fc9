//! Making links: what all kinds share is [`NewLink`], what one kind needs is in the file named after it.

mod bridge;
mod dummy;
mod ifb;
mod ipvlan;
mod macvlan;
mod tun;
mod veth;
mod vlan;
mod vrf;

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

pub(super) use self::vlan::parse_id as parse_vlan_id;
pub use self::{
    bridge::Bridge,
    dummy::Dummy,
    ifb::Ifb,
    ipvlan::{Ipvlan, IpvlanMode},
    macvlan::{Macvlan, MacvlanInfo, MacvlanMode},
    tun::TunInfo,
    veth::Veth,
    vlan::VlanLink,
    vrf::Vrf,
};
use super::{Link, LinkChange, Netlink, Request, action::Action, link::get_by_name};
use crate::{MacAddr, Netns, Result};

/// A link to be made, of any kind: made from a [`Veth`], a [`Bridge`], a [`Macvlan`] and so on.
#[derive(Debug, Clone)]
pub struct NewLink<'a> {
    pub(super) name: String,
    pub(super) alias: Option<String>,
    pub(super) mtu: Option<u32>,
    pub(super) mac: Option<MacAddr>,
    pub(super) master: Option<u32>,
    /// The link it stands on.
    pub(super) lower: Option<u32>,
    /// The namespace to make it in, if not the socket's.
    pub(super) netns: Option<&'a Netns>,
    pub(super) up: bool,
    /// Whether it is switched on once it is there.
    pub(super) up_when_made: bool,
    /// How many queues it has in each direction, if not as many as the kernel thinks fit.
    pub(super) queues: Option<u32>,
    pub(super) kind: InfoKind,
    pub(super) data: Option<InfoData>,
    pub(super) action: Action,
}

impl NewLink<'_> {
    pub(super) fn new(kind: InfoKind, name: &str, action: impl Into<Action>) -> Self {
        Self {
            name: name.to_owned(),
            alias: None,
            mtu: None,
            mac: None,
            master: None,
            lower: None,
            netns: None,
            up: false,
            up_when_made: false,
            queues: None,
            kind,
            data: None,
            action: action.into(),
        }
    }

    fn request(&self) -> Request {
        Request::new(self.message(), NEW, self.action.clone())
    }

    fn message(&self) -> RouteNetlinkMessage {
        let mut info = vec![LinkInfo::Kind(self.kind.clone())];
        info.extend(self.data.clone().map(LinkInfo::Data));
        let mut message = end(&self.name, self.mac, self.mtu, self.netns);
        if self.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        message.attributes.extend(self.master.map(LinkAttribute::Controller));
        message.attributes.extend(queues(self.queues));
        message.attributes.extend(self.lower.map(LinkAttribute::Link));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        RouteNetlinkMessage::NewLink(message)
    }
}

/// The flags of a message that makes something new.
const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// A name that no other link has.
fn temporary_name() -> Result<String> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| crate::Error::io("choose a random name", errno))?;
    Ok(format!("tmp{:08x}", u32::from_ne_bytes(bytes)))
}

fn queues(number: Option<u32>) -> impl Iterator<Item = LinkAttribute> {
    number.into_iter().flat_map(|n| [LinkAttribute::NumTxQueues(n), LinkAttribute::NumRxQueues(n)])
}

/// What both ends of a veth, and every other link, may have.
fn end(name: &str, mac: Option<MacAddr>, mtu: Option<u32>, netns: Option<&Netns>) -> LinkMessage {
    let mut message = LinkMessage::default();
    let attributes = [
        Some(LinkAttribute::IfName(name.to_owned())),
        mac.map(|mac| LinkAttribute::Address(mac.as_bytes().to_vec())),
        mtu.map(LinkAttribute::Mtu),
        netns.map(|netns| LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd())),
    ];
    message.attributes.extend(attributes.into_iter().flatten());
    message
}

/// Making links.
impl Netlink {
    /// Makes a link and gives it as the kernel describes it, in one exchange.
    ///
    /// The kernel takes no alias for a new link: one that is asked for costs a second exchange.
    ///
    /// # Errors
    ///
    /// [`Error::is_exists`](crate::Error::is_exists) when the name is taken, which leaves the link that has
    /// it alone. When it is the alias that fails, the new link is deleted again.
    pub fn add_link<'a>(&mut self, link: impl Into<NewLink<'a>>) -> Result<Link> {
        let new = link.into();
        let first = self.socket.queue(NEW, &new.message());
        let last = self.socket.queue(0, &get_by_name(&new.name));
        let action = new.action.unnamed();
        self.socket.send().map_err(|error| crate::Error::io(&action, error))?;
        let link = self.socket.answer(&action, first, last, |_, payload| Link::parse(payload));
        let link = link.map_err(|error| self.naming_links(error, &new.action))?;
        self.finish(link, new.alias, new.up_when_made)
    }

    /// Makes a link in another namespace, on top of one of this socket's: `ip link add link LOWER name NAME netns
    /// NETNS type ...`. Gives it as that namespace sees it, through `inside`, a socket in `netns`.
    ///
    /// It has its final name from the start, unless the kernel is so old (6.1 is) that it minds an interface of that
    /// name on this side, too: there it gets a temporary one first.
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
                    // The first error is the one to report.
                    let _ = inside.del_link(made.index);
                })
            }
            // It is there: if it could not be asked for, once more.
            made => made.and_then(|()| {
                inside.link_by_name(&new.name).or_else(|_| inside.link_by_name(&new.name))
            }),
        };
        inside.finish(made?, new.alias, new.up_when_made)
    }

    /// Gives a link that was just made what it cannot be made with, or deletes it again.
    fn finish(&mut self, mut link: Link, alias: Option<String>, up: bool) -> Result<Link> {
        if alias.is_some() || up {
            let change = LinkChange { alias, up: up.then_some(true), ..LinkChange::default() };
            if let Err(error) = self.set_link(link.index, &change) {
                // The first error is the one to report.
                let _ = self.del_link(link.index);
                return Err(error);
            }
            link.up |= up;
            link.alias = change.alias;
        }
        Ok(link)
    }

    /// Makes a veth pair: both ends under their final names, the peer where it belongs. Gives the near end.
    pub fn add_veth(&mut self, veth: &Veth<'_>) -> Result<Link> {
        self.add_link(veth)
    }

    /// Makes a bridge.
    pub fn add_bridge(&mut self, bridge: &Bridge) -> Result<Link> {
        self.add_link(bridge)
    }

    /// Makes a dummy link.
    pub fn add_dummy(&mut self, name: &str) -> Result<Link> {
        self.add_link(&Dummy::new(name))
    }
}
