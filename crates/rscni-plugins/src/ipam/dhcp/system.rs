//! Clock, random numbers and log.

use std::{fmt::Arguments, io::Write};

use rustix::{
    rand::{GetRandomFlags, getrandom},
    time::{ClockId, clock_gettime},
};

use super::client::Time;

/// Returns the time since boot, including suspend.
pub(super) fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    Time::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

pub(super) fn random() -> u32 {
    let mut bytes = [0; 4];
    // It cannot fail for so few bytes once the machine is up.
    let _ = getrandom(&mut bytes, GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}

/// Writes a line to stderr. A closed stderr must not end the daemon.
pub(super) fn log(what: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{what}");
}
