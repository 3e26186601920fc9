//! The trace context of a call (W3C Trace Context).

use std::{collections::BTreeMap, ffi::OsString};

/// A W3C trace context, passed to plugins as environment variables.
///
/// It replaces the trace variables of this process, which plugins inherit otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`: the trace and span of the call (`TRACEPARENT`).
    pub parent: String,
    /// `tracestate` (`TRACESTATE`).
    pub state: Option<String>,
    /// `baggage` (`BAGGAGE`).
    pub baggage: Option<String>,
}

impl TraceContext {
    /// A context with only `traceparent`, such as
    /// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
    pub fn new(parent: impl Into<String>) -> Self {
        Self { parent: parent.into(), ..Self::default() }
    }

    pub(super) fn set(&self, vars: &mut BTreeMap<String, OsString>) {
        let all = [
            ("TRACEPARENT", Some(&self.parent)),
            ("TRACESTATE", self.state.as_ref()),
            ("BAGGAGE", self.baggage.as_ref()),
        ];
        vars.extend(
            all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))),
        );
    }
}
