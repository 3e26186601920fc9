//! The trace context of a call (W3C Trace Context).

use std::{collections::BTreeMap, ffi::OsString};

/// A W3C trace context, passed to plugins as environment variables.
///
/// A plugin finds the one of its call in [`Args::trace`](crate::Args::trace) and passes it to the
/// plugins that it calls. A runtime sets it for its calls; it replaces the trace variables of the
/// process, which plugins inherit otherwise.
///
/// ```
/// use rscni::TraceContext;
///
/// let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let mut trace = TraceContext::new(parent);
/// trace.baggage = Some("tenant=a".into());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceContext {
    /// `traceparent`: the trace and span of the call (`TRACEPARENT`).
    pub parent: String,
    /// `tracestate` (`TRACESTATE`).
    pub state: Option<String>,
    /// `baggage` (`BAGGAGE`).
    pub baggage: Option<String>,
}

impl TraceContext {
    /// The variables of a trace.
    pub(crate) const VARIABLES: [&str; 3] = ["TRACEPARENT", "TRACESTATE", "BAGGAGE"];

    /// A context with only `traceparent`, such as
    /// `00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01`.
    pub fn new(parent: impl Into<String>) -> Self {
        Self { parent: parent.into(), ..Self::default() }
    }

    /// Reads the variables of a call; `None` without `TRACEPARENT`. A variable that is not UTF-8
    /// counts as absent, since a trace must not make a call fail.
    pub(crate) fn of(vars: &BTreeMap<String, OsString>) -> Option<Self> {
        let [parent, state, baggage] =
            Self::VARIABLES.map(|name| vars.get(name)?.to_str().filter(|value| !value.is_empty()));
        Some(Self {
            parent: parent?.to_owned(),
            state: state.map(Into::into),
            baggage: baggage.map(Into::into),
        })
    }

    pub(crate) fn set(&self, vars: &mut BTreeMap<String, OsString>) {
        let all = [Some(&self.parent), self.state.as_ref(), self.baggage.as_ref()];
        let set = Self::VARIABLES.into_iter().zip(all);
        vars.extend(set.filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_as_they_are_set() {
        let mut trace = TraceContext::new("00-a-b-01");
        for state in [None, Some("vendor=1".to_owned())] {
            trace.state = state;
            let mut vars = BTreeMap::new();
            trace.set(&mut vars);
            assert_eq!(TraceContext::of(&vars), Some(trace.clone()));
        }
        let only_baggage = BTreeMap::from([("BAGGAGE".to_owned(), "a=b".into())]);
        assert_eq!(TraceContext::of(&only_baggage), None);
    }
}
