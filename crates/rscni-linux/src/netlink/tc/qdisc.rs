//! Queueing disciplines: `tc qdisc`.

use libc::{RTM_DELQDISC, RTM_GETQDISC, RTM_NEWQDISC, TCA_KIND, TCA_OPTIONS};

use super::{
    HANDLE, HEADER, Handle, INDEX, PARENT, header, large_rate, list, message, rate_spec, ticks,
};
use crate::{
    Result,
    netlink::{
        AttributeBuf, NLM_F_CREATE, NLM_F_EXCL, Netlink, Optional, Request, Value, action::Action,
        attributes,
    },
};

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_TBF_PBURST: u16 = 7;
const TCA_DUMP_INVISIBLE: u16 = 10;
const TCA_HTB_INIT: u16 = 2;

/// A queueing discipline.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Qdisc {
    /// A token bucket filter, which limits the rate.
    Tbf(Tbf),
    /// A hierarchy of classes with rates, see [`HtbClass`](super::HtbClass).
    Htb {
        /// Minor number of the class for unclassified packets.
        default: u16,
    },
    /// The anchor for filters of incoming packets, at [`Handle::INGRESS`].
    Ingress,
    /// A queue limited in bytes.
    Bfifo {
        /// Limit of waiting packets, in bytes.
        limit: u32,
    },
    /// A queueing discipline of another kind.
    Other(String),
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tbf {
    /// Rate in bytes per second.
    pub rate: u64,
    /// Duration of the burst at this rate, in ticks of 64 ns, modulo 2^32.
    pub buffer: u32,
    /// Burst in bytes, if `buffer` cannot express it. The kernel does not report it.
    pub burst: Option<u32>,
    /// Limit of waiting packets, in bytes.
    pub limit: u32,
    /// Largest packet in bytes, if less than the burst: the kernel segments larger ones. It is set
    /// as a second bucket of this size, with a rate that never limits.
    ///
    /// The kernel reports it in ticks, so up to 275 bytes are lost.
    pub largest: Option<u32>,
}

/// The rate of the second bucket: the maximum of its 32 bits, 34 Gbit/s.
const PEAK_RATE: u32 = u32::MAX;

impl Tbf {
    /// Creates a token bucket like `tbf rate RATE burst BURST latency LATENCY`; bytes per second,
    /// bytes, milliseconds.
    pub fn new(rate: u64, burst: u32, latency: u32) -> Self {
        let waiting = u128::from(rate) * u128::from(latency) / 1000;
        let limit = u32::try_from(waiting + u128::from(burst)).unwrap_or(u32::MAX);
        let ticks = ticks(rate, burst);
        let fits = u32::try_from(ticks).is_ok();
        Self { rate, buffer: wrapped(ticks), burst: (!fits).then_some(burst), limit, largest: None }
    }

    /// Encodes `struct tc_tbf_qopt`.
    fn parameters(&self) -> Vec<u8> {
        let peak = if self.largest.is_some() { rate_spec(PEAK_RATE.into()) } else { [0; 12] };
        let mut bytes = [rate_spec(self.rate), peak].concat();
        for number in [self.limit, self.buffer, 0] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes
    }

    fn options(&self) -> AttributeBuf {
        AttributeBuf::new()
            .with(TCA_TBF_PARMS, self.parameters())
            .with_some(TCA_TBF_RATE64, large_rate(self.rate))
            .with_some(TCA_TBF_BURST, self.burst.map(u32::to_ne_bytes))
            .with_some(TCA_TBF_PBURST, self.largest.map(u32::to_ne_bytes))
    }

    fn parse(options: Value<'_>) -> Self {
        let mut tbf = Self { rate: 0, buffer: 0, burst: None, limit: 0, largest: None };
        for (kind, value) in options.nested() {
            match kind {
                TCA_TBF_PARMS => {
                    tbf.rate = tbf.rate.max(value.rest(8).u32().into());
                    let peak = u64::from(value.rest(20).u32());
                    tbf.limit = value.rest(24).u32();
                    tbf.buffer = value.rest(28).u32();
                    let bytes = u64::from(value.rest(32).u32()) * 64 * peak / 1_000_000_000;
                    tbf.largest = (peak > 0).then(|| u32::try_from(bytes).unwrap_or(u32::MAX));
                }
                TCA_TBF_RATE64 => tbf.rate = value.u64(),
                _ => {}
            }
        }
        tbf
    }
}

/// Returns the number modulo 2^32.
#[allow(clippy::cast_possible_truncation, reason = "the kernel reports what is left")]
fn wrapped(number: u64) -> u32 {
    number as u32
}

impl Qdisc {
    /// Returns the kind, as `tc` names it.
    pub fn kind(&self) -> &str {
        match self {
            Self::Tbf(_) => "tbf",
            Self::Htb { .. } => "htb",
            Self::Ingress => "ingress",
            Self::Bfifo { .. } => "bfifo",
            Self::Other(kind) => kind,
        }
    }

    fn attributes(&self) -> AttributeBuf {
        let attributes = AttributeBuf::new().with_text(TCA_KIND, self.kind());
        match self {
            Self::Tbf(tbf) => attributes.with(TCA_OPTIONS, tbf.options()),
            Self::Htb { default } => {
                // `struct tc_htb_glob`: version, rate to quantum, default class; counters.
                let init = [3, 10, (*default).into(), 0, 0].map(u32::to_ne_bytes).concat();
                attributes.with(TCA_OPTIONS, AttributeBuf::new().with(TCA_HTB_INIT, init))
            }
            Self::Bfifo { limit } => attributes.with(TCA_OPTIONS, limit.to_ne_bytes()),
            Self::Ingress | Self::Other(_) => attributes,
        }
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
                let init = options.nested().value(TCA_HTB_INIT);
                let default = init.map_or(0, |value| value.rest(8).u32());
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
        let message = message(RTM_NEWQDISC, index, parent, handle, 0, &qdisc.attributes());
        let action =
            Action::from(format!("add qdisc {} at {parent} of ", qdisc.kind())).link(index);
        Self::new(message, NLM_F_CREATE | NLM_F_EXCL, action)
    }

    /// See [`Netlink::del_qdisc`].
    #[must_use]
    pub fn del_qdisc(index: u32, parent: Handle) -> Self {
        let action = Action::from(format!("delete the qdisc at {parent} of ")).link(index);
        Self::new(list(RTM_DELQDISC, index, parent), 0, action)
    }
}

impl Netlink {
    /// Looks up the queueing discipline at a place of a link; `None` if it is the kernel's default.
    pub fn find_qdisc(&mut self, index: u32, parent: Handle) -> Result<Option<Qdisc>> {
        let message = list(RTM_GETQDISC, index, parent);
        let action = format!("look up the qdisc at {parent} of interface {index}");
        let found = self.socket.find(&action, &message, |payload| Ok(Qdisc::parse(payload)));
        Ok(found.optional()?.flatten())
    }

    /// Looks up the kernel's default queueing discipline at a place, such as the queue of `tbf`.
    ///
    /// Returns `None` if it was replaced, or deleted so that packets are dropped.
    pub fn find_default_qdisc(&mut self, index: u32, parent: Handle) -> Result<Option<Qdisc>> {
        let flag = AttributeBuf::new().with(TCA_DUMP_INVISIBLE, b"");
        let none = Handle::default();
        let message = message(RTM_GETQDISC, index, none, none, 0, &flag);
        // The kernel's defaults have no handle.
        let place = [index, 0, parent.0];
        let found = self.socket.dump("list qdiscs", &message, |payload| {
            let is_there = [INDEX, HANDLE, PARENT].map(|at| header(payload, at)) == place;
            Ok(is_there.then(|| Qdisc::parse(payload)))
        })?;
        Ok(found.into_iter().next())
    }
}
