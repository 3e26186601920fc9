//! How long the kernel is waited for, which may finish in the background what a plugin has begun to remove.

use std::time::{Duration, Instant};

/// As long as something still changes.
const WHILE_CHANGING: Duration = Duration::from_secs(30);
/// Once nothing changes any more: what is there then is taken to stay.
const UNCHANGED: Duration = Duration::from_secs(2);

/// One who waits for differences to go.
pub(super) struct Patience {
    begin: Instant,
    /// The differences, and since when they have been the same.
    last: Option<(Vec<String>, Instant)>,
}

impl Patience {
    pub(super) fn begin(now: Instant) -> Self {
        Self { begin: now, last: None }
    }

    /// Whether it is of no use to wait any longer, now that these differences are there.
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

    /// When it is over, looked at each second, in which these differences are there.
    fn over_after(differences: impl Iterator<Item = Vec<String>>) -> Option<usize> {
        let begin = Instant::now();
        let mut patience = Patience::begin(begin);
        let mut seconds = (0..).map(Duration::from_secs).zip(differences);
        seconds.position(|(second, changes)| patience.is_over(&changes, begin + second))
    }

    fn links(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("+ host: link veth{number}")).collect()
    }

    #[test]
    fn what_goes_is_waited_for_and_what_stays_is_not() {
        assert_eq!(over_after([links(0)].into_iter()), Some(0));
        assert_eq!(over_after((0..=10).rev().map(links)), Some(10));
        assert_eq!(over_after(std::iter::repeat(links(1))), Some(2));
        assert_eq!(
            over_after([links(2), links(2), links(1), links(1), links(0)].into_iter()),
            Some(4)
        );
    }

    #[test]
    fn what_changes_for_ever_is_not_waited_for_for_ever() {
        assert_eq!(over_after((1..).map(links)), Some(30));
    }
}
