//! Gives up on a plugin that hangs, since each requirement would take the whole timeout.

use crate::report::Result;

/// The number of consecutive requirements with a timeout after which to give up.
const LIMIT: usize = 3;

/// The reason for requirements that are not checked.
pub(crate) const REASON: &str =
    "not tried: in three requirements in a row, a call took longer than the time limit";

/// Counts consecutive requirements with a timeout.
#[derive(Default)]
pub(crate) struct TimeoutCounter {
    consecutive: usize,
}

impl TimeoutCounter {
    /// Counts a requirement. One that is not applicable does not end the sequence.
    pub(crate) fn count(&mut self, result: &Result, timed_out: bool) {
        match result {
            _ if timed_out => self.consecutive += 1,
            Result::NotApplicable { .. } => {}
            Result::Pass | Result::Fail(_) => self.consecutive = 0,
        }
    }

    pub(crate) fn is_exceeded(&self) -> bool {
        self.consecutive >= LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_exceeded_after(requirements: &[&(Result, bool)]) -> bool {
        let mut timeouts = TimeoutCounter::default();
        for (result, timed_out) in requirements {
            timeouts.count(result, *timed_out);
        }
        timeouts.is_exceeded()
    }

    #[test]
    fn only_a_reply_ends_a_sequence_of_timeouts() {
        let not_applicable = || Result::NotApplicable { reason: String::new() };
        let (late, skipped) = (&(not_applicable(), true), &(not_applicable(), false));
        let replied = &(Result::Pass, false);
        assert!(!is_exceeded_after(&[late, late]));
        assert!(is_exceeded_after(&[late, late, late]));
        assert!(is_exceeded_after(&[late, skipped, late, skipped, late]));
        assert!(!is_exceeded_after(&[late, late, replied, late, late]));
    }
}
