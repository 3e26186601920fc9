//! Making links: what all kinds share is [`NewLink`], what one kind needs is in the file named after it.

mod bridge;
mod dummy;
mod ifb;
mod veth;
mod vrf;

use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

pub use self::{bridge::Bridge, dummy::Dummy, ifb::Ifb, veth::Veth, vrf::Vrf};
use super::{Link, LinkChange, Netlink, Request, link::get_by_name};
use crate::{MacAddr, Netns, Result};

/// A link to be made, of any kind: made from a [`Veth`], a [`Bridge`], a [`Dummy`].
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
    pub(super) kind: InfoKind,
    pub(super) data: Option<InfoData>,
    pub(super) action: String,
}

impl NewLink<'_> {
    pub(super) fn new(kind: InfoKind, name: &str, action: String) -> Self {
        Self {
            name: name.to_owned(),
            alias: None,
            mtu: None,
            mac: None,
            master: None,
            lower: None,
            netns: None,
            up: false,
            kind,
            data: None,
            action,
        }
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
        message.attributes.extend(self.lower.map(LinkAttribute::Link));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        RouteNetlinkMessage::NewLink(message)
    }
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
    /// The kernel takes no alias for a new link: one that is asked for costs a second exchange. A caller that
    /// has other changes to make can leave it out here and set it along with them.
    ///
    /// # Errors
    ///
    /// [`Error::is_exists`](crate::Error::is_exists) when the name is taken, which leaves the link that has
    /// it alone. When it is the alias that fails, the new link is deleted again.
    pub fn add_link<'a>(&mut self, link: impl Into<NewLink<'a>>) -> Result<Link> {
        let new = link.into();
        let first = self.socket.queue(NLM_F_CREATE | NLM_F_EXCL, &new.message());
        let last = self.socket.queue(0, &get_by_name(&new.name));
        self.socket.send().map_err(|error| crate::Error::io(&new.action, error))?;
        let mut link = self.socket.answer(&new.action, first, last, |_, payload| Link::parse(payload))?;
        if new.alias.is_some() {
            let change = LinkChange { alias: new.alias, ..LinkChange::default() };
            if let Err(error) = self.run(&Request::set_link(link.index, &change)) {
                // The first error is the one to report.
                let _ = self.del_link(link.index);
                return Err(error);
            }
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
