//! Random delays and choices.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

/// Numbers that a seed determines.
pub(super) struct Random(u64);

impl Random {
    /// Takes the seed from the clock.
    pub(super) fn new() -> Result<Self> {
        Ok(Self(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos().into()))
    }

    /// The seed, until the first number is taken.
    pub(super) fn seed(&self) -> u64 {
        self.0
    }

    /// A number below the limit.
    pub(super) fn below(&mut self, limit: u64) -> usize {
        // Constants of Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit).unwrap_or_default()
    }

    pub(super) fn sleep(&mut self, at_most_milliseconds: u64) {
        let duration = self.below(at_most_milliseconds);
        std::thread::sleep(Duration::from_millis(duration as u64));
    }

    /// Numbers for another thread.
    pub(super) fn split(&mut self) -> Self {
        Self(self.below(u64::MAX >> 33) as u64)
    }
}
