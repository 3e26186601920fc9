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

use std::{thread, time::Duration};

use tracing::{error, info, warn};

use self::collector::{Collector, Settings};
use crate::metrics::GcMetrics;

/// Collects at once and then after each `interval`, in a thread of its own: DEL of a plugin may
/// block. The end of the process ends it.
///
/// # Errors
///
/// If the thread cannot be started.
pub fn start(settings: Settings, interval: Duration, metrics: GcMetrics) -> anyhow::Result<()> {
    let mut collector = Collector::new(settings, core::Evidence::Observation)?;
    let run = move || {
        loop {
            let begin = std::time::Instant::now();
            let outcome = collector.pass(false);
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
    };
    thread::Builder::new().name("gc".into()).spawn(run)?;
    Ok(())
}
