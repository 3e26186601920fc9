//! The stderr of a call.

use std::{
    cell::RefCell,
    fmt::Write as _,
    future::poll_fn,
    io,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};

/// Limit of the text of a call in bytes.
const LIMIT: usize = 4 << 20;

thread_local! {
    static CURRENT: RefCell<Option<Stderr>> = const { RefCell::new(None) };
}

/// The stderr of the call that this thread or task serves.
///
/// In a daemon, text written to it is part of the answer, and the shim prints it: `eprintln!` would
/// write to the log of the daemon instead. In a plugin's own process, such as in a
/// [fallback](super::Shim::fallback), it is the stderr of the process.
///
/// Threads and tasks that the plugin starts do not belong to the call; pass them the value (see
/// [`Stderr::scope`]). Text that is written after the end of the call is lost.
///
/// ```
/// use std::io::Write;
///
/// fn add() -> std::io::Result<()> {
///     writeln!(rscni::shim::stderr(), "the uplink is down, continuing without it")
/// }
/// # add().unwrap();
/// ```
pub fn stderr() -> Stderr {
    CURRENT.with_borrow(|current| current.clone().unwrap_or_default())
}

/// The stderr of a call, as a writer; see [`stderr`].
#[derive(Clone, Debug, Default)]
pub struct Stderr(Option<Arc<Mutex<Text>>>);

#[derive(Debug, Default)]
struct Text {
    bytes: Vec<u8>,
    dropped: usize,
}

impl Stderr {
    /// The stderr of a new call.
    pub(super) fn of_call() -> Self {
        Self(Some(Arc::default()))
    }

    /// Runs `f`, for which this is the current [`stderr`]: for work of a call on another thread,
    /// such as that of tokio's `spawn_blocking`.
    pub fn scope<T>(&self, f: impl FnOnce() -> T) -> T {
        let _guard = Guard(CURRENT.replace(Some(self.clone())));
        f()
    }

    /// Awaits `future`, for which this is the current stderr.
    pub(super) async fn during<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        poll_fn(|context| self.scope(|| future.as_mut().poll(context))).await
    }

    /// Takes the text written so far.
    pub(super) fn take(&self) -> String {
        let Some(text) = &self.0 else { return String::new() };
        let text = std::mem::take(&mut *text.lock().unwrap_or_else(PoisonError::into_inner));
        let mut string = String::from_utf8_lossy(&text.bytes).into_owned();
        if text.dropped > 0 {
            let _ = write!(string, "\n({} more bytes were dropped)\n", text.dropped);
        }
        string
    }
}

impl io::Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(text) = &self.0 else { return io::stderr().write(bytes) };
        let mut text = text.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = bytes.len().min(LIMIT.saturating_sub(text.bytes.len()));
        text.bytes.extend_from_slice(&bytes[..kept]);
        text.dropped += bytes.len() - kept;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Restores the previous stderr of the thread.
struct Guard(Option<Stderr>);

impl Drop for Guard {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        task::{Context, Poll, Waker},
    };

    use super::*;

    #[test]
    fn each_call_has_its_own_text_while_it_is_polled() {
        let (one, two) = (Stderr::of_call(), Stderr::of_call());
        let log = |text: &'static str| async move {
            write!(stderr(), "{text}1").unwrap();
            let mut is_second = false;
            poll_fn(|_| {
                let is_ready = std::mem::replace(&mut is_second, true);
                if is_ready { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            write!(stderr(), "{text}2").unwrap();
        };
        let mut first = pin!(one.during(log("a")));
        let mut second = pin!(two.during(log("b")));
        for _ in 0..2 {
            let mut context = Context::from_waker(Waker::noop());
            let _ = first.as_mut().poll(&mut context);
            let _ = second.as_mut().poll(&mut context);
        }
        assert_eq!((one.take(), two.take()), ("a1a2".into(), "b1b2".into()));
        assert!(stderr().0.is_none());
    }

    #[test]
    fn the_text_is_limited() {
        let mut text = Stderr::of_call();
        text.write_all(&vec![b'x'; LIMIT]).unwrap();
        text.write_all(b"more").unwrap();
        assert!(text.take().ends_with("x\n(4 more bytes were dropped)\n"));
    }
}
