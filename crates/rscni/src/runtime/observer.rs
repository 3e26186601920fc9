//! The observer of a runtime, which receives every call of a plugin.

use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use crate::{
    Command, Error,
    invoke::{Invocation, Outcome},
};

/// A call of a plugin that has ended, as the observer of a runtime receives it.
///
/// ```
/// use rscni::{invoke::Process, runtime::Runtime};
///
/// let runtime = Runtime::new(Process, ["/opt/cni/bin"]).with_observer(|call| {
///     let (plugin, command) = (call.plugin(), call.command().map_or("?", |command| command.as_str()));
///     println!("{command} of {plugin}: {:?}, error: {:?}", call.duration, call.error());
///     call.forward_stderr();
/// });
/// # drop(runtime);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PluginCall<'a> {
    /// The plugin with the variables and the configuration of the call.
    pub invocation: &'a Invocation,
    /// Time from the start of the plugin to its end.
    pub duration: Duration,
    /// The exit and the output, or the reason why the plugin could not be started.
    pub outcome: Result<&'a Outcome, &'a io::Error>,
}

impl<'a> PluginCall<'a> {
    /// Returns the plugin's name, its `type`.
    pub fn plugin(&self) -> &'a str {
        &self.invocation.plugin
    }

    /// Returns the command; always one for the calls of a runtime.
    pub fn command(&self) -> Option<Command> {
        self.variable("CNI_COMMAND")?.parse().ok()
    }

    /// Returns the container id; `None` for GC, STATUS and VERSION.
    pub fn container_id(&self) -> Option<&'a str> {
        self.variable("CNI_CONTAINERID")
    }

    /// Returns the container interface; `None` for GC, STATUS and VERSION.
    pub fn ifname(&self) -> Option<&'a str> {
        // VERSION has a placeholder.
        self.variable("CNI_IFNAME").filter(|_| self.container_id().is_some())
    }

    /// Returns the plugin's log output.
    pub fn stderr(&self) -> &'a [u8] {
        self.outcome.map_or(&[], |outcome| &outcome.stderr)
    }

    /// Returns the error of a call that failed.
    pub fn error(&self) -> Option<Error> {
        match self.outcome {
            Ok(outcome) => outcome.clone().into_success(self.plugin()).err(),
            Err(error) => {
                Some(Error::IOFailure(format!("cannot start {}: {error}", self.plugin())))
            }
        }
    }

    /// Writes the plugin's log output to stderr of this process, as a runtime without an observer
    /// does. Not written is the output of a plugin that was killed because it printed too much.
    pub fn forward_stderr(&self) {
        if let Ok(outcome) = self.outcome {
            // The call itself does not fail if stderr is closed.
            let _ = io::stderr().write_all(outcome.log());
        }
    }

    fn variable(&self, name: &str) -> Option<&'a str> {
        self.invocation.vars.get(name)?.to_str()
    }
}

/// The observer; without a function it forwards stderr, as libcni does.
#[derive(Clone, Default)]
pub(super) struct Observer(Option<Arc<Observe>>);

type Observe = dyn Fn(&PluginCall<'_>) + Send + Sync;

impl Observer {
    pub(super) fn new(observer: impl Fn(&PluginCall<'_>) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(observer)))
    }

    pub(super) fn observe(&self, call: &PluginCall<'_>) {
        match &self.0 {
            Some(observer) => observer(call),
            None => call.forward_stderr(),
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.as_ref().map(|_| "..")).finish()
    }
}
