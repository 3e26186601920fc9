//! The interface of a container, and the ways from it onto the wire.
//!
//! Nothing here keeps a namespace alive but an open [`Channel`], and that is there only while an answer may arrive.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddrV4, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::PathBuf,
    time::Duration,
};

use rscni::Error;
use rscni_linux::{Arp, Link, LinkChange, Netlink, Netns, RawUdp, udp_socket_in};
use serde::{Deserialize, Serialize};

use super::{
    client::{Release, Way},
    message::{CLIENT_PORT, SERVER_PORT},
};
use crate::plugin::error::{Failure, Result};

/// An interface in a namespace, and what tells them from others that come to have the same names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    netns: PathBuf,
    /// Device and inode of the namespace.
    identity: (u64, u64),
    ifname: String,
    index: u32,
}

impl Place {
    /// Finds the interface, and switches it on, for nothing goes through one that is off.
    pub(super) fn find(path: PathBuf, ifname: &str) -> Result<(Self, Link)> {
        let invalid = |error: rscni_linux::Error| Failure(Error::InvalidNetns(error.to_string()));
        let netns = Netns::open(&path).map_err(invalid)?;
        let mut netlink = Netlink::open_in(&netns)?;
        let link = netlink.find_link(ifname)?.ok_or_else(|| {
            Failure(Error::InvalidNetworkConfig(format!(
                "there is no interface {ifname} in {}: a plugin must make it before it asks for addresses",
                path.display()
            )))
        })?;
        if !link.up {
            netlink
                .set_link(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
        }
        let identity = identity(&netns)?;
        Ok((Self { netns: path, identity, ifname: ifname.into(), index: link.index }, link))
    }

    /// Whether the namespace is still there.
    pub(super) fn exists(&self) -> bool {
        self.netns().is_some()
    }

    fn netns(&self) -> Option<Netns> {
        let netns = Netns::open(&self.netns).ok()?;
        (identity(&netns).ok()? == self.identity).then_some(netns)
    }

    /// The namespace, a socket in it, and the interface, if all of it is still there.
    fn open(&self) -> Result<Option<(Netns, Netlink, Link)>> {
        let Some(netns) = self.netns() else { return Ok(None) };
        let mut netlink = Netlink::open_in(&netns)?;
        let link = netlink.find_link(&self.ifname)?.filter(|link| link.index == self.index);
        Ok(link.map(|link| (netns, netlink, link)))
    }

    /// Switches the interface off: its address is not the container's any more.
    pub(super) fn switch_off(&self) -> Result<()> {
        if let Some((_, mut netlink, link)) = self.open()? {
            netlink
                .set_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
        }
        Ok(())
    }

    /// Sends a message that gives a lease back, if the interface is still there, and waits until it is under way.
    ///
    /// The link may be removed a moment later, and takes with it what has not left it. So the message goes to all
    /// stations, as the first one of the client did: no packet has to wait for ARP, or goes to a hardware address that
    /// the server had once. And the next station is asked for a sign of life, which comes after the message has passed.
    pub(super) fn release(&self, Release { message, from, to }: &Release) -> Result<()> {
        let Some((netns, mut netlink, link)) = self.open()? else { return Ok(()) };
        let route = netlink.route_to((*to).into())?.filter(|route| route.oif == Some(link.index));
        let next = route.and_then(|route| route.gateway).unwrap_or((*to).into());
        let way = Way::Broadcast { from: *from };
        let channel = Channel::open_on(&netns, &link, way)?;
        let arp = Arp::open_in(&netns, &link)?;
        channel.send(message, way)?;
        if let IpAddr::V4(next) = next {
            arp.who_has(*from, next, PASSING)?;
        }
        Ok(())
    }
}

/// How long a packet may take to the next station and its answer back.
const PASSING: Duration = Duration::from_secs(2);

fn identity(netns: &Netns) -> Result<(u64, u64)> {
    let stat =
        rustix::fs::fstat(netns).map_err(|errno| Failure(Error::IOFailure(errno.to_string())))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A socket in a container's namespace.
#[derive(Debug)]
pub(super) enum Channel {
    /// To all stations, and from any, whatever addresses the interface has.
    Raw(RawUdp),
    /// From an address of the interface.
    Routed(UdpSocket),
}

impl Channel {
    /// Opens what a message needs to go this way; `None` if the interface is gone.
    pub(super) fn open(place: &Place, way: Way) -> Result<Option<Self>> {
        let Some((netns, _, link)) = place.open()? else { return Ok(None) };
        Self::open_on(&netns, &link, way).map(Some)
    }

    fn open_on(netns: &Netns, link: &Link, way: Way) -> Result<Self> {
        Ok(match way {
            Way::Broadcast { .. } => Self::Raw(RawUdp::open_in(netns, link, CLIENT_PORT)?),
            Way::Routed { from, .. } => Self::Routed(udp_socket_in(
                netns,
                &link.name,
                SocketAddrV4::new(from, CLIENT_PORT),
            )?),
        })
    }

    /// Whether messages can go this way.
    pub(super) fn is_for(&self, way: Way) -> bool {
        matches!(
            (self, way),
            (Self::Raw(_), Way::Broadcast { .. }) | (Self::Routed(_), Way::Routed { .. })
        )
    }

    pub(super) fn send(&self, message: &[u8], way: Way) -> Result<()> {
        match (self, way) {
            (Self::Raw(socket), Way::Broadcast { from }) => {
                Ok(socket.broadcast(from, SERVER_PORT, message)?)
            }
            (Self::Routed(socket), Way::Routed { to, .. }) => {
                socket.send_to(message, (to, SERVER_PORT)).map(drop).map_err(|error| {
                    Failure(Error::IOFailure(format!("send to the DHCP server {to}: {error}")))
                })
            }
            _ => Err(Failure(Error::Internal("a socket of the wrong kind".into()))),
        }
    }

    /// The next message that has arrived, if there is one.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        match self {
            Self::Raw(socket) => Ok(socket.receive(buffer)?),
            Self::Routed(socket) => match socket.recv(buffer) {
                Ok(length) => Ok(Some(&buffer[..length])),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
                {
                    Ok(None)
                }
                Err(error) => Err(Failure(error.into())),
            },
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Raw(socket) => socket.as_fd(),
            Self::Routed(socket) => socket.as_fd(),
        }
    }
}
