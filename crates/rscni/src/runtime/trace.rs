//! The trace that a call belongs to, in the words of W3C Trace Context.

use std::{collections::BTreeMap, ffi::OsString};

/// A W3C trace context. Plugins get it as environment variables.
///
/// Without one, plugins inherit the variables of this process. With one they get nothing of those, since they tell of
/// another trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceContext {
    /// `traceparent`: the trace and the span that the call is in (`TRACEPARENT`).
    pub parent: String,
    /// `tracestate` (`TRACESTATE`).
    pub state: Option<String>,
    /// `baggage` (`BAGGAGE`).
    pub baggage: Option<String>,
}

impl TraceContext {
    /// The context of a call in this span, for instance `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
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
