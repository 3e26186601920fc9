//! Tracked connections, as `conntrack` lists and deletes them.
//!
//! The first packet of a connection decides whether and how it is translated. A UDP flow lasts
//! while packets keep arriving, so it keeps a translation from before a rule change until it is
//! deleted.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    Family, Netns, Result,
    closing::DeferredClose,
    netlink::{Answer, AttributeBuf, Attributes, Message, NLM_F_ACK, Socket, attributes, octets},
};

/// The messages of the subsystem `NFNL_SUBSYS_CTNETLINK`.
const IPCTNL_MSG_CT_GET: u16 = 0x101;
const IPCTNL_MSG_CT_DELETE: u16 = 0x102;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

/// The tuple fields that the filter compares: protocol and destination port.
const FILTER_PROTO_AND_DST_PORT: u32 = 1 << 3 | 1 << 5;
const IPS_SRC_NAT: u32 = 0x10;
const IPS_DST_NAT: u32 = 0x20;
/// The length of `struct nfgenmsg`.
const HEADER: usize = 4;

/// A connection tracking socket, bound to the namespace it was opened in.
#[derive(Debug)]
pub struct Conntrack {
    socket: DeferredClose<Socket>,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol: 6 is TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flow {
    /// Packets of the initiator, as they arrive here.
    pub original: Tuple,
    /// Replies, as they arrive here: their source is where the packets were really sent.
    pub reply: Tuple,
    /// Whether the source is translated.
    pub snat: bool,
    /// Whether the destination is translated.
    pub dnat: bool,
    id: Vec<u8>,
    zone: Option<Vec<u8>>,
}

impl Conntrack {
    /// Opens a socket in the calling thread's namespace.
    pub fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(NETLINK_NETFILTER)?.into() })
    }

    /// Opens a socket in `netns`; the calling thread stays where it is.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        Ok(Self { socket: Socket::open_in(netns, NETLINK_NETFILTER)?.into() })
    }

    /// Lists the connections of a family and protocol to this destination port.
    ///
    /// The kernel filters since Linux 5.8; older kernels send all connections.
    pub fn flows_to(&mut self, family: Family, protocol: u8, dport: u16) -> Result<Vec<Flow>> {
        let proto = AttributeBuf::new()
            .with(CTA_PROTO_NUM, [protocol])
            .with(CTA_PROTO_DST_PORT, dport.to_be_bytes());
        // Unlike everything else, these flags are in host byte order.
        let flags = FILTER_PROTO_AND_DST_PORT.to_ne_bytes();
        let attributes = AttributeBuf::new()
            .with_nested(CTA_TUPLE_ORIG, AttributeBuf::new().with_nested(CTA_TUPLE_PROTO, proto))
            .with_nested(CTA_FILTER, AttributeBuf::new().with(CTA_FILTER_ORIG_FLAGS, flags));
        let request = message(family, IPCTNL_MSG_CT_GET, &attributes);
        let action = format!("list the connections to port {dport}");
        self.socket.dump(&action, &request, |payload| {
            Ok(Flow::parse(payload)
                .filter(|flow| flow.original.protocol == protocol && flow.original.dport == dport))
        })
    }

    /// Deletes a connection, so that its next packet starts a new one. A missing connection is not
    /// an error.
    pub fn delete(&mut self, flow: &Flow) -> Result<()> {
        let attributes = AttributeBuf::new()
            .with_nested(CTA_TUPLE_ORIG, flow.original.encode())
            .with(CTA_ID, &flow.id)
            .with_some(CTA_ZONE, flow.zone.as_ref());
        let request = message(Family::of(&flow.original.dst), IPCTNL_MSG_CT_DELETE, &attributes);
        let action =
            format!("delete the connection from {} to {}", flow.original.src, flow.original.dst);
        match self.socket.carry_out(&action, &request) {
            Err(error) if error.is_not_found() => Ok(()),
            outcome => outcome,
        }
    }
}

impl Socket {
    /// Sends one request and waits for its acknowledgement.
    fn carry_out(&mut self, action: &str, request: &Message) -> Result<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let sequence = self.queue(NLM_F_ACK, request);
        self.send()
            .and_then(|()| {
                self.receive(sequence, sequence, |_, _, answer| match answer {
                    Answer::Ack => Break(Ok(())),
                    Answer::Refused(refusal) => Break(Err(refusal.into_error(action))),
                    Answer::Done | Answer::Object(_) => Continue(()),
                })
            })
            .map_err(|error| crate::Error::io(action, error))?
    }
}

impl Flow {
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let (mut original, mut reply, mut status, mut id, mut zone) = (None, None, 0, None, None);
        for (kind, value) in attributes(payload, HEADER) {
            match kind {
                CTA_TUPLE_ORIG => original = Tuple::parse(value.nested()),
                CTA_TUPLE_REPLY => reply = Tuple::parse(value.nested()),
                CTA_STATUS => status = value.u32_be(),
                CTA_ID => id = Some(value.0.to_vec()),
                CTA_ZONE => zone = Some(value.0.to_vec()),
                _ => {}
            }
        }
        Some(Self {
            original: original?,
            reply: reply?,
            snat: status & IPS_SRC_NAT != 0,
            dnat: status & IPS_DST_NAT != 0,
            id: id?,
            zone,
        })
    }
}

impl Tuple {
    /// Returns `None` for protocols without ports.
    pub(crate) fn parse(tuple: Attributes<'_>) -> Option<Self> {
        let (mut src, mut dst, mut protocol, mut sport, mut dport) = (None, None, None, None, None);
        for (kind, value) in tuple {
            for (part, value) in value.nested() {
                match (kind, part) {
                    (CTA_TUPLE_IP, CTA_IP_V4_SRC | CTA_IP_V6_SRC) => src = value.ip(),
                    (CTA_TUPLE_IP, CTA_IP_V4_DST | CTA_IP_V6_DST) => dst = value.ip(),
                    (CTA_TUPLE_PROTO, CTA_PROTO_NUM) => protocol = Some(value.u8()),
                    (CTA_TUPLE_PROTO, CTA_PROTO_SRC_PORT) => sport = Some(value.u16_be()),
                    (CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT) => dport = Some(value.u16_be()),
                    _ => {}
                }
            }
        }
        Some(Self { src: src?, dst: dst?, protocol: protocol?, sport: sport?, dport: dport? })
    }

    pub(crate) fn encode(&self) -> AttributeBuf {
        let [src, dst] = match self.src {
            IpAddr::V4(_) => [CTA_IP_V4_SRC, CTA_IP_V4_DST],
            IpAddr::V6(_) => [CTA_IP_V6_SRC, CTA_IP_V6_DST],
        };
        let ip = AttributeBuf::new().with(src, octets(self.src)).with(dst, octets(self.dst));
        let proto = AttributeBuf::new()
            .with(CTA_PROTO_NUM, [self.protocol])
            .with(CTA_PROTO_SRC_PORT, self.sport.to_be_bytes())
            .with(CTA_PROTO_DST_PORT, self.dport.to_be_bytes());
        AttributeBuf::new().with_nested(CTA_TUPLE_IP, ip).with_nested(CTA_TUPLE_PROTO, proto)
    }
}

fn message(family: Family, kind: u16, attributes: &AttributeBuf) -> Message {
    Message::new(kind, &[family.number(), 0, 0, 0], attributes)
}
