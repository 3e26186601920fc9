//! The spans, and the event at the end of each.

use std::{
    io,
    time::{Duration, Instant},
};

use tracing::{Instrument, Span, debug, info_span, warn};

use crate::{
    Args, Command, Error,
    error::ErrorReply,
    invoke::{Exit, Invocation, Outcome},
};

/// A span, for the work that is done in it.
pub(crate) struct Traced(Span);

impl Traced {
    /// A call, on the side of the plugin.
    pub(crate) fn call(args: &Args) -> Self {
        let conf = args.config.as_ref();
        Self(info_span!(
            target: "rscni",
            "call",
            command = args.command.as_str(),
            network = conf.map(|conf| conf.name.as_str()),
            plugin = conf.map(|conf| conf.r#type.as_str()),
            container_id = Some(args.container_id.as_str()).filter(|id| !id.is_empty()),
            ifname = Some(args.ifname.as_str()).filter(|name| !name.is_empty()),
            traceparent = args.trace.as_ref().map(|trace| trace.parent.as_str()),
        ))
    }

    /// An operation of a runtime on a network, and on an attachment: container id and interface.
    pub(crate) fn operation(
        command: Command,
        network: &str,
        attachment: Option<(&str, &str)>,
    ) -> Self {
        Self(info_span!(
            target: "rscni",
            "operation",
            command = command.as_str(),
            network,
            container_id = attachment.map(|(container_id, _)| container_id),
            ifname = attachment.map(|(_, ifname)| ifname),
        ))
    }

    /// A call of a plugin, on the side of the caller: a runtime, or a plugin that delegates.
    pub(crate) fn plugin(invocation: &Invocation) -> Self {
        let get = |name: &str| invocation.vars.get(name).and_then(|value| value.to_str());
        Self(info_span!(
            target: "rscni",
            "plugin",
            plugin = invocation.plugin.as_str(),
            command = get("CNI_COMMAND"),
            container_id = get("CNI_CONTAINERID"),
            ifname = get("CNI_IFNAME"),
        ))
    }

    /// The span of the caller, to continue it on another thread.
    #[cfg(feature = "async")]
    pub(crate) fn current() -> Self {
        Self(Span::current())
    }

    /// Does the work in the span, without an event at its end.
    #[cfg(feature = "async")]
    pub(crate) fn within<T>(self, work: impl FnOnce() -> T) -> T {
        self.0.in_scope(work)
    }

    /// Does the work in the span.
    pub(crate) fn run<T: Ended>(self, work: impl FnOnce() -> T) -> T {
        self.0.in_scope(|| {
            let begin = Instant::now();
            let ended = work();
            report(begin.elapsed(), &ended);
            ended
        })
    }

    /// Awaits the work in the span.
    pub(crate) fn wait<T: Ended>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        let reported = async move {
            let begin = Instant::now();
            let ended = work.await;
            report(begin.elapsed(), &ended);
            ended
        };
        reported.instrument(self.0)
    }
}

/// The outcome of work, which may be a failure.
pub(crate) trait Ended {
    /// Returns the code and the text of the failure.
    fn failure(&self) -> Option<(u32, String)>;
}

impl<T> Ended for Result<T, Error> {
    fn failure(&self) -> Option<(u32, String)> {
        self.as_ref().err().map(|error| (error.code(), error.to_string()))
    }
}

impl Ended for io::Result<Outcome> {
    fn failure(&self) -> Option<(u32, String)> {
        let outcome = match self {
            Ok(Outcome { exit: Exit::Status(0), .. }) => return None,
            Ok(outcome) => outcome,
            Err(error) => return Some((Error::IOFailure(String::new()).code(), error.to_string())),
        };
        let error = match ErrorReply::from_json(&outcome.stdout) {
            Some(reply) => Error::from(reply),
            None => Error::Internal(format!("{:?} without an error reply", outcome.exit)),
        };
        Some((error.code(), error.to_string()))
    }
}

fn report(duration: Duration, ended: &impl Ended) {
    let duration_ms = duration.as_secs_f64() * 1e3;
    match ended.failure() {
        None => debug!(target: "rscni", duration_ms, "succeeded"),
        Some((code, error)) => warn!(target: "rscni", duration_ms, code, error, "failed"),
    }
}
