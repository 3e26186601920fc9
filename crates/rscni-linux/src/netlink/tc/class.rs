//! Classes of `htb`: `tc class`.

use libc::{RTM_GETTCLASS, RTM_NEWTCLASS, TCA_KIND, TCA_OPTIONS};

use super::{HANDLE, HEADER, Handle, header, large_rate, list, message, rate_spec, ticks};
use crate::{
    Result,
    netlink::{
        AttributeBuf, NLM_F_CREATE, NLM_F_EXCL, Netlink, Request, action::Action, attributes,
    },
};

const TCA_HTB_PARMS: u16 = 1;
const TCA_HTB_RATE64: u16 = 6;
const TCA_HTB_CEIL64: u16 = 7;

/// A class of `htb`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HtbClass {
    /// Class id; the major number is that of its queueing discipline.
    pub handle: Handle,
    /// Rate in bytes per second; also the ceiling.
    pub rate: u64,
    /// Duration of the burst at this rate, in ticks of 64 ns.
    pub buffer: u32,
}

impl HtbClass {
    /// Creates a class like `tc class add ... classid HANDLE htb rate RATE burst BURST`; bytes per
    /// second, bytes.
    ///
    /// A burst of more than 274 seconds at the rate is reduced to that: `htb` has no attribute for
    /// its bytes.
    pub fn new(handle: Handle, rate: u64, burst: u32) -> Self {
        Self { handle, rate, buffer: u32::try_from(ticks(rate, burst)).unwrap_or(u32::MAX) }
    }

    /// Encodes `struct tc_htb_opt`.
    fn parameters(&self) -> Vec<u8> {
        // Bytes per turn. The kernel warns if the quantum derived from the rate is too large.
        let quantum = u32::try_from(self.rate / 10).unwrap_or(u32::MAX).clamp(1600, 200_000);
        let mut bytes = [rate_spec(self.rate); 2].concat();
        for number in [self.buffer, self.buffer, quantum, 0, 0] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes
    }

    pub(in crate::netlink) fn parse(payload: &[u8]) -> Option<Self> {
        let mut class = Self { handle: Handle(header(payload, HANDLE)), rate: 0, buffer: 0 };
        let mut is_htb = false;
        for (number, value) in attributes(payload, HEADER) {
            match number {
                TCA_KIND => is_htb = value.string() == "htb",
                TCA_OPTIONS => {
                    for (number, value) in value.nested() {
                        match number {
                            TCA_HTB_PARMS => {
                                class.rate = class.rate.max(value.rest(8).u32().into());
                                class.buffer = value.rest(24).u32();
                            }
                            TCA_HTB_RATE64 => class.rate = value.u64(),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        is_htb.then_some(class)
    }
}

impl Request {
    /// See [`Netlink::add_htb_class`].
    #[must_use]
    pub fn add_htb_class(index: u32, class: &HtbClass) -> Self {
        let large = large_rate(class.rate);
        let options = AttributeBuf::new()
            .with(TCA_HTB_PARMS, class.parameters())
            .with_some(TCA_HTB_RATE64, large)
            .with_some(TCA_HTB_CEIL64, large);
        let attributes = AttributeBuf::new().with_text(TCA_KIND, "htb").with(TCA_OPTIONS, options);
        let parent = class.handle.qdisc();
        let message = message(RTM_NEWTCLASS, index, parent, class.handle, 0, &attributes);
        let action = Action::from(format!("add class htb {} to ", class.handle)).link(index);
        Self::new(message, NLM_F_CREATE | NLM_F_EXCL, action)
    }
}

impl Netlink {
    /// Lists the `htb` classes of a link.
    pub fn htb_classes(&mut self, index: u32) -> Result<Vec<HtbClass>> {
        let message = list(RTM_GETTCLASS, index, Handle::default());
        self.socket.dump("list classes", &message, |payload| Ok(HtbClass::parse(payload)))
    }
}
