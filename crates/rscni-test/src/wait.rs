//! Waiting for what must happen.

use std::time::{Duration, Instant};

/// How long something may take that must happen. It ends as soon as it has happened, so it costs nothing to be patient
/// with a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

/// Waits for what must happen, such as what the kernel or a daemon does in the background: calls `look` until it gives
/// something, for a minute.
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
/// If it does not happen, with the description.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

#[track_caller]
fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        // Looked at once more after the time is over: this process may have been held up, and not what it waits for.
        let is_over = Instant::now() >= deadline;
        if let Some(found) = look() {
            return found;
        }
        assert!(!is_over, "{what}: it did not happen within {patience:?}");
        std::thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_who_comes_late_still_looks() {
        assert_eq!(within(Duration::ZERO, "it", || Some(7)), 7);
    }

    #[test]
    #[should_panic(expected = "the end: it did not happen within 30ms")]
    fn what_does_not_happen_is_named() {
        within(Duration::from_millis(30), "the end", || None::<()>);
    }
}
