//! The runtime side of the protocol: attach a container to a network, check it, detach it.
//!
//! ```no_run
//! use rscni::invoke::Process;
//! use rscni::runtime::{AttachmentParams, ConfDir, Runtime};
//!
//! # fn main() -> Result<(), rscni::Error> {
//! let networks = ConfDir::load("/etc/cni/net.d".as_ref())?;
//! let runtime = Runtime::new(Process, ["/opt/cni/bin"]);
//! let params = AttachmentParams::new("my-container", "/run/netns/my-container", "eth0");
//!
//! let network = networks.find("my-network")?;
//! let result = runtime.add(network, &params)?;
//! println!("{:?}", result.ips);
//! runtime.del(network, &params)?;
//! # Ok(())
//! # }
//! ```
//!
//! The same without blocking, on tokio (feature `async`): `AsyncRuntime::new(AsyncProcess, …)`, and `.await` after each
//! operation; the example is at `AsyncRuntime`. With no plugin installed anywhere: `Runtime::new(Linked, …)`, with
//! `Linked` from the crate `rscni-plugins`, where its example is.
//!
//! [`NetConfList`] is a network, [`ConfDir`] a directory of them. [`Runtime`] runs a network's plugins through any
//! [`Exec`]: as processes, or linked into the same program. What it must remember between ADD and DEL it keeps in
//! the [`Cache`], which it shares with Go's libcni. The caller makes and removes the network namespace.
//!
//! Operations on the same attachment wait for each other, and GC and the other operations on a network do, in whatever
//! processes they run, as long as these use the same cache. Go's libcni does not take part in that.

#[cfg(feature = "async")]
mod async_runtime;
mod cache;
mod chain;
mod conf;
mod conf_dir;
mod engine;
mod failures;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod lock;
mod params;
mod trace;
mod version;

use std::{
    io,
    path::PathBuf,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

#[cfg(feature = "async")]
pub use async_runtime::AsyncRuntime;
pub use cache::{Cache, CacheEntry, CacheListing};
pub use conf::{NetConfList, PluginConf};
pub use conf_dir::ConfDir;
pub use failures::Failures;
pub use params::AttachmentParams;
pub use trace::TraceContext;

use crate::{
    Attachment, CNIResult, Error, PluginInfo,
    invoke::{Exec, Invocation, Outcome},
};
use engine::{Engine, Waiter};

/// Runs the chains of networks.
#[derive(Clone, Debug)]
pub struct Runtime<E> {
    exec: E,
    engine: Engine,
}

impl<E: Exec> Runtime<E> {
    /// A runtime that looks for plugins in `path` (`CNI_PATH`) and calls them through `exec`. Its cache is libcni's.
    pub fn new<P: Into<PathBuf>>(exec: E, path: impl IntoIterator<Item = P>) -> Self {
        Self {
            exec,
            engine: Engine {
                path: path.into_iter().map(Into::into).collect(),
                ..Engine::default()
            },
        }
    }

    /// The same with another cache.
    #[must_use]
    pub fn with_cache(mut self, cache: Cache) -> Self {
        self.engine.cache = cache;
        self
    }

    /// The same with a limit for each call of a plugin, and for each wait until another operation has ended.
    ///
    /// A plugin that takes longer is ended with all that it has started, and has failed; a plugin that is called within
    /// this process cannot be ended, and is waited for.
    #[must_use]
    pub fn with_time_limit(mut self, limit: Duration) -> Self {
        self.engine.time_limit = Some(limit);
        self
    }

    /// The same with a trace that its calls belong to. A runtime that serves many callers is cloned for each.
    #[must_use]
    pub fn with_trace(mut self, trace: TraceContext) -> Self {
        self.engine.trace = Some(trace);
        self
    }

    /// What is remembered of attachments.
    pub fn cache(&self) -> &Cache {
        &self.engine.cache
    }

    /// ADD: attaches a container (spec: "Adding an attachment").
    ///
    /// If a plugin fails, or the result cannot be kept, the plugins that were called are undone with DEL. Only where
    /// the cache says that the attachment was there before is nothing undone, since that would cut off a container.
    ///
    /// # Errors
    /// The error of the plugin that failed, with its place in the chain; [`Error::InvalidNetworkConfig`] if a plugin is
    /// not installed, and [`Error::IOFailure`] if the cache cannot be read or locked, before any is called;
    /// [`Error::InvalidEnvValue`] if a parameter is not valid; [`Error::TryAgainLater`] if another operation takes
    /// longer than the limit.
    pub fn add(&self, list: &NetConfList, params: &AttachmentParams) -> Result<CNIResult, Error> {
        ready(self.engine.add(&Blocking(&self.exec), list, params))
    }

    /// DEL: detaches a container (spec: "Deleting an attachment"), in reverse order, going on past failures.
    ///
    /// The plugins get the result that the cache holds, and the arguments that it holds where the caller gives none.
    /// A damaged or missing entry is no obstacle, nor is a directory where no lock can be made. The entry is removed
    /// when every plugin has succeeded.
    ///
    /// # Errors
    /// Every plugin's error, with its place in the chain; [`Error::TryAgainLater`] if another operation takes longer
    /// than the limit.
    pub fn del(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Failures> {
        ready(self.engine.del(&Blocking(&self.exec), list, params))
    }

    /// CHECK: asks every plugin whether the attachment is as ADD left it (spec: "Checking an attachment").
    ///
    /// With `disableCheck` in the configuration it always is.
    ///
    /// # Errors
    /// The first plugin's error, with its place in the chain; [`Error::IncompatibleVersion`] if the network's version
    /// has no CHECK; [`Error::NotExist`] if the cache knows of no such attachment; [`Error::TryAgainLater`] if another
    /// operation takes longer than the limit.
    pub fn check(&self, list: &NetConfList, params: &AttachmentParams) -> Result<(), Error> {
        ready(self.engine.check(&Blocking(&self.exec), list, params))
    }

    /// GC: removes what belongs to attachments of a network that are not in `valid` (spec: "GC").
    ///
    /// Each such attachment that the cache knows is detached with DEL, in the configuration that it was made with as
    /// far as the cache has it. Then every plugin is told which attachments are valid, if the network's version has GC.
    /// With `disableGC` in the configuration nothing is done. A damaged entry of the cache is nobody's, and is left.
    ///
    /// # Errors
    /// Every plugin's error, with its place in the chain; [`Error::IOFailure`] if the cache cannot be read or locked;
    /// [`Error::TryAgainLater`] if another operation takes longer than the limit.
    pub fn gc(&self, list: &NetConfList, valid: &[Attachment]) -> Result<(), Failures> {
        ready(self.engine.gc(&Blocking(&self.exec), list, |_| Ok(valid.to_vec())))
    }

    /// GC with a set that is worked out from what the cache holds, while no other operation on the network runs.
    ///
    /// So an attachment that is made at the same time is either in the listing, or made after GC.
    ///
    /// # Errors
    /// As [`gc`](Runtime::gc), and that of `valid`; then nothing is removed.
    pub fn gc_by(
        &self,
        list: &NetConfList,
        valid: impl FnOnce(&CacheListing) -> Result<Vec<Attachment>, Error>,
    ) -> Result<(), Failures> {
        ready(self.engine.gc(&Blocking(&self.exec), list, |listing| {
            valid(listing.as_ref().map_err(Clone::clone)?)
        }))
    }

    /// STATUS: asks every plugin whether an ADD could be serviced (spec: "STATUS").
    ///
    /// A network whose version has no STATUS always is ready, as in libcni.
    ///
    /// # Errors
    /// The first plugin's error, with its place in the chain.
    pub fn status(&self, list: &NetConfList) -> Result<(), Error> {
        ready(self.engine.status(&Blocking(&self.exec), list))
    }

    /// VERSION: the versions that a plugin supports, of those that are known here.
    ///
    /// # Errors
    /// [`Error::InvalidNetworkConfig`] if it is not installed, [`Error::FailedToDecode`] if it gives no versions.
    pub fn version(&self, plugin: &str) -> Result<PluginInfo, Error> {
        ready(self.engine.version(&Blocking(&self.exec), plugin))
    }

    /// Sees that every plugin of a network is installed and supports its version. Gives the capabilities that they
    /// declare, each once.
    ///
    /// # Errors
    /// What is wrong with each plugin.
    pub fn validate(&self, list: &NetConfList) -> Result<Vec<String>, Failures> {
        ready(self.engine.validate(&Blocking(&self.exec), list))
    }
}

/// Blocks where it has to wait.
struct Blocking<'a, E>(&'a E);

impl<E: Exec> Waiter for Blocking<'_, E> {
    fn find(&self, plugin: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
        self.0.find(plugin, path)
    }

    fn exec(&self, invocation: Invocation) -> impl Future<Output = io::Result<Outcome>> {
        std::future::ready(self.0.exec(&invocation))
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> {
        std::thread::sleep(time);
        std::future::ready(())
    }
}

/// The output of an operation that waits through [`Blocking`].
fn ready<T>(operation: impl Future<Output = T>) -> T {
    match pin!(operation).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => {
            unreachable!("an operation waits through its waiter only, and that one has blocked")
        }
    }
}

#[cfg(test)]
mod tests;
