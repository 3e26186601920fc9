//! The wait for the kernel, which may remove objects in the background.

use std::time::{Duration, Instant};

/// Timeout while something still changes.
const WHILE_CHANGING: Duration = Duration::from_secs(30);
/// Timeout after the last change.
const UNCHANGED: Duration = Duration::from_secs(2);

/// Decides how long to wait for differences to disappear.
pub(super) struct SettleTimer {
    begin: Instant,
    /// The differences, and the time since which they are the same.
    last: Option<(Vec<String>, Instant)>,
}

impl SettleTimer {
    pub(super) fn begin(now: Instant) -> Self {
        Self { begin: now, last: None }
    }

    /// Whether the wait is over, given the present differences.
    pub(super) fn is_over(&mut self, changes: &[String], now: Instant) -> bool {
        let since = match &self.last {
            Some((last, since)) if last == changes => *since,
            _ => {
                self.last = Some((changes.to_vec(), now));
                now
            }
        };
        changes.is_empty() || now - since >= UNCHANGED || now - self.begin >= WHILE_CHANGING
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the second in which the wait is over, given the differences of each second.
    fn over_after(differences: impl Iterator<Item = Vec<String>>) -> Option<usize> {
        let begin = Instant::now();
        let mut timer = SettleTimer::begin(begin);
        let mut seconds = (0..).map(Duration::from_secs).zip(differences);
        seconds.position(|(second, changes)| timer.is_over(&changes, begin + second))
    }

    fn links(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("+ host: link veth{number}")).collect()
    }

    #[test]
    fn the_wait_ends_when_differences_are_gone_or_stay() {
        assert_eq!(over_after([links(0)].into_iter()), Some(0));
        assert_eq!(over_after((0..=10).rev().map(links)), Some(10));
        assert_eq!(over_after(std::iter::repeat(links(1))), Some(2));
        let in_steps = [links(2), links(2), links(1), links(1), links(0)];
        assert_eq!(over_after(in_steps.into_iter()), Some(4));
    }

    #[test]
    fn the_wait_for_permanent_changes_times_out() {
        assert_eq!(over_after((1..).map(links)), Some(30));
    }
}
