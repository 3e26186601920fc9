//! Filters: `tc filter`. Those of kind `u32` compare words of 32 bits.

use ipnet::IpNet;
use libc::{RTM_GETTFILTER, RTM_NEWTFILTER, TCA_KIND, TCA_OPTIONS};

use super::{HEADER, Handle, INFO, header, list, message};
use crate::{
    Result,
    netlink::{
        AttributeBuf, Attributes, NLM_F_CREATE, NLM_F_EXCL, Netlink, Request, action::Action,
        attributes, octets,
    },
};

const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
const TC_U32_TERMINAL: u8 = 1;

/// Actions are numbered from 1 in order of execution.
const FIRST_ACTION: u16 = 1;
/// The length of `struct tc_u32_sel` without its keys.
const SELECTOR_HEADER: usize = 16;

const ETH_P_ALL: u16 = 3;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Filter {
    /// A filter of kind `u32`.
    U32(U32),
    /// A filter of another kind.
    Other(String),
}

/// A filter of kind `u32`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct U32 {
    /// Queueing discipline whose packets it classifies.
    pub parent: Handle,
    /// Priority; the lowest comes first. All filters of one priority have the same protocol.
    pub prio: u16,
    /// Ethernet type; 3 matches all.
    pub protocol: u16,
    /// Keys that a packet must match, all of them.
    pub keys: Vec<U32Key>,
    /// Class of the matching packets.
    pub class: Option<Handle>,
    /// Index of the link to redirect matching packets to.
    pub redirect: Option<u32>,
}

/// A comparison of 32 bits of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct U32Key {
    /// Offset from the start of the IP header, in bytes.
    pub offset: i32,
    /// Mask.
    pub mask: u32,
    /// Value.
    pub value: u32,
}

impl U32 {
    /// Creates a filter that redirects all packets: `protocol all u32 match u32 0 0 action mirred
    /// egress redirect dev TO`.
    pub fn redirect_all(parent: Handle, to: u32) -> Self {
        let keys = vec![U32Key { offset: 0, mask: 0, value: 0 }];
        Self { parent, prio: 1, protocol: ETH_P_ALL, keys, class: None, redirect: Some(to) }
    }

    /// Creates a filter that classifies by source: `u32 match ip src SUBNET flowid CLASS`.
    pub fn from_subnet(net: IpNet, class: Handle) -> Self {
        Self::of_subnet(net, [12, 8], class)
    }

    /// Creates a filter that classifies by destination: `u32 match ip dst SUBNET flowid CLASS`.
    pub fn to_subnet(net: IpNet, class: Handle) -> Self {
        Self::of_subnet(net, [16, 24], class)
    }

    /// Takes the offsets of the address in IPv4 and IPv6 headers.
    fn of_subnet(net: IpNet, [offset4, offset6]: [i32; 2], class: Handle) -> Self {
        let (prio, protocol, offset) = match net {
            IpNet::V4(_) => (16, ETH_P_IP, offset4),
            IpNet::V6(_) => (15, ETH_P_IPV6, offset6),
        };
        let [value, mask] = [net.network(), net.netmask()].map(octets);
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word));
        let words =
            value.chunks(4).zip(mask.chunks(4)).map(|(value, mask)| (word(value), word(mask)));
        let mut keys: Vec<_> = (offset..)
            .step_by(4)
            .zip(words)
            .map(|(offset, (value, mask))| U32Key { offset, mask, value })
            .filter(|key| key.mask != 0)
            .collect();
        if keys.is_empty() {
            keys.push(U32Key { offset: 0, mask: 0, value: 0 });
        }
        Self { parent: class.qdisc(), prio, protocol, keys, class: Some(class), redirect: None }
    }

    fn options(&self) -> AttributeBuf {
        // `struct tc_u32_sel`: flags, shift, number of keys; masks and offsets; then the keys.
        let count = u8::try_from(self.keys.len()).unwrap_or(u8::MAX);
        let mut selector = vec![TC_U32_TERMINAL, 0, count, 0];
        selector.resize(SELECTOR_HEADER, 0);
        for key in &self.keys {
            selector.extend(key.encode());
        }
        AttributeBuf::new()
            .with_some(TCA_U32_CLASSID, self.class.map(|class| class.0.to_ne_bytes()))
            .with(TCA_U32_SEL, selector)
            .with_some(TCA_U32_ACT, self.redirect.map(redirect_to))
    }

    pub(in crate::netlink) fn parse(parent: Handle, payload: &[u8]) -> Option<Filter> {
        let [prio, protocol] = [header(payload, INFO) >> 16, header(payload, INFO) & 0xffff]
            .map(|number| u16::try_from(number).unwrap_or_default());
        let protocol = u16::from_be(protocol);
        let mut filter =
            Self { parent, prio, protocol, keys: Vec::new(), class: None, redirect: None };
        let mut kind = String::new();
        for (number, value) in attributes(payload, HEADER) {
            match number {
                TCA_KIND => kind = value.string(),
                TCA_OPTIONS if kind == "u32" => filter.parse_options(value.nested()),
                _ => {}
            }
        }
        match kind.as_str() {
            // The kernel also lists hash tables, which have no keys.
            "u32" => (!filter.keys.is_empty()).then_some(Filter::U32(filter)),
            _ => Some(Filter::Other(kind)),
        }
    }

    fn parse_options(&mut self, options: Attributes<'_>) {
        for (number, value) in options {
            match number {
                TCA_U32_CLASSID => self.class = Some(Handle(value.u32())),
                TCA_U32_SEL => {
                    self.keys = value
                        .rest(SELECTOR_HEADER)
                        .0
                        .chunks_exact(16)
                        .filter_map(U32Key::parse)
                        .collect();
                }
                TCA_U32_ACT => {
                    let redirects =
                        value.nested().filter_map(|(_, action)| parse_redirect(action.nested()));
                    self.redirect = redirects.last();
                }
                _ => {}
            }
        }
    }
}

impl U32Key {
    /// Encodes `struct tc_u32_key`.
    fn encode(&self) -> Vec<u8> {
        [self.mask.to_be_bytes(), self.value.to_be_bytes(), self.offset.to_ne_bytes(), [0; 4]]
            .concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |place: usize| bytes.get(place..)?.first_chunk::<4>().copied();
        Some(Self {
            mask: u32::from_be_bytes(word(0)?),
            value: u32::from_be_bytes(word(4)?),
            offset: i32::from_ne_bytes(word(8)?),
        })
    }
}

/// Encodes `action mirred egress redirect dev INDEX`.
fn redirect_to(index: u32) -> AttributeBuf {
    // `struct tc_mirred`: index, capabilities, action, two counters; direction, interface.
    let mirred =
        [0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, index].map(u32::to_ne_bytes).concat();
    let action = AttributeBuf::new()
        .with_text(TCA_ACT_KIND, "mirred")
        .with_nested(TCA_ACT_OPTIONS, AttributeBuf::new().with(TCA_MIRRED_PARMS, mirred));
    AttributeBuf::new().with(FIRST_ACTION, action)
}

/// Returns the link that a redirect action names.
fn parse_redirect(action: Attributes<'_>) -> Option<u32> {
    let mut is_mirred = false;
    for (number, value) in action {
        match number {
            TCA_ACT_KIND => is_mirred = value.string() == "mirred",
            TCA_ACT_OPTIONS if is_mirred => {
                let parameters = value.nested().value(TCA_MIRRED_PARMS)?;
                // After `struct tc_gen`, which all actions have.
                let (what, index) = (parameters.rest(20).u32(), parameters.rest(24).u32());
                return (what == TCA_EGRESS_REDIR).then_some(index);
            }
            _ => {}
        }
    }
    None
}

impl Request {
    /// See [`Netlink::add_filter`].
    #[must_use]
    pub fn add_filter(index: u32, filter: &U32) -> Self {
        let attributes =
            AttributeBuf::new().with_text(TCA_KIND, "u32").with(TCA_OPTIONS, filter.options());
        let info = u32::from(filter.prio) << 16 | u32::from(filter.protocol.to_be());
        let handle = Handle::default();
        let message = message(RTM_NEWTFILTER, index, filter.parent, handle, info, &attributes);
        let action = Action::from(format!("add filter u32 to {} of ", filter.parent)).link(index);
        Self::new(message, NLM_F_CREATE | NLM_F_EXCL, action)
    }
}

impl Netlink {
    /// Lists the filters of a queueing discipline.
    pub fn filters(&mut self, index: u32, parent: Handle) -> Result<Vec<Filter>> {
        let message = list(RTM_GETTFILTER, index, parent);
        self.socket.dump("list filters", &message, |payload| Ok(U32::parse(parent, payload)))
    }
}
