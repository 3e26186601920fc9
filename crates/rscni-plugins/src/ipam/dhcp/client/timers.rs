//! Times of the protocol: timeouts, and pauses between messages.

use std::time::Duration;

/// Time since boot.
pub(crate) type Time = Duration;

/// Timeouts of all clients of a daemon.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// How long to wait for the answer to a request before discovery starts again.
    pub(crate) timeout: Duration,
    /// The longest pause between two attempts to get a lease.
    pub(crate) resend_max: Duration,
    /// How long to try to get a lease.
    pub(crate) resend_timeout: Duration,
}

/// The next retransmission, with exponential backoff (RFC 2131, section 4.1).
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) next: Time,
    pause: Duration,
}

/// The first pause. A link that has just been brought up may still lose the first message.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The shortest pause of renewals and rebindings (RFC 2131, section 4.4.5), unless a lease is
/// short.
const EXTENDING_PAUSE: Duration = Duration::from_secs(60);

impl Backoff {
    pub(super) fn at(now: Time) -> Self {
        Self { next: now, pause: FIRST_PAUSE }
    }

    /// Schedules the next message after one was sent. Pauses vary by a quarter, so that clients do
    /// not synchronize.
    pub(super) fn sent(&mut self, now: Time, longest: Duration, random: u32) {
        self.next = now + self.pause * 3 / 4 + self.pause * (random % 512) / 1024;
        self.pause = (self.pause * 2).min(longest.max(FIRST_PAUSE));
    }
}

/// Returns the time of the next renewal or rebinding, in the phase from `begin` to `end`: after
/// half of the remaining time, but not too often.
pub(super) fn next_extension(now: Time, begin: Time, end: Time) -> Time {
    let shortest = EXTENDING_PAUSE.min(end.saturating_sub(begin) / 4).max(FIRST_PAUSE);
    now + (end.saturating_sub(now) / 2).max(shortest)
}
