//! The settings of a runtime, the same for the blocking and the async runtime.

use std::{path::PathBuf, time::Duration};

use super::{Cache, TraceContext, observer::Observer};

/// The configuration of a runtime, without its way to call plugins.
#[derive(Clone, Debug, Default)]
pub(super) struct Engine {
    pub(super) path: Vec<PathBuf>,
    pub(super) cache: Cache,
    pub(super) time_limit: Option<Duration>,
    pub(super) trace: Option<TraceContext>,
    pub(super) observer: Observer,
}

/// Implements the constructor and the setters of `Runtime` and `AsyncRuntime`.
macro_rules! runtime_settings {
    ($waiter:ident) => {
        /// A runtime that finds plugins in `path` (`CNI_PATH`) and calls them through `exec`. It
        /// uses the cache of libcni.
        pub fn new<P: Into<PathBuf>>(exec: E, path: impl IntoIterator<Item = P>) -> Self {
            let path = path.into_iter().map(Into::into).collect();
            Self { exec, engine: Engine { path, ..Engine::default() } }
        }

        /// Sets another cache.
        #[must_use]
        pub fn with_cache(mut self, cache: Cache) -> Self {
            self.engine.cache = cache;
            self
        }

        /// Sets a timeout for each call of a plugin and for each wait for another operation.
        ///
        /// A plugin that exceeds it is killed with its process group, and its call fails. A plugin
        /// in this process cannot be killed and has no timeout.
        #[must_use]
        pub fn with_time_limit(mut self, limit: Duration) -> Self {
            self.engine.time_limit = Some(limit);
            self
        }

        /// Sets the trace of the calls. A runtime that serves several callers is cloned for each.
        #[must_use]
        pub fn with_trace(mut self, trace: TraceContext) -> Self {
            self.engine.trace = Some(trace);
            self
        }

        /// Sets the observer, which receives every call of a plugin after its end.
        ///
        /// Without an observer, the runtime writes the stderr of plugins to its own, as libcni
        /// does. An observer may do so with [`PluginCall::forward_stderr`]. It can run on several
        /// threads at the same time. A call whose future is dropped is not reported.
        #[must_use]
        pub fn with_observer(
            mut self,
            observer: impl Fn(&PluginCall<'_>) + Send + Sync + 'static,
        ) -> Self {
            self.engine.observer = Observer::new(observer);
            self
        }

        /// Returns the cache of attachments.
        pub fn cache(&self) -> &Cache {
            &self.engine.cache
        }

        fn operations(&self) -> Operations<'_, $waiter<'_, E>> {
            Operations { engine: &self.engine, waiter: $waiter(&self.exec) }
        }
    };
}
pub(super) use runtime_settings;
