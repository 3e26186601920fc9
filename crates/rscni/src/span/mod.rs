//! Spans for the crate `tracing`, in one place for all calls.
//!
//! Their target is `rscni`. Each span ends with an event that has `duration_ms`, at the level DEBUG
//! after a success. After a failure the level is WARN, and the event has `code` and `error`. The
//! crate's documentation lists the spans.

#[cfg(not(feature = "tracing"))]
mod disabled;
#[cfg(feature = "tracing")]
mod enabled;

#[cfg(not(feature = "tracing"))]
pub(crate) use disabled::Traced;
#[cfg(feature = "tracing")]
pub(crate) use enabled::{Ended, Traced};
