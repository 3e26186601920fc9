//! Addresses of links, as `ip addr` lists and changes them.

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
/// The protocol of addresses from router advertisements.
const IFAPROT_KERNEL_RA: u8 = 2;

/// Flags of a new address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressFlags {
    /// Use the address at once, without duplicate address detection (IPv6 only).
    pub nodad: bool,
    /// Do not add the prefix route.
    pub noprefixroute: bool,
}

/// An address to be added, with all its attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewAddress {
    /// The address with its prefix length.
    pub net: IpNet,
    /// The peer address of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Scope; derived from the address by default.
    pub scope: Option<u8>,
    /// Flags.
    pub flags: AddressFlags,
}

impl NewAddress {
    /// Creates an address with default attributes.
    pub fn new(net: IpNet) -> Self {
        Self { net, peer: None, scope: None, flags: AddressFlags::default() }
    }
}

impl From<&Address> for NewAddress {
    /// Copies a listed address.
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
    /// Index of the link.
    pub index: u32,
    /// The address with its prefix length.
    pub net: IpNet,
    /// The peer address of a point-to-point link.
    pub peer: Option<IpAddr>,
    /// Scope: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// Whether duplicate address detection is still running, so the address cannot be used yet.
    pub tentative: bool,
    /// Whether duplicate address detection found another host with the address.
    pub dadfailed: bool,
    /// Whether it was added without duplicate address detection.
    pub nodad: bool,
    /// Whether it was added without a prefix route.
    pub noprefixroute: bool,
    /// Whether the link already had an address of the same subnet.
    pub secondary: bool,
    /// Whether it never expires.
    pub permanent: bool,
    /// Whether it is a temporary IPv6 address (RFC 8981).
    pub temporary: bool,
    /// Whether the kernel derives temporary addresses from it.
    pub managetempaddr: bool,
    /// Origin (`IFAPROT_*`): 1 to 3 is the kernel. Not reported before Linux 5.18 and by most
    /// tools.
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

/// Returns the local and peer attributes; without a peer both are the address.
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
    /// Lists the IPv4 and IPv6 addresses of one link. The kernel selects them, however many links
    /// there are.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Address>> {
        let message = list(index);
        let action = format!("list the addresses of interface {index}");
        self.socket.dump(&action, &message, |payload| {
            // Kernels before 4.20 send the addresses of all links.
            Ok(Address::parse(payload).filter(|address| address.index == index))
        })
    }

    /// Lists all addresses of the namespace. The cost grows with the number of addresses.
    pub fn all_addresses(&mut self) -> Result<Vec<Address>> {
        self.socket.dump("list addresses", &list(0), |payload| Ok(Address::parse(payload)))
    }
}

/// Creates a request for the addresses of one link, or of all links for 0.
fn list(index: u32) -> Message {
    Message::new(RTM_GETADDR, &[[0; 4], index.to_ne_bytes()].concat(), &AttributeBuf::new())
}

impl Address {
    /// Returns `None` for other families than IPv4 and IPv6.
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
        // On a point-to-point link `IFA_ADDRESS` is the peer; IPv6 sends `IFA_LOCAL` only there.
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
            // For IPv4 the same flag means secondary.
            temporary: net.addr().is_ipv6() && has(IFA_F_SECONDARY),
            managetempaddr: has(IFA_F_MANAGETEMPADDR),
            protocol,
        })
    }

    /// Whether the kernel created it from a router advertisement.
    pub fn is_advertised(&self) -> bool {
        // Temporary addresses have no protocol, and no address has one before Linux 5.18.
        let looks_so = !self.permanent && (self.temporary || self.managetempaddr);
        self.net.addr().is_ipv6()
            && self.protocol.map_or(looks_so, |protocol| protocol == IFAPROT_KERNEL_RA)
    }
}
