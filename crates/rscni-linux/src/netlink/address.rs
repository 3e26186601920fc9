//! Addresses of links, as `ip addr` shows and changes them.

use std::net::IpAddr;

use ipnet::IpNet;
use libc::{
    IFA_ADDRESS, IFA_BROADCAST, IFA_F_DADFAILED, IFA_F_MANAGETEMPADDR, IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE, IFA_F_PERMANENT, IFA_F_SECONDARY, IFA_F_TENTATIVE, IFA_FLAGS, IFA_LOCAL,
    RT_SCOPE_HOST, RT_SCOPE_UNIVERSE, RTM_DELADDR, RTM_GETADDR, RTM_NEWADDR,
};

use super::{
    AttributeBuf, Family, Message, NLM_F_CREATE, NLM_F_EXCL, Netlink, Request, action::Action,
    attributes, octets,
};
use crate::Result;

const HEADER: usize = 8;
const IFA_PROTO: u16 = 11;
/// The protocol of an address that the kernel made from a router advertisement.
const IFAPROT_KERNEL_RA: u8 = 2;

/// How an address is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressFlags {
    /// Use it at once, without looking for another host that has it (IPv6 duplicate address detection).
    pub nodad: bool,
    /// Do not add the route to its prefix.
    pub noprefixroute: bool,
}

/// An address to be added, with all that can be said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAddress {
    /// The address with its prefix length.
    pub net: IpNet,
    /// The other end's address on a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Its scope; by default what follows from the address.
    pub scope: Option<u8>,
    /// How it is added.
    pub flags: AddressFlags,
}

impl NewAddress {
    /// The address alone.
    pub fn new(net: IpNet) -> Self {
        Self { net, peer: None, scope: None, flags: AddressFlags::default() }
    }
}

impl From<&Address> for NewAddress {
    /// As the link has it.
    fn from(address: &Address) -> Self {
        let flags = AddressFlags { nodad: address.nodad, noprefixroute: address.noprefixroute };
        Self { net: address.net, peer: address.peer, scope: Some(address.scope), flags }
    }
}

/// An address of a link.
#[allow(clippy::struct_excessive_bools, reason = "they are the kernel's flags")]
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// The index of its link.
    pub index: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// The other end's address on a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Its scope: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// Duplicate address detection has not finished: it cannot be used yet.
    pub tentative: bool,
    /// Duplicate address detection found another host that has it.
    pub dadfailed: bool,
    /// It was added without duplicate address detection.
    pub nodad: bool,
    /// There is no route to its prefix because of it.
    pub noprefixroute: bool,
    /// It is one more of a subnet that the link has an address of already.
    pub secondary: bool,
    /// It does not expire.
    pub permanent: bool,
    /// It is a temporary one of IPv6 (RFC 8981).
    pub temporary: bool,
    /// The kernel makes temporary ones from it.
    pub managetempaddr: bool,
    /// Who made it (`IFAPROT_*`): 1 to 3 the kernel. Before Linux 5.18, and of most tools, none.
    pub protocol: Option<u8>,
}

impl Request {
    /// See [`Netlink::add_address`].
    #[must_use]
    pub fn add_address(index: u32, net: IpNet, flags: AddressFlags) -> Self {
        Self::add_new_address(index, &NewAddress { flags, ..NewAddress::new(net) })
    }

    /// See [`Netlink::add_new_address`].
    #[must_use]
    pub fn add_new_address(index: u32, address: &NewAddress) -> Self {
        let NewAddress { net, peer, scope, flags } = *address;
        let nodad = if flags.nodad && net.addr().is_ipv6() { IFA_F_NODAD } else { 0 };
        let noprefixroute = if flags.noprefixroute { IFA_F_NOPREFIXROUTE } else { 0 };
        let flags = Some(nodad | noprefixroute).filter(|flags| *flags != 0);
        // A /31 and a /32 have no broadcast address.
        let broadcast = match net {
            IpNet::V4(v4) if v4.prefix_len() < 31 && peer.is_none() => Some(v4.broadcast()),
            _ => None,
        };
        let attributes = local(net, peer)
            .with_some(IFA_FLAGS, flags.map(u32::to_ne_bytes))
            .with_some(IFA_BROADCAST, broadcast.map(|address| address.octets()));
        Self::new(
            message(RTM_NEWADDR, index, net, scope, nodad, &attributes),
            NLM_F_CREATE | NLM_F_EXCL,
            Action::from(format!("add address {net} to ")).link(index),
        )
    }

    /// See [`Netlink::del_address`].
    #[must_use]
    pub fn del_address(index: u32, net: IpNet) -> Self {
        Self::new(
            message(RTM_DELADDR, index, net, None, 0, &local(net, None)),
            0,
            Action::from(format!("remove address {net} from ")).link(index),
        )
    }
}

/// The address and its peer, which is the address itself if there is no other.
fn local(net: IpNet, peer: Option<IpAddr>) -> AttributeBuf {
    AttributeBuf::new()
        .with(IFA_LOCAL, octets(net.addr()))
        .with(IFA_ADDRESS, octets(peer.unwrap_or(net.addr())))
}

fn message(
    kind: u16,
    index: u32,
    net: IpNet,
    scope: Option<u8>,
    flags: u32,
    attributes: &AttributeBuf,
) -> Message {
    let own = if net.addr().is_loopback() { RT_SCOPE_HOST } else { RT_SCOPE_UNIVERSE };
    let family = Family::of(&net.addr()).number();
    let flags = u8::try_from(flags).unwrap_or_default();
    let header = [family, net.prefix_len(), flags, scope.unwrap_or(own)];
    Message::new(kind, &[header, index.to_ne_bytes()].concat(), attributes)
}

impl Netlink {
    /// The addresses of one link, IPv4 and IPv6. The kernel picks them out, however many links there are.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let message = list(index);
        let action = format!("list the addresses of interface {index}");
        self.socket.dump(&action, &message, |payload| {
            // Kernels before 4.20 send those of all links.
            Ok(Address::parse(payload).filter(|address| address.index == index))
        })
    }

    /// All addresses of the namespace. Its cost grows with the host.
    pub fn all_addresses(&mut self) -> Result<Vec<Address>> {
        self.socket.dump("list addresses", &list(0), |payload| Ok(Address::parse(payload)))
    }
}

/// A request for the addresses of one link, or of all links for 0.
fn list(index: u32) -> Message {
    Message::new(RTM_GETADDR, &[[0; 4], index.to_ne_bytes()].concat(), &AttributeBuf::new())
}

impl Address {
    /// `None` for what is neither IPv4 nor IPv6.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let [_, prefix_len, flags, scope, i0, i1, i2, i3] = *payload.first_chunk::<HEADER>()?;
        let mut flags = u32::from(flags);
        let mut address = None;
        let mut local = None;
        let mut protocol = None;
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                IFA_ADDRESS => address = value.ip(),
                IFA_LOCAL => local = value.ip(),
                IFA_FLAGS => flags = value.u32(),
                IFA_PROTO => protocol = Some(value.u8()),
                _ => {}
            }
        }
        // On a point-to-point link IFA_ADDRESS is the other end; IPv6 sends IFA_LOCAL only there.
        let net = IpNet::new(local.or(address)?, prefix_len).ok()?;
        let has = |flag| flags & flag != 0;
        Some(Self {
            index: u32::from_ne_bytes([i0, i1, i2, i3]),
            net,
            peer: address.filter(|peer| *peer != net.addr()),
            scope,
            tentative: has(IFA_F_TENTATIVE),
            dadfailed: has(IFA_F_DADFAILED),
            nodad: has(IFA_F_NODAD),
            noprefixroute: has(IFA_F_NOPREFIXROUTE),
            secondary: has(IFA_F_SECONDARY),
            permanent: has(IFA_F_PERMANENT),
            // IPv4 has another meaning for the same bit.
            temporary: net.addr().is_ipv6() && has(IFA_F_SECONDARY),
            managetempaddr: has(IFA_F_MANAGETEMPADDR),
            protocol,
        })
    }

    /// Whether the kernel made it from a router advertisement.
    pub fn is_advertised(&self) -> bool {
        // A temporary address has no protocol, nor has any before Linux 5.18.
        let looks_so = !self.permanent && (self.temporary || self.managetempaddr);
        self.net.addr().is_ipv6()
            && self.protocol.map_or(looks_so, |protocol| protocol == IFAPROT_KERNEL_RA)
    }
}
