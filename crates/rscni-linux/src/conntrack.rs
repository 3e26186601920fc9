//! The connections that the kernel keeps track of, as `conntrack` lists and deletes them.
//!
//! Whether and where a connection is translated is decided by its first packet. A UDP "connection" lasts as long as
//! packets keep coming, so it holds on to what was decided before the rules changed, until somebody deletes it.

use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    Family, Netns, Result,
    closing::ClosedLater,
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

/// Which parts of the tuple a filter compares: the protocol's number and the destination port.
const FILTER_PROTO_AND_DST_PORT: u32 = 1 << 3 | 1 << 5;
const IPS_SRC_NAT: u32 = 0x10;
const IPS_DST_NAT: u32 = 0x20;
/// The header of netfilter's messages: family, version, resource.
const HEADER: usize = 4;

/// A socket to the kernel's table of connections. It stays in the namespace it was opened in.
#[derive(Debug)]
pub struct Conntrack {
    socket: ClosedLater<Socket>,
}

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tuple {
    /// Where packets come from.
    pub src: IpAddr,
    /// Where they go.
    pub dst: IpAddr,
    /// The IP protocol: 6 is TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// The port they come from.
    pub sport: u16,
    /// The port they go to.
    pub dport: u16,
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flow {
    /// The packets of the one who began it, as they arrive here.
    pub original: Tuple,
    /// The answers, as they arrive here: what they come from is where the packets were really sent.
    pub reply: Tuple,
    /// Its source is translated.
    pub snat: bool,
    /// Its destination is translated.
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

    /// The connections of a family and protocol that were begun to this port.
    ///
    /// Since Linux 5.8 the kernel selects them, so few are sent; older kernels send all.
    pub fn flows_to(&mut self, family: Family, protocol: u8, dport: u16) -> Result<Vec<Flow>> {
        let proto = AttributeBuf::new()
            .with(CTA_PROTO_NUM, [protocol])
            .with(CTA_PROTO_DST_PORT, dport.to_be_bytes());
        // Flags of filters are in the byte order of the host, unlike all else.
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

    /// Deletes a connection: its next packet begins a new one. That it is gone already is fine.
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
    /// Sends one request and waits until the kernel has carried it out.
    fn carry_out(&mut self, action: &str, request: &Message) -> Result<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let sequence = self.queue(NLM_F_ACK, request);
        self.send()
            .and_then(|()| {
                self.receive(sequence, sequence, |_, _, answer| match answer {
                    Answer::Ack => Break(Ok(())),
                    Answer::Refused(refusal) => Break(Err(refusal.during(action))),
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
    /// `None` for protocols without ports.
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
