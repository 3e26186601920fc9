//! Garbage collection of attachments whose sandbox the container runtime does not know.
//!
//! | module | content |
//! |---|---|
//! | `core` | which attachments are stale; without clock, sockets and threads |
//! | `node` | the traces of attachments: cache, inventory, namespaces |
//! | `cri` | the sandboxes of the container runtime |
//! | `collector` | one pass: reads, decides, removes |
//! | `table` | the report of a pass |
//!
//! Plugins are called with DEL, never with GC: the list of valid attachments that GC takes would
//! not have an attachment whose ADD began after the list was made.

pub mod collector;
pub mod core;
pub mod cri;
mod node;
mod table;

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use self::collector::{Collector, Settings};
use crate::metrics::GcMetrics;

/// A pass that takes longer will not end.
const PASS: Duration = Duration::from_secs(3600);

/// The thread that collects. The end of the process ends it.
#[derive(Debug)]
pub struct Thread {
    handle: JoinHandle<()>,
    /// When the present pass began.
    began: Arc<Mutex<Option<Instant>>>,
}

impl Thread {
    fn start(run: impl FnOnce(&Mutex<Option<Instant>>) + Send + 'static) -> anyhow::Result<Self> {
        let began = Arc::default();
        let of_thread = Arc::clone(&began);
        let handle = thread::Builder::new().name("gc".into()).spawn(move || run(&of_thread))?;
        Ok(Self { handle, began })
    }

    /// Returns why it does not collect any more.
    pub fn fault(&self) -> Option<String> {
        if self.handle.is_finished() {
            return Some("the thread has ended".to_owned());
        }
        let began = *self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = began.map(|began| began.elapsed()).filter(|lasting| *lasting > PASS);
        lasting.map(|lasting| format!("a pass has not ended for {lasting:?}"))
    }
}

/// Collects at once and then after each `interval`, in a thread of its own: DEL of a plugin may
/// block.
///
/// # Errors
///
/// If the thread cannot be started.
pub fn start(settings: Settings, interval: Duration, metrics: GcMetrics) -> anyhow::Result<Thread> {
    let mut collector = Collector::new(settings, core::Evidence::Observation)?;
    Thread::start(move |began| {
        loop {
            let begin = Instant::now();
            *began.lock().unwrap_or_else(PoisonError::into_inner) = Some(begin);
            let outcome = collector.pass(false);
            *began.lock().unwrap_or_else(PoisonError::into_inner) = None;
            metrics.record(begin.elapsed(), &outcome);
            match outcome {
                Ok(report) => {
                    for failure in &report.failures {
                        warn!("gc: {failure}");
                    }
                    let waiting = report.findings.iter().filter(|it| !it.is_removed).count();
                    if waiting > 0 {
                        info!(waiting, "gc: stale, and not yet removed");
                    }
                }
                Err(error) => error!("gc: {error:#}"),
            }
            thread::sleep(interval);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_thread_is_a_fault() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = Thread::start(move |_| assert!(receiver.recv().is_err())).unwrap();
        assert_eq!(thread.fault(), None);
        drop(sender);
        while !thread.handle.is_finished() {
            thread::yield_now();
        }
        assert_eq!(thread.fault().as_deref(), Some("the thread has ended"));
    }

    #[test]
    fn pass_without_end_is_a_fault() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = Thread::start(move |_| assert!(receiver.recv().is_err())).unwrap();
        let long_ago = Instant::now().checked_sub(2 * PASS);
        *thread.began.lock().unwrap() = long_ago;
        // A machine that was started less than two hours ago has no such time.
        assert_eq!(thread.fault().is_some(), long_ago.is_some());
        drop(sender);
    }
}
