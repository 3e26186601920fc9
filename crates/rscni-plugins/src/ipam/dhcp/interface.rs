//! The interface of a container, and sockets on it.
//!
//! Only an open [`Channel`] keeps the namespace alive, and it is open only while an answer may
//! arrive.

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
    client::{Release, Transport},
    message::{CLIENT_PORT, SERVER_PORT},
};
use crate::plugin::{Failure, Result};

/// An interface in a namespace. Inode and index distinguish them from later ones of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerInterface {
    netns: PathBuf,
    /// Device and inode of the namespace.
    identity: (u64, u64),
    ifname: String,
    index: u32,
}

impl ContainerInterface {
    /// Finds the interface and brings it up.
    pub(super) fn find(path: PathBuf, ifname: &str) -> Result<(Self, Link)> {
        let invalid = |error: rscni_linux::Error| Failure(Error::InvalidNetns(error.to_string()));
        let netns = Netns::open(&path).map_err(invalid)?;
        let mut netlink = Netlink::open_in(&netns)?;
        let link = netlink.find_link(ifname)?.ok_or_else(|| {
            Failure(Error::InvalidNetworkConfig(format!(
                "there is no interface {ifname} in {}: a plugin must create it before it asks for \
                 addresses",
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

    /// Whether the namespace still exists.
    pub(super) fn exists(&self) -> bool {
        self.netns().is_some()
    }

    fn netns(&self) -> Option<Netns> {
        let netns = Netns::open(&self.netns).ok()?;
        (identity(&netns).ok()? == self.identity).then_some(netns)
    }

    /// Opens the namespace and the interface, if they still exist.
    fn open(&self) -> Result<Option<(Netns, Netlink, Link)>> {
        let Some(netns) = self.netns() else { return Ok(None) };
        let mut netlink = Netlink::open_in(&netns)?;
        let link = netlink.find_link(&self.ifname)?.filter(|link| link.index == self.index);
        Ok(link.map(|link| (netns, netlink, link)))
    }

    /// Sets the interface down, because its address is no longer leased.
    pub(super) fn set_down(&self) -> Result<()> {
        if let Some((_, mut netlink, link)) = self.open()? {
            netlink
                .set_link(link.index, &LinkChange { up: Some(false), ..LinkChange::default() })?;
        }
        Ok(())
    }

    /// Sends a release if the interface still exists, and waits until the message has left it.
    ///
    /// The link may be removed right afterwards, with all packets in its queue. So the message is a
    /// broadcast, which does not wait for ARP. An ARP reply of the next hop then shows that the
    /// message has passed.
    pub(super) fn release(&self, Release { message, from, to }: &Release) -> Result<()> {
        let Some((netns, mut netlink, link)) = self.open()? else { return Ok(()) };
        let route = netlink.route_to((*to).into())?.filter(|route| route.oif == Some(link.index));
        let next = route.and_then(|route| route.gateway).unwrap_or((*to).into());
        let transport = Transport::Broadcast { from: *from };
        let channel = Channel::open_on(&netns, &link, transport)?;
        let arp = Arp::open_in(&netns, &link)?;
        channel.send(message, transport)?;
        if let IpAddr::V4(next) = next {
            arp.who_has(*from, next, ARP_TIMEOUT)?;
        }
        Ok(())
    }
}

const ARP_TIMEOUT: Duration = Duration::from_secs(2);

fn identity(netns: &Netns) -> Result<(u64, u64)> {
    let stat =
        rustix::fs::fstat(netns).map_err(|errno| Failure(Error::IOFailure(errno.to_string())))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// A socket in a container's namespace.
#[derive(Debug)]
pub(super) enum Channel {
    /// For broadcasts, without an address on the interface.
    Raw(RawUdp),
    /// For unicast from an address of the interface.
    Udp(UdpSocket),
}

impl Channel {
    /// Opens a socket for this transport, or returns `None` if the interface is gone.
    pub(super) fn open(
        interface: &ContainerInterface,
        transport: Transport,
    ) -> Result<Option<Self>> {
        let Some((netns, _, link)) = interface.open()? else { return Ok(None) };
        Self::open_on(&netns, &link, transport).map(Some)
    }

    fn open_on(netns: &Netns, link: &Link, transport: Transport) -> Result<Self> {
        Ok(match transport {
            Transport::Broadcast { .. } => Self::Raw(RawUdp::open_in(netns, link, CLIENT_PORT)?),
            Transport::Unicast { from, .. } => {
                Self::Udp(udp_socket_in(netns, &link.name, SocketAddrV4::new(from, CLIENT_PORT))?)
            }
        })
    }

    pub(super) fn is_for(&self, transport: Transport) -> bool {
        matches!(
            (self, transport),
            (Self::Raw(_), Transport::Broadcast { .. }) | (Self::Udp(_), Transport::Unicast { .. })
        )
    }

    pub(super) fn send(&self, message: &[u8], transport: Transport) -> Result<()> {
        match (self, transport) {
            (Self::Raw(socket), Transport::Broadcast { from }) => {
                Ok(socket.broadcast(from, SERVER_PORT, message)?)
            }
            (Self::Udp(socket), Transport::Unicast { to, .. }) => {
                socket.send_to(message, (to, SERVER_PORT)).map(drop).map_err(|error| {
                    Failure(Error::IOFailure(format!("send to the DHCP server {to}: {error}")))
                })
            }
            _ => Err(Failure(Error::Internal("a socket of the wrong kind".into()))),
        }
    }

    /// Returns the next message, if one has arrived.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<Option<&'a [u8]>> {
        match self {
            Self::Raw(socket) => Ok(socket.receive(buffer)?),
            Self::Udp(socket) => match socket.recv(buffer) {
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
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}
