//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Timeout for a condition that must become true. It is long for busy machines, since waiting ends
/// with the condition.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Calls `look` until it returns something, for up to a minute. It waits for what the kernel or a
/// daemon does in the background.
///
/// ```
/// let mut daemon = std::process::Command::new("true").spawn()?;
/// let status = rscni_test::eventually("the daemon's end", || daemon.try_wait().unwrap());
/// assert!(status.success());
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Panics
///
/// If it returns nothing, with the description.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(TIMEOUT, what, look)
}

#[track_caller]
fn within<T>(timeout: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + timeout;
    loop {
        // Looks once more after the deadline, because this process itself may have been delayed.
        let is_over = Instant::now() >= deadline;
        if let Some(found) = look() {
            return found;
        }
        assert!(!is_over, "{what}: it did not happen within {timeout:?}");
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_caller_still_looks() {
        assert_eq!(within(Duration::ZERO, "it", || Some(7)), 7);
    }

    #[test]
    #[should_panic(expected = "the end: it did not happen within 30ms")]
    fn a_timeout_names_the_condition() {
        within(Duration::from_millis(30), "the end", || None::<()>);
    }
}
