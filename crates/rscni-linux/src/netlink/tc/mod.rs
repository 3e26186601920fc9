//! Traffic control, as `tc` manages it: queueing disciplines, classes and filters.
//!
//! Limited to shaping the traffic of a container: `tbf`, `htb`, `ingress`, and `u32` filters that
//! redirect packets or select a class.

mod class;
mod filter;
mod qdisc;

use std::fmt;

pub use self::{
    class::HtbClass,
    filter::{Filter, U32, U32Key},
    qdisc::{Qdisc, Tbf},
};
use super::{AttributeBuf, Message};

/// The length of `struct tcmsg`.
const HEADER: usize = 20;

/// The handle of a queueing discipline (`1:`) or class (`1:30`), or a place for one.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Handle(u32);

impl Handle {
    /// The root, for outgoing packets.
    pub const ROOT: Self = Self(u32::MAX);
    /// The hook for incoming packets.
    pub const INGRESS: Self = Self(0xffff_fff1);

    /// Returns the handle `major:minor`; `tc` prints both in hexadecimal.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self((major as u32) << 16 | minor as u32)
    }

    /// Returns the queueing discipline of a class.
    #[must_use]
    pub const fn qdisc(self) -> Self {
        Self(self.0 & 0xffff_0000)
    }

    /// Returns the minor number of a class.
    pub const fn minor(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ROOT => f.write_str("root"),
            Self::INGRESS => f.write_str("ingress"),
            _ if self.minor() == 0 => write!(f, "{:x}:", self.0 >> 16),
            _ => write!(f, "{:x}:{:x}", self.0 >> 16, self.minor()),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Creates a message about an object of the link `index`: `struct tcmsg` and attributes.
fn message(
    kind: u16,
    index: u32,
    parent: Handle,
    handle: Handle,
    info: u32,
    attributes: &AttributeBuf,
) -> Message {
    let header = [0, index, handle.0, parent.0, info].map(u32::to_ne_bytes);
    Message::new(kind, &header.concat(), attributes)
}

/// Creates a request without attributes for the objects at `parent`.
fn list(kind: u16, index: u32, parent: Handle) -> Message {
    message(kind, index, parent, Handle::default(), 0, &AttributeBuf::new())
}

/// Reads a number of `struct tcmsg`.
fn header(payload: &[u8], place: usize) -> u32 {
    payload.get(place..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// Offsets in `struct tcmsg`.
const INDEX: usize = 4;
const HANDLE: usize = 8;
const PARENT: usize = 12;
const INFO: usize = 16;

/// Encodes `struct tc_ratespec` for Ethernet, in bytes per second. A rate of more than 32 bits
/// needs an attribute as well.
fn rate_spec(rate: u64) -> [u8; 12] {
    const LINKLAYER_ETHERNET: u8 = 1;
    let mut spec = [0; 12];
    spec[1] = LINKLAYER_ETHERNET;
    spec[8..].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    spec
}

/// Returns the attribute for a rate of more than 32 bits.
fn large_rate(rate: u64) -> Option<[u8; 8]> {
    (rate > u32::MAX.into()).then(|| rate.to_ne_bytes())
}

/// Returns the time that `burst` bytes take at `rate` bytes per second, in ticks of 64 ns.
///
/// The time is rounded down to microseconds, as `tc` and the Go plugins do. The kernel's messages
/// have 32 bits for it, which is 274 seconds.
pub fn ticks(rate: u64, burst: u32) -> u64 {
    let microseconds = u64::from(burst) * 1_000_000 / rate.max(1);
    microseconds * 1000 / 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_formatted_like_those_of_tc() {
        assert_eq!(Handle::new(1, 0).to_string(), "1:");
        assert_eq!(Handle::new(0xffff, 0).to_string(), "ffff:");
        assert_eq!(Handle::new(1, 48).to_string(), "1:30");
        assert_eq!(Handle::new(1, 48).qdisc(), Handle::new(1, 0));
    }

    #[test]
    fn burst_is_converted_to_ticks_like_in_tc() {
        // 100 KiB at 8 Mbit/s are 102400 us.
        assert_eq!(ticks(1_000_000, 102_400), 1_600_000);
        assert_eq!(ticks(1_250_000_000, 1500), 15);
        assert_eq!(ticks(1, 1), 15_625_000);
        // 2^32 - 1 bits at 10 Mbit/s are 429 s, which is more than 32 bits hold.
        assert_eq!(ticks(1_250_000, u32::MAX / 8), 6_710_886_375);
        assert_eq!(ticks(1, u32::MAX), 67_108_863_984_375_000);
        assert_eq!(ticks(u64::MAX, 1), 0);
    }
}
