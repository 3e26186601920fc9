//! Queueing disciplines: `tc qdisc`.

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcOption},
};

use super::{HEADER, Handle, TCA_KIND, TCA_OPTIONS, message, rate_spec, ticks};
use crate::{
    Result,
    netlink::{Netlink, OrAbsent, Request, Value, attributes},
};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_HTB_INIT: u16 = 2;

/// A queueing discipline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Qdisc {
    /// A token bucket, which lets packets through at a rate.
    Tbf(Tbf),
    /// Classes, each with a rate of its own. See [`HtbClass`](super::HtbClass).
    Htb {
        /// The minor number of the class for packets that no filter chooses one for.
        default: u16,
    },
    /// A place for filters of packets that come in; it is at [`Handle::INGRESS`].
    Ingress,
    /// First in, first out.
    Bfifo {
        /// How many bytes wait at most.
        limit: u32,
    },
    /// One of another kind.
    Other(String),
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tbf {
    /// The rate, in bytes per second.
    pub rate: u64,
    /// How long the burst takes at this rate, in ticks of 64 ns.
    pub buffer: u32,
    /// How many bytes wait at most.
    pub limit: u32,
}

impl Tbf {
    /// `tbf rate RATE burst BURST latency LATENCY`: bytes per second, bytes, milliseconds.
    ///
    /// The kernel keeps a burst of at most 4.29 seconds at the rate; a larger one is that.
    pub fn new(rate: u64, burst: u32, latency: u32) -> Self {
        let waiting = u128::from(rate) * u128::from(latency) / 1000;
        let limit = u32::try_from(waiting + u128::from(burst)).unwrap_or(u32::MAX);
        Self { rate, buffer: ticks(rate, burst), limit }
    }

    /// `struct tc_tbf_qopt`.
    fn parameters(&self) -> Vec<u8> {
        let mut bytes = rate_spec(self.rate).to_vec();
        bytes.extend([0; 12]);
        for number in [self.limit, self.buffer, 0] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes
    }

    fn parse(options: Value<'_>) -> Self {
        let mut tbf = Self { rate: 0, buffer: 0, limit: 0 };
        for (kind, value) in options.nested() {
            match kind {
                TCA_TBF_PARMS => {
                    tbf.rate = tbf.rate.max(value.rest(8).u32().into());
                    tbf.limit = value.rest(24).u32();
                    tbf.buffer = value.rest(28).u32();
                }
                TCA_TBF_RATE64 => tbf.rate = value.u64(),
                _ => {}
            }
        }
        tbf
    }
}

impl Qdisc {
    /// Its kind, as `tc` calls it.
    pub fn kind(&self) -> &str {
        match self {
            Self::Tbf(_) => "tbf",
            Self::Htb { .. } => "htb",
            Self::Ingress => "ingress",
            Self::Bfifo { .. } => "bfifo",
            Self::Other(kind) => kind,
        }
    }

    fn attributes(&self) -> Vec<TcAttribute> {
        let mut attributes = vec![TcAttribute::Kind(self.kind().to_owned())];
        let option = |kind, value| TcOption::Other(DefaultNla::new(kind, value));
        match self {
            Self::Tbf(tbf) => {
                let mut options = vec![option(TCA_TBF_PARMS, tbf.parameters())];
                if tbf.rate > u32::MAX.into() {
                    options.push(option(TCA_TBF_RATE64, tbf.rate.to_ne_bytes().to_vec()));
                }
                attributes.push(TcAttribute::Options(options));
            }
            Self::Htb { default } => {
                // `struct tc_htb_glob`: the version, how a rate becomes a quantum, the default; counters.
                let numbers: [u32; 5] = [3, 10, (*default).into(), 0, 0];
                let init = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
                attributes.push(TcAttribute::Options(vec![option(TCA_HTB_INIT, init)]));
            }
            Self::Bfifo { limit } => {
                attributes.push(TcAttribute::Other(DefaultNla::new(
                    TCA_OPTIONS,
                    limit.to_ne_bytes().to_vec(),
                )));
            }
            Self::Ingress | Self::Other(_) => {}
        }
        attributes
    }

    pub(in crate::netlink) fn parse(payload: &[u8]) -> Self {
        let mut kind = String::new();
        let mut options = Value(&[]);
        for (number, value) in attributes(payload, HEADER) {
            match number {
                TCA_KIND => kind = value.string(),
                TCA_OPTIONS => options = value,
                _ => {}
            }
        }
        match kind.as_str() {
            "tbf" => Self::Tbf(Tbf::parse(options)),
            "htb" => {
                let init = options.nested().find(|(kind, _)| *kind == TCA_HTB_INIT);
                let default = init.map_or(0, |(_, value)| value.rest(8).u32());
                Self::Htb { default: u16::try_from(default).unwrap_or_default() }
            }
            "ingress" => Self::Ingress,
            "bfifo" => Self::Bfifo { limit: options.u32() },
            _ => Self::Other(kind),
        }
    }
}

impl Request {
    /// See [`Netlink::add_qdisc`].
    #[must_use]
    pub fn add_qdisc(index: u32, parent: Handle, handle: Handle, qdisc: &Qdisc) -> Self {
        let message = message(index, parent, handle, qdisc.attributes());
        let action = format!("add qdisc {} at {parent} of #{index}", qdisc.kind());
        Self::new(
            RouteNetlinkMessage::NewQueueDiscipline(message),
            NLM_F_CREATE | NLM_F_EXCL,
            action,
        )
    }

    /// See [`Netlink::del_qdisc`].
    #[must_use]
    pub fn del_qdisc(index: u32, parent: Handle) -> Self {
        let message = message(index, parent, Handle::default(), Vec::new());
        let action = format!("delete the qdisc at {parent} of #{index}");
        Self::new(RouteNetlinkMessage::DelQueueDiscipline(message), 0, action)
    }
}

impl Netlink {
    /// The queueing discipline at a place of a link; none if it is only what the kernel puts there by itself.
    pub fn find_qdisc(&mut self, index: u32, parent: Handle) -> Result<Option<Qdisc>> {
        let message = message(index, parent, Handle::default(), Vec::new());
        let message = RouteNetlinkMessage::GetQueueDiscipline(message);
        let action = format!("look up the qdisc at {parent} of interface {index}");
        let found = self.socket.find(&action, &message, |_, payload| Ok(Qdisc::parse(payload)));
        Ok(found.or_absent()?.flatten())
    }
}
